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
use kernel::{
    fmt,
    prelude::*, //
};

/// Seals [`Family`]: only this file can name the trait and implement it.
mod sealed {
    pub(crate) trait Sealed {}
}

/// An address family as a type, IPv4 or IPv6.
///
/// The trait is sealed: unsafe code relies on the size of `Header` and on `NFPROTO`.
pub(crate) trait Family: sealed::Sealed + 'static {
    /// An address; its octets are in network order.
    type Address: Copy + Eq + Debug;

    /// The family's number in netfilter (`NFPROTO_*`).
    const NFPROTO: u8;

    /// The bytes of the fixed part of the family's IP header.
    type Header: Copy;

    /// Parses the fixed part of an IP header.
    #[doc(hidden)]
    fn parse(header: &Self::Header) -> Header<Self::Address>;

    /// Returns an address together with its family.
    fn any(address: Self::Address) -> AnyAddress;

    /// Returns the address, if it is one of this family.
    fn of_any(address: AnyAddress) -> Option<Self::Address>;

    /// Returns the address that C stores for this family.
    #[doc(hidden)]
    fn from_raw(raw: &RawAddress) -> Self::Address;

    /// Returns an address in C's form; bytes that the family does not use are zero.
    #[doc(hidden)]
    fn to_raw(address: Self::Address) -> RawAddress;
}

/// The fields of an IP header's fixed part.
pub(crate) struct Header<A> {
    /// The number of the next protocol, which for IPv6 may be an extension header.
    pub(crate) protocol: u8,
    /// The source address.
    pub(crate) source: A,
    /// The final destination address.
    pub(crate) destination: A,
}

/// An address of either family.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum AnyAddress {
    /// An IPv4 address.
    V4(Ipv4Addr),
    /// An IPv6 address.
    V6(Ipv6Addr),
}

impl AnyAddress {
    /// Returns the address that C stores as these words, of IPv6 or IPv4.
    pub(crate) fn from_words(words: [u64; 2], is_ipv6: bool) -> Self {
        let mut octets = [0; 16];
        for (octets, word) in octets.chunks_exact_mut(8).zip(words) {
            octets.copy_from_slice(&word.to_ne_bytes());
        }
        if is_ipv6 {
            AnyAddress::V6(Ipv6Addr::from(octets))
        } else {
            let [a, b, c, d, ..] = octets;
            AnyAddress::V4(Ipv4Addr::new(a, b, c, d))
        }
    }

    /// Returns the words that C stores the address as.
    pub(crate) fn words(self) -> [u64; 2] {
        match self {
            AnyAddress::V4(address) => Ipv4::to_raw(address).words(),
            AnyAddress::V6(address) => Ipv6::to_raw(address).words(),
        }
    }
}

impl fmt::Display for AnyAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AnyAddress::V4(address) => write!(f, "{address}"),
            AnyAddress::V6(address) => write!(f, "{address}"),
        }
    }
}

/// An address family as a value.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum AnyFamily {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl AnyAddress {
    /// Returns the address's family.
    pub(crate) fn family(self) -> AnyFamily {
        match self {
            AnyAddress::V4(_) => AnyFamily::V4,
            AnyAddress::V6(_) => AnyFamily::V6,
        }
    }
}

/// C's union of all families' addresses (`union nf_inet_addr`).
///
/// # Invariants
///
/// All 16 bytes are initialised.
#[derive(Clone, Copy)]
pub(crate) struct RawAddress(bindings::nf_inet_addr);

impl RawAddress {
    /// Wraps an address of C's.
    ///
    /// # Safety
    ///
    /// All 16 bytes of `raw` must be initialised.
    pub(crate) const unsafe fn from_raw(raw: bindings::nf_inet_addr) -> Self {
        // INVARIANT: The caller guarantees initialised bytes.
        Self(raw)
    }

    /// Returns the address that consists of these words, in network order.
    #[inline(always)]
    pub(crate) fn from_words(words: [u64; 2]) -> Self {
        // INVARIANT: The union has 16 bytes, which the compiler checks, as the words have.
        // SAFETY: Any bytes are a value of its members, which are integers.
        Self(unsafe { core::mem::transmute::<[u64; 2], bindings::nf_inet_addr>(words) })
    }

    /// Returns C's form.
    pub(crate) fn into_raw(self) -> bindings::nf_inet_addr {
        self.0
    }

