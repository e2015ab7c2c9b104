// SPDX-License-Identifier: GPL-2.0

//! Network address translation of a flow's source.
//!
//! C header: [`include/net/netfilter/nf_nat.h`](srctree/include/net/netfilter/nf_nat.h)

use super::{
    conntrack::UnsettledFlow,
    verdict::Verdict, //
};
use crate::{
    bindings,
    net::{
        device::Device,
        Family, //
    },
};
use core::num::NonZeroU16;
use kernel::prelude::*;

/// A range of ports or query identifiers, neither empty nor reversed, without 0.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct PortRange {
    first: NonZeroU16,
    last: NonZeroU16,
}

impl PortRange {
    /// Returns the range from `first` to `last`, both included and in host order.
    ///
    /// Returns `None` if `last` is less than `first`.
    pub(crate) fn new(first: NonZeroU16, last: NonZeroU16) -> Option<Self> {
        (first <= last).then_some(Self { first, last })
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

/// The range that a rule gives to the kernel's NAT, without the address (`struct nf_nat_range2`).
///
/// It is made once for each rule, in the form that C takes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct NatRange {
    flags: c_uint,
    first: bindings::__be16,
    last: bindings::__be16,
}

impl NatRange {
    /// Returns the range for a rule's options.
    ///
    /// Without `ports` a flow keeps its own port if that is free, and else gets one of the same class
    /// (below 512, below 1024, or above). With `random` the search starts at a random port
    /// (`NF_NAT_RANGE_PROTO_RANDOM`); `random_fully` is the same under its newer name.
    pub(crate) fn new(ports: Option<PortRange>, random: bool, random_fully: bool) -> Self {
        let bit = |set: bool, bit: c_uint| if set { bit } else { 0 };
        Self {
            flags: bindings::NF_NAT_RANGE_MAP_IPS
                | bit(ports.is_some(), bindings::NF_NAT_RANGE_PROTO_SPECIFIED)
                | bit(random, bindings::NF_NAT_RANGE_PROTO_RANDOM)
                | bit(random_fully, bindings::NF_NAT_RANGE_PROTO_RANDOM_FULLY),
            first: ports.map_or(0, |ports| ports.first().to_be()),
            last: ports.map_or(0, |ports| ports.last().to_be()),
        }
    }

    /// Returns whether each flow gets a random port, without a range to choose it from.
    pub(crate) fn randomizes_all_ports(self) -> bool {
        self.flags & bindings::NF_NAT_RANGE_PROTO_SPECIFIED == 0
            && self.flags & bindings::NF_NAT_RANGE_PROTO_RANDOM_ALL != 0
    }

    /// Returns the range with which a flow keeps its own port if that is free.
    pub(crate) fn without_random(self) -> Self {
        Self {
            flags: self.flags & !bindings::NF_NAT_RANGE_PROTO_RANDOM_ALL,
            ..self
        }
    }

