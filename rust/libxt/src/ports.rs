// SPDX-License-Identifier: GPL-2.0

//! The port range of `--to-ports`.

use std::fmt;
use std::num::NonZeroU16;

/// A range of ports, or of query identifiers for ICMP; both ends are included.
///
/// # Invariants
///
/// `first <= last`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PortRange {
    first: NonZeroU16,
    last: NonZeroU16,
}

/// The error for text that is not a port range.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ParsePortRangeError;

impl PortRange {
    /// Creates the range from `first` to `last`, both in host order.
    ///
    /// Returns `None` if one of them is 0 or `last` is less than `first`.
    pub(crate) fn new(first: u16, last: u16) -> Option<Self> {
        let (first, last) = (NonZeroU16::new(first)?, NonZeroU16::new(last)?);
        // INVARIANT: A range is created only here, and only if the invariant holds.
        (first <= last).then_some(Self { first, last })
    }

    /// Parses `PORT` or `PORT-PORT`, where each `PORT` is a number or a name that `service` knows.
    ///
    /// The name of a service may contain dashes, as `ftp-data`: the whole text is tried as one port
    /// first, as MASQUERADE does. Then exactly one of its dashes must have a port on either side.
    pub(crate) fn parse(
        text: &str,
        service: &dyn Fn(&str) -> Option<u16>,
    ) -> Result<Self, ParsePortRangeError> {
        let range = parse_port(text, service)
            .map(|port| (port, port))
            .or_else(|| {
                let mut ranges = text.match_indices('-').filter_map(|(dash, _)| {
                    let first = parse_port(&text[..dash], service)?;
                    Some((first, parse_port(&text[dash + 1..], service)?))
                });
                let range = ranges.next()?;
                ranges.next().is_none().then_some(range)
            });
        range
            .and_then(|(first, last)| Self::new(first, last))
            .ok_or(ParsePortRangeError)
    }

    /// Returns the first port, in host order.
    pub(crate) fn first(self) -> u16 {
        self.first.get()
    }

    /// Returns the last port, in host order.
    pub(crate) fn last(self) -> u16 {
        self.last.get()
    }
}

/// Writes the form that [`PortRange::parse`] parses: `PORT` if both ends are the same.
///
/// The ports are numbers, also those that were given by name.
impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

