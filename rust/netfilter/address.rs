// SPDX-License-Identifier: GPL-2.0

//! Address families and their addresses.

use crate::bindings;
use core::{
    fmt::Debug,
    net::{
        Ipv4Addr,
        Ipv6Addr, //
    }, //
};
use kernel::prelude::*;

/// Nobody can name this trait but this file, which therefore knows all families.
mod sealed {
    pub(crate) trait Sealed {}
}

/// An address family, as a type: what differs between IPv4 and IPv6 hangs on it. There are no others:
/// unsafe code relies on the size of `Header` and on `NFPROTO`.
pub(crate) trait Family: sealed::Sealed + 'static {
    /// An address; its octets are in network order.
    type Address: Copy + Eq + Debug;

    /// The family's number in netfilter, `NFPROTO_*`.
    const NFPROTO: u8;

    /// The fixed part of the family's header, its bytes.
    type Header: Copy;

    /// Reads a header.
    #[doc(hidden)]
    fn parse(header: &Self::Header) -> Header<Self::Address>;

    /// An address with its family.
    fn any(address: Self::Address) -> AnyAddress;

    /// Reads an address that the C side keeps for this family.
    #[doc(hidden)]
    fn from_raw(raw: &RawAddress) -> Self::Address;

    /// The C side's form of an address; what the family does not use is zero.
    #[doc(hidden)]
    fn to_raw(address: Self::Address) -> RawAddress;
}

/// What the fixed part of an IP header says.
pub(crate) struct Header<A> {
    /// The number of the protocol that follows. For IPv6 it may be that of an extension header.
    pub(crate) protocol: u8,
    /// Where the packet comes from.
    pub(crate) source: A,
    /// Where it goes in the end.
    pub(crate) destination: A,
}

/// An address of either family.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum AnyAddress {
    /// IPv4.
    V4(Ipv4Addr),
    /// IPv6.
    V6(Ipv6Addr),
}

/// The C side's union of all families' addresses, `union nf_inet_addr`.
///
/// # Invariants
///
/// All 16 bytes are initialised: conntrack zeroes the whole before it fills in a part, as
/// [`Family::to_raw`] does.
#[derive(Clone, Copy)]
pub(crate) struct RawAddress(pub(super) bindings::nf_inet_addr);

/// IPv4.
pub(crate) struct Ipv4;

impl sealed::Sealed for Ipv4 {}

impl Family for Ipv4 {
    type Address = Ipv4Addr;
    type Header = [u8; 20];

    const NFPROTO: u8 = bindings::NFPROTO_IPV4 as u8;

    /// RFC 791, section 3.1.
    fn parse(header: &[u8; 20]) -> Header<Ipv4Addr> {
        let [.., protocol, _, _, s0, s1, s2, s3, d0, d1, d2, d3] = *header;
        Header {
            protocol,
            source: Ipv4Addr::new(s0, s1, s2, s3),
            destination: Ipv4Addr::new(d0, d1, d2, d3),
        }
    }

    fn any(address: Ipv4Addr) -> AnyAddress {
        AnyAddress::V4(address)
    }

    fn from_raw(raw: &RawAddress) -> Ipv4Addr {
        // SAFETY: all members of the union are plain integers of the same place, which is
        // initialised by the invariant.
        ipv4_from_be32(unsafe { raw.0.ip })
    }

    fn to_raw(address: Ipv4Addr) -> RawAddress {
        let mut raw: bindings::nf_inet_addr = pin_init::zeroed();
        raw.ip = ipv4_to_be32(address);
        RawAddress(raw)
    }
}

/// IPv6.
pub(crate) struct Ipv6;

impl sealed::Sealed for Ipv6 {}

impl Family for Ipv6 {
    type Address = Ipv6Addr;
    type Header = [u8; 40];

    const NFPROTO: u8 = bindings::NFPROTO_IPV6 as u8;

    /// RFC 8200, section 3.
    fn parse(header: &[u8; 40]) -> Header<Ipv6Addr> {
        let address = |first: usize| {
            let mut octets = [0; 16];
            octets.copy_from_slice(&header[first..first + 16]);
            Ipv6Addr::from(octets)
        };
        Header {
            protocol: header[6],
            source: address(8),
            destination: address(24),
        }
    }

