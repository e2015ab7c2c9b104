// SPDX-License-Identifier: GPL-2.0

//! Selection of the source address that a flow leaves with.

use crate::{
    net::{
        device::Device,
        skb::Packet,
        Family,
        Ipv4,
        Ipv6, //
    },
    netfilter::{
        conntrack::UnsettledFlow,
        tuple::Direction, //
    },
};
use core::net::{
    Ipv4Addr,
    Ipv6Addr, //
};

/// A family for which source addresses can be selected.
pub(crate) trait SelectSource: Family + Sized {
    /// Returns whether the flow keeps its source address.
    fn is_exempt(flow: &UnsettledFlow<'_, Self>) -> bool;

    /// Selects the source address of a packet that leaves by `out`, by the kernel's own rules.
    ///
    /// Returns `None` if no address is usable. Context: a hook.
    fn select_source(packet: &Packet<'_, Self>, out: &Device) -> Option<Self::Address>;

    /// Returns the source address that the route of a packet names, if it names one that the machine has.
    ///
    /// The packet came by `input`, unless this host sent it, and leaves by `out`. Context: a hook.
    fn route_source(
        packet: &Packet<'_, Self>,
        input: Option<&Device>,
        out: &Device,
    ) -> Option<Self::Address>;
}

impl SelectSource for Ipv4 {
    /// Returns whether the source is 0.0.0.0: a DHCP client without an address.
    fn is_exempt(flow: &UnsettledFlow<'_, Ipv4>) -> bool {
        flow.source(Direction::Original).is_unspecified()
    }

    /// Follows `nf_nat_masquerade_ipv4`: the next hop decides, not the destination.
    fn select_source(packet: &Packet<'_, Ipv4>, out: &Device) -> Option<Ipv4Addr> {
        out.select_ipv4_source(packet.next_hop())
    }

    fn route_source(
        packet: &Packet<'_, Ipv4>,
        input: Option<&Device>,
        out: &Device,
    ) -> Option<Ipv4Addr> {
        packet.route_source(input, out)
    }
}

impl SelectSource for Ipv6 {
    /// Returns false: an IPv6 host always has a link-local address.
    fn is_exempt(_flow: &UnsettledFlow<'_, Ipv6>) -> bool {
        false
    }

    /// Follows `nf_nat_masquerade_ipv6`: the destination decides.
    fn select_source(packet: &Packet<'_, Ipv6>, out: &Device) -> Option<Ipv6Addr> {
        out.select_ipv6_source(packet.header().destination)
    }

    fn route_source(
        packet: &Packet<'_, Ipv6>,
        _input: Option<&Device>,
        out: &Device,
    ) -> Option<Ipv6Addr> {
        packet.route_source(out)
    }
}
