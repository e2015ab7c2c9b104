// SPDX-License-Identifier: GPL-2.0

//! Tuples: what identifies one direction of a flow.
//!
//! C header: [`include/net/netfilter/nf_conntrack_tuple.h`](srctree/include/net/netfilter/nf_conntrack_tuple.h)

use super::{
    address::RawAddress,
    AnyAddress,
    Family,
    Ipv4,
    Ipv6, //
};
use crate::bindings;
use kernel::prelude::*;

/// One of a flow's two directions.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Direction {
    /// That of its first packet.
    Original,
    /// That of the answers.
    Reply,
}

impl Direction {
    /// The direction of a packet, by what conntrack says of it (`CTINFO2DIR`).
    pub(super) fn of_info(info: bindings::ip_conntrack_info) -> Self {
        if info >= bindings::ip_conntrack_info_IP_CT_IS_REPLY {
            Direction::Reply
        } else {
            Direction::Original
        }
    }

    pub(super) fn as_raw(self) -> bindings::ip_conntrack_dir {
        match self {
            Direction::Original => bindings::ip_conntrack_dir_IP_CT_DIR_ORIGINAL,
            Direction::Reply => bindings::ip_conntrack_dir_IP_CT_DIR_REPLY,
        }
    }

    /// The other one.
    pub(crate) fn opposite(self) -> Self {
        match self {
            Direction::Original => Direction::Reply,
            Direction::Reply => Direction::Original,
        }
    }
}

/// One end of a tuple.
///
/// Of ICMP, the query identifier stands in the place of the client's port, since NAT treats it as
/// one, and 0 in that of the server's. Protocols without ports have 0 twice.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct End {
    /// The address.
    pub(crate) address: AnyAddress,
    /// The port, in host order.
    pub(crate) port: u16,
}

/// Both ends of a tuple.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Ends {
    /// Where packets come from.
    pub(crate) source: End,
    /// Where they go.
    pub(crate) destination: End,
}

/// What an ICMP message is to conntrack (`invmap` of nf_conntrack_proto_icmp.c and _icmpv6.c).
enum Icmp {
    /// Its identifier is the client's.
    Query,
    /// Its identifier is the client's, to which it goes.
    Answer,
    /// It has no identifier.
    Other,
}

/// A tuple.
///
/// # Invariants
///
/// All bytes of its unions are initialised: conntrack zeroes a tuple before it fills it in. (Its
/// `l3num` can be any: ctnetlink takes what it is given. What is not of IPv4 is taken for IPv6's.)
pub(crate) struct Tuple(bindings::nf_conntrack_tuple);

impl Tuple {
    /// Copies a tuple.
    ///
    /// # Safety
    ///
    /// `raw` must point to a tuple that fulfils the type's invariants and that nobody writes to
    /// meanwhile.
    pub(super) unsafe fn from_raw(raw: *const bindings::nf_conntrack_tuple) -> Self {
        // INVARIANT: the caller's duty.
        // SAFETY: valid by the contract; plain data, which can be copied.
        Self(unsafe { raw.read() })
    }

    pub(super) fn as_raw(&self) -> &bindings::nf_conntrack_tuple {
        &self.0
    }

    /// The IP protocol's number.
    pub(crate) fn protocol(&self) -> u8 {
        self.0.dst.protonum
    }

    /// Whether it is one of UDP.
    pub(crate) fn is_udp(&self) -> bool {
        c_uint::from(self.protocol()) == bindings::IPPROTO_UDP
    }

    /// The tuple of the answers if nothing is translated. None: the tuple is of an ICMP message
    /// that has no answer. Follows `nf_ct_invert_tuple`.
    pub(crate) fn inverted(&self) -> Option<Self> {
        let mut inverse = pin_init::zeroed();
        // SAFETY: reads one tuple and writes another, which it zeroes first.
        let done = unsafe { bindings::nf_ct_invert_tuple(&mut inverse, &self.0) };
        // INVARIANT: all bytes are initialised; the family is that of this tuple.
        done.then_some(Self(inverse))
    }

    /// The source's address, of a tuple of the family `F`.
    pub(super) fn source_address<F: Family>(&self) -> F::Address {
        F::from_raw(&RawAddress(self.0.src.u3))
    }

    /// Its two ends.
    pub(crate) fn ends(&self) -> Ends {
        // SAFETY: plain integers of the same size, initialised by the invariant.
        let (source, destination) = unsafe { (self.0.src.u.all, self.0.dst.u.all) };
        let (source, destination) = match self.icmp() {
            None => (source, destination),
            Some(Icmp::Query) => (source, 0),
            Some(Icmp::Answer) => (0, source),
            Some(Icmp::Other) => (0, 0),
        };
        Ends {
            source: self.end(self.0.src.u3, source),
            destination: self.end(self.0.dst.u3, destination),
        }
    }

    /// Of ICMP: the message's type and code. Of other protocols: 0 and 0.
    pub(crate) fn icmp_type_and_code(&self) -> (u8, u8) {
        if self.icmp().is_none() {
            return (0, 0);
        }
        // SAFETY: plain integers, initialised by the invariant.
        let icmp = unsafe { self.0.dst.u.icmp };
        (icmp.type_, icmp.code)
    }

