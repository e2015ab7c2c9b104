// SPDX-License-Identifier: GPL-2.0

//! The text of an argument that announces a port, to put into the place of another one.

use super::reader::Kind;
use crate::net::AnyAddress;
use core::{
    net::Ipv6Addr,
    ops::Range, //
};
use kernel::prelude::*;

/// The longest argument, that of EPRT with an IPv6 address without any zero.
const LONGEST: usize = "|2|ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff|65535|".len();

/// The text of an argument.
#[derive(Clone, Copy)]
pub(super) struct Text {
    bytes: [u8; LONGEST],
    len: usize,
}

impl Text {
    /// Returns the argument of a command or reply, or `None` if it cannot carry the address.
    ///
    /// It covers what an [`Announcement`](super::reader::Announcement) does. Addresses are written as `inet_ntop` does
    /// (RFC 5952), for pyftpdlib compares them as text.
    pub(super) fn new(kind: Kind, address: AnyAddress, port: u16) -> Option<Self> {
        let mut text = Self {
            bytes: [0; LONGEST],
            len: 0,
        };
        match (kind, address) {
            (Kind::Port | Kind::Pasv, AnyAddress::V4(address)) => {
                let [a, b, c, d] = address.octets();
                let [high, low] = port.to_be_bytes();
                text.add_numbers(&[a, b, c, d, high, low], b',');
            }
            (Kind::Port | Kind::Pasv, AnyAddress::V6(_)) => return None,
            (Kind::Eprt, AnyAddress::V4(address)) => {
                text.add_all(b"|1|");
                text.add_numbers(&address.octets(), b'.');
                text.add_port(port);
            }
            (Kind::Eprt, AnyAddress::V6(address)) => {
                text.add_all(b"|2|");
                text.add_ipv6(address);
                text.add_port(port);
            }
            (Kind::Epsv, _) => {
                text.add_all(b"||");
                text.add_port(port);
            }
        }
        Some(text)
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }

    /// Adds a byte. There is room for all bytes of the longest argument.
    #[inline(always)]
    fn add(&mut self, byte: u8) {
        if let Some(place) = self.bytes.get_mut(self.len) {
            *place = byte;
            self.len += 1;
        }
    }

    fn add_all(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.add(*byte);
        }
    }

    /// Adds the last field of an extended argument, with its delimiters.
    fn add_port(&mut self, port: u16) {
        self.add(b'|');
        self.add_decimal(port);
        self.add(b'|');
    }

    fn add_numbers(&mut self, numbers: &[u8], separator: u8) {
        for (n, number) in numbers.iter().enumerate() {
            if n > 0 {
                self.add(separator);
            }
            self.add_decimal((*number).into());
        }
    }

    fn add_decimal(&mut self, number: u16) {
        for power in [10_000, 1_000, 100, 10, 1] {
            if number >= power || power == 1 {
                // CAST: Below 10.
                self.add_digit((number / power % 10) as u8);
            }
        }
    }

    fn add_hexadecimal(&mut self, number: u16) {
        for shift in [12, 8, 4, 0] {
            if number >> shift != 0 || shift == 0 {
                // CAST: Below 16.
                self.add_digit((number >> shift & 15) as u8);
            }
        }
    }

    fn add_digit(&mut self, digit: u8) {
        self.add(match digit {
            ..=9 => b'0' + digit,
            _ => b'a' - 10 + digit,
        });
    }

    /// Adds an IPv6 address, always without an IPv4 address at its end: no host on the wire has such a one.
    fn add_ipv6(&mut self, address: Ipv6Addr) {
        let groups = address.segments();
        let gap = gap(&groups);
        for (n, group) in groups.into_iter().enumerate() {
            if n == gap.start {
                self.add_all(b"::");
            }
            if gap.contains(&n) {
                continue;
            }
            if n > 0 && n != gap.end {
                self.add(b':');
            }
            self.add_hexadecimal(group);
        }
    }
}

/// Returns the groups for which `::` stands: the first ones of the longest run of zeros, if that has two or more.
fn gap(groups: &[u16; 8]) -> Range<usize> {
    let (mut longest, mut start) = (8..8, 0);
    for (n, group) in groups.iter().enumerate() {
        if *group != 0 {
            start = n + 1;
        } else if n + 1 - start > longest.len().max(1) {
            longest = start..n + 1;
        }
    }
    longest
}