    /// Returns the words that it consists of, in network order. They are cheaper to compare and to hash.
    #[inline(always)]
    pub(crate) fn words(&self) -> [u64; 2] {
        // SAFETY: The union has 16 bytes, which the compiler checks, and all are initialised by the type's invariant.
        unsafe { core::mem::transmute::<bindings::nf_inet_addr, [u64; 2]>(self.0) }
    }
}

/// IPv4 as a [`Family`].
pub(crate) struct Ipv4;

impl sealed::Sealed for Ipv4 {}

impl Family for Ipv4 {
    type Address = Ipv4Addr;
    type Header = [u8; 20];

    const NFPROTO: u8 = bindings::NFPROTO_IPV4 as u8;

    /// Parses a header as RFC 791, section 3.1, lays it out.
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

    fn of_any(address: AnyAddress) -> Option<Ipv4Addr> {
        match address {
            AnyAddress::V4(address) => Some(address),
            AnyAddress::V6(_) => None,
        }
    }

    fn from_raw(raw: &RawAddress) -> Ipv4Addr {
        // SAFETY: `ip` is an integer, for which any bytes are a value; the invariant says that they
        // are initialised.
        ipv4_from_be32(unsafe { raw.0.ip })
    }

    fn to_raw(address: Ipv4Addr) -> RawAddress {
        let mut raw: bindings::nf_inet_addr = pin_init::zeroed();
        raw.ip = ipv4_to_be32(address);
        // INVARIANT: `raw` began with all bytes zero.
        RawAddress(raw)
    }
}

/// IPv6 as a [`Family`].
pub(crate) struct Ipv6;

impl sealed::Sealed for Ipv6 {}

impl Family for Ipv6 {
    type Address = Ipv6Addr;
    type Header = [u8; 40];

    const NFPROTO: u8 = bindings::NFPROTO_IPV6 as u8;

    /// Parses a header as RFC 8200, section 3, lays it out.
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

    fn of_any(address: AnyAddress) -> Option<Ipv6Addr> {
        match address {
            AnyAddress::V4(_) => None,
            AnyAddress::V6(address) => Some(address),
        }
    }

    fn from_raw(raw: &RawAddress) -> Ipv6Addr {
        // SAFETY: `in6` is 16 bytes of integers, for which any bytes are a value; the invariant says
        // that all 16 are initialised.
        ipv6_from_raw(unsafe { &raw.0.in6 })
    }

    fn to_raw(address: Ipv6Addr) -> RawAddress {
        let mut raw: bindings::nf_inet_addr = pin_init::zeroed();
        raw.in6 = ipv6_to_raw(address);
        // INVARIANT: `raw` began with all bytes zero.
        RawAddress(raw)
    }
}

/// Converts an address from C's `struct in6_addr`, whose bytes are in network order.
pub(crate) fn ipv6_from_raw(raw: &bindings::in6_addr) -> Ipv6Addr {
    // SAFETY: each member of the union covers the same 16 bytes, and a reference to a struct
    // guarantees that they are initialised; any bytes are a value of `[u8; 16]`.
    Ipv6Addr::from(unsafe { raw.in6_u.u6_addr8 })
}

/// Converts an address to C's `struct in6_addr`.
pub(crate) fn ipv6_to_raw(address: Ipv6Addr) -> bindings::in6_addr {
    let mut raw: bindings::in6_addr = pin_init::zeroed();
    raw.in6_u.u6_addr8 = address.octets();
    raw
}

/// Converts an address from C's `__be32`, whose bytes in memory are in network order.
pub(crate) fn ipv4_from_be32(raw: bindings::__be32) -> Ipv4Addr {
    Ipv4Addr::from(raw.to_ne_bytes())
}

/// Converts an address to C's `__be32`.
pub(crate) fn ipv4_to_be32(address: Ipv4Addr) -> bindings::__be32 {
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
        // SAFETY: `to_raw` began with all bytes zero, so the integers of `all` are initialised.
        let all = unsafe { raw.0.all };
        assert_eq!(all[1..], [0, 0, 0]);
        assert_eq!(Ipv4::from_raw(&raw), Ipv4Addr::new(203, 0, 113, 9));
    }

    #[test]
    fn ipv6_round_trip_in_network_order() {
        let address = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0xfe);
        let raw = Ipv6::to_raw(address);
        // SAFETY: `to_raw` began with all bytes zero, so the integers of `all` are initialised.
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
