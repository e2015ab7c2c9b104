// SPDX-License-Identifier: GPL-2.0

//! Tuples, each of which identifies one direction of a flow.
//!
//! C header: [`include/net/netfilter/nf_conntrack_tuple.h`](srctree/include/net/netfilter/nf_conntrack_tuple.h)

use crate::{
    bindings,
    net::{
        address::RawAddress,
        namespace::Net,
        random::FACTOR,
        skb::Packet,
        AnyAddress,
        Family,
        Ipv4,
        Ipv6, //
    },
};
use kernel::prelude::*;

/// A flow's direction.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Direction {
    /// The direction of the flow's first packet.
    Original,
    /// The direction of replies.
    Reply,
}

impl Direction {
    /// Returns the direction of a packet from its conntrack information (`CTINFO2DIR`).
    pub(super) fn of_info(info: bindings::ip_conntrack_info) -> Self {
        if info >= bindings::ip_conntrack_info_IP_CT_IS_REPLY {
            Direction::Reply
        } else {
            Direction::Original
        }
    }

    /// Returns C's number.
    pub(super) fn as_raw(self) -> bindings::ip_conntrack_dir {
        match self {
            Direction::Original => bindings::ip_conntrack_dir_IP_CT_DIR_ORIGINAL,
            Direction::Reply => bindings::ip_conntrack_dir_IP_CT_DIR_REPLY,
        }
    }

    /// Returns the other direction.
    pub(crate) fn opposite(self) -> Self {
        match self {
            Direction::Original => Direction::Reply,
            Direction::Reply => Direction::Original,
        }
    }
}

/// One end of a tuple.
///
/// For ICMP the query identifier takes the place of the client's port, because NAT treats it as one; the
/// server's port is 0. For protocols without ports both are 0.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct End {
    /// The address.
    pub(crate) address: AnyAddress,
    /// The port, in host order.
    pub(crate) port: u16,
}

/// The two ends of a tuple.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Ends {
    /// The end that packets come from.
    pub(crate) source: End,
    /// The end that packets go to.
    pub(crate) destination: End,
}

/// The kind of an ICMP message (`invmap` of nf_conntrack_proto_icmp.c and _icmpv6.c).
enum Icmp {
    /// A query, whose identifier belongs to its source.
    Query,
    /// An answer, whose identifier belongs to its destination.
    Answer,
    /// A message without an identifier.
    Other,
}

/// Reads the words of a tuple of an entry, each by a volatile read.
///
/// # Safety
///
/// `raw` must be a tuple of a valid entry.
unsafe fn words(raw: *const bindings::nf_conntrack_tuple) -> [u64; 5] {
    // SAFETY: The caller guarantees a tuple of an entry.
    core::array::from_fn(|n| unsafe { word(raw, n) })
}

/// Reads one of the five words of a tuple of an entry, by a volatile read.
///
/// # Safety
///
/// `raw` must be a tuple of a valid entry, and `n` less than 5.
#[inline(always)]
unsafe fn word(raw: *const bindings::nf_conntrack_tuple, n: usize) -> u64 {
    const {
        assert!(size_of::<bindings::nf_conntrack_tuple>() == size_of::<[u64; 5]>());
        assert!(core::mem::offset_of!(bindings::nf_conn, tuplehash) % align_of::<u64>() == 0);
        assert!(
            core::mem::offset_of!(bindings::nf_conntrack_tuple_hash, tuple) % align_of::<u64>()
                == 0
        );
        assert!(size_of::<bindings::nf_conntrack_tuple_hash>() % align_of::<u64>() == 0);
        assert!(align_of::<bindings::nf_conn>() >= align_of::<u64>());
    };
    // SAFETY: The caller guarantees a tuple of an entry, which has five words, and is aligned as the lines above check.
    unsafe { raw.cast::<u64>().add(n).read_volatile() }
}