    /// None: it is not one of ICMP.
    fn icmp(&self) -> Option<Icmp> {
        // SAFETY: plain integers, initialised by the invariant.
        let kind = unsafe { self.0.dst.u.icmp.type_ };
        match (c_uint::from(self.protocol()), kind) {
            (bindings::IPPROTO_ICMP, 8 | 13 | 15 | 17) => Some(Icmp::Query),
            (bindings::IPPROTO_ICMP, 0 | 14 | 16 | 18) => Some(Icmp::Answer),
            (bindings::IPPROTO_ICMPV6, 128 | 139) => Some(Icmp::Query),
            (bindings::IPPROTO_ICMPV6, 129 | 140) => Some(Icmp::Answer),
            (bindings::IPPROTO_ICMP | bindings::IPPROTO_ICMPV6, _) => Some(Icmp::Other),
            _ => None,
        }
    }

    fn end(&self, address: bindings::nf_inet_addr, port: bindings::__be16) -> End {
        let raw = RawAddress(address);
        let address = if self.0.src.l3num == u16::from(Ipv4::NFPROTO) {
            AnyAddress::V4(Ipv4::from_raw(&raw))
        } else {
            AnyAddress::V6(Ipv6::from_raw(&raw))
        };
        End {
            address,
            port: u16::from_be(port),
        }
    }
}

#[kunit_tests(rustmasq_tuple)]
mod tests {
    use super::*;
    use core::net::{
        Ipv4Addr,
        Ipv6Addr, //
    };

    const CLIENT: Ipv4Addr = Ipv4Addr::new(172, 18, 0, 2);
    const SERVER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);

    fn raw<F: Family>(
        source: F::Address,
        destination: F::Address,
        protocol: c_uint,
    ) -> bindings::nf_conntrack_tuple {
        let mut raw: bindings::nf_conntrack_tuple = pin_init::zeroed();
        raw.src.l3num = u16::from(F::NFPROTO);
        raw.src.u3 = F::to_raw(source).0;
        raw.dst.u3 = F::to_raw(destination).0;
        raw.dst.protonum = protocol as u8;
        raw
    }

    fn udp() -> Tuple {
        let mut raw = raw::<Ipv4>(CLIENT, SERVER, bindings::IPPROTO_UDP);
        raw.src.u.all = 40000_u16.to_be();
        raw.dst.u.all = 53_u16.to_be();
        Tuple(raw)
    }

    fn echo(identifier: u16) -> Tuple {
        let mut raw = raw::<Ipv4>(CLIENT, SERVER, bindings::IPPROTO_ICMP);
        raw.src.u.all = identifier.to_be();
        raw.dst.u.icmp.type_ = 8;
        Tuple(raw)
    }

    #[test]
    fn ports_and_addresses_are_in_host_order_and_whole() {
        let server = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 2);
        let mut raw = raw::<Ipv6>(Ipv6Addr::LOCALHOST, server, bindings::IPPROTO_TCP);
        raw.src.u.all = 65535_u16.to_be();
        raw.dst.u.all = 80_u16.to_be();
        let ends = Tuple(raw).ends();
        let end = |address, port| End {
            address: AnyAddress::V6(address),
            port,
        };
        assert_eq!(ends.source, end(Ipv6Addr::LOCALHOST, 65535));
        assert_eq!(ends.destination, end(server, 80));
    }

    #[test]
    fn the_inverse_swaps_both_ends() {
        let (there, back) = (udp().ends(), udp().inverted().map(|tuple| tuple.ends()));
        let swapped = Ends {
            source: there.destination,
            destination: there.source,
        };
        assert_eq!(back, Some(swapped));
    }

    #[test]
    fn the_inverse_of_the_inverse_is_the_tuple() {
        let twice = udp().inverted().and_then(|tuple| tuple.inverted());
        assert_eq!(twice.map(|tuple| tuple.ends()), Some(udp().ends()));
    }

    #[test]
    fn a_query_identifier_is_the_clients_port() {
        let there = echo(0x1234).ends();
        assert_eq!((there.source.port, there.destination.port), (0x1234, 0));
    }

    #[test]
    fn a_query_identifier_stays_with_the_client_in_the_answer() {
        let back = echo(0x1234).inverted().map(|tuple| {
            let ends = tuple.ends();
            (
                ends.source.port,
                ends.destination.port,
                tuple.icmp_type_and_code(),
            )
        });
        assert_eq!(back, Some((0, 0x1234, (0, 0))));
    }

    #[test]
    fn an_icmp_error_has_no_inverse() {
        let mut tuple = echo(1);
        tuple.0.dst.u.icmp.type_ = 3;
        assert!(tuple.inverted().is_none());
    }

    #[test]
    fn an_icmp_error_has_no_identifier() {
        let mut tuple = echo(0x1234);
        tuple.0.dst.u.icmp.type_ = 3;
        let ends = tuple.ends();
        assert_eq!((ends.source.port, ends.destination.port), (0, 0));
    }

    #[test]
    fn ports_are_not_taken_for_type_and_code() {
        assert_eq!(udp().icmp_type_and_code(), (0, 0));
        assert_eq!(echo(1).icmp_type_and_code(), (8, 0));
    }
}
