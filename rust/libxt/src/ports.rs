// SPDX-License-Identifier: GPL-2.0

//! The ports of `--to-ports`, `--except-ports` and `--psid`.

use std::fmt;
use std::num::NonZeroU16;

use crate::bindings::{
    xt_rustmasq_ports,
    XT_RUSTMASQ_RANGES_MAX, //
};

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

/// The most ranges of a list.
// CAST: A small constant of C.
pub(crate) const MOST_RANGES: usize = XT_RUSTMASQ_RANGES_MAX as usize;

/// Several ranges of ports, one at least.
///
/// # Invariants
///
/// The ranges ascend, with a port at least between two of them. They are at the start of the array.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PortList([Option<PortRange>; MOST_RANGES]);

/// The error for text that is not a list of port ranges.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ParsePortListError<'a> {
    /// This part is no range.
    NoRange(&'a str),
    /// There are so many parts.
    TooMany(usize),
    /// Two parts share a port.
    Overlap(PortRange, PortRange),
    /// One begins where the other one ends.
    Touch(PortRange, PortRange),
}

impl PortList {
    /// Parses ranges that commas separate, in any order.
    ///
    /// [`PortRange::parse`] parses each. Lists ascend, so that the same ports are the same list.
    pub(crate) fn parse<'a>(
        text: &'a str,
        service: &dyn Fn(&str) -> Option<u16>,
    ) -> Result<Self, ParsePortListError<'a>> {
        let mut ranges = text
            .split(',')
            .map(|part| {
                PortRange::parse(part, service).map_err(|_| ParsePortListError::NoRange(part))
            })
            .collect::<Result<Vec<_>, _>>()?;
        ranges.sort_by_key(|range| range.first());
        for (lower, upper) in ranges.iter().zip(ranges.iter().skip(1)) {
            if upper.first <= lower.last {
                return Err(ParsePortListError::Overlap(*lower, *upper));
            }
            if upper.first.get() - 1 == lower.last.get() {
                return Err(ParsePortListError::Touch(*lower, *upper));
            }
        }
        Self::new(&ranges).ok_or(ParsePortListError::TooMany(ranges.len()))
    }

    /// Creates the list of ranges that ascend, with a port at least between two of them.
    ///
    /// Returns `None` if there is none, or too many.
    fn new(ranges: &[PortRange]) -> Option<Self> {
        let mut list = [None; MOST_RANGES];
        for (to, range) in list.get_mut(..ranges.len())?.iter_mut().zip(ranges) {
            *to = Some(*range);
        }
        // INVARIANT: The caller guarantees the order.
        (!ranges.is_empty()).then_some(Self(list))
    }

    /// Reads the first `count` ranges of the binary form.
    ///
    /// Returns `None` if that is not a list, which the kernel does not accept.
    pub(crate) fn from_binary(
        count: u8,
        ranges: &[xt_rustmasq_ports; MOST_RANGES],
    ) -> Option<Self> {
        let ranges = ranges.get(..count.into())?;
        let ranges = ranges
            .iter()
            .map(|range| PortRange::new(u16::from_be(range.first), u16::from_be(range.last)))
            .collect::<Option<Vec<_>>>()?;
        let apart = |(lower, upper): (&PortRange, &PortRange)| {
            upper.first.get() > lower.last.get().saturating_add(1)
        };
        let ascend = ranges.iter().zip(ranges.iter().skip(1)).all(apart);
        ascend.then(|| Self::new(&ranges)).flatten()
    }

    /// Returns the binary form: the number of ranges, and these.
    pub(crate) fn to_binary(self) -> (u8, [xt_rustmasq_ports; MOST_RANGES]) {
        let ranges = self.0.map(|range| {
            range.map_or(NO_PORTS, |range| xt_rustmasq_ports {
                first: range.first().to_be(),
                last: range.last().to_be(),
            })
        });
        // CAST: At most 15.
        (self.ranges().count() as u8, ranges)
    }

    /// Returns the ranges.
    pub(crate) fn ranges(&self) -> impl Iterator<Item = PortRange> + '_ {
        self.0.iter().copied().flatten()
    }

    /// Returns the only range, if there is one.
    pub(crate) fn only_range(&self) -> Option<PortRange> {
        match self.0 {
            [only, None, ..] => only,
            _ => None,
        }
    }

    /// Returns whether the port is in one of the ranges.
    pub(crate) fn contains(&self, port: u16) -> bool {
        self.ranges()
            .any(|range| (range.first()..=range.last()).contains(&port))
    }
}

/// An array's element behind the list.
pub(crate) const NO_PORTS: xt_rustmasq_ports = xt_rustmasq_ports { first: 0, last: 0 };

