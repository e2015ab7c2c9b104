// SPDX-License-Identifier: GPL-2.0

//! Connection tracking: what conntrack knows of a packet's flow.
//!
//! C header: [`include/net/netfilter/nf_conntrack.h`](srctree/include/net/netfilter/nf_conntrack.h)

use super::{
    net::Net,
    skb::Packet,
    tuple::{
        Direction,
        Tuple, //
    },
    AnyAddress,
    Family,
    ProcessContext, //
};
use crate::bindings;
use core::{
    marker::PhantomData,
    ptr::NonNull, //
};
use kernel::prelude::*;

/// What conntrack found a packet to be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum State {
    /// The first of its flow, or one more while no answer was seen.
    New,
    /// One of a flow with answers.
    Established,
    /// One of another flow's making: an ICMP error, or the first of a flow that was expected.
    Related,
    /// One that it could not make sense of; the rules decide.
    Invalid,
    /// None of conntrack's business, by a rule or by its kind.
    Untracked,
}

/// What conntrack made of a packet, up to where it is looked at.
pub(crate) struct Sight<'hook, F: Family> {
    entry: Option<Entry<'hook, F>>,
    info: bindings::ip_conntrack_info,
}

impl<'hook, F: Family> Sight<'hook, F> {
    pub(super) fn of_packet(packet: &Packet<'hook, F>) -> Self {
        let mut info = 0;
        // SAFETY: the packet is valid by its invariant, and `info` is ours to be written.
        let ct = unsafe { bindings::rustmasq_nf_ct_get(packet.as_raw(), &mut info) };
        // SAFETY: the packet holds a reference to its entry, for `'hook` and longer. (Whether it is a
        // template is looked at next.)
        let entry = NonNull::new(ct).map(|ct| unsafe { Entry::from_raw(ct) });
        // A template is no entry yet, but what a rule wants of one.
        let template = bindings::ip_conntrack_status_IPS_TEMPLATE;
        Self {
            entry: entry.filter(|entry| !entry.has_status(template)),
            info,
        }
    }

    /// The packet's entry, if it has one.
    pub(crate) fn entry(&self) -> Option<&Entry<'hook, F>> {
        self.entry.as_ref()
    }

    /// What conntrack found the packet to be. None: it did not look at it yet, or found it
    /// [invalid](State::Invalid), which leaves no trace.
    pub(crate) fn state(&self) -> Option<State> {
        const NEW: c_uint = bindings::ip_conntrack_info_IP_CT_NEW;
        const RELATED: c_uint = bindings::ip_conntrack_info_IP_CT_RELATED;
        const RELATED_REPLY: c_uint = bindings::ip_conntrack_info_IP_CT_RELATED_REPLY;
        const UNTRACKED: c_uint = bindings::ip_conntrack_info_IP_CT_UNTRACKED;
        match (&self.entry, self.info) {
            (None, UNTRACKED) => Some(State::Untracked),
            (None, _) => None,
            (_, NEW) => Some(State::New),
            (_, RELATED | RELATED_REPLY) => Some(State::Related),
            _ => Some(State::Established),
        }
    }

    /// The direction in which the packet goes. None: it has no entry.
    pub(crate) fn direction(&self) -> Option<Direction> {
        self.entry.as_ref()?;
        Some(Direction::of_info(self.info))
    }

    /// The flow that the packet begins: it goes in the original direction, and its entry is not
    /// confirmed.
    pub(crate) fn beginning(self) -> Option<NewFlow<'hook, F>> {
        let begins = self.direction()? == Direction::Original;
        self.entry
            .filter(|entry| begins && !entry.is_confirmed())
            // INVARIANT: it is not confirmed, we have just looked.
            .map(NewFlow)
    }
}

/// Conntrack's entry for a packet.
///
/// # Invariants
///
/// A valid `struct nf_conn` for `'hook`, referenced by the packet that the hook works on, and no
/// template. It is of the family `F`, unless somebody made a packet of another family of its packet
/// (tc, BPF): nothing that concerns memory relies on that.
pub(crate) struct Entry<'hook, F: Family> {
    ct: NonNull<bindings::nf_conn>,
    lent: PhantomData<(&'hook bindings::nf_conn, F)>,
}

