// SPDX-License-Identifier: GPL-2.0

//! Packets, as a hook sees them.
//!
//! C header: [`include/linux/skbuff.h`](srctree/include/linux/skbuff.h)

use super::{
    address::{
        ipv4_from_be32,
        ipv4_to_be32, //
    },
    Family,
    Ipv4,
    Ipv6, //
};
use crate::bindings;
use core::{
    marker::PhantomData,
    mem::offset_of,
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
        const OFFSET: usize = offset_of!(bindings::iphdr, __bindgen_anon_1)
            + offset_of!(bindings::iphdr__bindgen_ty_1__bindgen_ty_1, daddr);
        // SAFETY: the packet is valid by the invariant.
        let header = unsafe { bindings::rustmasq_ip_hdr(self.as_raw()) };
        // SAFETY: a complete IPv4 header by the invariant. Drivers need not align it (NET_IP_ALIGN),
        // so bytes are read.
        Ipv4Addr::from(unsafe { header.byte_add(OFFSET).cast::<[u8; 4]>().read() })
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
        const OFFSET: usize = offset_of!(bindings::ipv6hdr, __bindgen_anon_1)
            + offset_of!(bindings::ipv6hdr__bindgen_ty_1__bindgen_ty_1, daddr);
        // SAFETY: the packet is valid by the invariant.
        let header = unsafe { bindings::rustmasq_ipv6_hdr(self.as_raw()) };
        // SAFETY: a complete IPv6 header by the invariant, of any alignment: bytes are read.
        Ipv6Addr::from(unsafe { header.byte_add(OFFSET).cast::<[u8; 16]>().read() })
    }
}
