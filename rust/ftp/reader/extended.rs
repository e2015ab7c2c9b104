// SPDX-License-Identifier: GPL-2.0

//! The arguments of EPRT and of the reply 229, whose fields stand between delimiters (RFC 2428).

use super::{
    read_steps,
    Step,
    FIRST_PORT, //
};
use crate::net::AnyAddress;
use core::net::{
    Ipv4Addr,
    Ipv6Addr, //
};
use kernel::prelude::*;

/// Returns whether a byte may be a delimiter: it is printable, and no digit.
fn is_delimiter(byte: u8) -> bool {
    byte.is_ascii_graphic() && !byte.is_ascii_digit()
}

/// Returns a number with one digit more, unless it is too large.
fn append(number: u16, base: u16, digit: u16) -> Option<u16> {
    number.checked_mul(base)?.checked_add(digit)
}

/// Returns the value of a decimal digit.
fn decimal(byte: u8) -> Option<u16> {
    byte.is_ascii_digit().then(|| u16::from(byte - b'0'))
}

/// The part of `(|||port|)` that has been read, from the first delimiter on.
///
/// Some servers fill in the empty fields, but most clients refuse that, and so does this.
#[derive(Clone, Copy, Default)]
pub(super) struct Epsv {
    delimiter: u8,
    /// How many bytes have been read. The first three are delimiters.
    len: u8,
    port: u16,
}

impl Epsv {
    pub(super) fn load(memory: [u8; 4]) -> Self {
        let [delimiter, len, high, low] = memory;
        Self {
            delimiter,
            len,
            port: u16::from_be_bytes([high, low]),
        }
    }

    pub(super) fn store(self) -> [u8; 4] {
        let [high, low] = self.port.to_be_bytes();
        [self.delimiter, self.len, high, low]
    }

    /// Reads bytes up to the last delimiter, or one that does not fit, and returns how many precede that.
    pub(super) fn read(&mut self, bytes: &[u8]) -> (Step, usize) {
        // A copy stays in registers.
        let mut argument = *self;
        let result = read_steps(bytes, |byte| argument.step(byte).unwrap_or(Step::Broken));
        *self = argument;
        result
    }

    /// Returns the port if it may be announced.
    pub(super) fn port(self) -> Option<u16> {
        (self.port >= FIRST_PORT).then_some(self.port)
    }

    /// Returns the number of bytes that have been read, the last delimiter included.
    pub(super) fn len(self) -> u8 {
        self.len
    }

    #[inline(always)]
    fn step(&mut self, byte: u8) -> Option<Step> {
        let place = self.len;
        self.len = place.checked_add(1)?;
        match place {
            0 => self.delimiter = is_delimiter(byte).then_some(byte)?,
            1 | 2 if byte != self.delimiter => return None,
            1 | 2 => {}
            _ if byte == self.delimiter => return Some(Step::Complete),
            _ => self.port = append(self.port, 10, decimal(byte)?)?,
        }
        Some(Step::Inside)
    }
}

/// The part of `|1|a.b.c.d|port|` or `|2|IPv6 address|port|` that has been read.
///
/// The address is not stored but compared with the sender's own while it is read. Numbers may have leading zeros. A
/// group of IPv6 has at most four digits, and none may be written like an IPv4 address.
#[derive(Clone, Copy, Default)]
pub(super) struct Eprt {
    delimiter: u8,
    /// How many bytes have been read.
    len: u8,
    /// The part that is read next: one of the constants below.
    stage: u8,
    /// How many numbers or groups of the sender's address, from its start, the text has covered so far, at most 8.
    covered: u8,
    /// How many digits the current number or group has, up to 5; or [`COLON`].
    digits: u8,
    /// The current number or group.
    value: u16,
}

const DELIMITER: u8 = 0;
const PROTOCOL: u8 = 1;
const PROTOCOL_END: u8 = 2;
/// An IPv4 address, or an IPv6 address before any `::`.
const ADDRESS: u8 = 3;
/// An IPv6 address in which only zeros have followed `::`. It is still open how many groups `::` stands for.
const GAP: u8 = 4;
/// An IPv6 address in which another group has followed `::`.
const AFTER_GAP: u8 = 5;
const PORT: u8 = 6;

/// In the place of a number of digits: the last byte was a single colon.
const COLON: u8 = 6;