    fn any(address: Ipv6Addr) -> AnyAddress {
        AnyAddress::V6(address)
    }

    fn from_raw(raw: &RawAddress) -> Ipv6Addr {
        // SAFETY: as for IPv4: plain integers, initialised as a whole.
        ipv6_from_raw(unsafe { &raw.0.in6 })
    }

    fn to_raw(address: Ipv6Addr) -> RawAddress {
        let mut raw: bindings::nf_inet_addr = pin_init::zeroed();
        raw.in6 = ipv6_to_raw(address);
        RawAddress(raw)
    }
}

/// An address from C's `struct in6_addr`, which is in network order.
pub(super) fn ipv6_from_raw(raw: &bindings::in6_addr) -> Ipv6Addr {
    // SAFETY: all members of the union are the same 16 bytes.
    Ipv6Addr::from(unsafe { raw.in6_u.u6_addr8 })
}

/// An address as C's `struct in6_addr`.
pub(super) fn ipv6_to_raw(address: Ipv6Addr) -> bindings::in6_addr {
    let mut raw: bindings::in6_addr = pin_init::zeroed();
    raw.in6_u.u6_addr8 = address.octets();
    raw
}

/// An address from C's `__be32`, whose bytes in memory are in network order.
pub(super) fn ipv4_from_be32(raw: bindings::__be32) -> Ipv4Addr {
    Ipv4Addr::from(raw.to_ne_bytes())
}

/// An address as C's `__be32`.
pub(super) fn ipv4_to_be32(address: Ipv4Addr) -> bindings::__be32 {
    bindings::__be32::from_ne_bytes(address.octets())
}

#[kunit_tests(rustmasq_address)]
mod tests {
    use super::*;

    #[test]
    fn ipv4_bytes_are_in_network_order() {
        let address = ipv4_from_be32(0xc000_0201_u32.to_be());
        assert_eq!(address.octets(), [192, 0, 2, 1]);
    }

    #[test]
    fn ipv4_round_trip_through_be32() {
        let address = Ipv4Addr::new(10, 1, 2, 250);
        assert_eq!(ipv4_from_be32(ipv4_to_be32(address)), address);
        assert_eq!(u32::from_be(ipv4_to_be32(address)), 0x0a01_02fa);
    }

    #[test]
    fn ipv4_fills_the_union_with_zero() {
        let raw = Ipv4::to_raw(Ipv4Addr::new(203, 0, 113, 9));
        // SAFETY: `to_raw` began with all bytes zero, so each member is initialised.
        let all = unsafe { raw.0.all };
        assert_eq!(all[1..], [0, 0, 0]);
        assert_eq!(Ipv4::from_raw(&raw), Ipv4Addr::new(203, 0, 113, 9));
    }

    #[test]
    fn ipv6_round_trip_in_network_order() {
        let address = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0xfe);
        let raw = Ipv6::to_raw(address);
        // SAFETY: `to_raw` began with all bytes zero, so each member is initialised.
        let words = unsafe { raw.0.all };
        assert_eq!(words[0].to_ne_bytes(), [0x20, 0x01, 0x0d, 0xb8]);
        assert_eq!(words[3].to_ne_bytes(), [0, 0, 0, 0xfe]);
        assert_eq!(Ipv6::from_raw(&raw), address);
    }

    #[test]
    fn ipv4_header() {
        let mut bytes = [0; 20];
        bytes[9] = 17;
        bytes[12..].copy_from_slice(&[172, 18, 0, 2, 203, 0, 113, 2]);
        let header = Ipv4::parse(&bytes);
        assert_eq!(header.protocol, 17);
        assert_eq!(header.source, Ipv4Addr::new(172, 18, 0, 2));
        assert_eq!(header.destination, Ipv4Addr::new(203, 0, 113, 2));
    }

    #[test]
    fn ipv6_header() {
        let mut bytes = [0; 40];
        bytes[6] = 58;
        bytes[23] = 1;
        bytes[24..26].copy_from_slice(&[0x20, 0x01]);
        bytes[39] = 2;
        let header = Ipv6::parse(&bytes);
        assert_eq!(header.protocol, 58);
        assert_eq!(header.source, Ipv6Addr::LOCALHOST);
        assert_eq!(
            header.destination,
            Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 2)
        );
    }
}