/// Numbers that tell flows apart, for a short time.
///
/// They take few instructions, and anybody can compute them: nothing that matters may depend on their being distinct.
#[derive(Clone, Copy)]
pub(crate) struct FlowTags {
    /// Tells the namespace from others, as long as that exists.
    pub(crate) namespace: u64,
    /// Tells namespace, source address, source port and protocol from others.
    pub(crate) endpoint: u64,
    /// Tells the destination from others as well, by the highest 24 bits.
    pub(crate) flow: u64,
}

/// Returns the tags of a flow, by the original tuple of an entry and a number that tells its namespace from others.
///
/// # Safety
///
/// `raw` must be a tuple of a valid entry, and all bytes of its unions must be initialised.
#[inline(always)]
pub(super) unsafe fn tags_of_raw<F: Family>(
    raw: *const bindings::nf_conntrack_tuple,
    namespace: u64,
) -> FlowTags {
    // SAFETY: The caller guarantees a tuple of an entry.
    let word = |n| unsafe { word(raw, n) };
    // IPv4's address is the low half of the first word, and the port the low part of the third one. In an original
    // tuple the protocol is the highest part of the last one.
    let (address, rest, protocol) = (word(0), u64::from_le(word(2)), u64::from_le(word(4)) >> 48);
    // For IPv4 these are 0.
    let (address_end, destination) = if F::NFPROTO == Ipv4::NFPROTO {
        (0, 0)
    } else {
        (word(1), word(3))
    };
    let source = address ^ address_end.rotate_left(32) ^ rest << 32 ^ protocol << 48;
    // The multiplication carries all bits to the highest ones.
    let endpoint = (source ^ namespace).wrapping_mul(FACTOR);
    FlowTags {
        namespace,
        endpoint,
        flow: endpoint ^ rest ^ destination,
    }
}

/// Returns the source address of a tuple of an entry.
///
/// # Safety
///
/// `raw` must be a tuple of a valid entry, and all bytes of its unions must be initialised.
#[inline(always)]
pub(super) unsafe fn source_address_of_raw(raw: *const bindings::nf_conntrack_tuple) -> RawAddress {
    // SAFETY: The caller guarantees a tuple of an entry, which begins with the address: two words, all of whose bytes
    // are initialised.
    RawAddress::from_words(unsafe { [word(raw, 0), word(raw, 1)] })
}

/// Returns source address, source port, family and protocol of a tuple of an entry as words, for a hash.
///
/// # Safety
///
/// `raw` must be a tuple of a valid entry, and all bytes of its unions must be initialised.
pub(super) unsafe fn source_words_of_raw(raw: *const bindings::nf_conntrack_tuple) -> [u64; 3] {
    // SAFETY: The caller guarantees it.
    let [high, low, ports, ..] = unsafe { words(raw) };
    // SAFETY: The caller guarantees a tuple of a valid entry; the read is volatile, as every read of a tuple.
    let protocol = unsafe { (&raw const (*raw).dst.protonum).read_volatile() };
    // The first half of the third word, which is the first in memory, is the port and the family.
    let port = u64::from_le(ports) & 0xffff_ffff;
    [high, low, port << 8 | u64::from(protocol)]
}

/// Mixes the words of a tuple and the key.
///
/// The rotations keep the parts that differ most, the ports and IPv4's addresses, from covering one another.
fn fingerprint(words: &[u64; 5], key: u64) -> u64 {
    let [a, b, c, d, e] = *words;
    let source = a ^ b.rotate_left(32) ^ key;
    let rest = c ^ d.rotate_left(20) ^ e.rotate_left(48);
    let product = u128::from(source) * u128::from(rest);
    // CAST: The two halves of the product.
    product as u64 ^ (product >> 64) as u64
}

/// The place of the port that source NAT may change, in a reply tuple.
pub(super) enum NatPortPlace {
    /// The port of the destination.
    Destination,
    /// The identifier of an ICMP answer, which C stores with the source.
    Identifier,
}

/// A copy of a tuple.
///
/// Its family (`l3num`) can be any number, because ctnetlink accepts any; a tuple that is not of IPv4 is
/// treated as one of IPv6.
///
/// # Invariants
///
/// All bytes of its unions are initialised.
pub(crate) struct Tuple(bindings::nf_conntrack_tuple);