impl From<PortRange> for PortList {
    fn from(range: PortRange) -> Self {
        let mut list = [None; MOST_RANGES];
        list[0] = Some(range);
        // INVARIANT: There is one range.
        Self(list)
    }
}

/// Writes the form that [`PortList::parse`] parses.
impl fmt::Display for PortList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, range) in self.ranges().enumerate() {
            let comma = if n > 0 { "," } else { "" };
            write!(f, "{comma}{range}")?;
        }
        Ok(())
    }
}

/// A port set of MAP (RFC 7597, section 5.1).
///
/// A port is `offset` bits, then `length` bits that are `psid`, then the rest.
///
/// # Invariants
///
/// `offset + length <= 16`, and `psid` has `length` bits at most. The set has a port other than 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PortSetId {
    offset: u8,
    length: u8,
    psid: u16,
}

/// The error for text or numbers that are no port set.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum PortSetIdError {
    /// The text has another form.
    Form,
    /// Offset and length are so many bits in all.
    TooLong(u32),
    /// The identifier is this one, which has more than so many bits.
    TooLarge(u32, u8),
    /// The set has port 0 alone, which is never used.
    Empty,
}

impl PortSetId {
    /// Parses `OFFSET/LENGTH/PSID`, three numbers in decimal without leading zeros.
    pub(crate) fn parse(text: &str) -> Result<Self, PortSetIdError> {
        let number = |text: &str| {
            let is_number = text == "0"
                || text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
            is_number.then(|| text.parse().ok()).flatten()
        };
        let numbers = text
            .split('/')
            .map(number)
            .collect::<Option<Vec<u32>>>()
            .ok_or(PortSetIdError::Form)?;
        match numbers[..] {
            [offset, length, psid] => Self::new(offset, length, psid),
            _ => Err(PortSetIdError::Form),
        }
    }

    /// Creates the set from its numbers.
    pub(crate) fn new(offset: u32, length: u32, psid: u32) -> Result<Self, PortSetIdError> {
        let bits = offset.saturating_add(length);
        if bits > 16 {
            return Err(PortSetIdError::TooLong(bits));
        }
        // CAST: Both are 16 at most.
        let (offset, length) = (offset as u8, length as u8);
        match u16::try_from(psid) {
            Ok(0) if (offset, length) == (0, 16) => Err(PortSetIdError::Empty),
            // INVARIANT: A set is created only here. Only that which was refused above has no port but 0.
            Ok(psid) if u32::from(psid) >> length == 0 => Ok(Self {
                offset,
                length,
                psid,
            }),
            _ => Err(PortSetIdError::TooLarge(psid, length)),
        }
    }

    /// Returns the binary form: offset, length, identifier in host order.
    pub(crate) fn to_binary(self) -> (u8, u8, u16) {
        (self.offset, self.length, self.psid)
    }

    /// Returns whether the port is in the set. The first block belongs to nobody if there is an offset.
    pub(crate) fn contains(&self, port: u16) -> bool {
        let port = u32::from(port);
        let rest = 16 - u32::from(self.offset) - u32::from(self.length);
        let in_first_block = port >> (16 - u32::from(self.offset)) == 0;
        let psid = (port >> rest) & ((1 << self.length) - 1);
        port != 0 && !(self.offset > 0 && in_first_block) && psid == u32::from(self.psid)
    }
}