#[kunit_tests(rustmasq_ftp_text)]
mod tests {
    use super::*;
    use core::{
        fmt::Write,
        net::Ipv4Addr, //
    };
    use kernel::fmt;

    const IPV4: AnyAddress = AnyAddress::V4(Ipv4Addr::new(203, 0, 113, 1));

    const fn ipv6(groups: [u16; 8]) -> AnyAddress {
        let [a, b, c, d, e, f, g, h] = groups;
        AnyAddress::V6(Ipv6Addr::new(a, b, c, d, e, f, g, h))
    }

    fn is_text(kind: Kind, address: AnyAddress, port: u16, expected: &str) -> bool {
        Text::new(kind, address, port).is_some_and(|text| text.as_bytes() == expected.as_bytes())
    }

    #[test]
    fn numbers() {
        assert!(is_text(Kind::Port, IPV4, 5000, "203,0,113,1,19,136"));
        assert!(is_text(Kind::Pasv, IPV4, 65535, "203,0,113,1,255,255"));
        assert!(is_text(Kind::Pasv, IPV4, 1024, "203,0,113,1,4,0"));
    }

    #[test]
    fn numbers_are_for_ipv4() {
        assert!(Text::new(Kind::Port, ipv6([0; 8]), 5000).is_none());
        assert!(Text::new(Kind::Pasv, ipv6([0; 8]), 5000).is_none());
    }

    #[test]
    fn eprt() {
        assert!(is_text(Kind::Eprt, IPV4, 5000, "|1|203.0.113.1|5000|"));
        for (groups, expected) in [
            ([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1], "|2|2001:db8::1|65535|"),
            (
                [0x2001, 0xdb8, 0, 1, 1, 1, 1, 1],
                "|2|2001:db8:0:1:1:1:1:1|65535|",
            ),
            ([0x2001, 0, 0, 1, 0, 0, 0, 1], "|2|2001:0:0:1::1|65535|"),
            ([0xfd00, 0, 0, 0, 0, 0, 0, 0], "|2|fd00::|65535|"),
            ([0, 0, 0, 0, 0, 0, 0, 1], "|2|::1|65535|"),
        ] {
            assert!(is_text(Kind::Eprt, ipv6(groups), 65535, expected));
        }
    }

    /// What is left of a text, of which all that is written to it is taken off the front.
    struct Rest<'a>(&'a [u8]);

    impl Write for Rest<'_> {
        fn write_str(&mut self, more: &str) -> fmt::Result {
            let rest = self.0.strip_prefix(more.as_bytes());
            rest.map(|rest| self.0 = rest).ok_or(fmt::Error)
        }
    }

    fn is_as_core_writes(address: AnyAddress, port: u16) -> bool {
        let Some(text) = Text::new(Kind::Eprt, address, port) else {
            return false;
        };
        let mut rest = Rest(text.as_bytes());
        let written = match address {
            AnyAddress::V4(address) => write!(rest, "|1|{address}|{port}|"),
            AnyAddress::V6(address) => write!(rest, "|2|{address}|{port}|"),
        };
        written.is_ok() && rest.0.is_empty()
    }

    #[test]
    fn addresses_are_as_core_writes_them() {
        const GROUPS: [u16; 8] = [0x1, 0x2f, 0x30a, 0x4bcd, 0xf000, 0xe, 0x10, 0x9a09];
        // Every choice of groups that are zero.
        for zeros in 0..=255_u8 {
            let groups = core::array::from_fn(|n| {
                if zeros >> n & 1 != 0 {
                    0
                } else {
                    GROUPS.get(n).copied().unwrap_or(0)
                }
            });
            assert!(is_as_core_writes(ipv6(groups), 1024 + u16::from(zeros)));
        }
        for octet in 0..=255 {
            let address = AnyAddress::V4(Ipv4Addr::new(octet, 255 - octet, 10, octet));
            assert!(is_as_core_writes(address, 1024 + 251 * u16::from(octet)));
        }
    }

    #[test]
    fn the_longest_argument_has_room() {
        let expected = "|2|ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff|65535|";
        assert!(is_text(Kind::Eprt, ipv6([0xffff; 8]), 65535, expected));
    }

    #[test]
    fn extended_reply() {
        assert!(is_text(Kind::Epsv, IPV4, 5000, "|||5000|"));
        assert!(is_text(Kind::Epsv, ipv6([0; 8]), 65535, "|||65535|"));
    }
}