impl Eprt {
    pub(super) fn load(memory: [u8; 6]) -> Self {
        let [delimiter, len, stage, place, high, low] = memory;
        Self {
            delimiter,
            len,
            stage,
            covered: place >> 4,
            digits: place & 15,
            value: u16::from_be_bytes([high, low]),
        }
    }

    pub(super) fn store(self) -> [u8; 6] {
        let [high, low] = self.value.to_be_bytes();
        let place = self.covered << 4 | self.digits;
        [self.delimiter, self.len, self.stage, place, high, low]
    }

    /// Reads bytes up to the last delimiter, or one that does not fit, and returns how many precede that.
    pub(super) fn read(&mut self, bytes: &[u8], own: AnyAddress) -> (Step, usize) {
        // A copy stays in registers.
        let mut argument = *self;
        let step = |byte| argument.step(byte, own).unwrap_or(Step::Broken);
        let result = read_steps(bytes, step);
        *self = argument;
        result
    }

    /// Returns the port if it may be announced.
    pub(super) fn port(self) -> Option<u16> {
        (self.value >= FIRST_PORT).then_some(self.value)
    }

    /// Returns the number of bytes that have been read, the last delimiter included.
    pub(super) fn len(self) -> u8 {
        self.len
    }

    #[inline(always)]
    fn step(&mut self, byte: u8, own: AnyAddress) -> Option<Step> {
        self.len = self.len.checked_add(1)?;
        match self.stage {
            DELIMITER => self.delimiter = is_delimiter(byte).then_some(byte)?,
            PROTOCOL if byte != protocol(own) => return None,
            PROTOCOL => {}
            PROTOCOL_END if byte != self.delimiter => return None,
            PROTOCOL_END => {}
            PORT if byte == self.delimiter => return Some(Step::Complete),
            PORT => {
                self.add_digit(10, decimal(byte)?)?;
                return Some(Step::Inside);
            }
            _ if byte == self.delimiter => self.end_address(own)?,
            _ => {
                match own {
                    AnyAddress::V4(own) => self.read_ipv4(byte, own)?,
                    AnyAddress::V6(own) => self.read_ipv6(byte, own)?,
                }
                return Some(Step::Inside);
            }
        }
        self.stage = match self.stage {
            stage @ ..=PROTOCOL_END => stage + 1,
            _ => PORT,
        };
        Some(Step::Inside)
    }

    fn add_digit(&mut self, base: u16, digit: u16) -> Option<()> {
        self.value = append(self.value, base, digit)?;
        self.digits = 5.min(self.digits + 1);
        Some(())
    }

    fn read_ipv4(&mut self, byte: u8, own: Ipv4Addr) -> Option<()> {
        match byte {
            b'.' => self.end_number(own),
            _ => self.add_digit(10, decimal(byte)?),
        }
    }

    fn read_ipv6(&mut self, byte: u8, own: Ipv6Addr) -> Option<()> {
        if byte == b':' {
            return self.read_colon(own);
        }
        // CAST: Below 16.
        let digit = char::from(byte).to_digit(16)? as u16;
        if self.digits == COLON {
            // An address does not begin with a single colon.
            (self.covered > 0).then_some(())?;
            self.digits = 0;
        }
        (self.digits < 4).then_some(())?;
        self.add_digit(16, digit)
    }

    fn read_colon(&mut self, own: Ipv6Addr) -> Option<()> {
        match self.digits {
            // Only the first byte of an address has neither digits nor a colon before it, or a byte behind `::`.
            0 => (self.stage == ADDRESS).then_some(())?,
            COLON => return self.begin_gap(own),
            _ => self.end_group(own)?,
        }
        self.digits = COLON;
        Some(())
    }

    /// Reads the second colon of `::`, which stands for one group at least.
    fn begin_gap(&mut self, own: Ipv6Addr) -> Option<()> {
        (self.stage == ADDRESS && self.group(own)? == 0).then_some(())?;
        self.stage = GAP;
        self.covered += 1;
        self.digits = 0;
        Some(())
    }

    /// Ends a number of an IPv4 address.
    fn end_number(&mut self, own: Ipv4Addr) -> Option<()> {
        let number = *own.octets().get(usize::from(self.covered))?;
        (self.digits > 0 && self.value == number.into()).then_some(())?;
        self.cover(1);
        Some(())
    }