impl Tuple {
    /// Copies a tuple of an entry.
    ///
    /// A clone of a packet, on another CPU, may write to the tuple of an unconfirmed entry meanwhile. The
    /// copy is volatile for that reason; any mixture of old and new bytes is a value of the type.
    ///
    /// # Safety
    ///
    /// `raw` must be a tuple of a valid entry, and all bytes of the tuple's unions must be initialised.
    pub(super) unsafe fn from_raw(raw: *const bindings::nf_conntrack_tuple) -> Self {
        // SAFETY: The caller guarantees a tuple of an entry, which is as large as the words and aligned for them.
        let words = unsafe { words(raw) };
        // INVARIANT: The caller guarantees initialised bytes.
        // SAFETY: The structure consists of integers, for which any bytes are a value.
        Self(unsafe { core::mem::transmute::<[u64; 5], bindings::nf_conntrack_tuple>(words) })
    }

    /// Returns the packet's own tuple (`nf_ct_get_tuplepr`).
    ///
    /// Returns `None` if conntrack can make no tuple of it: its transport header is missing or cut, or it
    /// is a later fragment.
    pub(crate) fn of_packet<F: Family>(packet: &Packet<'_, F>, net: &Net) -> Option<Self> {
        let mut raw = pin_init::zeroed();
        // SAFETY: Packet and namespace are valid by their types' invariants, and `raw` is ours to write.
        // The offset is that of a header of `F`; the function checks the packet's length wherever it
        // reads. A packet is borrowed from a hook, so the RCU read lock is held, under which the function
        // looks up the namespace's keys of GRE.
        let found = unsafe {
            bindings::nf_ct_get_tuplepr(
                packet.as_raw(),
                packet.network_offset() as c_uint,
                u16::from(F::NFPROTO),
                net.as_raw(),
                &mut raw,
            )
        };
        // INVARIANT: All bytes were zeroed before the function wrote to some.
        found.then_some(Self(raw))
    }

    /// Returns C's structure.
    pub(super) fn as_raw(&self) -> &bindings::nf_conntrack_tuple {
        &self.0
    }

    /// Returns the IP protocol's number.
    pub(crate) fn protocol(&self) -> u8 {
        self.0.dst.protonum
    }

    /// Returns whether the protocol is ICMP or ICMPv6.
    #[inline(always)]
    pub(crate) fn is_icmp(&self) -> bool {
        matches!(
            c_uint::from(self.protocol()),
            bindings::IPPROTO_ICMP | bindings::IPPROTO_ICMPV6
        )
    }

    /// Returns whether the protocol is TCP.
    pub(crate) fn is_tcp(&self) -> bool {
        c_uint::from(self.protocol()) == bindings::IPPROTO_TCP
    }

    /// Returns whether the protocol is UDP.
    pub(crate) fn is_udp(&self) -> bool {
        c_uint::from(self.protocol()) == bindings::IPPROTO_UDP
    }

    /// Returns the tuple that replies have if nothing is translated (`nf_ct_invert_tuple`).
    ///
    /// Returns `None` for an ICMP message that has no reply.
    pub(crate) fn inverted(&self) -> Option<Self> {
        let mut inverse = pin_init::zeroed();
        // SAFETY: Both tuples live for the call; the function reads one, all of which is initialised by the
        // type's invariant, and writes the other.
        let done = unsafe { bindings::nf_ct_invert_tuple(&mut inverse, &self.0) };
        // INVARIANT: All bytes were zeroed before the function wrote to some.
        done.then_some(Self(inverse))
    }

    /// Returns this reply tuple as it would be if NAT had kept the source port (or query identifier) of `original`.
    ///
    /// Returns `None` for an ICMP message that has no reply.
    pub(crate) fn with_source_port_of(&self, original: &Tuple) -> Option<Self> {
        let mut sent = self.inverted()?;
        sent.0.src.u = original.0.src.u;
        sent.inverted()
    }

    /// Returns this reply tuple as it would be if the flow left with the source address `address`.
    pub(crate) fn with_destination<F: Family>(mut self, address: F::Address) -> Self {
        // INVARIANT: `Family::to_raw` initialises all bytes.
        self.0.dst.u3 = F::to_raw(address).into_raw();
        self
    }