impl<F: Family> Entry<'_, F> {
    /// # Safety
    ///
    /// `ct` must fulfil the type's invariants.
    pub(super) unsafe fn from_raw(ct: NonNull<bindings::nf_conn>) -> Self {
        // INVARIANT: the caller's duty.
        Self {
            ct,
            lent: PhantomData,
        }
    }

    /// The namespace that tracks the flow.
    pub(crate) fn net(&self) -> &Net {
        // SAFETY: the entry is valid by the invariant, and its namespace outlives it.
        unsafe { Net::from_raw(bindings::rustmasq_nf_ct_net(self.as_raw())) }
    }

    /// Whether the flow's source or destination is translated (`IPS_NAT_MASK`).
    pub(crate) fn has_nat(&self) -> bool {
        self.has_status(bindings::ip_conntrack_status_IPS_NAT_MASK)
    }

    /// Whether a helper can be assigned: there is none (`IPS_HELPER`), and the entry is not confirmed.
    pub(super) fn takes_helper(&self) -> bool {
        !self.has_status(
            bindings::ip_conntrack_status_IPS_HELPER | bindings::ip_conntrack_status_IPS_CONFIRMED,
        )
    }

    /// Conntrack's own number for the entry (`nf_ct_get_id`), as `conntrack -L -o id` shows it.
    pub(crate) fn id(&self) -> u32 {
        // SAFETY: the entry is valid by the invariant; of what is hashed nothing changes.
        let id = unsafe { bindings::nf_ct_get_id(self.as_raw()) };
        // ctnetlink sends the number as it is and its readers take it to be in network order.
        u32::from_be(id)
    }

    /// The tuple of one direction. That of [`Direction::Reply`] is settled once the entry is
    /// confirmed; before, NAT may still change it.
    pub(crate) fn tuple(&self, direction: Direction) -> Tuple {
        let index = direction.as_raw() as usize;
        // SAFETY: the entry is valid by the invariant. Of an unconfirmed one whoever handles its
        // packet alone, as we do, changes the tuples; nobody does afterwards. Conntrack zeroes and
        // fills them as a tuple's invariants say.
        unsafe { Tuple::from_raw(&raw const (*self.as_raw()).tuplehash[index].tuple) }
    }

    /// The entry's status, bits of `enum ip_conntrack_status`.
    pub(crate) fn status(&self) -> u32 {
        // SAFETY: the entry is valid by the invariant; other CPUs change status bits atomically, so
        // it is read as one word, volatile.
        let status = unsafe { core::ptr::read_volatile(&raw const (*self.as_raw()).status) };
        // CAST: no bit above 31 is in use (`__IPS_MAX_BIT`).
        status as u32
    }

    /// The entry's mark, as `-j CONNMARK` sets it; 0 where the kernel has none.
    pub(crate) fn mark(&self) -> u32 {
        // SAFETY: the entry is valid by the invariant; read once.
        unsafe { bindings::rustmasq_nf_ct_mark(self.as_raw()) }
    }

    fn is_confirmed(&self) -> bool {
        self.has_status(bindings::ip_conntrack_status_IPS_CONFIRMED)
    }

    /// Whether one of `bits` is set.
    fn has_status(&self, bits: bindings::ip_conntrack_status) -> bool {
        self.status() & bits != 0
    }

    pub(super) fn as_raw(&self) -> *mut bindings::nf_conn {
        self.ct.as_ptr()
    }
}

/// What conntrack has for a packet that leaves.
pub(crate) enum Flow<'hook, F: Family> {
    /// Nothing: the packet is not tracked.
    Untracked,
    /// An entry whose source NAT is settled: it is in conntrack's table, or NAT was set up already.
    Settled,
    /// An entry that is to get its source NAT yet.
    New(NewFlow<'hook, F>),
}

impl<'hook, F: Family> Flow<'hook, F> {
    pub(super) fn of_packet(packet: &Packet<'hook, F>) -> Self {
        const SETTLED: c_uint = bindings::ip_conntrack_status_IPS_CONFIRMED
            | bindings::ip_conntrack_status_IPS_SRC_NAT_DONE;
        match Sight::of_packet(packet).entry {
            None => Flow::Untracked,
            Some(entry) if entry.status() & SETTLED != 0 => Flow::Settled,
            // INVARIANT: it is not confirmed, we have just looked.
            Some(entry) => Flow::New(NewFlow(entry)),
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
/// The entry was not confirmed (not in conntrack's table) when this was made.
pub(crate) struct NewFlow<'hook, F: Family>(Entry<'hook, F>);

impl<F: Family> NewFlow<'_, F> {
    /// The source address that the flow came with: that of the ORIGINAL tuple.
    pub(crate) fn original_source(&self) -> F::Address {
        self.tuple(Direction::Original).source_address::<F>()
    }
}

impl<'hook, F: Family> core::ops::Deref for NewFlow<'hook, F> {
    type Target = Entry<'hook, F>;

    fn deref(&self) -> &Entry<'hook, F> {
        &self.0
    }
}

/// Whether conntrack is on in the namespace, for the family.
///
/// It does not say so itself (its counters of users are not exported), so its hook is looked for: at
/// PRE_ROUTING, with the priority that is its own, and none of nftables'.
pub(crate) fn is_on<F: Family>(net: &Net) -> bool {
    net.has_hook::<F>(
        bindings::nf_inet_hooks_NF_INET_PRE_ROUTING,
        bindings::nf_ip_hook_priorities_NF_IP_PRI_CONNTRACK,
    )
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
        // SAFETY: not null, thus part of the entry. It was written before the entry was confirmed; a
        // clone of the flow's first packet could write once more, hence volatile.
        Some(unsafe { (&raw const (*nat).masq_index).read_volatile() }).filter(|index| *index != 0)
    }

    /// Where answers go: the destination of the REPLY tuple.
    pub(crate) fn reply_destination(&self) -> AnyAddress {
        // SAFETY: the entry is valid and its tuples do not change, by the invariant; they are as a
        // tuple's invariants say.
        let reply = unsafe { Tuple::from_raw(&raw const (*self.ct.as_ptr()).tuplehash[1].tuple) };
        reply.ends().destination.address
    }
}

/// Walks the namespace's entries and forgets those that `is_stale` says so of. May sleep; `is_stale`
/// must not, it runs under a lock of the table.
pub(crate) fn forget<P: Fn(&Tracked<'_>) -> bool>(
    net: &Net,
    is_stale: P,
    _context: &mut ProcessContext,
) {
    let data = bindings::nf_ct_iter_data {
        net: net.as_raw(),
        data: core::ptr::from_ref(&is_stale).cast_mut().cast(),
        ..pin_init::zeroed()
    };
    // SAFETY: we are in process context. The namespace is valid by its invariant; `data` and the
    // closure that it points to outlive the call, and `is_stale_callback` takes it for what it is.
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
