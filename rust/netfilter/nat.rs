// SPDX-License-Identifier: GPL-2.0

//! Network address translation of flows.
//!
//! C header: [`include/net/netfilter/nf_nat.h`](srctree/include/net/netfilter/nf_nat.h)

use super::{
    conntrack::{
        IncomingFlow,
        UnsettledFlow, //
    },
    tuple::Direction,
    verdict::Verdict, //
};
use crate::{
    bindings,
    net::{
        address::RawAddress,
        device::Device,
        Family,
        Ipv4,
        Ipv6, //
    },
};
use core::{
    mem::offset_of,
    num::{
        NonZeroU16,
        NonZeroU32, //
    },
    ptr::NonNull, //
};
use kernel::{
    prelude::*,
    sync::atomic::{
        Atomic,
        Relaxed, //
    },
    transmute::FromBytes, //
};

/// A range of ports or query identifiers, neither empty nor reversed.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) struct PortRange {
    first: u16,
    last: u16,
}

impl PortRange {
    /// The ports of privileged services, for a flow from one of these.
    pub(crate) const BELOW_512: Self = Self {
        first: 1,
        last: 511,
    };
    /// The other privileged ports, for a flow from one of these; without those of old services.
    pub(crate) const BELOW_1024: Self = Self {
        first: 600,
        last: 1023,
    };
    /// The ports that need no privilege.
    pub(crate) const UNPRIVILEGED: Self = Self {
        first: 1024,
        last: u16::MAX,
    };
    /// All query identifiers; unlike a port, one may be 0.
    pub(crate) const IDENTIFIERS: Self = Self {
        first: 0,
        last: u16::MAX,
    };

    /// Returns the range from `first` to `last`, both included and in host order.
    ///
    /// Returns `None` if `last` is less than `first`.
    pub(crate) fn new(first: NonZeroU16, last: NonZeroU16) -> Option<Self> {
        (first <= last).then_some(Self {
            first: first.get(),
            last: last.get(),
        })
    }

    /// Returns the range from `first` to `last` of query identifiers, both included and in host order.
    ///
    /// Returns `None` if `last` is less than `first`.
    pub(crate) fn of_identifiers(first: u16, last: u16) -> Option<Self> {
        (first <= last).then_some(Self { first, last })
    }

    /// Returns the first port, in host order.
    pub(crate) fn first(self) -> u16 {
        self.first
    }

    /// Returns the last port, in host order.
    pub(crate) fn last(self) -> u16 {
        self.last
    }

    /// Returns the number of ports.
    pub(crate) fn count(self) -> NonZeroU32 {
        NonZeroU32::MIN.saturating_add(u32::from(self.last - self.first))
    }

    /// Returns the port at a place, counted from 0; one beyond the end counts from the start again.
    pub(crate) fn nth(self, place: u32) -> u16 {
        // CAST: The remainder is at most the difference of two ports.
        self.first.wrapping_add((place % self.count()) as u16)
    }

    /// Returns the part of the range behind a port, if there is one.
    pub(crate) fn behind(self, port: u16) -> Option<Self> {
        let first = port.checked_add(1)?.max(self.first);
        (first <= self.last).then_some(Self { first, ..self })
    }

    /// Returns whether the range has the port.
    pub(crate) fn contains(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }
}

/// The range that is given to the kernel's NAT, without the address (`struct nf_nat_range2`).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct NatRange {
    /// Not 0, so that an `Option` of the range is as large as the range.
    flags: NonZeroU32,
    first: bindings::__be16,
    last: bindings::__be16,
}

impl NatRange {
    /// The flag of every range: the address is given (`NF_NAT_RANGE_MAP_IPS`).
    const ONE_ADDRESS: NonZeroU32 = match NonZeroU32::new(bindings::NF_NAT_RANGE_MAP_IPS) {
        Some(flag) => flag,
        None => NonZeroU32::MIN,
    };

    /// Returns the range for a rule's options, from which the kernel chooses.
    ///
    /// Without `ports` a flow keeps its own port if that is free, and else gets one of the same class
    /// (below 512, below 1024, or above). With `random` the search starts at a random port
    /// (`NF_NAT_RANGE_PROTO_RANDOM`, which is the same to it as `NF_NAT_RANGE_PROTO_RANDOM_FULLY`).
    pub(crate) fn new(ports: Option<PortRange>, random: bool) -> Self {
        let bit = |set: bool, bit: c_uint| if set { bit } else { 0 };
        Self {
            flags: Self::ONE_ADDRESS
                | bit(ports.is_some(), bindings::NF_NAT_RANGE_PROTO_SPECIFIED)
                | bit(random, bindings::NF_NAT_RANGE_PROTO_RANDOM),
            first: ports.map_or(0, |ports| ports.first().to_be()),
            last: ports.map_or(0, |ports| ports.last().to_be()),
        }
    }

