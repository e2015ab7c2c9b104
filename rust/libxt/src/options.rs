// SPDX-License-Identifier: GPL-2.0

//! The options of a rule: how they come together, how they are stored and how they are shown.

use std::fmt;

use crate::bindings::{
    xt_rustmasq_info,
    XT_RUSTMASQ_RANDOM,
    XT_RUSTMASQ_RANDOM_FULLY,
    XT_RUSTMASQ_TO_PORTS, //
};
use crate::ports::PortRange;
use crate::protocol::{
    Family,
    RuleProtocol, //
};

/// One option, as it was given on the command line.
#[derive(Debug)]
pub(crate) enum GivenOption<'a> {
    /// `--to-ports` with its argument
    ToPorts(&'a str),
    /// `--random`
    Random,
    /// `--random-fully`
    RandomFully,
}

impl GivenOption<'_> {
    /// The option's name.
    fn name(&self) -> &'static str {
        match self {
            Self::ToPorts(_) => "--to-ports",
            Self::Random => "--random",
            Self::RandomFully => "--random-fully",
        }
    }
}

/// The option again.
impl fmt::Display for GivenOption<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        match self {
            Self::ToPorts(argument) => write!(f, " {}", argument.escape_debug()),
            Self::Random | Self::RandomFully => Ok(()),
        }
    }
}

/// Why an option is refused. The text names the option, what was given and what is allowed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refusal(String);

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The options of one rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    to_ports: Option<PortRange>,
    random: bool,
    random_fully: bool,
}

impl Options {
    /// Takes one more option.
    ///
    /// `inverted` tells that a `!` stands before it, `protocol` what the rule said so far.
    pub(crate) fn add(
        &mut self,
        option: &GivenOption<'_>,
        inverted: bool,
        family: Family,
        protocol: RuleProtocol,
    ) -> Result<(), Refusal> {
        let name = option.name();
        if inverted {
            return Err(Refusal(format!(
                "{name}: \"! {option}\" is not allowed; allowed: {name} without \"!\""
            )));
        }
        match option {
            GivenOption::ToPorts(argument) => {
                let range = argument.parse().map_err(|_| {
                    Refusal(format!(
                        "{name}: {argument:?} is no port range; allowed: PORT or PORT-PORT \
                         with 1 <= PORT <= 65535 in decimal, the lower one first"
                    ))
                })?;
                if !protocol.has_ports(family) {
                    return Err(Refusal(format!(
                        "{name}: {argument:?} is allowed only after -p {}; \
                         so far this rule takes {protocol}",
                        family.protocols_with_ports()
                    )));
                }
                refuse_repeated(self.to_ports.replace(range).is_none(), option)
            }
            GivenOption::Random => {
                refuse_repeated(!std::mem::replace(&mut self.random, true), option)
            }
            GivenOption::RandomFully => {
                refuse_repeated(!std::mem::replace(&mut self.random_fully, true), option)
            }
        }
    }

    /// What `iptables -j RUSTMASQ -h` says, after the help of iptables itself.
    pub(crate) fn help_text(family: Family) -> String {
        format!(
            "\
RUSTMASQ target options:
 --to-ports PORT[-PORT]   Ports (for ICMP: query identifiers) to map to, from 1
                          to 65535; only after -p {}
 --random                 Choose the source port at random
 --random-fully           The same; may be given together with --random
",
            family.protocols_with_ports()
        )
    }

    /// What `iptables -L` shows: each item with a space before it, like MASQUERADE's.
    pub(crate) fn print_text(&self) -> String {
        self.text(" masq ports: ", " ")
    }

    /// What `iptables -S` and `iptables-save` show: the command line again, each option with a
    /// space before it.
    pub(crate) fn save_text(&self) -> String {
        self.text(" --to-ports ", " --")
    }

    fn text(&self, before_ports: &str, before_word: &str) -> String {
        let mut text = String::new();
        if let Some(ports) = self.to_ports {
            text += &format!("{before_ports}{ports}");
        }
        for (set, word) in [(self.random, "random"), (self.random_fully, "random-fully")] {
            if set {
                text += before_word;
                text += word;
            }
        }
        text
    }
}

/// Refuses an option that is not the first of its kind.
fn refuse_repeated(is_first: bool, option: &GivenOption<'_>) -> Result<(), Refusal> {
    if is_first {
        return Ok(());
    }
    let name = option.name();
    Err(Refusal(format!(
        "{name}: \"{option}\" is one too many; allowed: {name} once"
    )))
}

