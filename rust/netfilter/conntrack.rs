// SPDX-License-Identifier: GPL-2.0

//! Connection tracking: what conntrack knows of a packet's flow.
//!
//! C header: [`include/net/netfilter/nf_conntrack.h`](srctree/include/net/netfilter/nf_conntrack.h)

use super::{
    address::RawAddress,
    net::Net,
    skb::Packet,
    AnyAddress,
    Family,
    Ipv4,
    Ipv6, //
};
use crate::bindings;
use core::{
    marker::PhantomData,
    ptr::NonNull, //
};
use kernel::prelude::*;

/// What conntrack has for a packet that leaves.
pub(crate) enum Flow<'hook, F: Family> {
    /// Nothing: the packet is not tracked.
    Untracked,
    /// An entry in its table. Its tuples, and so its NAT, are settled.
    Confirmed,
    /// An entry that is on its way there.
    New(NewFlow<'hook, F>),
}

impl<'hook, F: Family> Flow<'hook, F> {
    pub(super) fn of_packet(packet: &Packet<'hook, F>) -> Self {
        let mut info = 0;
        // SAFETY: the packet is valid by its invariant, and `info` is ours to be written.
        let ct = unsafe { bindings::rustmasq_nf_ct_get(packet.as_raw(), &mut info) };
        let Some(ct) = NonNull::new(ct) else {
            return Flow::Untracked;
        };
        // INVARIANT: the packet holds a reference to its entry, for `'hook` and longer; whether it
        // is confirmed is looked at now.
        let flow = NewFlow {
            ct,
            lent: PhantomData,
        };
        if flow.has_status(bindings::ip_conntrack_status_IPS_CONFIRMED) {
            Flow::Confirmed
        } else {
            Flow::New(flow)
        }
    }
}

/// A flow's entry before its confirmation.
///
/// Conntrack takes it for granted that only one packet leads to such an entry. Clones of a packet
/// (bridges, multicast routing) break that in rare cases, in C as here; the functions that change
/// an entry look again whether it is confirmed.
///
/// # Invariants
///
/// A valid `struct nf_conn` for `'hook`, of the family `F`, referenced by the packet that the hook
/// works on; it was not confirmed (not in conntrack's table) when this was made.
pub(crate) struct NewFlow<'hook, F: Family> {
    ct: NonNull<bindings::nf_conn>,
    lent: PhantomData<(&'hook bindings::nf_conn, F)>,
}

impl<F: Family> NewFlow<'_, F> {
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

/// An entry in conntrack's table, while the table is walked.
///
/// # Invariants
///
/// A valid `struct nf_conn` for `'walk`, confirmed, so that its tuples do not change.
pub(crate) struct Tracked<'walk> {
    ct: NonNull<bindings::nf_conn>,
    lent: PhantomData<&'walk bindings::nf_conn>,
}

impl Tracked<'_> {
    /// The index of the device that the flow was masqueraded to (`masq_index`). None: it was not.
    pub(crate) fn masqueraded_to(&self) -> Option<c_int> {
        // SAFETY: the entry is valid by the invariant; its extensions do not move any more.
        let nat = unsafe { bindings::rustmasq_nfct_nat(self.ct.as_ptr()) };
        if nat.is_null() {
            return None;
        }
        // SAFETY: not null, thus part of the entry; written before the entry was confirmed.
        Some(unsafe { (*nat).masq_index }).filter(|index| *index != 0)
    }

    /// Where answers go: the destination of the REPLY tuple. None: neither IPv4 nor IPv6.
    pub(crate) fn reply_destination(&self) -> Option<AnyAddress> {
        let ct = self.ct.as_ptr();
        // SAFETY: the entry is valid and its tuples do not change, by the invariant.
        let (address, family) = unsafe {
            let address = (*ct).tuplehash[1].tuple.dst.u3;
            (RawAddress(address), bindings::rustmasq_nf_ct_l3num(ct))
        };
        match u8::try_from(family) {
            Ok(Ipv4::NFPROTO) => Some(AnyAddress::V4(Ipv4::from_raw(&address))),
            Ok(Ipv6::NFPROTO) => Some(AnyAddress::V6(Ipv6::from_raw(&address))),
            _ => None,
        }
    }
}

/// Walks the namespace's entries and forgets those that `is_stale` says so of. May sleep; `is_stale`
/// must not, it runs under a lock of the table.
pub(crate) fn forget<P: Fn(&Tracked<'_>) -> bool>(net: &Net, is_stale: P) {
    let data = bindings::nf_ct_iter_data {
        net: net.as_raw(),
        data: core::ptr::from_ref(&is_stale).cast_mut().cast(),
        ..pin_init::zeroed()
    };
    // SAFETY: process context. The namespace is valid by its invariant; `data` and the closure that
    // it points to outlive the call, and `is_stale_callback` takes it for what it is.
    unsafe { bindings::nf_ct_iterate_cleanup_net(Some(is_stale_callback::<P>), &data) };
}

/// # Safety
///
/// Called by conntrack's walk: `ct` is an entry of the table, under the lock of its bucket, and
/// `predicate` points to a `P`.
unsafe extern "C" fn is_stale_callback<P: Fn(&Tracked<'_>) -> bool>(
    ct: *mut bindings::nf_conn,
    predicate: *mut c_void,
) -> c_int {
    let Some(ct) = NonNull::new(ct) else {
        return 0;
    };
    // SAFETY: by the contract; the closure is shared and never written to.
    let predicate = unsafe { &*predicate.cast::<P>() };
    // INVARIANT: what is in the table is confirmed, and stays while its bucket is locked.
    let entry = Tracked {
        ct,
        lent: PhantomData,
    };
    c_int::from(predicate(&entry))
}

/// Counts a packet that was dropped in the namespace, for `conntrack -S` (`drop`).
pub(crate) fn count_drop(net: &Net) {
    // SAFETY: the namespace is valid by its invariant; its statistics are per CPU, and the counter
    // is incremented by one instruction.
    unsafe { bindings::rustmasq_nf_ct_stat_inc_drop(net.as_raw()) };
}