    /// Returns the range of the flow's own port, which no other flow has.
    ///
    /// `nf_nat_setup_info` takes a port that is the flow's own and the only one of the range without a look-up of
    /// its own, which would be the second one.
    pub(crate) fn own(port: u16) -> Self {
        Self {
            flags: Self::ONE_ADDRESS | bindings::NF_NAT_RANGE_PROTO_SPECIFIED,
            first: port.to_be(),
            last: port.to_be(),
        }
    }

    /// Returns the range of another port, which no other flow has, and makes it the flow's own.
    ///
    /// The flow is about to leave with the source address `source`.
    #[inline(never)]
    pub(crate) fn other<F: Family>(
        flow: &UnsettledFlow<'_, F>,
        source: F::Address,
        port: u16,
    ) -> Self {
        let range = Self::own(port);
        if flow.destination(Direction::Reply) == source {
            // Only the port changes, and NAT would see no change.
            return Self::of_endpoint(port);
        }
        flow.set_nat_port(port);
        range
    }

    /// Returns the range of a port that the flow's endpoint has in other flows, too, and nobody has in this one.
    ///
    /// `nf_nat_setup_info` would look these flows up, and then the port. By its random search it looks up the only port.
    pub(crate) fn of_endpoint(port: u16) -> Self {
        let range = Self::own(port);
        Self {
            flags: range.flags | bindings::NF_NAT_RANGE_PROTO_RANDOM,
            ..range
        }
    }

    /// Returns C's form of the range, with its only address.
    #[inline(always)]
    fn into_raw(self, address: RawAddress) -> bindings::nf_nat_range2 {
        let mut raw: bindings::nf_nat_range2 = pin_init::zeroed();
        raw.flags = self.flags.get();
        raw.min_addr = address.into_raw();
        raw.max_addr = address.into_raw();
        raw.min_proto = bindings::nf_conntrack_man_proto { all: self.first };
        raw.max_proto = bindings::nf_conntrack_man_proto { all: self.last };
        raw
    }
}

/// All flags that a rule of NAT may have.
pub(crate) const ANY_NAT_FLAGS: u32 = bindings::NF_NAT_RANGE_MASK;

/// A range that a rule asks NAT for, as userspace sends it, without addresses.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct RequestedRange {
    flags: u32,
    first: u16,
    last: u16,
}

impl RequestedRange {
    /// Returns the range of these flags (`NF_NAT_RANGE_...`) and ports in host order. Any are valid.
    pub(crate) const fn new(flags: u32, first: u16, last: u16) -> Self {
        Self { flags, first, last }
    }

    /// Returns the ports, if the range has any.
    ///
    /// As for NAT, the order does not matter (`nf_nat_l4proto_unique_tuple`). Port 0 is left out.
    pub(crate) fn ports(self) -> Option<PortRange> {
        if self.flags & bindings::NF_NAT_RANGE_PROTO_SPECIFIED == 0 {
            return None;
        }
        let (first, last) = (self.first.min(self.last), self.first.max(self.last));
        PortRange::new(
            NonZeroU16::new(first).unwrap_or(NonZeroU16::MIN),
            NonZeroU16::new(last)?,
        )
    }

    /// Returns whether the port is to be random.
    pub(crate) fn is_random(self) -> bool {
        const RANDOM: u32 =
            bindings::NF_NAT_RANGE_PROTO_RANDOM | bindings::NF_NAT_RANGE_PROTO_RANDOM_FULLY;
        self.flags & RANDOM != 0
    }

    /// Returns whether the rule names an address.
    pub(crate) fn has_address(self) -> bool {
        self.flags & bindings::NF_NAT_RANGE_MAP_IPS != 0
    }
}

/// A family's binary form of the rules of iptables' own target MASQUERADE.
pub(crate) trait MasqueradeRule: Family {
    /// The form, all of which userspace sends and reads back.
    type Rule: FromBytes + Copy + Send + Sync + 'static;