    /// Ends a group of an IPv6 address, which has digits.
    fn end_group(&mut self, own: Ipv6Addr) -> Option<()> {
        if self.stage == GAP && self.value != 0 {
            // `::` and the zeros behind it are all the zeros that the own address has here.
            while self.group(own)? == 0 {
                self.covered += 1;
            }
            self.stage = AFTER_GAP;
        }
        (self.group(own)? == self.value).then_some(())?;
        self.cover(1);
        Some(())
    }

    fn end_address(&mut self, own: AnyAddress) -> Option<()> {
        let covered = match own {
            AnyAddress::V4(own) => {
                self.end_number(own)?;
                self.covered == 4
            }
            AnyAddress::V6(own) => {
                match self.digits {
                    0 => {}
                    COLON => return None,
                    _ => self.end_group(own)?,
                }
                let rest = own.segments().into_iter().skip(self.covered.into());
                self.covered == 8 || self.stage == GAP && rest.into_iter().all(|group| group == 0)
            }
        };
        covered.then_some(())
    }

    /// Begins the next number or group.
    fn cover(&mut self, more: u8) {
        self.covered += more;
        self.digits = 0;
        self.value = 0;
    }

    /// Returns the first group of the own address that is not covered yet.
    fn group(&self, own: Ipv6Addr) -> Option<u16> {
        let place = 2 * usize::from(self.covered);
        let octets = own.octets();
        let pair = octets.get(place..)?.first_chunk()?;
        Some(u16::from_be_bytes(*pair))
    }
}

/// Returns the number of the protocol that an address belongs to.
fn protocol(address: AnyAddress) -> u8 {
    match address {
        AnyAddress::V4(_) => b'1',
        AnyAddress::V6(_) => b'2',
    }
}

#[kunit_tests(rustmasq_ftp_extended)]
mod tests {
    use super::*;

    const IPV4: AnyAddress = AnyAddress::V4(Ipv4Addr::new(10, 0, 0, 2));

    const fn ipv6(groups: [u16; 8]) -> AnyAddress {
        let [a, b, c, d, e, f, g, h] = groups;
        AnyAddress::V6(Ipv6Addr::new(a, b, c, d, e, f, g, h))
    }

    /// Returns the port that an argument of EPRT announces, if the argument ends with the text.
    fn eprt(text: &[u8], own: AnyAddress) -> Option<u16> {
        let mut argument = Eprt::default();
        let result = argument.read(text, own);
        // The same byte by byte.
        let mut bytewise = Eprt::default();
        let mut last = Step::Inside;
        for byte in text {
            if last == Step::Inside {
                last = bytewise.read(&[*byte], own).0;
                bytewise = Eprt::load(bytewise.store());
            }
        }
        let complete = result == (Step::Complete, text.len() - 1) && last == Step::Complete;
        let same = argument.port() == bytewise.port() && argument.len() == bytewise.len();
        argument.port().filter(|_| complete && same)
    }

    /// Returns whether an argument of EPRT with the IPv6 address as text announces a port.
    fn names(address: &str, own: AnyAddress) -> bool {
        let mut text = [0; 80];
        let mut len = 0;
        for part in [b"|2|".as_slice(), address.as_bytes(), b"|5001|"] {
            text[len..][..part.len()].copy_from_slice(part);
            len += part.len();
        }
        eprt(&text[..len], own) == Some(5001)
    }

    fn epsv(text: &[u8]) -> (Step, Option<u16>) {
        let mut argument = Epsv::default();
        let (step, _) = argument.read(text);
        let mut bytewise = Epsv::default();
        let mut last = Step::Inside;
        for byte in text {
            if last == Step::Inside {
                last = bytewise.read(&[*byte]).0;
                bytewise = Epsv::load(bytewise.store());
            }
        }
        if (last, bytewise.len(), bytewise.port()) != (step, argument.len(), argument.port()) {
            return (Step::Broken, None);
        }
        (step, argument.port())
    }

    #[test]
    fn eprt_with_ipv4() {
        assert_eq!(eprt(b"|1|10.0.0.2|5001|", IPV4), Some(5001));
        assert_eq!(eprt(b"|1|010.00.0.002|0005001|", IPV4), Some(5001));
        assert_eq!(eprt(b"|1|10.0.0.2|65535|", IPV4), Some(65535));
        assert_eq!(eprt(b"|1|10.0.0.2|1024|", IPV4), Some(1024));
    }

