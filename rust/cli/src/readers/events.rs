// SPDX-License-Identifier: GPL-2.0

//! The event `rustmasq:flow_confirm`, as the lines of a trace pipe show it.

use super::namespaces::Namespaces;
use serde::Serialize;
use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
    str::FromStr,
};

/// The separator before the fields of an event.
const NAME: &str = ": flow_confirm: ";

/// One end of a tuple. For ICMP the query identifier takes the place of the client's port.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
pub struct Endpoint {
    /// The address.
    pub address: IpAddr,
    /// The port, or 0 if there is none.
    pub port: u16,
}

impl Endpoint {
    /// Parses `ADDRESS:PORT` or `[ADDRESS]:PORT`.
    fn parse(text: &str) -> Option<Self> {
        let (address, port) = text.rsplit_once(':')?;
        let address = match address.strip_prefix('[') {
            Some(rest) => rest.strip_suffix(']')?.parse::<Ipv6Addr>().ok()?.into(),
            None => address.parse().ok().filter(IpAddr::is_ipv4)?,
        };
        Some(Self {
            address,
            port: parse_number(port)?,
        })
    }

    /// Returns the endpoint, unless it is the one that stands for none.
    fn unless_nobody(self) -> Option<Self> {
        Some(self).filter(|end| end.port != 0 || !end.address.is_unspecified())
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            IpAddr::V4(address) => write!(f, "{address}:{}", self.port),
            IpAddr::V6(address) => write!(f, "[{address}]:{}", self.port),
        }
    }
}

/// A tuple: where packets come from and go to.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
pub struct Tuple {
    /// The end that packets come from.
    pub source: Endpoint,
    /// The end that packets go to.
    pub destination: Endpoint,
}

impl Tuple {
    /// Parses `ENDPOINT->ENDPOINT`.
    fn parse(text: &str) -> Option<Self> {
        let (source, destination) = text.split_once("->")?;
        Some(Self {
            source: Endpoint::parse(source)?,
            destination: Endpoint::parse(destination)?,
        })
    }

    /// Returns the tuple of the opposite direction.
    pub fn reversed(self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
        }
    }
}

impl fmt::Display for Tuple {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}->{}", self.source, self.destination)
    }
}

/// The type and code of an ICMP message, both 0 for other protocols.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
pub struct Icmp {
    /// The type.
    pub r#type: u8,
    /// The code.
    pub code: u8,
}

/// The conntrack zones of a flow's two directions, 0 for none.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
pub struct Zones {
    /// The zone of the original direction.
    pub original: u16,
    /// The zone of the reply direction.
    pub reply: u16,
}

/// An event. Its fields are the keys of the JSON object, which rustmasq-watch(8) describes.
#[derive(Debug, PartialEq, Serialize)]
pub struct Flow<'a> {
    /// "begin".
    pub event: &'static str,
    /// Seconds since 1970.
    pub time: f64,
    /// The inode number of the network namespace.
    pub netns: u64,
    /// The namespace's name.
    pub namespace: Option<&'a str>,
    /// The flow's id, as `conntrack -L -o id` shows it.
    pub id: u32,
    /// The protocol: its name or its hexadecimal number.
    pub proto: &'a str,
    /// The flow's packets before NAT.
    pub original: Tuple,
    /// The replies before NAT translates them back.
    pub reply: Tuple,
    /// The replies that there would be without NAT.
    pub untranslated: Tuple,
    /// The parts that NAT changed.
    pub moved: Vec<&'a str>,
    /// The device that the first packet came in by.
    #[serde(rename = "in")]
    pub input: Option<&'a str>,
    /// The device that the first packet leaves by.
    #[serde(rename = "out")]
    pub output: Option<&'a str>,
    /// The hook at which the flow is confirmed.
    pub hook: &'a str,
    /// The flow's status flags.
    pub status: Vec<&'a str>,
    /// The flow's mark.
    pub mark: u32,
    /// The type and code of the first packet of an ICMP flow.
    pub icmp: Icmp,
    /// The conntrack zones.
    pub zone: Zones,
    /// The source address that NAT gave the flow: "own" if it is one of the output device's, else "foreign".
    pub source: Option<&'a str>,
    /// The source of the flow that has the source port which this flow would have kept.
    pub taken_by: Option<Endpoint>,
}