    /// Returns C's form of the range, with `source` as its only address.
    fn into_raw<F: Family>(self, source: F::Address) -> bindings::nf_nat_range2 {
        let mut raw: bindings::nf_nat_range2 = pin_init::zeroed();
        raw.flags = self.flags;
        raw.min_addr = F::to_raw(source).into_raw();
        raw.max_addr = raw.min_addr;
        raw.min_proto = bindings::nf_conntrack_man_proto { all: self.first };
        raw.max_proto = bindings::nf_conntrack_man_proto { all: self.last };
        raw
    }
}

/// Sets up the flow's source NAT: the address `source` and a port of `range`, for packets that leave by `out`.
///
/// Follows `nf_nat_masquerade_ipv4`. The device's index is stored with the flow (`masq_index`): when the
/// flow is routed to another device, NAT drops the packet and removes the flow. Returns
/// [`Verdict::Drop`] if memory ran out. Context: a target in the table `nat`, chain POSTROUTING.
pub(crate) fn masquerade<F: Family>(
    flow: UnsettledFlow<'_, F>,
    source: F::Address,
    range: NatRange,
    out: &Device,
) -> Verdict {
    // SAFETY: The entry is valid by its type's invariant. The function adds nothing to an entry that a
    // clone of the packet has confirmed meanwhile. It returns null or an extension of the entry, and does
    // not sleep.
    let nat = unsafe { bindings::nf_ct_nat_ext_add(flow.as_raw()) };
    if !nat.is_null() {
        // SAFETY: `nat` is not null, so it is an extension of the entry, which only adding another one moves.
        // A clone of the packet could write the same word, so the write is volatile.
        unsafe { (&raw mut (*nat).masq_index).write_volatile(out.index()) };
    }
    let range = range.into_raw::<F>(source);
    let manip = bindings::nf_nat_manip_type_NF_NAT_MANIP_SRC;
    // SAFETY: The entry is valid, and its source NAT is not set up: `flow` says so and is consumed. If a
    // clone of the packet has changed that meanwhile, the function leaves the entry alone (confirmed) or
    // warns and drops the packet (set up). It reads `range` during the call only, all bytes of which are
    // initialised. A target runs in an RCU read-side section, which the function needs.
    Verdict::from_raw(unsafe { bindings::nf_nat_setup_info(flow.as_raw(), &range, manip) })
}

#[kunit_tests(rustmasq_nat)]
mod tests {
    use super::*;
    use crate::net::Ipv4;
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
        let range = NatRange::new(range(0x1234, 0xabcd), false, false);
        let raw = range.into_raw::<Ipv4>(Ipv4Addr::LOCALHOST);
        // SAFETY: `into_raw` wrote the member `all` of both unions.
        let (first, last) = unsafe { (raw.min_proto.all, raw.max_proto.all) };
        assert_eq!(first.to_ne_bytes(), [0x12, 0x34]);
        assert_eq!(last.to_ne_bytes(), [0xab, 0xcd]);
    }

    #[test]
    fn the_source_is_the_only_address() {
        let range = NatRange::new(None, false, false);
        let raw = range.into_raw::<Ipv4>(Ipv4Addr::new(192, 0, 2, 7));
        assert_eq!(raw.flags, bindings::NF_NAT_RANGE_MAP_IPS);
        // SAFETY: `Family::to_raw` initialised all bytes of both unions.
        let (first, last) = unsafe { (raw.min_addr.ip, raw.max_addr.ip) };
        assert_eq!(first.to_ne_bytes(), [192, 0, 2, 7]);
        assert_eq!(first, last);
    }

    #[test]
    fn flags_follow_the_options() {
        let flags = |range: NatRange| range.flags & !bindings::NF_NAT_RANGE_MAP_IPS;
        let expected = bindings::NF_NAT_RANGE_PROTO_SPECIFIED | bindings::NF_NAT_RANGE_PROTO_RANDOM;
        assert_eq!(flags(NatRange::new(range(1, 2), true, false)), expected);
        let expected = bindings::NF_NAT_RANGE_PROTO_RANDOM_FULLY;
        assert_eq!(flags(NatRange::new(None, false, true)), expected);
    }

    #[test]
    fn a_range_without_random_keeps_the_rest() {
        for (random, random_fully) in [(true, false), (false, true), (true, true)] {
            let random = NatRange::new(None, random, random_fully);
            assert!(random.randomizes_all_ports());
            assert_eq!(random.without_random(), NatRange::new(None, false, false));
        }
        let ports = NatRange::new(range(1, 2), true, true);
        assert!(!ports.randomizes_all_ports());
        assert_eq!(
            ports.without_random(),
            NatRange::new(range(1, 2), false, false)
        );
        assert!(!NatRange::new(None, false, false).randomizes_all_ports());
    }

    #[test]
    fn verdicts_from_nat() {
        assert_eq!(Verdict::from_raw(bindings::NF_ACCEPT), Verdict::Accept);
        assert_eq!(Verdict::from_raw(bindings::NF_DROP), Verdict::Drop);
        assert_eq!(Verdict::from_raw(77), Verdict::Drop);
        assert_eq!(Verdict::Drop.into_raw(), bindings::NF_DROP);
    }
}
