// SPDX-License-Identifier: GPL-2.0

//! The port range of `--to-ports`.

use std::fmt;
use std::num::NonZeroU16;
use std::str::FromStr;

/// A range of ports (of query identifiers for ICMP), both ends included.
///
/// # Invariants
///
/// `first <= last`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PortRange {
    first: NonZeroU16,
    last: NonZeroU16,
}

/// The text is no port range.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ParsePortRangeError;

impl PortRange {
    /// The range from `first` to `last`, both in host order.
    pub(crate) fn new(first: u16, last: u16) -> Option<Self> {
        let (first, last) = (NonZeroU16::new(first)?, NonZeroU16::new(last)?);
        // INVARIANT: only here is a range made.
        (first <= last).then_some(Self { first, last })
    }

    /// The first port, in host order.
    pub(crate) fn first(self) -> u16 {
        self.first.get()
    }

    /// The last port, in host order.
    pub(crate) fn last(self) -> u16 {
        self.last.get()
    }
}

/// `PORT` or `PORT-PORT`.
impl FromStr for PortRange {
    type Err = ParsePortRangeError;

    fn from_str(text: &str) -> Result<Self, ParsePortRangeError> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        Self::new(parse_port(first)?, parse_port(last)?).ok_or(ParsePortRangeError)
    }
}

/// The form that [`PortRange::from_str`] reads, the shorter one where both ends are the same.
impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

/// A port in decimal. Leading zeros are refused: MASQUERADE takes them for the sign of an octal
/// number, a reader would not.
fn parse_port(text: &str) -> Result<u16, ParsePortRangeError> {
    // `u16::from_str` alone would let a plus sign pass.
    let decimal = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    if !decimal {
        return Err(ParsePortRangeError);
    }
    text.parse().map_err(|_| ParsePortRangeError)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepts(text: &str, first: u16, last: u16) {
        assert_eq!(
            Ok(PortRange::new(first, last).unwrap()),
            text.parse(),
            "{text:?}"
        );
    }

    fn refuses(text: &str) {
        assert_eq!(
            Err(ParsePortRangeError),
            text.parse::<PortRange>(),
            "{text:?}"
        );
    }

    #[test]
    fn single_port() {
        accepts("80", 80, 80);
    }

    #[test]
    fn range() {
        accepts("100-200", 100, 200);
    }

    #[test]
    fn extremes() {
        accepts("1", 1, 1);
        accepts("65535", 65535, 65535);
        accepts("1-65535", 1, 65535);
    }

    #[test]
    fn range_of_one() {
        accepts("7-7", 7, 7);
    }

    #[test]
    fn zero_is_no_port() {
        refuses("0");
        refuses("0-5");
        refuses("0-0");
    }

    #[test]
    fn too_large() {
        refuses("65536");
        refuses("70000");
        refuses("1-70000");
        refuses("70000-70001");
        refuses("99999999999999999999999999");
        refuses("18446744073709551617");
    }

    #[test]
    fn reversed() {
        refuses("5-1");
        refuses("65535-1");
    }

    #[test]
    fn letters() {
        refuses("a-b");
        refuses("a");
        refuses("http");
        refuses("80x");
        refuses("1-b");
    }

    #[test]
    fn three_ports() {
        refuses("1-2-3");
        refuses("1--2");
    }

    #[test]
    fn empty() {
        refuses("");
    }

    #[test]
    fn half_open() {
        refuses("-5");
        refuses("5-");
        refuses("-");
    }

    #[test]
    fn other_separators() {
        refuses("1:2");
        refuses("1,2");
        refuses("1\u{2013}2");
    }

    #[test]
    fn signs() {
        refuses("+5");
        refuses("1-+5");
    }

    #[test]
    fn spaces() {
        refuses(" 5");
        refuses("5 ");
        refuses("1 - 2");
        refuses("5\n");
        refuses("\t5");
    }

    #[test]
    fn other_bases() {
        refuses("0x50");
        refuses("50h");
        refuses("0b1");
    }

    #[test]
    fn leading_zeros() {
        refuses("080");
        refuses("1-010");
        refuses("00");
    }

    #[test]
    fn other_digits() {
        refuses("\u{661}\u{662}");
        refuses("\u{ff11}");
    }

    #[test]
    fn replacement_character() {
        refuses("80\u{fffd}");
    }

    #[test]
    fn constructor_keeps_the_invariant() {
        assert_eq!(None, PortRange::new(0, 5));
        assert_eq!(None, PortRange::new(0, 0));
        assert_eq!(None, PortRange::new(5, 4));
        let range = PortRange::new(4, 5).unwrap();
        assert_eq!((4, 5), (range.first(), range.last()));
    }

    #[test]
    fn shown_as_it_is_read() {
        for text in ["1", "100", "100-200", "1-65535"] {
            assert_eq!(text, text.parse::<PortRange>().unwrap().to_string());
        }
        assert_eq!("7", "7-7".parse::<PortRange>().unwrap().to_string());
    }
}