impl<'a> Flow<'a> {
    /// Parses a line of a trace pipe whose clock is "mono".
    ///
    /// `clock_offset` is what to add to that clock for seconds since 1970. Returns `None` if the line is no such event.
    ///
    /// A device's name may contain any character except spaces, colons and slashes, so only these separate fields.
    pub fn parse(line: &'a str, namespaces: &'a Namespaces, clock_offset: f64) -> Option<Self> {
        let at = line.rfind(NAME)?;
        let (head, body) = (&line[..at], &line[at + NAME.len()..]);
        let seconds: f64 = head
            .rsplit(' ')
            .next()
            .filter(|text| text.starts_with(|c: char| c.is_ascii_digit()))?
            .parse()
            .ok()?;
        let mut fields = Fields(body);
        let netns = fields.number("netns")?;
        let flow = Self {
            event: "begin",
            time: ((seconds + clock_offset) * 1e6).round() / 1e6,
            netns,
            namespace: namespaces.name(netns),
            id: fields.number("id")?,
            proto: fields.text("proto")?,
            original: Tuple::parse(fields.text("original")?)?,
            reply: Tuple::parse(fields.text("reply")?)?,
            untranslated: Tuple::parse(fields.text("untranslated")?)?,
            moved: list(fields.text("moved")?),
            input: given(fields.text("in")?),
            output: given(fields.text("out")?),
            hook: fields.text("hook")?,
            status: list(fields.text("status")?),
            mark: u32::from_str_radix(fields.text("mark")?.strip_prefix("0x")?, 16).ok()?,
            icmp: fields
                .pair("icmp")
                .map(|(kind, code)| Icmp { r#type: kind, code })?,
            zone: fields
                .pair("zone")
                .map(|(original, reply)| Zones { original, reply })?,
            source: given(fields.text("source")?),
            taken_by: Endpoint::parse(fields.text("taken_by")?).map(Endpoint::unless_nobody)?,
        };
        Some(flow)
    }
}

/// The fields of an event that are left to parse, in their order.
struct Fields<'a>(&'a str);

impl<'a> Fields<'a> {
    /// Takes the next field, which must have the name.
    fn text(&mut self, name: &str) -> Option<&'a str> {
        let (word, rest) = self.0.split_once(' ').unwrap_or((self.0, ""));
        self.0 = rest;
        word.strip_prefix(name)?.strip_prefix('=')
    }

    /// Takes a field of two numbers.
    fn pair<T: FromStr>(&mut self, name: &str) -> Option<(T, T)> {
        let (first, second) = self.text(name)?.split_once('/')?;
        Some((parse_number(first)?, parse_number(second)?))
    }

    fn number<T: FromStr>(&mut self, name: &str) -> Option<T> {
        parse_number(self.text(name)?)
    }
}

/// Parses digits, which the standard library allows a sign before.
fn parse_number<T: FromStr>(text: &str) -> Option<T> {
    text.parse().ok().filter(|_| !text.starts_with('+'))
}

/// Splits a list of flags. The event shows "nothing" for no part that moved.
fn list(text: &str) -> Vec<&str> {
    text.split('|')
        .filter(|flag| !flag.is_empty() && *flag != "nothing")
        .collect()
}

/// Returns the word, unless it is the one that stands for none.
fn given(word: &str) -> Option<&str> {
    Some(word).filter(|word| *word != "-")
}