    /// Returns how many ranges the rule says that it has.
    fn ranges(rule: &Self::Rule) -> u32;

    /// Returns the only range that there is room for.
    fn range(rule: &Self::Rule) -> RequestedRange;
}

/// IPv4's form (`struct nf_nat_ipv4_multi_range_compat`), with ports in network order.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Ipv4Rule {
    ranges: u32,
    flags: u32,
    addresses: [u32; 2],
    first: u16,
    last: u16,
}

// SAFETY: The structure consists of integers, for which any bytes are a value.
unsafe impl FromBytes for Ipv4Rule {}

const _: () = {
    use bindings::nf_nat_ipv4_range as Range;
    const RANGE: usize = offset_of!(bindings::nf_nat_ipv4_multi_range_compat, range);
    assert!(size_of::<Ipv4Rule>() == size_of::<bindings::nf_nat_ipv4_multi_range_compat>());
    assert!(offset_of!(Ipv4Rule, flags) == RANGE + offset_of!(Range, flags));
    assert!(offset_of!(Ipv4Rule, addresses) == RANGE + offset_of!(Range, min_ip));
    assert!(offset_of!(Ipv4Rule, first) == RANGE + offset_of!(Range, min));
    assert!(offset_of!(Ipv4Rule, last) == RANGE + offset_of!(Range, max));
};

/// IPv6's form (`struct nf_nat_range`), with ports in network order.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Ipv6Rule {
    flags: u32,
    addresses: [[u32; 4]; 2],
    first: u16,
    last: u16,
}

// SAFETY: The structure consists of integers, for which any bytes are a value.
unsafe impl FromBytes for Ipv6Rule {}

const _: () = {
    use bindings::nf_nat_range as Range;
    assert!(size_of::<Ipv6Rule>() == size_of::<Range>());
    assert!(offset_of!(Ipv6Rule, flags) == offset_of!(Range, flags));
    assert!(offset_of!(Ipv6Rule, addresses) == offset_of!(Range, min_addr));
    assert!(offset_of!(Ipv6Rule, first) == offset_of!(Range, min_proto));
    assert!(offset_of!(Ipv6Rule, last) == offset_of!(Range, max_proto));
};

impl MasqueradeRule for Ipv4 {
    type Rule = Ipv4Rule;

    fn ranges(rule: &Ipv4Rule) -> u32 {
        rule.ranges
    }

    fn range(rule: &Ipv4Rule) -> RequestedRange {
        RequestedRange::new(
            rule.flags,
            u16::from_be(rule.first),
            u16::from_be(rule.last),
        )
    }
}

impl MasqueradeRule for Ipv6 {
    type Rule = Ipv6Rule;

    fn ranges(_: &Ipv6Rule) -> u32 {
        1
    }

    fn range(rule: &Ipv6Rule) -> RequestedRange {
        RequestedRange::new(
            rule.flags,
            u16::from_be(rule.first),
            u16::from_be(rule.last),
        )
    }
}

/// Sets up the flow's source NAT: the address `source` and a port of `range`, for packets that leave by `out`.
///
/// Follows `nf_nat_masquerade_ipv4`. The device's index is stored with the flow (`masq_index`): when the
/// flow is routed to another device, NAT drops the packet and removes the flow. Returns
/// [`Verdict::Drop`] if memory ran out. Context: a target in the table `nat`, chain POSTROUTING.
#[inline(always)]
pub(crate) fn masquerade<F: Family>(
    flow: UnsettledFlow<'_, F>,
    source: F::Address,
    range: NatRange,
    out: &Device,
) -> Verdict {
    if let Some(index) = device_index(&flow) {
        index.store(out.index(), Relaxed);
    }
    translate_source(flow, source, range)
}

/// Does the same as [`masquerade`]. Returns also whether this packet's is the call that has set it up, if it is accepted.
///
/// A clone of the packet may have done that since `flow` was made.
#[inline(always)]
pub(crate) fn masquerade_once<F: Family>(
    flow: UnsettledFlow<'_, F>,
    source: F::Address,
    range: NatRange,
    out: &Device,
) -> (Verdict, bool) {
    let is_first = match device_index(&flow) {
        // An index is never 0.
        Some(index) => index.xchg(out.index(), Relaxed) == 0,
        None => !flow.is_confirmed(),
    };
    (translate_source(flow, source, range), is_first)
}

