// SPDX-License-Identifier: GPL-2.0

//! The command line.

use crate::{
    filter::{parse_port, parse_protocol, Network},
    End, Failure,
};
use clap::{
    error::{ContextKind, ErrorKind},
    Args, Parser, Subcommand,
};
use std::error::Error as _;

/// Show what NAT does to each flow
#[derive(Debug, Parser)]
#[command(
    name = "rustmasq",
    bin_name = "rustmasq",
    version,
    disable_help_subcommand = true
)]
pub struct Arguments {
    /// The subcommand.
    #[command(subcommand)]
    pub command: Command,
}

/// A subcommand with its options.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show how NAT translated each new flow, as it happens
    #[command(after_help = WATCH_HELP)]
    Watch(Watch),

    /// List which outside port belongs to which inside address and port
    #[command(after_help = MAPPINGS_HELP)]
    Mappings(Mappings),

    /// Show how many flows kept their ports, and which destinations are crowded
    #[command(after_help = STAT_HELP)]
    Stat(Stat),

    /// Tell whether masquerading and the helpers work, and if not, why
    #[command(after_help = STATUS_HELP)]
    Status(Status),
}

/// The text that follows the options of `rustmasq watch --help`.
const WATCH_HELP: &str = "\
An option with a value may be given several times. A flow must have one of the
values, and pass every option given.

Columns:
  TIME       the time of day
  NAMESPACE  the network namespace: its name in /run/netns, \"init\" for that of
             process 1, or its inode number; and its conntrack zone, if any
  PROTO      the protocol: its name, or a hexadecimal number
  IN, OUT    the devices of the first packet, \"-\" for none
  ORIGINAL   the flow before NAT: source->destination; ICMP has the query
             identifier as source port
  BECAME     the flow after NAT, as the host that answers sees it
  MOVED      the parts that NAT changed; \"!!\" marks a source port that another
             flow has (taken-by=), or that changed while the source address did
             not; \"!\" marks a source address that OUT does not have

The line \"rustmasq: watching\" on standard error means that no flow is missed
from now on. ^C ends the program.

Exit status: 0 ended by a signal or because nobody reads the output, 1 an error,
2 a wrong option";

/// The text that follows the options of `rustmasq mappings --help`.
const MAPPINGS_HELP: &str = "\
The mappings are those of rules with --full-cone, --address-restricted-cone or
--port-restricted-cone, in the network namespace that the command runs in.

Exit status: 0 the mappings were listed, 1 an error, as when the module is not
loaded, 2 a wrong option";

/// The text that follows the options of `rustmasq stat --help`.
const STAT_HELP: &str = "\
The numbers are those of the network namespace that the command runs in, since the
module was loaded or the namespace was made. A pool is what the module keeps for a
crowded destination: which of its ports are in use, resting (freed less than a
minute ago), and free.

Exit status: 0 the numbers were shown, 1 an error, as when the module is not
loaded, 2 a wrong option";

/// The text that follows the options of `rustmasq status --help`.
const STATUS_HELP: &str = "\
Exit status: 0 all is well, 1 something is to cure, 2 something could not be seen,
or a wrong option";

/// The options of `rustmasq mappings`.
#[derive(Args, Debug, Default)]
pub struct Mappings {
    /// Print one JSON object for each mapping
    #[arg(long)]
    pub json: bool,
}

/// The options of `rustmasq stat`.
#[derive(Args, Debug, Default)]
pub struct Stat {
    /// Show the numbers each second, with their change per second, until ^C
    #[arg(long, conflicts_with_all = ["json", "prometheus"])]
    pub watch: bool,

    /// Print one JSON object
    #[arg(long, conflicts_with = "prometheus")]
    pub json: bool,

    /// Print metrics in the text format of Prometheus, for node_exporter's textfile collector
    #[arg(long)]
    pub prometheus: bool,
}

/// The options of `rustmasq status`.
#[derive(Args, Debug, Default)]
pub struct Status {
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// The options of `rustmasq watch`.
#[derive(Args, Debug, Default)]
pub struct Watch {
    /// Print one JSON object for each flow, with all fields of the event
    ///
    /// The manual page describes the fields.
    #[arg(long)]
    pub json: bool,

