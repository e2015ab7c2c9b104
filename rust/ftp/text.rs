// SPDX-License-Identifier: GPL-2.0

//! The text of an argument that announces a port, to put into the place of another one.

use super::reader::Kind;
use crate::net::AnyAddress;
use core::fmt::Write;
use kernel::{
    fmt,
    prelude::*, //
};

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
        let written = match (kind, address) {
            (Kind::Port | Kind::Pasv, AnyAddress::V4(address)) => {
                let [a, b, c, d] = address.octets();
                let [high, low] = port.to_be_bytes();
                write!(text, "{a},{b},{c},{d},{high},{low}")
            }
            (Kind::Port | Kind::Pasv, AnyAddress::V6(_)) => return None,
            (Kind::Eprt, AnyAddress::V4(address)) => write!(text, "|1|{address}|{port}|"),
            (Kind::Eprt, AnyAddress::V6(address)) => write!(text, "|2|{address}|{port}|"),
            (Kind::Epsv, _) => write!(text, "|||{port}|"),
        };
        written.ok().map(|()| text)
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

impl Write for Text {
    fn write_str(&mut self, more: &str) -> fmt::Result {
        let end = self.len + more.len();
        let place = self.bytes.get_mut(self.len..end).ok_or(fmt::Error)?;
        place.copy_from_slice(more.as_bytes());
        self.len = end;
        Ok(())
    }
}

#[kunit_tests(rustmasq_ftp_text)]
mod tests {
    use super::*;
    use core::net::{
        Ipv4Addr,
        Ipv6Addr, //
    };

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