    /// Returns the port, or query identifier, that source NAT may change, of a reply tuple, in host order.
    ///
    /// Returns `None` if the kernel's NAT chooses none for the protocol (`nf_nat_l4proto_unique_tuple`), or only
    /// for expected flows.
    pub(crate) fn nat_port(&self) -> Option<u16> {
        // SAFETY: `all` is an integer in both unions, and the type's invariant says that its bytes are
        // initialised.
        let (source, destination) = unsafe { (self.0.src.u.all, self.0.dst.u.all) };
        Some(u16::from_be(match self.nat_port_place()? {
            NatPortPlace::Destination => destination,
            NatPortPlace::Identifier => source,
        }))
    }

    /// Returns the destination port of TCP and UDP, in host order.
    pub(crate) fn destination_port(&self) -> u16 {
        // SAFETY: `all` is an integer, and the type's invariant says that its bytes are initialised.
        u16::from_be(unsafe { self.0.dst.u.all })
    }

    /// Returns this tuple with other ports, in host order.
    pub(crate) fn with_ports(mut self, source: u16, destination: u16) -> Self {
        self.0.src.u.all = source.to_be();
        self.0.dst.u.all = destination.to_be();
        self
    }

    /// Changes the [`nat_port`](Self::nat_port) of this reply tuple, if it has one; in host order.
    pub(crate) fn set_nat_port(&mut self, port: u16) {
        match self.nat_port_place() {
            Some(NatPortPlace::Destination) => self.0.dst.u.all = port.to_be(),
            Some(NatPortPlace::Identifier) => self.0.src.u.all = port.to_be(),
            None => {}
        }
    }

    /// Returns where a reply tuple has its [`nat_port`](Self::nat_port).
    pub(super) fn nat_port_place(&self) -> Option<NatPortPlace> {
        match (c_uint::from(self.protocol()), self.icmp()) {
            (bindings::IPPROTO_TCP | bindings::IPPROTO_UDP | bindings::IPPROTO_SCTP, _) => {
                Some(NatPortPlace::Destination)
            }
            (_, Some(Icmp::Answer)) => Some(NatPortPlace::Identifier),
            _ => None,
        }
    }

    /// Returns a copy.
    pub(crate) fn copy(&self) -> Self {
        // SAFETY: The tuple consists of integers. The invariant holds for the copy as well.
        Self(unsafe { core::ptr::read(&self.0) })
    }