/// A rule from the kernel. The kernel has checked it: bits that mean nothing here cannot be set.
impl From<xt_rustmasq_info> for Options {
    fn from(info: xt_rustmasq_info) -> Self {
        let has = |flag: u32| info.flags & flag != 0;
        let range = PortRange::new(u16::from_be(info.min_port), u16::from_be(info.max_port));
        Self {
            to_ports: range.filter(|_| has(XT_RUSTMASQ_TO_PORTS)),
            random: has(XT_RUSTMASQ_RANDOM),
            random_fully: has(XT_RUSTMASQ_RANDOM_FULLY),
        }
    }
}

/// A rule for the kernel. What userspace has no say in is zero.
impl From<Options> for xt_rustmasq_info {
    fn from(options: Options) -> Self {
        let flag = |set: bool, flag: u32| if set { flag } else { 0 };
        let (first, last) = options
            .to_ports
            .map_or((0, 0), |range| (range.first(), range.last()));
        Self {
            flags: flag(options.to_ports.is_some(), XT_RUSTMASQ_TO_PORTS)
                | flag(options.random, XT_RUSTMASQ_RANDOM)
                | flag(options.random_fully, XT_RUSTMASQ_RANDOM_FULLY),
            min_port: first.to_be(),
            max_port: last.to_be(),
            reserved: [0; 8],
            kernel_private: [0; 4],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bindings::XT_RUSTMASQ_FLAGS_ALL;
    use GivenOption::{Random, RandomFully, ToPorts};

    const TCP: RuleProtocol = RuleProtocol::Only(6);

    /// Options from a command line of a rule with `-p tcp`.
    fn parse(line: &[GivenOption<'_>]) -> Result<Options, String> {
        let mut options = Options::default();
        for option in line {
            options
                .add(option, false, Family::Ipv4, TCP)
                .map_err(|refusal| refusal.to_string())?;
        }
        Ok(options)
    }

    fn refusal(
        option: GivenOption<'_>,
        inverted: bool,
        family: Family,
        protocol: RuleProtocol,
    ) -> String {
        let mut options = Options::default();
        let refusal = options
            .add(&option, inverted, family, protocol)
            .unwrap_err();
        assert_eq!(
            Options::default(),
            options,
            "a refused option leaves no trace"
        );
        refusal.to_string()
    }

    /// Every combination of options.
    fn all() -> impl Iterator<Item = Options> {
        let ranges = [None, PortRange::new(80, 80), PortRange::new(100, 200)];
        ranges.into_iter().flat_map(|to_ports| {
            [(false, false), (false, true), (true, false), (true, true)].map(
                |(random, random_fully)| Options {
                    to_ports,
                    random,
                    random_fully,
                },
            )
        })
    }

    #[test]
    fn none() {
        let options = parse(&[]).unwrap();
        assert_eq!("", options.print_text());
        assert_eq!("", options.save_text());
    }

    #[test]
    fn everything() {
        let options = parse(&[RandomFully, ToPorts("100-200"), Random]).unwrap();
        assert_eq!(
            " masq ports: 100-200 random random-fully",
            options.print_text()
        );
        assert_eq!(
            " --to-ports 100-200 --random --random-fully",
            options.save_text()
        );
    }

    #[test]
    fn single_port() {
        let options = parse(&[ToPorts("100-100")]).unwrap();
        assert_eq!(" masq ports: 100", options.print_text());
        assert_eq!(" --to-ports 100", options.save_text());
    }

    #[test]
    fn bad_ranges_are_named() {
        for text in [
            "0", "70000", "5-1", "a-b", "1-2-3", "", "-5", "5-", " 5", "+5", "0x5", "!",
        ] {
            assert_eq!(
                refusal(ToPorts(text), false, Family::Ipv4, TCP),
                format!(
                    "--to-ports: \"{text}\" is no port range; allowed: PORT or PORT-PORT \
                     with 1 <= PORT <= 65535 in decimal, the lower one first"
                )
            );
        }
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        let text = refusal(ToPorts("5\n\u{1b}[31m\""), false, Family::Ipv4, TCP);
        assert!(
            text.starts_with(r#"--to-ports: "5\n\u{1b}[31m\"" is no port range"#),
            "{text}"
        );
    }

    #[test]
    fn ports_need_a_protocol() {
        assert_eq!(
            refusal(ToPorts("5"), false, Family::Ipv4, RuleProtocol::Any),
            "--to-ports: \"5\" is allowed only after -p tcp, udp, sctp or icmp; \
             so far this rule takes every protocol"
        );
    }

    #[test]
    fn ports_need_the_right_protocol() {
        assert_eq!(
            refusal(ToPorts("5"), false, Family::Ipv6, RuleProtocol::Only(1)),
            "--to-ports: \"5\" is allowed only after -p tcp, udp, sctp or ipv6-icmp; \
             so far this rule takes protocol icmp"
        );
    }

    #[test]
    fn ports_need_no_inverted_protocol() {
        let text = refusal(ToPorts("5"), false, Family::Ipv4, RuleProtocol::AllBut(6));
        assert!(text.ends_with("takes every protocol but tcp"), "{text}");
    }

    #[test]
    fn random_needs_no_protocol() {
        let mut options = Options::default();
        for option in [Random, RandomFully] {
            assert!(options
                .add(&option, false, Family::Ipv6, RuleProtocol::Any)
                .is_ok());
        }
        assert_eq!(" --random --random-fully", options.save_text());
    }

    #[test]
    fn twice() {
        assert_eq!(
            parse(&[ToPorts("5"), ToPorts("6")]).unwrap_err(),
            "--to-ports: \"--to-ports 6\" is one too many; allowed: --to-ports once"
        );
        assert_eq!(
            parse(&[Random, Random]).unwrap_err(),
            "--random: \"--random\" is one too many; allowed: --random once"
        );
        assert!(parse(&[RandomFully, Random, RandomFully]).is_err());
    }

    #[test]
    fn inverted() {
        assert_eq!(
            refusal(ToPorts("5"), true, Family::Ipv4, TCP),
            "--to-ports: \"! --to-ports 5\" is not allowed; allowed: --to-ports without \"!\""
        );
        assert_eq!(
            refusal(Random, true, Family::Ipv4, TCP),
            "--random: \"! --random\" is not allowed; allowed: --random without \"!\""
        );
    }

    #[test]
    fn help_names_every_option() {
        for family in [Family::Ipv4, Family::Ipv6] {
            let help = Options::help_text(family);
            for option in [ToPorts("5"), Random, RandomFully] {
                assert!(help.contains(&format!("\n {} ", option.name())), "{help}");
            }
            assert!(help.contains(family.protocols_with_ports()), "{help}");
            assert!(help.lines().all(|line| line.len() < 80), "{help}");
        }
    }

    #[test]
    fn binary_form() {
        let info: xt_rustmasq_info = parse(&[ToPorts("258-772"), RandomFully]).unwrap().into();
        assert_eq!(XT_RUSTMASQ_TO_PORTS | XT_RUSTMASQ_RANDOM_FULLY, info.flags);
        assert_eq!([1, 2], info.min_port.to_ne_bytes());
        assert_eq!([3, 4], info.max_port.to_ne_bytes());
        assert_eq!([0; 8], info.reserved);
        assert_eq!([0; 4], info.kernel_private);
    }

    #[test]
    fn without_ports_both_are_zero() {
        let info: xt_rustmasq_info = parse(&[Random]).unwrap().into();
        assert_eq!((0, 0), (info.min_port, info.max_port));
    }

    #[test]
    fn there_and_back() {
        for options in all() {
            let info: xt_rustmasq_info = options.into();
            assert_eq!(0, info.flags & !XT_RUSTMASQ_FLAGS_ALL);
            assert_eq!(options, info.into());
        }
    }

    #[test]
    fn kernel_private_is_not_looked_at() {
        let mut info: xt_rustmasq_info = Options::default().into();
        info.kernel_private = [u64::MAX; 4];
        assert_eq!(Options::default(), info.into());
    }

    #[test]
    fn ports_without_their_flag_do_not_count() {
        let mut info: xt_rustmasq_info = parse(&[ToPorts("5")]).unwrap().into();
        info.flags = 0;
        assert_eq!(Options::default(), info.into());
    }

    #[test]
    fn what_is_saved_can_be_read() {
        for options in all() {
            let saved = options.save_text();
            let mut words = saved.split_ascii_whitespace();
            let mut line = Vec::new();
            while let Some(word) = words.next() {
                line.push(match word {
                    "--to-ports" => ToPorts(words.next().unwrap()),
                    "--random" => Random,
                    "--random-fully" => RandomFully,
                    _ => panic!("{word}"),
                });
            }
            assert_eq!(Ok(options), parse(&line));
        }
    }
}
