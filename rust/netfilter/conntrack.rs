// SPDX-License-Identifier: GPL-2.0

//! Connection tracking: what conntrack knows of a packet's flow.
//!
//! C header: [`include/net/netfilter/nf_conntrack.h`](srctree/include/net/netfilter/nf_conntrack.h)

use super::{
    address::RawAddress,
    skb::Packet,
    Family, //
};
use crate::bindings;
use core::{
    marker::PhantomData,
    ptr::NonNull, //
};
use kernel::prelude::*;

/// A flow's entry before its confirmation: no one but its first packet leads to it.
///
/// # Invariants
///
/// A valid `struct nf_conn` for `'hook`, not confirmed (not in conntrack's table), of the family
/// `F`, referenced by the packet that the hook works on.
pub(crate) struct NewFlow<'hook, F: Family> {
    ct: NonNull<bindings::nf_conn>,
    lent: PhantomData<(&'hook bindings::nf_conn, F)>,
}

impl<'hook, F: Family> NewFlow<'hook, F> {
    /// The packet's flow, if conntrack has an entry for it that is not confirmed.
    pub(super) fn of_packet(packet: &Packet<'hook, F>) -> Option<Self> {
        let mut info = 0;
        // SAFETY: the packet is valid by its invariant, and `info` is ours to be written.
        let ct = NonNull::new(unsafe { bindings::rustmasq_nf_ct_get(packet.as_raw(), &mut info) })?;
        // INVARIANT: the packet holds a reference to its entry, for `'hook` and longer; whether it
        // is confirmed follows, and only this packet's way could confirm it.
        let flow = Self {
            ct,
            lent: PhantomData,
        };
        (!flow.has_status(bindings::ip_conntrack_status_IPS_CONFIRMED)).then_some(flow)
    }

    /// Whether source NAT was set up for the flow already (`IPS_SRC_NAT_DONE`).
    pub(super) fn has_source_nat(&self) -> bool {
        self.has_status(bindings::ip_conntrack_status_IPS_SRC_NAT_DONE)
    }

    /// The source address that the flow came with: that of the ORIGINAL tuple.
    pub(crate) fn original_source(&self) -> F::Address {
        // SAFETY: the entry is valid by the invariant, and its ORIGINAL tuple does not change any
        // more once the entry exists.
        let tuple = unsafe { &(*self.ct.as_ptr()).tuplehash[0].tuple };
        F::from_raw(&RawAddress(tuple.src.u3))
    }

    pub(super) fn as_raw(&self) -> *mut bindings::nf_conn {
        self.ct.as_ptr()
    }

    fn has_status(&self, bit: bindings::ip_conntrack_status) -> bool {
        // SAFETY: the entry is valid by the invariant; other CPUs change status bits atomically, so
        // it is read as one word, volatile.
        let status = unsafe { core::ptr::read_volatile(&raw const (*self.as_raw()).status) };
        status & bit as c_ulong != 0
    }
}
