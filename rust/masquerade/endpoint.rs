// SPDX-License-Identifier: GPL-2.0

//! Addresses with ports as keys: words, which take few instructions to compare and to hash.

use crate::{
    net::{
        address::RawAddress,
        random::{
            WordsHash,
            FACTOR, //
        },
        AnyAddress, //
    },
    netfilter::{
        conntrack::Zone,
        tuple::{
            Direction,
            Tuple, //
        },
    },
};
use kernel::prelude::*;

/// An address with a port, of a protocol, in a zone: that of the direction of packets that come from there, or go there.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Endpoint {
    /// As C stores it.
    address: [u64; 2],
    /// Port, family and protocol as [`Tuple::source_words`] has them; above that the zone (16).
    rest: u64,
}

impl Endpoint {
    const FAMILY: u32 = 16;
    const PROTOCOL: u32 = 32;
    const ZONE: u32 = 40;
    const IPV6: u16 = 10;

    /// No endpoint.
    pub(super) const NONE: Self = Self {
        address: [0; 2],
        rest: 0,
    };

    #[inline(always)]
    fn new([low, high, rest]: [u64; 3], zone: u16) -> Self {
        Self {
            address: [low, high],
            rest: rest | u64::from(zone) << Self::ZONE,
        }
    }

    /// Returns where a flow with this original tuple comes from.
    #[inline(always)]
    pub(super) fn source_of(original: &Tuple, zone: Zone) -> Self {
        Self::new(original.source_words(), zone.id_in(Direction::Original))
    }

    /// Returns where packets with this tuple go to; the port is a query's identifier, as that is a mapping's.
    #[inline(always)]
    pub(super) fn destination_of(tuple: &Tuple, zone: Zone, direction: Direction) -> Self {
        Self::new(tuple.destination_words(), zone.id_in(direction))
    }

    /// Returns the address as words.
    pub(super) fn address_words(&self) -> [u64; 2] {
        self.address
    }

    /// Returns the address.
    pub(super) fn address(&self) -> AnyAddress {
        // CAST: These bits alone.
        let is_ipv6 = (self.rest >> Self::FAMILY) as u16 == Self::IPV6;
        AnyAddress::from_words(self.address, is_ipv6)
    }

    /// Returns the address as C stores it.
    #[inline(always)]
    pub(super) fn raw_address(&self) -> RawAddress {
        RawAddress::from_words(self.address)
    }

    /// Returns the port, in host order.
    pub(super) fn port(&self) -> u16 {
        // CAST: The lowest bits.
        u16::from_be(self.rest as u16)
    }

    /// Returns the protocol's number.
    pub(super) fn protocol(&self) -> u8 {
        // CAST: These bits alone.
        (self.rest >> Self::PROTOCOL) as u8
    }

    /// Returns the zone's number.
    pub(super) fn zone_id(&self) -> u16 {
        // CAST: These bits alone.
        (self.rest >> Self::ZONE) as u16
    }

    /// Returns the endpoint with another port, in host order.
    #[inline(always)]
    pub(super) fn with_port(self, port: u16) -> Self {
        Self {
            rest: self.rest & !0xffff | u64::from(port.to_be()),
            ..self
        }
    }

    /// Returns the address alone, of the same family and in the same zone.
    #[inline(always)]
    pub(super) fn without_port(self) -> Self {
        Self {
            rest: self.rest & !(0xffff | 0xff << Self::PROTOCOL),
            ..self
        }
    }

    /// Returns the endpoint with another address of the same family, and in another zone.
    #[inline(always)]
    pub(super) fn with_address(self, address: [u64; 2], zone: u16) -> Self {
        Self {
            address,
            rest: self.rest & !(0xffff << Self::ZONE) | u64::from(zone) << Self::ZONE,
        }
    }

    /// Returns the endpoint's hash.
    #[inline(always)]
    pub(super) fn hash(&self, hash: &WordsHash) -> u32 {
        let [low, high, rest] = self.words();
        hash.hash([[low, rest]], [high, 0])
    }

    /// Returns a hash without a key, for endpoints that nobody outside chooses.
    #[inline(always)]
    pub(super) fn plain_hash(&self) -> u32 {
        let [low, high, rest] = self.words();
        // CAST: The highest bits, to which the multiplication carries all others.
        ((low ^ high.rotate_left(32) ^ rest).wrapping_mul(FACTOR) >> 32) as u32
    }

    /// Returns all of it as words, for a hash together with others.
    #[inline(always)]
    pub(super) fn words(&self) -> [u64; 3] {
        let [low, high] = self.address;
        [low, high, self.rest]
    }

    /// Returns an endpoint of UDP, for tests.
    #[cfg(CONFIG_KUNIT = "y")]
    pub(super) fn of_udp(address: AnyAddress, port: u16) -> Self {
        const UDP: u64 = 17;
        let family = match address {
            AnyAddress::V4(_) => 2,
            AnyAddress::V6(_) => u64::from(Self::IPV6),
        };
        let [low, high] = address.words();
        let rest = u64::from(port.to_be()) | family << Self::FAMILY | UDP << Self::PROTOCOL;
        Self::new([low, high, rest], 0)
    }
}

#[kunit_tests(rustmasq_endpoint)]
mod tests {
    use super::*;
    use core::net::{
        Ipv4Addr,
        Ipv6Addr, //
    };

    const ADDRESSES: [AnyAddress; 4] = [
        AnyAddress::V4(Ipv4Addr::new(203, 0, 113, 1)),
        AnyAddress::V6(Ipv6Addr::new(0xcb00, 0x7101, 0, 0, 0, 0, 0, 0)),
        AnyAddress::V6(Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0xcb00, 0x7101)),
        AnyAddress::V6(Ipv6Addr::new(0x2001, 0xdb8, 1, 2, 3, 4, 5, 6)),
    ];

    #[test]
    fn parts_come_out_as_they_went_in() {
        for address in ADDRESSES {
            for port in [0, 80, 65535] {
                let endpoint = Endpoint::of_udp(address, port);
                assert_eq!(endpoint.address(), address);
                assert_eq!((endpoint.port(), endpoint.protocol()), (port, 17));
                assert_eq!(endpoint.zone_id(), 0);
                let other = endpoint.with_port(7);
                assert_eq!((other.port(), other.protocol()), (7, 17));
                assert_eq!(other.address(), address);
                let alone = endpoint.without_port();
                assert_eq!((alone.port(), alone.protocol()), (0, 0));
                assert_eq!(alone.address(), address);
            }
        }
    }

    #[test]
    fn addresses_and_families_differ() {
        for (number, one) in ADDRESSES.into_iter().enumerate() {
            for (other_number, other) in ADDRESSES.into_iter().enumerate() {
                let are_equal = Endpoint::of_udp(one, 80) == Endpoint::of_udp(other, 80);
                assert_eq!(are_equal, number == other_number);
            }
        }
    }
}
