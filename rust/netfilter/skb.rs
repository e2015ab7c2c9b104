// SPDX-License-Identifier: GPL-2.0

//! Packets, as a hook sees them.
//!
//! C header: [`include/linux/skbuff.h`](srctree/include/linux/skbuff.h)

use super::{
    address::{
        ipv4_from_be32,
        ipv4_to_be32,
        ipv6_from_raw, //
    },
    Family,
    Ipv4,
    Ipv6, //
};
use crate::bindings;
use core::{
    marker::PhantomData,
    net::{
        Ipv4Addr,
        Ipv6Addr, //
    },
    ptr::NonNull, //
};

/// A packet of the family `F` that a hook lent us for `'hook`.
///
/// # Invariants
///
/// A valid `struct sk_buff` for `'hook`, which nobody else changes meanwhile, whose network header
/// is a complete and linear header of `F`.
pub(crate) struct Packet<'hook, F: Family> {
    skb: NonNull<bindings::sk_buff>,
    lent: PhantomData<(&'hook bindings::sk_buff, F)>,
}

impl<F: Family> Packet<'_, F> {
    /// # Safety
    ///
    /// `skb` must fulfil the type's invariants.
    pub(super) unsafe fn from_raw(skb: NonNull<bindings::sk_buff>) -> Self {
        // INVARIANT: the caller's duty.
        Self {
            skb,
            lent: PhantomData,
        }
    }

    pub(super) fn as_raw(&self) -> *mut bindings::sk_buff {
        self.skb.as_ptr()
    }
}

impl Packet<'_, Ipv4> {
    /// Where the packet goes in the end.
    pub(crate) fn destination(&self) -> Ipv4Addr {
        // SAFETY: the packet has an IPv4 header by the invariant, and `ip_hdr` points to it; its
        // fields are plain integers.
        let raw = unsafe {
            (*bindings::rustmasq_ip_hdr(self.as_raw()))
                .__bindgen_anon_1
                .__bindgen_anon_1
                .daddr
        };
        ipv4_from_be32(raw)
    }

    /// Where the packet goes next: its route's gateway, or its destination where there is none.
    pub(crate) fn next_hop(&self) -> Ipv4Addr {
        let destination = self.destination();
        // SAFETY: the packet is valid by the invariant.
        let route = unsafe { bindings::rustmasq_skb_rtable(self.as_raw()) };
        if route.is_null() {
            return destination;
        }
        // SAFETY: not null, and a route that hangs on an IPv4 packet is a `struct rtable` that
        // lives at least as long as the hook (a reference, or RCU's read side).
        let raw = unsafe { bindings::rustmasq_rt_nexthop(route, ipv4_to_be32(destination)) };
        ipv4_from_be32(raw)
    }
}

impl Packet<'_, Ipv6> {
    /// Where the packet goes in the end.
    pub(crate) fn destination(&self) -> Ipv6Addr {
        // SAFETY: the packet has an IPv6 header by the invariant, and `ipv6_hdr` points to it; its
        // addresses lie in an anonymous structure of an anonymous union whose other members name
        // the same addresses. The borrow ends before the hook does.
        let addresses = unsafe {
            (*bindings::rustmasq_ipv6_hdr(self.as_raw()))
                .__bindgen_anon_1
                .__bindgen_anon_1
                .as_ref()
        };
        ipv6_from_raw(&addresses.daddr)
    }
}