/// Parses a port: a number in decimal, without sign or leading zeros, or the name of a service.
///
/// Leading zeros are refused because they are ambiguous: MASQUERADE reads such a number as octal,
/// most people read it as decimal. `service` is asked only for what may be a name: visible ASCII
/// characters with a letter among them.
fn parse_port(text: &str, service: &dyn Fn(&str) -> Option<u16>) -> Option<u16> {
    // `u16::from_str` accepts a plus sign.
    if text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0') {
        return text.parse().ok();
    }
    let is_name = text.bytes().all(|byte| byte.is_ascii_graphic())
        && text.bytes().any(|byte| byte.is_ascii_alphabetic());
    is_name.then(|| service(text)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A small `/etc/services`.
    fn service(name: &str) -> Option<u16> {
        match name {
            "ftp-data" => Some(20),
            "http" => Some(80),
            "https" => Some(443),
            "3com-tsmux" => Some(106),
            "one" | "one-two" => Some(1),
            "two-three" | "three" => Some(3),
            "reserved" => Some(0),
            _ => None,
        }
    }

    fn parse(text: &str) -> Result<PortRange, ParsePortRangeError> {
        PortRange::parse(text, &service)
    }

    fn assert_parses(text: &str, first: u16, last: u16) {
        assert_eq!(
            Ok(PortRange::new(first, last).unwrap()),
            parse(text),
            "{text:?}"
        );
    }

    fn assert_refused(text: &str) {
        assert_eq!(Err(ParsePortRangeError), parse(text), "{text:?}");
    }

    #[test]
    fn single_port() {
        assert_parses("80", 80, 80);
    }

    #[test]
    fn range() {
        assert_parses("100-200", 100, 200);
    }

    #[test]
    fn extremes() {
        assert_parses("1", 1, 1);
        assert_parses("65535", 65535, 65535);
        assert_parses("1-65535", 1, 65535);
    }

    #[test]
    fn range_of_one() {
        assert_parses("7-7", 7, 7);
    }

    #[test]
    fn port_zero() {
        assert_refused("0");
        assert_refused("0-5");
        assert_refused("0-0");
    }

    #[test]
    fn too_large() {
        assert_refused("65536");
        assert_refused("70000");
        assert_refused("1-70000");
        assert_refused("70000-70001");
        assert_refused("99999999999999999999999999");
        assert_refused("18446744073709551617");
    }

    #[test]
    fn reversed() {
        assert_refused("5-1");
        assert_refused("65535-1");
    }

    #[test]
    fn letters() {
        assert_refused("a-b");
        assert_refused("a");
        assert_refused("80x");
        assert_refused("1-b");
    }

    #[test]
    fn services() {
        assert_parses("http", 80, 80);
        assert_parses("http-https", 80, 443);
        assert_parses("http-8080", 80, 8080);
        assert_parses("79-http", 79, 80);
    }

    #[test]
    fn services_with_dashes() {
        assert_parses("ftp-data", 20, 20);
        assert_parses("ftp-data-http", 20, 80);
        assert_parses("1-ftp-data", 1, 20);
        assert_parses("3com-tsmux", 106, 106);
        assert_refused("3com-tsmux-http");
        assert_refused("ftp-data-");
    }

    #[test]
    fn ambiguous_services() {
        // one-three, or one-two to three, or one to two-three
        assert_parses("one-three", 1, 3);
        assert_refused("one-two-three");
    }

    #[test]
    fn wrong_services() {
        for text in [
            "HTTP",
            "htt",
            "httpx",
            " http",
            "http ",
            "ht tp",
            "http-",
            "-http",
            "http--https",
            "http-x",
            "x-http",
            "https-http",
            "http-79",
            "reserved",
            "reserved-5",
            "http:https",
            "http\u{fffd}",
            "htt\u{ff50}",
        ] {
            assert_refused(text);
        }
    }

    #[test]
    fn only_names_are_looked_up() {
        for text in [
            "0", "080", "70000", "+80", "", "-", "5-", "1-2-3", "8 0", "a b", "a\n", "\u{e9}",
        ] {
            let refused = PortRange::parse(text, &|name| panic!("{name:?} is no name"));
            assert_eq!(Err(ParsePortRangeError), refused, "{text:?}");
        }
    }

    #[test]
    fn three_ports() {
        assert_refused("1-2-3");
        assert_refused("1--2");
    }

    #[test]
    fn empty() {
        assert_refused("");
    }

    #[test]
    fn missing_end() {
        assert_refused("-5");
        assert_refused("5-");
        assert_refused("-");
    }

    #[test]
    fn other_separators() {
        assert_refused("1:2");
        assert_refused("1,2");
        assert_refused("1\u{2013}2");
    }

    #[test]
    fn signs() {
        assert_refused("+5");
        assert_refused("1-+5");
    }

    #[test]
    fn spaces() {
        assert_refused(" 5");
        assert_refused("5 ");
        assert_refused("1 - 2");
        assert_refused("5\n");
        assert_refused("\t5");
    }

    #[test]
    fn other_bases() {
        assert_refused("0x50");
        assert_refused("50h");
        assert_refused("0b1");
    }

    #[test]
    fn leading_zeros() {
        assert_refused("080");
        assert_refused("1-010");
        assert_refused("00");
    }

    #[test]
    fn non_ascii_digits() {
        assert_refused("\u{661}\u{662}");
        assert_refused("\u{ff11}");
    }

    #[test]
    fn replacement_character() {
        assert_refused("80\u{fffd}");
    }

    #[test]
    fn new_checks_the_invariant() {
        assert_eq!(None, PortRange::new(0, 5));
        assert_eq!(None, PortRange::new(0, 0));
        assert_eq!(None, PortRange::new(5, 4));
        let range = PortRange::new(4, 5).unwrap();
        assert_eq!((4, 5), (range.first(), range.last()));
    }

    #[test]
    fn display_writes_what_parse_accepts() {
        for text in ["1", "100", "100-200", "1-65535"] {
            assert_eq!(text, parse(text).unwrap().to_string());
        }
        assert_eq!("7", parse("7-7").unwrap().to_string());
        assert_eq!("80-443", parse("http-https").unwrap().to_string());
    }
}
