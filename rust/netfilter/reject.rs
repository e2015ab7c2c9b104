// SPDX-License-Identifier: GPL-2.0

//! Packets that are answered by an ICMP error instead of being sent.
//!
//! C headers: [`include/net/icmp.h`](srctree/include/net/icmp.h),
//! [`include/linux/icmpv6.h`](srctree/include/linux/icmpv6.h)

use super::{
    conntrack::UnsettledFlow,
    verdict::Verdict, //
};
use crate::{
    bindings,
    net::{
        device::Device,
        skb::Packet,
        Family,
        Ipv4, //
    },
};
use kernel::prelude::*;

/// Answers the packet by "communication administratively prohibited", ICMP's or ICMPv6's, and drops it.
///
/// The error quotes the packet as its sender knows it: source NAT is not set up, since the flow is still unsettled,
/// and conntrack relates the error to the flow, so that the kernel undoes destination NAT in it. The kernel chooses
/// the source address, limits the rate and answers neither errors nor broadcasts; this is its function for its own
/// errors, so it needs no module. It does not look at the packet's checksum, as conntrack has done that.
///
/// The error passes the hooks before this returns, and tables that are called for it use x_tables' jump stack. So the
/// target must not continue: it returns this verdict. Context: a target in the table `nat`, chain POSTROUTING.
#[cold]
pub(crate) fn prohibit<F: Family>(
    _flow: UnsettledFlow<'_, F>,
    packet: Packet<'_, F>,
    input: Option<&Device>,
) -> Verdict {
    let skb = packet.as_raw();
    // SAFETY: The packet is valid by its type's invariant. On a bridge, its destination entry may be the metadata of
    // a tunnel, or there is none.
    if !unsafe { bindings::rustmasq_skb_valid_dst(skb) } {
        return Verdict::Drop;
    }
    if let Some(input) = input {
        // The way back is that through the input device, which may belong to a VRF.
        // SAFETY: The packet is valid and ours, and `packet` is consumed. The field of the union is the device, as the
        // packet is in no list of the device-less kind. The device stays valid as long as the hook holds the RCU read
        // lock, and the packet is freed before that ends.
        unsafe {
            (*skb)
                .__bindgen_anon_1
                .__bindgen_anon_1
                .__bindgen_anon_1
                .dev = input.as_raw()
        };
    }
    // SAFETY: The packet is valid; its network header is complete and linear, its control block is IP's, it has a
    // device, and its destination entry is a route. No lock is held that the output of a packet takes, and the
    // functions do not sleep.
    unsafe {
        if F::NFPROTO == Ipv4::NFPROTO {
            bindings::rustmasq_icmp_send(
                skb,
                bindings::ICMP_DEST_UNREACH as c_int,
                bindings::ICMP_PKT_FILTERED as c_int,
                0,
            );
        } else {
            bindings::rustmasq_icmpv6_send(
                skb,
                bindings::ICMPV6_DEST_UNREACH as u8,
                bindings::ICMPV6_ADM_PROHIBITED as u8,
                0,
            );
        }
    }
    Verdict::Drop
}