/// Writes the form that [`PortSetId::parse`] parses.
impl fmt::Display for PortSetId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.offset, self.length, self.psid)
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

    fn list(text: &str) -> Result<PortList, ParsePortListError<'_>> {
        PortList::parse(text, &service)
    }

    fn ports(first: u16, last: u16) -> PortRange {
        PortRange::new(first, last).unwrap()
    }

    #[test]
    fn lists() {
        for text in ["1", "7-9", "1,3", "1024-2047,4096-8191,50000", "1,65535"] {
            assert_eq!(text, list(text).unwrap().to_string());
        }
        assert_eq!(
            "20,80-443",
            list("http-https,ftp-data").unwrap().to_string()
        );
        assert_eq!("1,5,9", list("9,1,5").unwrap().to_string());
        let most = (1..=15).map(|n| (2 * n).to_string()).collect::<Vec<_>>();
        assert_eq!(15, list(&most.join(",")).unwrap().ranges().count());
    }

    #[test]
    fn wrong_lists_name_the_part() {
        for (text, part) in [
            ("1,2x", "2x"),
            ("1,,2", ""),
            (",1", ""),
            ("1,", ""),
            (",", ""),
            ("", ""),
            ("5-1,7", "5-1"),
            ("0,7", "0"),
            ("1, 3", " 3"),
            ("1,65536", "65536"),
        ] {
            assert_eq!(
                Err(ParsePortListError::NoRange(part)),
                list(text),
                "{text:?}"
            );
        }
    }

    #[test]
    fn ranges_must_be_apart() {
        assert_eq!(
            Err(ParsePortListError::Overlap(ports(1, 5), ports(5, 9))),
            list("5-9,1-5")
        );
        assert_eq!(
            Err(ParsePortListError::Overlap(ports(7, 7), ports(7, 7))),
            list("7,1,7")
        );
        assert_eq!(
            Err(ParsePortListError::Touch(ports(1, 5), ports(6, 9))),
            list("1-5,6-9")
        );
    }

    #[test]
    fn sixteen_ranges_are_too_many() {
        let most = (1..=16).map(|n| (2 * n).to_string()).collect::<Vec<_>>();
        assert_eq!(
            Err(ParsePortListError::TooMany(16)),
            list(&most.join(",")).map(|_| ())
        );
    }

    #[test]
    fn binary_lists() {
        for text in ["1", "258-772,65535"] {
            let list = list(text).unwrap();
            let (count, ranges) = list.to_binary();
            assert_eq!(Some(list), PortList::from_binary(count, &ranges));
        }
        let (_, mut ranges) = list("5-9,11").unwrap().to_binary();
        assert_eq!(None, PortList::from_binary(0, &ranges));
        assert_eq!(None, PortList::from_binary(3, &ranges));
        assert_eq!(None, PortList::from_binary(16, &ranges));
        for first in [3_u16, 9, 10] {
            ranges[1].first = first.to_be();
            assert_eq!(None, PortList::from_binary(2, &ranges), "{first}");
        }
    }

    #[test]
    fn port_sets_of_map() {
        // RFC 7597, section 5.1 and appendix A: six bits, then eight bits with the identifier 0x34.
        let set = PortSetId::parse("6/8/52").unwrap();
        let ports: Vec<u16> = (0..=65535).filter(|port| set.contains(*port)).collect();
        assert_eq!([1232, 1233, 1234, 1235, 2256], ports[..5]);
        assert_eq!(63 * 4, ports.len());
        assert_eq!(Some(&64723), ports.last());
        assert_eq!("6/8/52", set.to_string());
    }

    #[test]
    fn port_sets_follow_the_algorithm() {
        for offset in 0..=16_u32 {
            for length in 0..=16 - offset {
                let rest = 16 - offset - length;
                for psid in [0, 1, (1 << length) - 1] {
                    if psid >> length != 0 || (offset, length, psid) == (0, 16, 0) {
                        continue;
                    }
                    let set = PortSetId::new(offset, length, psid).unwrap();
                    let blocks = u32::from(offset > 0)..1 << offset;
                    let expected: Vec<u32> = blocks
                        .flat_map(|block| {
                            (0..1 << rest)
                                .map(move |j| (block << (length + rest)) + (psid << rest) + j)
                        })
                        .filter(|port| *port != 0)
                        .collect();
                    let found: Vec<u32> = (0..=65535)
                        .filter(|port| set.contains(*port))
                        .map(u32::from)
                        .collect();
                    assert_eq!(expected, found, "{set}");
                    assert!(!found.is_empty());
                }
            }
        }
    }

    #[test]
    fn wrong_port_sets() {
        use PortSetIdError::*;
        for text in [
            "",
            "6",
            "6/8",
            "6/8/52/1",
            "6/8/",
            "/8/1",
            "a/8/1",
            "6/8/0x34",
            "06/8/1",
            "6/8/+1",
            " 6/8/1",
            "6/8/-1",
            "6/8/00",
            "6/8/4294967296",
        ] {
            assert_eq!(Err(Form), PortSetId::parse(text), "{text:?}");
        }
        assert_eq!(Err(TooLong(17)), PortSetId::parse("9/8/0"));
        assert_eq!(Err(TooLong(u32::MAX)), PortSetId::parse("4294967295/1/0"));
        assert_eq!(Err(TooLarge(256, 8)), PortSetId::parse("6/8/256"));
        assert_eq!(Err(TooLarge(1, 0)), PortSetId::parse("6/0/1"));
        assert_eq!(Err(TooLarge(65536, 16)), PortSetId::parse("0/16/65536"));
        assert_eq!(Err(Empty), PortSetId::parse("0/16/0"));
        for text in ["0/0/0", "16/0/0", "0/16/65535", "0/16/1", "1/15/0"] {
            assert!(PortSetId::parse(text).is_ok(), "{text:?}");
        }
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