    /// Returns whether the two tuples are the same, direction included.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        // Without a branch for each word, or a call.
        let differ = core::iter::zip(self.words(), other.words());
        differ.fold(0, |differ, (a, b)| differ | (a ^ b)) == 0
    }

    fn words(&self) -> [u64; 5] {
        // SAFETY: The tuple is as large as the array, which `words` checks. Its fields add up to that size, so it has
        // no padding, and all bytes of its unions are initialised by the type's invariant.
        unsafe { (&raw const self.0).cast::<[u64; 5]>().read_unaligned() }
    }

    /// Returns a hash of the tuple that nobody can predict who does not know `key`.
    ///
    /// It serves to tell tuples apart for a short time; who sees results of it can find the key.
    #[inline(always)]
    pub(crate) fn fingerprint(&self, key: u64) -> u64 {
        fingerprint(&self.words(), key)
    }

    /// Returns the two ends.
    pub(crate) fn ends(&self) -> Ends {
        Ends {
            source: self.source(),
            destination: self.destination(),
        }
    }

    /// Returns the end that packets come from.
    #[inline(always)]
    pub(crate) fn source(&self) -> End {
        let (source, _) = self.ports();
        self.end(self.0.src.u3, source)
    }

    /// Returns the end that packets go to.
    #[inline(always)]
    pub(crate) fn destination(&self) -> End {
        let (_, destination) = self.ports();
        self.end(self.0.dst.u3, destination)
    }

    /// Returns the end that packets come from, as words: its address as C stores it; then, from the lowest bit, the port
    /// in network order (16), the family (16) and the protocol (8).
    #[inline(always)]
    pub(crate) fn source_words(&self) -> [u64; 3] {
        // SAFETY: `all` is an integer, and the type's invariant says that its bytes are initialised.
        self.end_words(self.0.src.u3, unsafe { self.0.src.u.all })
    }

    /// Returns the end that packets go to, as words like those of [`source_words`](Self::source_words).
    ///
    /// For ICMP the port is the query's identifier, which C stores with the source in both directions.
    #[inline(always)]
    pub(crate) fn destination_words(&self) -> [u64; 3] {
        // SAFETY: `all` is an integer in both unions, and the type's invariant says that its bytes are initialised.
        let (source, destination) = unsafe { (self.0.src.u.all, self.0.dst.u.all) };
        let port = if self.is_icmp() { source } else { destination };
        self.end_words(self.0.dst.u3, port)
    }

    #[inline(always)]
    fn end_words(&self, address: bindings::nf_inet_addr, port: bindings::__be16) -> [u64; 3] {
        // SAFETY: `address` is part of a tuple whose bytes are initialised, by the type's invariant.
        let [low, high] = unsafe { RawAddress::from_raw(address) }.words();
        let family = u64::from(self.0.src.l3num);
        let protocol = u64::from(self.protocol());
        [low, high, u64::from(port) | family << 16 | protocol << 32]
    }

    /// Returns the ports of the source and of the destination.
    #[inline(always)]
    fn ports(&self) -> (bindings::__be16, bindings::__be16) {
        // SAFETY: `all` is an integer in both unions, and the type's invariant says that its bytes are
        // initialised.
        let (source, destination) = unsafe { (self.0.src.u.all, self.0.dst.u.all) };
        match self.icmp() {
            None => (source, destination),
            Some(Icmp::Query) => (source, 0),
            Some(Icmp::Answer) => (0, source),
            Some(Icmp::Other) => (0, 0),
        }
    }

    /// Returns the type and code of an ICMP message, or 0 and 0 for other protocols.
    pub(crate) fn icmp_type_and_code(&self) -> (u8, u8) {
        if self.icmp().is_none() {
            return (0, 0);
        }
        // SAFETY: `icmp` consists of two integers, and the type's invariant says that their bytes are
        // initialised.
        let icmp = unsafe { self.0.dst.u.icmp };
        (icmp.type_, icmp.code)
    }

    /// Returns the kind of an ICMP message, or `None` for other protocols.
    #[inline(always)]
    fn icmp(&self) -> Option<Icmp> {
        // SAFETY: `type_` is an integer, and the type's invariant says that its byte is initialised. For
        // other protocols it is a part of the port, and not used.
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

    #[inline(always)]
    fn end(&self, address: bindings::nf_inet_addr, port: bindings::__be16) -> End {
        // SAFETY: `address` is part of a tuple whose bytes are initialised, by the type's invariant.
        let raw = unsafe { RawAddress::from_raw(address) };
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
        raw.src.u3 = F::to_raw(source).into_raw();
        raw.dst.u3 = F::to_raw(destination).into_raw();
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
    fn a_reply_tuple_with_the_port_kept() {
        let mut reply = raw::<Ipv4>(SERVER, Ipv4Addr::new(203, 0, 113, 1), bindings::IPPROTO_UDP);
        reply.src.u.all = 53_u16.to_be();
        reply.dst.u.all = 1024_u16.to_be();
        let reply = Tuple(reply);
        let kept = reply.with_source_port_of(&udp()).map(|tuple| tuple.ends());
        let ends = reply.ends();
        let destination = End {
            port: 40000,
            ..ends.destination
        };
        assert_eq!(
            kept,
            Some(Ends {
                destination,
                ..ends
            })
        );
    }

    #[test]
    fn a_reply_tuple_with_the_query_identifier_kept() {
        let ends = |tuple: Option<Tuple>| tuple.map(|tuple| tuple.ends());
        let kept = echo(7)
            .inverted()
            .and_then(|reply| reply.with_source_port_of(&echo(0x1234)));
        assert_eq!(ends(kept), ends(echo(0x1234).inverted()));
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