    /// Show flows when they end, too, with packets, bytes and duration
    ///
    /// Conntrack counts packets and bytes if net.netfilter.nf_conntrack_acct is 1, and notes the duration if
    /// net.netfilter.nf_conntrack_timestamp is 1.
    #[arg(long)]
    pub end: bool,

    /// Show only flows of this protocol: icmp, tcp, udp, gre, icmpv6, sctp, or a number
    ///
    /// A number is from 0 to 255, and may be hexadecimal, as 0x2f.
    #[arg(long, value_parser = parse_protocol)]
    pub protocol: Vec<String>,

    /// Show only flows with this address, or one of this network
    ///
    /// It may be of IPv4 or IPv6, and be the source or the destination, before or after NAT.
    #[arg(long, value_parser = Network::parse, value_name = "ADDRESS[/LENGTH]")]
    pub address: Vec<Network>,

    /// Show only flows with this port, from 1 to 65535
    ///
    /// It may be the source or the destination, before or after NAT. For ICMP and ICMPv6, the value is a query
    /// identifier.
    #[arg(long, value_parser = parse_port)]
    pub port: Vec<u16>,

    /// Show only flows that NAT changed
    #[arg(long)]
    pub moved_only: bool,
}

/// Prints the help or the version, or converts the error of a wrong command line to a message of one line.
pub fn explain(error: &clap::Error) -> Result<(), End> {
    if !error.use_stderr() || error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        // Nobody may read the output.
        let _ = error.print();
    }
    if !error.use_stderr() {
        return Ok(());
    }
    let text = error.to_string();
    let message = match (error.get(ContextKind::InvalidArg), error.source()) {
        (Some(argument), Some(source)) if error.kind() == ErrorKind::ValueValidation => {
            format!("{argument}: {source}")
        }
        _ if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            "a command is missing".to_owned()
        }
        _ => text
            .split("\n\n")
            .next()
            .unwrap_or(&text)
            .trim_start_matches("error: ")
            .to_owned(),
    };
    Err(Failure {
        message: format!("{message} (see rustmasq --help)"),
        status: 2,
    }
    .into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_sound() {
        Arguments::command().debug_assert();
    }

    fn refusal(words: &[&str]) -> Option<String> {
        let error = Arguments::try_parse_from(["rustmasq"].iter().chain(words)).err()?;
        match explain(&error) {
            Err(End::Failed(failure)) if failure.status == 2 => Some(failure.message),
            _ => None,
        }
    }

    #[test]
    fn a_wrong_command_line_gets_one_clear_line() {
        for (words, expected) in [
            (
                &["watch", "--prot"][..],
                "unexpected argument '--prot' found",
            ),
            (&["watch", "wan0"], "unexpected argument 'wan0' found"),
            (
                &["watch", "--port"],
                "a value is required for '--port <PORT>' but none was supplied",
            ),
            (
                &["watch", "--port", "0"],
                "--port <PORT>: '0' is no number from 1 to 65535",
            ),
            (
                &["watch", "--protocol", "udplite"],
                "--protocol <PROTOCOL>: 'udplite' is none of icmp, tcp, udp, gre, icmpv6, \
                sctp and no number from 0 to 255",
            ),
            (
                &["stat", "--watch", "--json"],
                "the argument '--watch' cannot be used with '--json'",
            ),
            (&["wach"], "unrecognized subcommand 'wach'"),
        ] {
            assert_eq!(
                refusal(words),
                Some(format!("{expected} (see rustmasq --help)")),
                "{words:?}"
            );
        }
        assert!(refusal(&["watch", "--address", "203.0.113"])
            .is_some_and(|text| text.contains("is neither an address")));
    }

    #[test]
    fn an_option_may_be_repeated() {
        let words = ["rustmasq", "watch", "--port", "1", "--port", "2", "--json"];
        let Ok(Arguments {
            command: Command::Watch(options),
        }) = Arguments::try_parse_from(words)
        else {
            panic!()
        };
        assert_eq!(
            (options.port, options.json, options.moved_only),
            (vec![1, 2], true, false)
        );
    }
}