    #[test]
    fn eprt_with_other_addresses_and_ports() {
        for text in [
            b"|1|10.0.0.3|5001|".as_slice(),
            b"|1|11.0.0.2|5001|",
            b"|1|266.0.0.2|5001|",
            b"|1|10.0.0|5001|",
            b"|1|10.0.0.2.1|5001|",
            b"|1|10.0.0.2.|5001|",
            b"|1|10.0..2|5001|",
            b"|1|.10.0.0.2|5001|",
            b"|1|10,0,0,2|5001|",
            b"|1||5001|",
            b"|1|10.0.0.2|1023|",
            b"|1|10.0.0.2|0|",
            b"|1|10.0.0.2||",
            b"|1|10.0.0.2|65536|",
            b"|1|10.0.0.2|-1|",
            b"|1|10.0.0.2|5001 |",
        ] {
            assert_eq!(eprt(text, IPV4), None);
        }
    }

    #[test]
    fn eprt_with_another_protocol() {
        let own = ipv6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 2]);
        for text in [
            b"|2|10.0.0.2|5001|".as_slice(),
            b"|3|10.0.0.2|5001|",
            b"|01|10.0.0.2|5001|",
            b"||10.0.0.2|5001|",
            b"|12|10.0.0.2|5001|",
        ] {
            assert_eq!(eprt(text, IPV4), None);
        }
        assert_eq!(eprt(b"|2|2001:db8::2|5001|", own), Some(5001));
        assert_eq!(eprt(b"|1|2001:db8::2|5001|", own), None);
        assert_eq!(eprt(b"|2|2001:db8::2|5001|", IPV4), None);
    }

    #[test]
    fn eprt_with_any_delimiter() {
        for delimiter in 0..=u8::MAX {
            let mut text = *b"|1|10.0.0.2|5001|";
            text.iter_mut()
                .filter(|byte| **byte == b'|')
                .for_each(|byte| *byte = delimiter);
            let allowed = (33..=126).contains(&delimiter) && !delimiter.is_ascii_digit();
            // A dot cannot be told from those of the address.
            assert_eq!(eprt(&text, IPV4).is_some(), allowed && delimiter != b'.');
        }
        assert_eq!(eprt(b"|1|10.0.0.2!5001|", IPV4), None);
        assert_eq!(eprt(b"|1!10.0.0.2|5001|", IPV4), None);
        let own = ipv6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 2]);
        assert_eq!(eprt(b"a2a2001:db8::2a5001a", own), Some(5001));
        assert_eq!(eprt(b"b2b2001:db8::2b5001b", own), None);
        assert_eq!(eprt(b":2:2001:db8::2:5001:", own), None);
    }

    #[test]
    fn each_way_to_write_an_ipv6_address() {
        let own = ipv6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 2]);
        for text in [
            "2001:db8::2",
            "2001:DB8::2",
            "2001:0db8::0002",
            "2001:db8:0:0:0:0:0:2",
            "2001:0db8:0000:0000:0000:0000:0000:0002",
            "2001:db8:0::0:2",
            "2001:db8::0:0:2",
            "2001:db8::0:0:0:0:2",
            "2001:db8:0:0::2",
            "2001:db8:0:0:0:0::2",
        ] {
            assert!(names(text, own));
        }
    }

    #[test]
    fn zeros_anywhere_in_an_ipv6_address() {
        assert!(names("::", ipv6([0; 8])));
        assert!(names("0::", ipv6([0; 8])));
        assert!(names("::0:0:0:0:0:0:0", ipv6([0; 8])));
        assert!(names("::1", ipv6([0, 0, 0, 0, 0, 0, 0, 1])));
        assert!(names("0::0:1", ipv6([0, 0, 0, 0, 0, 0, 0, 1])));
        assert!(names("1::", ipv6([1, 0, 0, 0, 0, 0, 0, 0])));
        assert!(names("1::0", ipv6([1, 0, 0, 0, 0, 0, 0, 0])));
        assert!(names("1:0:0:2::3", ipv6([1, 0, 0, 2, 0, 0, 0, 3])));
        assert!(names("1::2:0:0:0:3", ipv6([1, 0, 0, 2, 0, 0, 0, 3])));
        assert!(names("1::0:2:0:0:0:3", ipv6([1, 0, 0, 2, 0, 0, 0, 3])));
        assert!(names("1:0::2:0:0:0:3", ipv6([1, 0, 0, 2, 0, 0, 0, 3])));
        assert!(names("1:2:3:4:5:6:7:8", ipv6([1, 2, 3, 4, 5, 6, 7, 8])));
        assert!(names("1:2:3:4:5:6:7::", ipv6([1, 2, 3, 4, 5, 6, 7, 0])));
        assert!(names("::2:3:4:5:6:7:8", ipv6([0, 2, 3, 4, 5, 6, 7, 8])));
    }

    #[test]
    fn other_ipv6_addresses_and_what_is_none() {
        let own = ipv6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 2]);
        for text in [
            "",
            ":",
            "::",
            "::2",
            ":::",
            "2001:db8::",
            "2001:db8::3",
            "2001:db8::2:0",
            "2001:db8::2:2",
            "2001:db8:2",
            "2001:db8:::2",
            "2001:db8::2:",
            "2001:db8::2::",
            "2001::db8::2",
            ":2001:db8::2",
            ":2001:db8:0:0:0:0:0:2",
            "2001:db8:0:0:0:0:0:2:",
            "2001:db8:0:0:0:0:0:0:2",
            "2001:db8::0:0:0:0:0:2",
            "2001:db8:0:0:0:0:0::2",
            "2001:db8:0:0:0:0:2",
            "2001:db8::00002",
            "2001:db8::2%eth0",
            "2001:db8::0.0.0.2",
            "[2001:db8::2]",
            "2001:db8::g",
            "2001:db8:: 2",
        ] {
            assert!(!names(text, own));
        }
        // `::` stands for one group at least.
        assert!(!names("1:2:3:4:5:6:7:8::", ipv6([1, 2, 3, 4, 5, 6, 7, 8])));
        assert!(!names("1:2:3:4::5:6:7:8", ipv6([1, 2, 3, 4, 5, 6, 7, 8])));
        assert!(!names("::1:2:3:4:5:6:7:8", ipv6([1, 2, 3, 4, 5, 6, 7, 8])));
        // The zeros are elsewhere.
        assert!(!names("1:0:0:2::0:3", ipv6([1, 0, 2, 0, 0, 0, 0, 3])));
        assert!(!names("1::2:0:0:3", ipv6([1, 0, 0, 2, 0, 0, 0, 3])));
        assert!(!names("1::0:0:2:0:0:0:3", ipv6([1, 0, 0, 2, 0, 0, 0, 3])));
        // Nobody could say how many groups each `::` stands for.
        assert!(!names("1::2::3", ipv6([1, 0, 0, 2, 0, 0, 0, 3])));
        assert!(!names("1::0::3", ipv6([1, 0, 0, 0, 0, 0, 0, 3])));
    }

    #[test]
    fn long_eprt_announces_nothing() {
        let longest = 255 - b"|1|10.0.0.2|5001|".len();
        for (zeros, expected) in [(longest, Step::Complete), (longest + 1, Step::Broken)] {
            let mut argument = Eprt::default();
            argument.read(b"|1|", IPV4);
            argument.read([b'0'; 255].get(..zeros).unwrap_or_default(), IPV4);
            assert_eq!(argument.read(b"10.0.0.2|5001|", IPV4).0, expected);
        }
    }

    #[test]
    fn extended_reply() {
        assert_eq!(epsv(b"|||5001|"), (Step::Complete, Some(5001)));
        assert_eq!(epsv(b"!!!05001!"), (Step::Complete, Some(5001)));
        assert_eq!(epsv(b"aaa65535a"), (Step::Complete, Some(65535)));
        assert_eq!(epsv(b"|||1023|"), (Step::Complete, None));
        assert_eq!(epsv(b"||||"), (Step::Complete, None));
        assert_eq!(epsv(b"|||5001").0, Step::Inside);
    }

    #[test]
    fn what_is_no_extended_reply() {
        for text in [
            b"||5001|".as_slice(),
            b"|||65536|",
            b"|||5001)",
            b"||!5001|",
            b"|!|5001|",
            b"|||5 |",
            b"|||-1|",
            b"|2|2001:db8::2|5001|",
            b"   5001 ",
            b"11150011",
            b"\x80\x80\x805001\x80",
        ] {
            assert_eq!(epsv(text).0, Step::Broken);
        }
    }

    #[test]
    fn long_extended_reply_announces_nothing() {
        for (zeros, expected) in [(247, Step::Complete), (248, Step::Broken)] {
            let mut argument = Epsv::default();
            argument.read(b"|||");
            argument.read([b'0'; 255].get(..zeros).unwrap_or_default());
            assert_eq!(argument.read(b"5001|").0, expected);
        }
    }
}
