// SPDX-License-Identifier: GPL-2.0

//! Network address translation: what a flow's source may become.
//!
//! C header: [`include/net/netfilter/nf_nat.h`](srctree/include/net/netfilter/nf_nat.h)

use super::{
    conntrack::NewFlow,
    net::Device,
    Family,
    Verdict, //
};
use crate::bindings;
use core::num::NonZeroU16;
use kernel::prelude::*;

/// A range of ports, or of query identifiers: neither empty nor reversed, and without port 0.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct PortRange {
    first: NonZeroU16,
    last: NonZeroU16,
}

impl PortRange {
    /// The ports from `first` to `last`, both of it included. None: `last` lies before `first`.
    pub(crate) fn new(first: NonZeroU16, last: NonZeroU16) -> Option<Self> {
        (first <= last).then_some(Self { first, last })
    }

    /// The first port, in host order.
    pub(crate) fn first(self) -> u16 {
        self.first.get()
    }

    /// The last port, in host order.
    pub(crate) fn last(self) -> u16 {
        self.last.get()
    }
}

/// How the kernel looks for a free port; made once for a rule, in the form that it takes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct PortChoice {
    flags: c_uint,
    first: bindings::__be16,
    last: bindings::__be16,
}

impl PortChoice {
    /// The ports to choose from are those of `range`. None: the flow's own port if it is free, else
    /// one of its class (below 512, below 1024, above). With `random`, the search starts at a random
    /// port (`NF_NAT_RANGE_PROTO_RANDOM`); `random_fully` is the same by its newer name.
    pub(crate) fn new(range: Option<PortRange>, random: bool, random_fully: bool) -> Self {
        let bit = |set: bool, bit: c_uint| if set { bit } else { 0 };
        Self {
            flags: bindings::NF_NAT_RANGE_MAP_IPS
                | bit(range.is_some(), bindings::NF_NAT_RANGE_PROTO_SPECIFIED)
                | bit(random, bindings::NF_NAT_RANGE_PROTO_RANDOM)
                | bit(random_fully, bindings::NF_NAT_RANGE_PROTO_RANDOM_FULLY),
            first: range.map_or(0, |range| range.first().to_be()),
            last: range.map_or(0, |range| range.last().to_be()),
        }
    }
}

fn raw_range<F: Family>(source: F::Address, ports: PortChoice) -> bindings::nf_nat_range2 {
    let mut raw: bindings::nf_nat_range2 = pin_init::zeroed();
    raw.flags = ports.flags;
    raw.min_addr = F::to_raw(source).0;
    raw.max_addr = raw.min_addr;
    raw.min_proto = bindings::nf_conntrack_man_proto { all: ports.first };
    raw.max_proto = bindings::nf_conntrack_man_proto { all: ports.last };
    raw
}

/// Makes the flow leave with the address `source` and with a port of `ports`, by the device `out`.
///
/// Follows `nf_nat_masquerade_ipv4`: the device's index is kept with the flow (`masq_index`), so
/// that NAT drops the flow's packets, and with the first of them the flow, once they are routed to
/// another device. Drop: no port was free, or memory ran out.
pub(crate) fn masquerade<F: Family>(
    flow: &NewFlow<'_, F>,
    source: F::Address,
    ports: PortChoice,
    out: &Device,
) -> Verdict {
    // SAFETY: the entry is valid by the type's invariant; to one that was confirmed meanwhile the
    // function adds nothing. What comes back is null or lives as long as the entry.
    let nat = unsafe { bindings::nf_ct_nat_ext_add(flow.as_raw()) };
    if !nat.is_null() {
        // SAFETY: not null, thus a valid extension. A clone of the packet could write the same
        // word, hence volatile.
        unsafe { (&raw mut (*nat).masq_index).write_volatile(out.index()) };
    }
    let range = raw_range::<F>(source, ports);
    let manip = bindings::nf_nat_manip_type_NF_NAT_MANIP_SRC;
    // SAFETY: the entry is valid; one that was confirmed meanwhile is left as it is. The range is
    // read during the call alone. We are in a hook, as the function's use of RCU requires.
    Verdict::from_raw(unsafe { bindings::nf_nat_setup_info(flow.as_raw(), &range, manip) })
}

#[kunit_tests(rustmasq_nat)]
mod tests {
    use super::*;
    use crate::netfilter::Ipv4;
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
    fn ports_go_out_in_network_order() {
        let ports = PortChoice::new(range(0x1234, 0xabcd), false, false);
        let raw = raw_range::<Ipv4>(Ipv4Addr::LOCALHOST, ports);
        // SAFETY: `raw_range` wrote this member.
        let (first, last) = unsafe { (raw.min_proto.all, raw.max_proto.all) };
        assert_eq!(first.to_ne_bytes(), [0x12, 0x34]);
        assert_eq!(last.to_ne_bytes(), [0xab, 0xcd]);
    }

    #[test]
    fn the_address_is_always_given_and_alone() {
        let raw = raw_range::<Ipv4>(
            Ipv4Addr::new(192, 0, 2, 7),
            PortChoice::new(None, false, false),
        );
        assert_eq!(raw.flags, bindings::NF_NAT_RANGE_MAP_IPS);
        // SAFETY: `to_raw` wrote all bytes of both unions.
        let (first, last) = unsafe { (raw.min_addr.ip, raw.max_addr.ip) };
        assert_eq!(first.to_ne_bytes(), [192, 0, 2, 7]);
        assert_eq!(first, last);
    }

    #[test]
    fn flags_follow_the_choice() {
        let flags = |ports: PortChoice| ports.flags & !bindings::NF_NAT_RANGE_MAP_IPS;
        let expected = bindings::NF_NAT_RANGE_PROTO_SPECIFIED | bindings::NF_NAT_RANGE_PROTO_RANDOM;
        assert_eq!(flags(PortChoice::new(range(1, 2), true, false)), expected);
        let expected = bindings::NF_NAT_RANGE_PROTO_RANDOM_FULLY;
        assert_eq!(flags(PortChoice::new(None, false, true)), expected);
    }

    #[test]
    fn verdicts_from_nat() {
        assert_eq!(Verdict::from_raw(bindings::NF_ACCEPT), Verdict::Accept);
        assert_eq!(Verdict::from_raw(bindings::NF_DROP), Verdict::Drop);
        assert_eq!(Verdict::from_raw(77), Verdict::Drop);
        assert_eq!(Verdict::Drop.into_raw(), bindings::NF_DROP);
    }
}
