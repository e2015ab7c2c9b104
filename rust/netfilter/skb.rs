// SPDX-License-Identifier: GPL-2.0

//! Packets, as a hook sees them.
//!
//! C header: [`include/linux/skbuff.h`](srctree/include/linux/skbuff.h)

use super::{
    address::{
        ipv4_from_be32,
        ipv4_to_be32,
        Header, //
    },
    net::Net,
    tuple::Tuple,
    Family,
    Ipv4, //
};
use crate::bindings;
use core::{
    marker::PhantomData,
    net::Ipv4Addr,
    ptr::NonNull, //
};
use kernel::prelude::*;

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

impl<F: Family> Packet<'_, F> {
    /// What the fixed part of the IP header says.
    pub(crate) fn header(&self) -> Header<F::Address> {
        // SAFETY: the packet is valid by the invariant, and its network header is a complete one of
        // `F`. Drivers need not align it (NET_IP_ALIGN), and need not here: it is an array of bytes.
        F::parse(&unsafe {
            bindings::rustmasq_skb_network_header(self.as_raw())
                .cast::<F::Header>()
                .read()
        })
    }

    /// The packet's length in bytes, from the IP header on.
    pub(crate) fn len(&self) -> u32 {
        // SAFETY: the packet is valid by the invariant.
        unsafe { (*self.as_raw()).len }
    }

    /// The packet's own tuple, as conntrack would make it (`nf_ct_get_tuplepr`). None: it has none;
    /// its transport header is missing or cut, or it is a later fragment.
    pub(crate) fn tuple(&self, net: &Net) -> Option<Tuple> {
        let mut raw = pin_init::zeroed();
        // SAFETY: the packet and the namespace are valid by their invariants; the offset is that of
        // a header of `F`. The function looks at the packet's length wherever it reads.
        unsafe {
            bindings::nf_ct_get_tuplepr(
                self.as_raw(),
                bindings::rustmasq_skb_network_offset(self.as_raw()) as c_uint,
                u16::from(F::NFPROTO),
                net.as_raw(),
                &mut raw,
            )
            // The function has zeroed the tuple and set its family.
            .then(|| Tuple::from_raw(&raw))
        }
    }
}

impl Packet<'_, Ipv4> {
    /// Where the packet goes next: its route's gateway, or its destination where there is none.
    pub(crate) fn next_hop(&self) -> Ipv4Addr {
        let destination = self.header().destination;
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
