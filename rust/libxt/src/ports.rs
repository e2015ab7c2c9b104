// SPDX-License-Identifier: GPL-2.0

//! The port range of `--to-ports`.

use std::fmt;
use std::num::NonZeroU16;
use std::str::FromStr;

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

    /// Returns the first port, in host order.
    pub(crate) fn first(self) -> u16 {
        self.first.get()
    }

    /// Returns the last port, in host order.
    pub(crate) fn last(self) -> u16 {
        self.last.get()
    }
}

/// Parses `PORT` or `PORT-PORT`.
impl FromStr for PortRange {
    type Err = ParsePortRangeError;

    fn from_str(text: &str) -> Result<Self, ParsePortRangeError> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        Self::new(parse_port(first)?, parse_port(last)?).ok_or(ParsePortRangeError)
    }
}

/// Writes the form that [`PortRange::from_str`] parses: `PORT` if both ends are the same.
impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

/// Parses a port in decimal, without sign or leading zeros.
///
/// Leading zeros are refused because they are ambiguous: MASQUERADE reads such a number as octal,
/// most people read it as decimal.
fn parse_port(text: &str) -> Result<u16, ParsePortRangeError> {
    // `u16::from_str` accepts a plus sign.
    let decimal = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    if !decimal {
        return Err(ParsePortRangeError);
    }
    text.parse().map_err(|_| ParsePortRangeError)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_parses(text: &str, first: u16, last: u16) {
        assert_eq!(
            Ok(PortRange::new(first, last).unwrap()),
            text.parse(),
            "{text:?}"
        );
    }

    fn assert_refused(text: &str) {
        assert_eq!(
            Err(ParsePortRangeError),
            text.parse::<PortRange>(),
            "{text:?}"
        );
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
        assert_refused("http");
        assert_refused("80x");
        assert_refused("1-b");
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
    fn display_writes_what_from_str_parses() {
        for text in ["1", "100", "100-200", "1-65535"] {
            assert_eq!(text, text.parse::<PortRange>().unwrap().to_string());
        }
        assert_eq!("7", "7-7".parse::<PortRange>().unwrap().to_string());
    }
}