/// Returns the place of the index of the device that a flow leaves by (`masq_index`); 0 if that is not known yet.
///
/// Returns `None` if memory ran out, or if a clone of the packet has confirmed the entry meanwhile.
#[inline(always)]
fn device_index<'a, F: Family>(flow: &'a UnsettledFlow<'_, F>) -> Option<&'a Atomic<c_int>> {
    // SAFETY: The entry is valid by its type's invariant. The function adds nothing to an entry that a
    // clone of the packet has confirmed meanwhile. It returns null or an extension of the entry, and does
    // not sleep.
    let nat = NonNull::new(unsafe { bindings::nf_ct_nat_ext_add(flow.as_raw()) })?;
    // SAFETY: `nat` is not null, so it is an extension of the entry, which only adding another one moves: nobody adds one
    // as long as `flow`, which NAT has not set up, is borrowed. The index is aligned, conntrack zeroed it, and a clone of
    // the packet could write it by a single store alone.
    Some(unsafe { Atomic::from_ptr(&raw mut (*nat.as_ptr()).masq_index) })
}

/// Sets up the flow's source NAT: the address `source` and a port of `range`, whatever device its packets leave by.
///
/// Returns [`Verdict::Drop`] if memory ran out. Context: a target in the table `nat`, chain POSTROUTING, or a function of
/// NAT at PRE_ROUTING.
#[inline(always)]
pub(crate) fn translate_source<F: Family>(
    flow: UnsettledFlow<'_, F>,
    source: F::Address,
    range: NatRange,
) -> Verdict {
    let range = range.into_raw(F::to_raw(source));
    let manip = bindings::nf_nat_manip_type_NF_NAT_MANIP_SRC;
    // SAFETY: The entry is valid, and its source NAT is not set up: `flow` says so and is consumed. If a
    // clone of the packet has changed that meanwhile, the function leaves the entry alone (confirmed) or
    // warns and drops the packet (set up). It reads `range` during the call only, all bytes of which are
    // initialised. Both contexts are in an RCU read-side section, which the function needs.
    Verdict::from_raw(unsafe { bindings::nf_nat_setup_info(flow.as_raw(), &range, manip) })
}

/// Sets up the flow's destination NAT: its packets go to the address, which is of its family, and to the port, in host
/// order, if there is one.
///
/// Returns the flow for source NAT, whose answers come by the device with the index `device`, or `None` if memory ran
/// out: then the packet must be dropped. Context: a function of NAT at PRE_ROUTING.
#[inline(always)]
pub(crate) fn translate_destination<'hook, F: Family>(
    flow: IncomingFlow<'hook, F>,
    address: RawAddress,
    port: Option<u16>,
    device: c_int,
) -> Option<UnsettledFlow<'hook, F>> {
    let range = match port {
        Some(port) => NatRange::own(port),
        None => NatRange::new(None, false),
    };
    let range = range.into_raw(address);
    let manip = bindings::nf_nat_manip_type_NF_NAT_MANIP_DST;
    // SAFETY: The entry is valid, and its destination NAT is not set up: `flow` says so and is consumed. If a clone of
    // the packet has changed that meanwhile, the function leaves the entry alone (confirmed) or warns and drops the
    // packet (set up). It reads `range` during the call only, all bytes of which are initialised. A hook runs in an RCU
    // read-side section, which the function needs.
    let verdict = unsafe { bindings::nf_nat_setup_info(flow.as_raw(), &range, manip) };
    (Verdict::from_raw(verdict) == Verdict::Accept).then(|| flow.unsettled(device))
}

#[kunit_tests(rustmasq_nat)]
mod tests {
    use super::*;
    use core::net::Ipv4Addr;

    fn range(first: u16, last: u16) -> Option<PortRange> {
        PortRange::new(NonZeroU16::new(first)?, NonZeroU16::new(last)?)
    }

    #[test]
    fn one_port_is_a_range() {
        let range = range(80, 80).map(|range| (range.first(), range.last()));
        assert_eq!(range, Some((80, 80)));
    }

    #[test]
    fn the_whole_range() {
        let range = range(1, 65535).map(|range| (range.first(), range.last()));
        assert_eq!(range, Some((1, 65535)));
    }

    #[test]
    fn a_reversed_range_cannot_be_made() {
        assert_eq!(range(81, 80), None);
    }

