// SPDX-License-Identifier: GPL-2.0

//! The source address that a flow leaves with.

use crate::netfilter::{
    net::Device,
    skb::Packet,
    Family,
    Ipv4,
    Ipv6, //
};
use core::net::{
    Ipv4Addr,
    Ipv6Addr, //
};

/// A family in which source addresses can be chosen.
pub(crate) trait SourceAddress: Family {
    /// Whether a flow that comes with this source keeps it.
    fn is_left_alone(original: Self::Address) -> bool;

    /// The address for a packet that leaves by `out`, by the kernel's own rules. None: there is no
    /// usable one.
    fn source(packet: &Packet<'_, Self>, out: &Device) -> Option<Self::Address>
    where
        Self: Sized;
}

impl SourceAddress for Ipv4 {
    /// A host that has no address yet, as in DHCP, needs none of ours.
    fn is_left_alone(original: Ipv4Addr) -> bool {
        original.is_unspecified()
    }

    /// Follows `nf_nat_masquerade_ipv4`: the next hop decides, not the destination.
    fn source(packet: &Packet<'_, Ipv4>, out: &Device) -> Option<Ipv4Addr> {
        out.select_ipv4_source(packet.next_hop())
    }
}

impl SourceAddress for Ipv6 {
    /// Who has no address yet has one of its link.
    fn is_left_alone(_original: Ipv6Addr) -> bool {
        false
    }

    /// Follows `nf_nat_masquerade_ipv6`: the destination decides.
    fn source(packet: &Packet<'_, Ipv6>, out: &Device) -> Option<Ipv6Addr> {
        out.select_ipv6_source(packet)
    }
}