/// Returns how many events were lost if the line of a trace pipe tells that some were.
///
/// Returns `Some(None)` if it tells no number.
pub fn parse_lost(line: &str) -> Option<Option<u64>> {
    let rest = line
        .strip_prefix("CPU:")?
        .trim_start_matches(|c: char| c.is_ascii_digit());
    let count = rest.strip_prefix(" [LOST ")?.strip_suffix("EVENTS]")?;
    if count.is_empty() {
        return Some(None);
    }
    count.strip_suffix(' ').and_then(parse_number).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines that a trace pipe of Linux 7.3 showed.
    const RECORDED: &str = include_str!("../../tests/data/trace_pipe");

    fn flows(text: &str) -> Vec<Option<String>> {
        let namespaces = Namespaces::default();
        let parse = |line| {
            let flow = Flow::parse(line, &namespaces, 0.0)?;
            serde_json::to_string(&flow).ok()
        };
        text.lines().map(parse).collect()
    }

    /// Replaces a text of the first recorded event. It must be there.
    fn changed(from: &str, to: &str) -> String {
        let line = RECORDED.lines().nth(1).unwrap_or_default();
        assert!(line.contains(from), "{from}");
        line.replacen(from, to, 1)
    }

    #[test]
    fn recorded_lines_become_json() {
        let expected: Vec<_> = include_str!("../../tests/data/trace_pipe.json")
            .lines()
            .collect();
        let parsed: Vec<_> = flows(RECORDED).into_iter().flatten().collect();
        assert_eq!(parsed, expected);
    }

    #[test]
    fn times_are_seconds_since_1970() {
        let line = changed("", "");
        let flow =
            Flow::parse(&line, &Namespaces::default(), 1_000_000_000.25).map(|flow| flow.time);
        let recorded = Flow::parse(&line, &Namespaces::default(), 0.0).map(|flow| flow.time);
        assert_eq!(
            flow.zip(recorded).map(|(flow, recorded)| flow - recorded),
            Some(1_000_000_000.25)
        );
    }

    #[test]
    fn a_command_whose_name_looks_like_an_event() {
        let line = format!("evil: flow_confirm: {}", changed("", ""));
        assert!(flows(&line)[0].is_some());
    }

    #[test]
    fn a_devices_name_may_look_like_fields() {
        let line = changed("in=lan0", "in=a=b>|");
        assert!(flows(&line)[0]
            .as_ref()
            .is_some_and(|json| json.contains("\"in\":\"a=b>|\"")));
    }

    #[test]
    fn each_cut_and_each_changed_field_is_refused() {
        let line = changed("", "");
        // The line ends with a port, which is also one when it is cut.
        for end in 0..=line.trim_end_matches(|c: char| c.is_ascii_digit()).len() {
            assert_eq!(
                Flow::parse(&line[..end], &Namespaces::default(), 0.0),
                None,
                "{end}"
            );
        }
        for (from, to) in [
            ("netns=", "netns=-"),
            ("id=", "id=+"),
            ("id=", "ie="),
            (" proto=", "  proto="),
            ("->", "-"),
            ("original=1", "original=[1"),
            (":53", ":65536"),
            (":53", ""),
            ("mark=0x0", "mark=0"),
            ("mark=0x0", "mark=0x100000000"),
            ("icmp=0/0", "icmp=0"),
            ("icmp=0/0", "icmp=256/0"),
            ("zone=0/0", "zone=0"),
            ("zone=0/0", "zone=0/65536"),
            ("source=own", "sauce=own"),
            ("taken_by=", "taken_by=-"),
            ("flow_confirm", "flow_new"),
        ] {
            assert_eq!(flows(&changed(from, to)), [None], "{from} {to}");
        }
    }

    #[test]
    fn endpoints() {
        for text in ["[::1]:0", "[2001:db8::1]:65535", "192.0.2.1:53"] {
            assert_eq!(
                Endpoint::parse(text).map(|end| end.to_string()).as_deref(),
                Some(text)
            );
        }
        for text in [
            "",
            ":",
            "::1:53",
            "[192.0.2.1]:53",
            "[::1]53",
            "[::1:53",
            "::1]:53",
            "192.0.2.1:-1",
            "192.0.2.1:+1",
            "192.0.2.1",
        ] {
            assert_eq!(Endpoint::parse(text), None, "{text}");
        }
    }

    #[test]
    fn lost_events() {
        assert_eq!(parse_lost("CPU:0 [LOST 123 EVENTS]"), Some(Some(123)));
        assert_eq!(parse_lost("CPU:12 [LOST EVENTS]"), Some(None));
        for line in [
            "",
            "CPU:0 [LOST x EVENTS]",
            "CPU:0 [LOST 1 EVENTS] ",
            "CPU:0 [LOST 1EVENTS]",
            " CPU:0 [LOST EVENTS]",
        ] {
            assert_eq!(parse_lost(line), None, "{line}");
        }
    }
}