    #[test]
    fn ports_are_in_network_order() {
        let range = NatRange::new(range(0x1234, 0xabcd), false);
        let raw = range.into_raw(Ipv4::to_raw(Ipv4Addr::LOCALHOST));
        // SAFETY: `into_raw` wrote the member `all` of both unions.
        let (first, last) = unsafe { (raw.min_proto.all, raw.max_proto.all) };
        assert_eq!(first.to_ne_bytes(), [0x12, 0x34]);
        assert_eq!(last.to_ne_bytes(), [0xab, 0xcd]);
    }

    #[test]
    fn the_source_is_the_only_address() {
        let range = NatRange::new(None, false);
        let raw = range.into_raw(Ipv4::to_raw(Ipv4Addr::new(192, 0, 2, 7)));
        assert_eq!(raw.flags, bindings::NF_NAT_RANGE_MAP_IPS);
        // SAFETY: `Family::to_raw` initialised all bytes of both unions.
        let (first, last) = unsafe { (raw.min_addr.ip, raw.max_addr.ip) };
        assert_eq!(first.to_ne_bytes(), [192, 0, 2, 7]);
        assert_eq!(first, last);
    }

    #[test]
    fn flags_follow_the_options() {
        let flags = |range: NatRange| range.flags.get() & !bindings::NF_NAT_RANGE_MAP_IPS;
        let expected = bindings::NF_NAT_RANGE_PROTO_SPECIFIED | bindings::NF_NAT_RANGE_PROTO_RANDOM;
        assert_eq!(flags(NatRange::new(range(1, 2), true)), expected);
        assert_eq!(flags(NatRange::new(None, false)), 0);
    }

    #[test]
    fn a_range_of_one_port_specifies_it() {
        let raw = NatRange::own(0x1234).into_raw(Ipv4::to_raw(Ipv4Addr::LOCALHOST));
        let expected = bindings::NF_NAT_RANGE_MAP_IPS | bindings::NF_NAT_RANGE_PROTO_SPECIFIED;
        assert_eq!(raw.flags, expected);
        // SAFETY: `into_raw` wrote the member `all` of both unions.
        let (first, last) = unsafe { (raw.min_proto.all, raw.max_proto.all) };
        assert_eq!((u16::from_be(first), u16::from_be(last)), (0x1234, 0x1234));
    }

    #[test]
    fn a_requested_range() {
        const PORTS: u32 = bindings::NF_NAT_RANGE_PROTO_SPECIFIED;
        let ports = |flags, first, last| {
            RequestedRange::new(flags, first, last)
                .ports()
                .map(|ports| (ports.first(), ports.last()))
        };
        assert_eq!(ports(PORTS, 80, 90), Some((80, 90)));
        assert_eq!(ports(PORTS, 90, 80), Some((80, 90)));
        assert_eq!(ports(PORTS, 7, 7), Some((7, 7)));
        assert_eq!(ports(PORTS, 0, 7), Some((1, 7)));
        assert_eq!(ports(PORTS, 0, 0), None);
        assert_eq!(ports(0, 80, 90), None);
        let random = |flags| RequestedRange::new(flags, 0, 0).is_random();
        assert!(random(bindings::NF_NAT_RANGE_PROTO_RANDOM));
        assert!(random(bindings::NF_NAT_RANGE_PROTO_RANDOM_FULLY));
        assert!(!random(!bindings::NF_NAT_RANGE_PROTO_RANDOM_ALL));
    }

    #[test]
    fn places_count_from_the_first_port() {
        assert_eq!(PortRange::IDENTIFIERS.count().get(), 65536);
        assert_eq!(PortRange::IDENTIFIERS.nth(65535), 65535);
        assert_eq!(PortRange::BELOW_512.nth(0), 1);
        assert_eq!(PortRange::BELOW_512.nth(510), 511);
        assert_eq!(PortRange::BELOW_512.nth(511), 1);
        assert_eq!(
            range(80, 80).map(|range| (range.count().get(), range.nth(7))),
            Some((1, 80))
        );
    }

    #[test]
    fn verdicts_from_nat() {
        assert_eq!(Verdict::from_raw(bindings::NF_ACCEPT), Verdict::Accept);
        assert_eq!(Verdict::from_raw(bindings::NF_DROP), Verdict::Drop);
        assert_eq!(Verdict::from_raw(77), Verdict::Drop);
        assert_eq!(Verdict::Drop.into_raw(), bindings::NF_DROP);
    }
}
