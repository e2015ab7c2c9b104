// SPDX-License-Identifier: GPL-2.0

//! The source address that a flow leaves with.

use crate::netfilter::{
    net::Device,
    skb::Packet,
    Family,
    Ipv4, //
};

/// A family in which source addresses can be chosen.
pub(crate) trait SourceAddress: Family {
    /// The address for a packet that leaves by `out`, by the kernel's own rules. None: there is no
    /// usable one.
    fn source(packet: &Packet<'_, Self>, out: &Device) -> Option<Self::Address>
    where
        Self: Sized;
}

impl SourceAddress for Ipv4 {
    /// Follows `nf_nat_masquerade_ipv4`: the next hop decides, not the destination.
    fn source(packet: &Packet<'_, Ipv4>, out: &Device) -> Option<core::net::Ipv4Addr> {
        out.select_ipv4_source(packet.next_hop())
    }
}
