// SPDX-License-Identifier: GPL-2.0

//! Connection tracking: the entry of a packet's flow.
//!
//! C header: [`include/net/netfilter/nf_conntrack.h`](srctree/include/net/netfilter/nf_conntrack.h)

use super::tuple::{
    self,
    Direction,
    End,
    Ends,
    FlowTags,
    NatPortPlace,
    Tuple, //
};
use crate::{
    bindings,
    net::{
        address::RawAddress,
        namespace::Net,
        rcu::ReadLocked,
        skb::{
            ahead_of,
            Packet, //
        },
        socket::{
            self,
            Protocol, //
        },
        Family,
        Ipv4,
        ProcessContext, //
    },
};
use core::{
    marker::PhantomData,
    num::NonZero,
    ptr::{
        self,
        NonNull, //
    },
};
use kernel::prelude::*;

/// A number that tells a flow from all others as long as it lives.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct FlowKey(NonZero<usize>);

impl FlowKey {
    /// Returns the key of an entry.
    pub(super) fn of_raw(ct: NonNull<bindings::nf_conn>) -> Self {
        Self(ct.addr())
    }

    /// Returns a key, for tests.
    #[cfg(CONFIG_KUNIT = "y")]
    pub(crate) fn of_number(number: usize) -> Option<Self> {
        NonZero::new(number).map(Self)
    }

    /// Returns the number.
    pub(crate) fn number(self) -> u64 {
        // CAST: A `usize` has 64 bits here.
        self.0.get() as u64
    }
}

/// Conntrack's classification of a packet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum State {
    /// The first packet of a flow, or another one while no reply was seen.
    New,
    /// A packet of a flow that has seen replies.
    Established,
    /// A packet that another flow caused: an ICMP error, or the first packet of an expected flow.
    Related,
    /// A packet that conntrack could not assign to a flow; the rules decide about it.
    Invalid,
    /// Not tracked: exempted by a rule (NOTRACK), or of a kind that conntrack ignores.
    Untracked,
}

/// The conntrack information attached to a packet (`nf_ct_get`).
pub(crate) struct CtInfo<'hook, F: Family> {
    conn: Option<Conn<'hook, F>>,
    info: bindings::ip_conntrack_info,
}

impl<'hook, F: Family> CtInfo<'hook, F> {
    /// Reads what is attached to `packet`.
    pub(crate) fn of_packet(packet: &Packet<'hook, F>) -> Self {
        Self::without(packet, 0)
    }

    /// Reads what is attached to `packet`, without an entry that has one of the status bits.
    #[inline(always)]
    fn without(packet: &Packet<'hook, F>, bits: bindings::ip_conntrack_status) -> Self {
        // A template, which a rule attached, is no entry.
        let bits = bits | bindings::ip_conntrack_status_IPS_TEMPLATE;
        let mut info = 0;
        // SAFETY: The packet is valid by its type's invariant, and `info` is ours to write.
        let ct = unsafe { bindings::rustmasq_nf_ct_get(packet.as_raw(), &mut info) };
        let conn = NonNull::new(ct)
            // SAFETY: The packet holds a reference to what is attached to it, an entry or a template; both
            // are a valid `nf_conn`.
            .filter(|ct| unsafe { status(*ct) } & bits == 0)
            // SAFETY: One of the bits tested above says that this is no template. The packet holds a reference to
            // the entry, and nothing that a callback can do with the borrow makes it drop that in `'hook`.
            .map(|ct| unsafe { Conn::from_raw(ct) });
        Self { conn, info }
    }

    /// Returns the packet's entry, if it has one.
    pub(crate) fn conn(&self) -> Option<&Conn<'hook, F>> {
        self.conn.as_ref()
    }

    /// Returns conntrack's classification of the packet.
    ///
    /// Returns `None` if conntrack has not seen the packet yet, or found it [invalid](State::Invalid),
    /// which leaves no trace on the packet.
    pub(crate) fn state(&self) -> Option<State> {
        const NEW: c_uint = bindings::ip_conntrack_info_IP_CT_NEW;
        const RELATED: c_uint = bindings::ip_conntrack_info_IP_CT_RELATED;
        const RELATED_REPLY: c_uint = bindings::ip_conntrack_info_IP_CT_RELATED_REPLY;
        const UNTRACKED: c_uint = bindings::ip_conntrack_info_IP_CT_UNTRACKED;
        match (&self.conn, self.info) {
            (None, UNTRACKED) => Some(State::Untracked),
            (None, _) => None,
            (_, NEW) => Some(State::New),
            (_, RELATED | RELATED_REPLY) => Some(State::Related),
            _ => Some(State::Established),
        }
    }

    /// Returns the packet's direction, or `None` if it has no entry.
    pub(crate) fn direction(&self) -> Option<Direction> {
        self.conn.as_ref()?;
        Some(Direction::of_info(self.info))
    }

    /// Returns the flow that the packet begins, if it begins one.
    ///
    /// It does if it goes in the original direction and its entry is not confirmed.
    pub(crate) fn new_flow(self) -> Option<NewFlow<'hook, F>> {
        let original = self.direction()? == Direction::Original;
        self.conn
            .filter(|conn| original && !conn.is_confirmed())
            // INVARIANT: The entry was not confirmed a moment ago.
            .map(NewFlow)
    }
}

/// Returns an entry's status bits.
///
/// # Safety
///
/// `ct` must be a valid `struct nf_conn`.
unsafe fn status(ct: NonNull<bindings::nf_conn>) -> u32 {
    // SAFETY: The caller guarantees a valid entry. Other CPUs may change bits meanwhile, so the read is
    // volatile; any word is a value.
    let status = unsafe { ptr::read_volatile(&raw const (*ct.as_ptr()).status) };
    // CAST: No bit above 31 is in use (`__IPS_MAX_BIT`).
    status as u32
}

/// The conntrack entry of a packet.
///
/// # Invariants
///
/// A valid `struct nf_conn` for `'hook`, to which the hook's packet holds a reference, and not a
/// template. Its family is `F`, unless tc or BPF made a packet of one family into one of the other; no
/// memory access relies on the family.
pub(crate) struct Conn<'hook, F: Family> {
    ct: NonNull<bindings::nf_conn>,
    borrow: PhantomData<(&'hook bindings::nf_conn, F)>,
}

impl<F: Family> Conn<'_, F> {
    /// Converts a pointer of C's to a borrow.
    ///
    /// # Safety
    ///
    /// `ct` must fulfil the type's invariants for the lifetime that the caller chooses.
    pub(super) unsafe fn from_raw(ct: NonNull<bindings::nf_conn>) -> Self {
        // INVARIANT: The caller guarantees it.
        Self {
            ct,
            borrow: PhantomData,
        }
    }

    /// Returns the namespace that tracks the flow.
    pub(crate) fn net(&self) -> &Net {
        // SAFETY: The entry is valid by the type's invariant. A namespace waits, when it is removed,
        // until all of its entries are freed (`nf_conntrack_cleanup_net_list`).
        unsafe { Net::from_raw(bindings::rustmasq_nf_ct_net(self.as_raw())) }
    }

    /// Returns whether the flow's source or destination is translated (`IPS_NAT_MASK`).
    pub(crate) fn has_nat(&self) -> bool {
        self.has_status(bindings::ip_conntrack_status_IPS_NAT_MASK)
    }

    /// Returns whether a helper can be assigned: the entry has none (`IPS_HELPER`) and is not confirmed.
    pub(super) fn takes_helper(&self) -> bool {
        !self.has_status(
            bindings::ip_conntrack_status_IPS_HELPER | bindings::ip_conntrack_status_IPS_CONFIRMED,
        )
    }

    /// Returns the entry's identifier (`nf_ct_get_id`), as `conntrack -L -o id` shows it.
    pub(crate) fn id(&self) -> u32 {
        // SAFETY: The entry is valid by the type's invariant. The function reads its address, its master,
        // its namespace and its original tuple, none of which change once a packet has the entry.
        let id = unsafe { bindings::nf_ct_get_id(self.as_raw()) };
        // ctnetlink sends the number unchanged, and its users take it to be in network order.
        u32::from_be(id)
    }

    /// Returns the number that tells the flow from all others as long as it lives.
    #[inline(always)]
    pub(crate) fn key(&self) -> FlowKey {
        FlowKey::of_raw(self.ct)
    }

    /// Returns the tuple of one direction.
    ///
    /// NAT may change the tuple of [`Direction::Reply`] until the entry is confirmed.
    pub(crate) fn tuple(&self, direction: Direction) -> Tuple {
        // SAFETY: The entry is valid by the type's invariant, and conntrack zeroes a tuple before it
        // fills it in. A clone of the packet may write to the tuple of an unconfirmed entry, which
        // `Tuple::from_raw` allows for.
        unsafe { Tuple::from_raw(self.raw_tuple(direction)) }
    }

    /// Returns numbers that tell the flow, and the endpoint that it comes from, from others.
    #[inline(always)]
    pub(crate) fn tags(&self) -> FlowTags {
        let namespace = self.net().tag();
        // SAFETY: The entry is valid by the type's invariant, and conntrack zeroes a tuple before it fills it in.
        unsafe { tuple::tags_of_raw::<F>(self.raw_tuple(Direction::Original), namespace) }
    }

    /// Returns source address, source port and protocol of the original tuple as words, for a hash.
    pub(crate) fn original_source_words(&self) -> [u64; 3] {
        // SAFETY: The entry is valid by the type's invariant, and conntrack zeroes a tuple before it fills it in.
        unsafe { tuple::source_words_of_raw(self.raw_tuple(Direction::Original)) }
    }

    /// Returns C's tuple of one direction, which is valid as long as the entry.
    ///
    /// A clone of the packet may write to it until the entry is confirmed, so reads must be volatile.
    pub(super) fn raw_tuple(&self, direction: Direction) -> *const bindings::nf_conntrack_tuple {
        let index = direction.as_raw() as usize;
        // SAFETY: The entry is valid by the type's invariant, and the index is 0 or 1. No reference is made.
        unsafe { &raw const (*self.as_raw()).tuplehash[index].tuple }
    }

    /// Returns the source address of the tuple of one direction.
    ///
    /// NAT may change the tuple of [`Direction::Reply`] until the entry is confirmed.
    pub(crate) fn source(&self, direction: Direction) -> F::Address {
        let tuple = self.raw_tuple(direction);
        // SAFETY: The entry is valid by the type's invariant, and conntrack zeroes a tuple before it fills it in.
        F::from_raw(&unsafe { tuple::source_address_of_raw(tuple) })
    }

    /// Returns the destination address of the tuple of one direction.
    ///
    /// NAT may change the tuple of [`Direction::Reply`] until the entry is confirmed.
    pub(crate) fn destination(&self, direction: Direction) -> F::Address {
        let tuple = self.raw_tuple(direction);
        // SAFETY: The entry is valid by the type's invariant, and so is a part of its tuple.
        unsafe { Self::address(&raw const (*tuple).dst.u3) }
    }

    /// Reads an address of a tuple of the entry.
    ///
    /// # Safety
    ///
    /// `address` must be a part of a tuple of a valid entry.
    unsafe fn address(address: *const bindings::nf_inet_addr) -> F::Address {
        // SAFETY: The caller guarantees a part of a tuple, and conntrack zeroes a tuple before it fills it in, so all
        // bytes are initialised. The read is volatile, as every read of a tuple: other CPUs can have the entry, too.
        F::from_raw(&unsafe { RawAddress::from_raw(address.read_volatile()) })
    }

    /// Returns the source port of the original tuple in host order, if NAT translates the protocol's ports.
    pub(crate) fn original_source_port(&self) -> Option<u16> {
        const PROTOCOLS: [c_uint; 3] = [
            bindings::IPPROTO_TCP,
            bindings::IPPROTO_UDP,
            bindings::IPPROTO_SCTP,
        ];
        let tuple = self.tuple(Direction::Original);
        PROTOCOLS
            .contains(&c_uint::from(tuple.protocol()))
            .then(|| tuple.ends().source.port)
    }

    /// Returns the entry's status, bits of `enum ip_conntrack_status`.
    pub(crate) fn status(&self) -> u32 {
        // SAFETY: The entry is valid by the type's invariant, and `status` needs no more.
        unsafe { status(self.ct) }
    }

    /// Returns the entry's mark, as `-j CONNMARK` sets it, or 0 if the kernel has no marks.
    pub(crate) fn mark(&self) -> u32 {
        // SAFETY: The entry is valid by the type's invariant; the helper reads the word once.
        unsafe { bindings::rustmasq_nf_ct_mark(self.as_raw()) }
    }

    /// Returns the conntrack zone of a direction, 0 if there is none (`nf_ct_zone_id`).
    pub(crate) fn zone(&self, direction: Direction) -> u16 {
        // SAFETY: The entry is valid by the type's invariant. Its zone was written when it was made, and does not
        // change.
        unsafe {
            let zone = bindings::rustmasq_nf_ct_zone(self.as_raw());
            bindings::rustmasq_nf_ct_zone_id(zone, direction.as_raw())
        }
    }

    /// Returns where another flow comes from that has `tuple` in one of its directions, if there is one.
    ///
    /// The flow is looked up in the namespace and the zone of this entry, as NAT does (`nf_conntrack_tuple_taken`).
    /// Any context but hard interrupts.
    pub(crate) fn holder(&self, tuple: &Tuple) -> Option<End> {
        let holder = Found::find(self.net(), self.zone_of_both(), tuple)?;
        // SAFETY: The entry is valid by the type's invariant, and its tuples are complete and do not change.
        let original =
            unsafe { Tuple::from_raw(&raw const (*holder.ct.as_ptr()).tuplehash[0].tuple) };
        (holder.ct != self.ct).then(|| original.ends().source)
    }

    /// Returns whether a SYN of the client begins a connection, in an entry of TCP that may have been another one's.
    ///
    /// Conntrack keeps the entry of a connection that was reset, and lets another one begin in it (`nf_conntrack_tcp_packet`).
    pub(crate) fn begins_with_syn(&self) -> bool {
        const SYN_SENT: u8 = bindings::tcp_conntrack_TCP_CONNTRACK_SYN_SENT as u8;
        const TIME_WAIT: u8 = bindings::tcp_conntrack_TCP_CONNTRACK_TIME_WAIT as u8;
        const CLOSE: u8 = bindings::tcp_conntrack_TCP_CONNTRACK_CLOSE as u8;
        // SAFETY: The entry is valid by the type's invariant; any byte is a value.
        let state = unsafe { bindings::rustmasq_nf_ct_tcp_state(self.as_raw()) };
        matches!(state, SYN_SENT | TIME_WAIT | CLOSE)
    }

    /// Returns where the packets of the flow with this original tuple are led to, if there is such a flow: the end that
    /// replies come from.
    ///
    /// It is looked up in the namespace and the zone of this entry. Any context but hard interrupts.
    pub(crate) fn destination_of(&self, original: &Tuple) -> Option<End> {
        let found = Found::find(self.net(), self.zone_of_both(), original)?;
        // SAFETY: The entry is valid by the type's invariant, and its tuples are complete and do not change.
        let reply = unsafe { Tuple::from_raw(&raw const (*found.ct.as_ptr()).tuplehash[1].tuple) };
        Some(reply.ends().source)
    }

    /// Returns whether the reply tuple `reply` is taken by another flow (`nf_conntrack_tuple_taken`).
    ///
    /// One with the same original tuple as this flow does not count: it is the same flow, and conntrack merges
    /// the two. Costs a look-up. Any context but hard interrupts.
    pub(crate) fn is_taken(&self, reply: &Tuple) -> bool {
        // SAFETY: The entry is valid by the type's invariant, and so is `reply`. The function takes the RCU read lock
        // itself and reads both during the call only. It may free expired entries, which is allowed wherever packets
        // are, but not this one, to which the packet holds a reference.
        unsafe { bindings::nf_conntrack_tuple_taken(reply.as_raw(), self.as_raw()) != 0 }
    }

    /// Returns the flow's zone.
    pub(crate) fn zone_of_both(&self) -> Zone {
        // SAFETY: The entry is valid by the type's invariant.
        unsafe { Zone::of_raw(self.as_raw()) }
    }

    /// Ends the TCP connection that has the reply tuple `reply`, if it is over and this flow, whose packet is a SYN, can
    /// follow it.
    ///
    /// It can if its sequence number is beyond that of the old connection, so that nobody takes old segments for
    /// new ones. Follows `nf_nat_used_tuple_harder`. Returns whether the tuple is free now. A hook.
    pub(crate) fn succeed(&self, reply: &Tuple) -> bool {
        const SYN_SENT: u8 = bindings::tcp_conntrack_TCP_CONNTRACK_SYN_SENT as u8;
        // SAFETY: The entry is valid by the type's invariant; its packet's handler is alone with it.
        let (state, end) = unsafe {
            (
                bindings::rustmasq_nf_ct_tcp_state(self.as_raw()),
                bindings::rustmasq_nf_ct_tcp_original_end(self.as_raw()),
            )
        };
        let Some(old) = Found::find(self.net(), self.zone_of_both(), reply) else {
            return true;
        };
        if state != SYN_SENT || !old.is_over() {
            return false;
        }
        // SAFETY: The entry is valid by the type's invariant, and one of TCP, as `is_over` says.
        let old_end = unsafe { bindings::rustmasq_nf_ct_tcp_original_end(old.ct.as_ptr()) };
        if ahead_of(end, old_end) <= 0 {
            return false;
        }
        // SAFETY: The entry is valid and confirmed by the type's invariant. The function takes it out of the table,
        // unless somebody else has, and gives up the table's reference, not ours.
        unsafe { bindings::nf_ct_delete(old.ct.as_ptr(), 0, 0) }
    }

    pub(super) fn is_confirmed(&self) -> bool {
        self.has_status(bindings::ip_conntrack_status_IPS_CONFIRMED)
    }

    /// Returns whether one of `bits` is set.
    fn has_status(&self, bits: bindings::ip_conntrack_status) -> bool {
        self.status() & bits != 0
    }

    /// Returns C's pointer.
    pub(super) fn as_raw(&self) -> *mut bindings::nf_conn {
        self.ct.as_ptr()
    }
}

/// A conntrack zone, with the directions that it holds for.
#[derive(Clone, Copy, Eq, PartialEq)]
pub(crate) struct Zone {
    id: u16,
    flags: u8,
    directions: u8,
}

impl Zone {
    /// Returns an entry's zone.
    ///
    /// # Safety
    ///
    /// `ct` must be a valid entry.
    pub(super) unsafe fn of_raw(ct: *const bindings::nf_conn) -> Self {
        // SAFETY: The caller guarantees a valid entry. Its zone was written when it was made, and does not change.
        let zone = unsafe { &*bindings::rustmasq_nf_ct_zone(ct) };
        Self {
            id: zone.id,
            flags: zone.flags,
            directions: zone.dir,
        }
    }

    /// Returns the zone's number, 0 for the default one.
    pub(crate) fn id(self) -> u16 {
        self.id
    }

    /// Returns the zone's number in a direction, 0 if it is not for that (`nf_ct_zone_id`).
    #[inline(always)]
    pub(crate) fn id_in(self, direction: Direction) -> u16 {
        if self.directions >> direction.as_raw() & 1 != 0 {
            self.id
        } else {
            0
        }
    }

    fn to_raw(self) -> bindings::nf_conntrack_zone {
        bindings::nf_conntrack_zone {
            id: self.id,
            flags: self.flags,
            dir: self.directions,
        }
    }
}

/// The use of a reply tuple, as conntrack's table has it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Use {
    /// No flow has it.
    Free,
    /// A flow has it, or another one has it as its original tuple.
    Taken,
    /// A TCP connection has it that is over (TIME_WAIT or later) and whose source is translated.
    Over,
}

/// Looks a reply tuple up in conntrack's table.
///
/// Follows `nf_nat_used_tuple_harder`. Any context but hard interrupts.
pub(crate) fn look_up(net: &Net, zone: Zone, reply: &Tuple) -> Use {
    Found::find(net, zone, reply).map_or(Use::Free, |found| {
        if found.is_over() {
            Use::Over
        } else {
            Use::Taken
        }
    })
}

/// An entry that was found in conntrack's table.
///
/// # Invariants
///
/// A valid and confirmed entry, to which the value owns a reference.
struct Found {
    ct: NonNull<bindings::nf_conn>,
    /// The tuple that was looked for is the entry's reply tuple.
    by_reply: bool,
}

impl Found {
    fn find(net: &Net, zone: Zone, tuple: &Tuple) -> Option<Self> {
        // SAFETY: The namespace is valid by its type's invariant, and zone and tuple live for the call. The function
        // takes the RCU read lock itself, and returns null or a part of an entry with a reference, which is ours.
        let hash = unsafe {
            bindings::nf_conntrack_find_get(net.as_raw(), &zone.to_raw(), tuple.as_raw())
        };
        if hash.is_null() {
            return None;
        }
        // SAFETY: The reference keeps the entry. It is in conntrack's table, so its tuples do not change.
        unsafe {
            let ct = bindings::rustmasq_nf_ct_tuplehash_to_ctrack(hash);
            let reply = bindings::ip_conntrack_dir_IP_CT_DIR_REPLY as u8;
            // INVARIANT: An entry in the table is confirmed.
            Some(Self {
                ct: NonNull::new_unchecked(ct),
                by_reply: (*hash).tuple.dst.dir == reply,
            })
        }
    }

    /// Returns whether NAT may end the flow to give its port to another one (`nf_nat_may_kill`).
    fn is_over(&self) -> bool {
        const TIME_WAIT: u8 = bindings::tcp_conntrack_TCP_CONNTRACK_TIME_WAIT as u8;
        const REFUSE: c_uint = bindings::ip_conntrack_status_IPS_FIXED_TIMEOUT
            | bindings::ip_conntrack_status_IPS_DYING
            | bindings::ip_conntrack_status_IPS_OFFLOAD
            | bindings::ip_conntrack_status_IPS_HW_OFFLOAD;
        const NEED: c_uint = bindings::ip_conntrack_status_IPS_SRC_NAT;
        // SAFETY: The entry is valid by the type's invariant.
        let (status, tcp, state) = unsafe {
            let ct = self.ct.as_ptr();
            let protocol = (*ct).tuplehash[1].tuple.dst.protonum;
            let tcp = c_uint::from(protocol) == bindings::IPPROTO_TCP;
            (status(self.ct), tcp, bindings::rustmasq_nf_ct_tcp_state(ct))
        };
        self.by_reply && tcp && state >= TIME_WAIT && status & (REFUSE | NEED) == NEED
    }
}

impl Drop for Found {
    fn drop(&mut self) {
        // SAFETY: The reference is ours to put. To put the last one frees the entry, which is allowed wherever packets
        // are.
        unsafe { bindings::rustmasq_nf_ct_put(self.ct.as_ptr()) };
    }
}

/// A flow's entry before its confirmation.
///
/// Conntrack assumes that a single packet leads to such an entry. Clones of a packet (bridges, multicast
/// routing) break that in rare cases, for C as well; functions that change the entry check again that it
/// is not confirmed.
///
/// # Invariants
///
/// The entry was not confirmed (not in conntrack's table) when the value was made.
pub(crate) struct NewFlow<'hook, F: Family>(Conn<'hook, F>);

impl<'hook, F: Family> core::ops::Deref for NewFlow<'hook, F> {
    type Target = Conn<'hook, F>;

    fn deref(&self) -> &Conn<'hook, F> {
        &self.0
    }
}

/// A flow whose source NAT is not set up yet, for one target to set up.
///
/// [`nat::masquerade`](super::nat::masquerade) consumes it: NAT must be set up once.
///
/// # Invariants
///
/// The entry was neither confirmed nor had its source NAT set up when the value was made, by a target in
/// the table `nat`, chain POSTROUTING, or by a function that NAT calls at PRE_ROUTING, which has set up destination NAT then.
/// There is one such value for a call.
pub(crate) struct UnsettledFlow<'hook, F: Family> {
    conn: Conn<'hook, F>,
    /// The index of the device that the packet is forwarded by; `None` if this host sent it.
    forwarded_by: Option<c_int>,
}

impl<'hook, F: Family> UnsettledFlow<'hook, F> {
    /// Returns the packet's flow, unless it has none, or its source NAT is set up or can no longer be, because the entry
    /// is in conntrack's table.
    ///
    /// # Safety
    ///
    /// The caller must be a target in the table `nat`, chain POSTROUTING, called for `packet`, and must
    /// call this once: NAT calls that chain only while source NAT is not set up.
    pub(super) unsafe fn of_packet(
        packet: &Packet<'hook, F>,
        forwarded_by: Option<c_int>,
    ) -> Option<Self> {
        const SETTLED: c_uint = bindings::ip_conntrack_status_IPS_CONFIRMED
            | bindings::ip_conntrack_status_IPS_SRC_NAT_DONE;
        // INVARIANT: Neither bit was set, and the caller is such a target.
        CtInfo::without(packet, SETTLED)
            .conn
            .map(|conn| Self { conn, forwarded_by })
    }

    /// Returns whether a socket of this host receives what answers `reply`, the reply tuple that the flow would have.
    ///
    /// Then a flow of another host must not have it: whoever answers would reach that host in the socket's place. Flows of
    /// this host have sockets themselves. See [`socket::is_served`]. A hook.
    #[inline(always)]
    pub(crate) fn shadows_socket(&self, reply: &Tuple) -> bool {
        let receives = |device| has_receiver(self.net(), reply, device, self);
        self.forwarded_by.is_some_and(receives)
    }

    /// Returns the reply tuple that the flow gets if it leaves with the source address `source` and its own port.
    pub(crate) fn reply_to(&self, source: F::Address) -> Tuple {
        self.tuple(Direction::Reply).with_destination::<F>(source)
    }

    /// Changes the port of the reply tuple that source NAT may change, unless the entry is confirmed by now.
    ///
    /// `nf_nat_setup_info` takes it for the flow's own port then.
    pub(super) fn set_nat_port(&self, port: u16) {
        let place = self.tuple(Direction::Reply).nat_port_place();
        if self.is_confirmed() {
            return;
        }
        let reply = self.raw_tuple(Direction::Reply).cast_mut();
        // SAFETY: The entry is valid by the type's invariant. Before it is confirmed, whoever handles its packet is
        // alone with it, and NAT changes the reply tuple in the same way (`nf_conntrack_alter_reply`). A clone of the
        // packet may read meanwhile, so the write is volatile. `all` is an integer in both unions.
        unsafe {
            match place {
                Some(NatPortPlace::Destination) => {
                    (&raw mut (*reply).dst.u.all).write_volatile(port.to_be());
                }
                Some(NatPortPlace::Identifier) => {
                    (&raw mut (*reply).src.u.all).write_volatile(port.to_be());
                }
                None => {}
            }
        }
    }
}

impl<'hook, F: Family> core::ops::Deref for UnsettledFlow<'hook, F> {
    type Target = Conn<'hook, F>;

    fn deref(&self) -> &Conn<'hook, F> {
        &self.conn
    }
}

// SAFETY: The value exists during a hook's call, which holds the lock.
unsafe impl<F: Family> ReadLocked for UnsettledFlow<'_, F> {}

/// Returns whether a socket of this host receives packets with this tuple of TCP or UDP that come by the device with the
/// index `device`.
#[inline(always)]
fn has_receiver(net: &Net, tuple: &Tuple, device: c_int, reader: &impl ReadLocked) -> bool {
    let protocol = if tuple.is_tcp() {
        Protocol::Tcp
    } else if tuple.is_udp() {
        Protocol::Udp
    } else {
        return false;
    };
    let ends = || {
        let Ends {
            source,
            destination,
        } = tuple.ends();
        (
            (source.address, source.port),
            (destination.address, destination.port),
        )
    };
    socket::is_served(
        net,
        protocol,
        tuple.destination_port(),
        ends,
        device,
        reader,
    )
}

/// A flow whose destination NAT is not set up yet, for one function of NAT to set up.
///
/// [`nat::translate_destination`](super::nat::translate_destination) consumes it: NAT must be set up once.
///
/// # Invariants
///
/// The entry was neither confirmed nor had any NAT set up when the value was made, by a function that NAT calls at
/// PRE_ROUTING. There is one such value for a call of the function.
pub(crate) struct IncomingFlow<'hook, F: Family>(Conn<'hook, F>);

impl<'hook, F: Family> IncomingFlow<'hook, F> {
    /// Returns the packet's flow, unless it has none, or its NAT is set up or can no longer be, because the entry is in
    /// conntrack's table.
    ///
    /// # Safety
    ///
    /// The caller must be a function that NAT calls at PRE_ROUTING for `packet`, and must call this once: NAT calls it
    /// only while destination NAT is not set up.
    pub(super) unsafe fn of_packet(packet: &Packet<'hook, F>) -> Option<Self> {
        const SETTLED: c_uint = bindings::ip_conntrack_status_IPS_CONFIRMED
            | bindings::ip_conntrack_status_IPS_NAT_DONE_MASK;
        // INVARIANT: Neither bit was set, and the caller is such a function.
        CtInfo::without(packet, SETTLED).conn.map(Self)
    }

    /// Returns the flow for source NAT, whose destination NAT has been set up. Answers come by the device with the index
    /// `device`.
    pub(super) fn unsettled(self, device: c_int) -> UnsettledFlow<'hook, F> {
        // INVARIANT: By that of this value, which is gone.
        UnsettledFlow {
            conn: self.0,
            forwarded_by: Some(device),
        }
    }

    /// Returns whether a socket of this host receives the flow, which comes by the device with the index `device`.
    #[inline(always)]
    pub(crate) fn has_receiver(&self, tuple: &Tuple, device: c_int) -> bool {
        has_receiver(self.net(), tuple, device, self)
    }
}

// SAFETY: The value exists during a hook's call, which holds the lock.
unsafe impl<F: Family> ReadLocked for IncomingFlow<'_, F> {}

impl<'hook, F: Family> core::ops::Deref for IncomingFlow<'hook, F> {
    type Target = Conn<'hook, F>;

    fn deref(&self) -> &Conn<'hook, F> {
        &self.0
    }
}

/// Returns whether conntrack is enabled in the namespace for the family `F`.
///
/// Conntrack's counters of users are not exported, so this looks for its hook at PRE_ROUTING. Any context.
pub(crate) fn is_enabled<F: Family>(net: &Net) -> bool {
    has_hook::<F>(
        net,
        bindings::nf_inet_hooks_NF_INET_PRE_ROUTING,
        bindings::nf_ip_hook_priorities_NF_IP_PRI_CONNTRACK,
    )
}

/// Returns whether a hook of a fixed kind is registered at the point with the priority.
///
/// Hooks of nftables chains and of BPF programs, whose priorities are the user's, do not count.
fn has_hook<F: Family>(net: &Net, point: bindings::nf_inet_hooks, priority: c_int) -> bool {
    let _guard = kernel::sync::rcu::read_lock();
    // SAFETY: The namespace is valid by its type's invariant. Writers publish a table of hooks by one
    // store of the pointer, which this reads once.
    let hooks = unsafe {
        let nf = &raw const (*net.as_raw()).nf;
        let table = if F::NFPROTO == Ipv4::NFPROTO {
            &raw const (*nf).hooks_ipv4
        } else {
            &raw const (*nf).hooks_ipv6
        };
        ptr::read_volatile(&raw const (*table)[point as usize])
    };
    if hooks.is_null() {
        return false;
    }
    // SAFETY: The table is not null, so it is valid until the guard ends. As many pointers to operations
    // follow its hooks. Unregistering a hook replaces its pointer by one to static operations
    // (`nf_remove_net_hook`), and the owner frees the hook's own after a grace period. No reference to the
    // operations is made: `kfree_rcu` may write to another of their fields meanwhile.
    unsafe {
        let count = usize::from(bindings::rustmasq_nf_hook_entries_count(hooks));
        let ops = bindings::rustmasq_nf_hook_entries_get_hook_ops(hooks);
        (0..count).any(|n| {
            let ops = ptr::read_volatile(ops.add(n));
            (*ops).priority == priority
                && bindings::nf_hook_ops::hook_ops_type_raw(ops)
                    == bindings::nf_hook_ops_type_NF_HOOK_OP_UNDEFINED
        })
    }
}

/// A confirmed entry, during a walk of conntrack's table.
///
/// # Invariants
///
/// A valid `struct nf_conn` for `'walk`, and confirmed: its tuples do not change, and no extension is added,
/// which would move those that it has.
pub(crate) struct ConfirmedConn<'walk> {
    ct: NonNull<bindings::nf_conn>,
    borrow: PhantomData<&'walk bindings::nf_conn>,
}

impl ConfirmedConn<'_> {
    /// Returns the index of the device that the flow was masqueraded to (`masq_index`), if it was.
    pub(crate) fn masqueraded_to(&self) -> Option<c_int> {
        // SAFETY: The entry is valid by the type's invariant; the function looks up an extension.
        let nat = unsafe { bindings::rustmasq_nfct_nat(self.ct.as_ptr()) };
        if nat.is_null() {
            return None;
        }
        // SAFETY: `nat` is not null, so it is an extension of the entry, which does not move by the type's
        // invariant. The word was written before the entry was confirmed; a clone of the flow's first
        // packet could write it once more, so the read is volatile.
        Some(unsafe { (&raw const (*nat).masq_index).read_volatile() }).filter(|index| *index != 0)
    }

    /// Returns the original tuple and the zone, if the flow's destination is translated.
    pub(crate) fn translated_destination(&self) -> Option<(Tuple, Zone)> {
        // SAFETY: The entry is valid by the type's invariant, and conntrack zeroed the tuple before it filled it in, so all
        // bytes are initialised.
        unsafe {
            (status(self.ct) & bindings::ip_conntrack_status_IPS_DST_NAT != 0).then(|| {
                (
                    Tuple::from_raw(&raw const (*self.ct.as_ptr()).tuplehash[0].tuple),
                    Zone::of_raw(self.ct.as_ptr()),
                )
            })
        }
    }

    /// Returns whether the flow was answered.
    pub(crate) fn is_answered(&self) -> bool {
        // SAFETY: The entry is valid by the type's invariant.
        unsafe { status(self.ct) & bindings::ip_conntrack_status_IPS_SEEN_REPLY != 0 }
    }

    /// Returns the ends of the reply tuple.
    pub(crate) fn reply_ends(&self) -> Ends {
        // SAFETY: The entry is valid by the type's invariant, and conntrack zeroed the tuple before it
        // filled it in, so all bytes are initialised.
        let reply = unsafe { Tuple::from_raw(&raw const (*self.ct.as_ptr()).tuplehash[1].tuple) };
        reply.ends()
    }
}

/// Removes those entries of the namespace from conntrack's table for which `is_stale` returns true.
///
/// Follows `nf_ct_iterate_cleanup_net`. `is_stale` is called under a lock of the table and must not
/// sleep. Process context; sleeps.
pub(crate) fn cleanup<P: Fn(&ConfirmedConn<'_>) -> bool>(
    net: &Net,
    is_stale: P,
    context: &mut ProcessContext,
) {
    context.assert_may_sleep();
    let data = bindings::nf_ct_iter_data {
        net: net.as_raw(),
        data: ptr::from_ref(&is_stale).cast_mut().cast(),
        ..pin_init::zeroed()
    };
    // SAFETY: `context` is evidence of process context. The namespace is valid by its type's invariant, so
    // conntrack's part of it is, too. `data` and the closure that it points to live for the call, and
    // `is_stale_callback::<P>` converts the pointer back to a `P`.
    unsafe { bindings::nf_ct_iterate_cleanup_net(Some(is_stale_callback::<P>), &data) };
}

/// Calls the closure of [`cleanup`] for one entry.
///
/// # Safety
///
/// Called by the walk of conntrack's table: `ct` is an entry of the table, whose bucket is locked, and
/// `predicate` points to a `P`.
unsafe extern "C" fn is_stale_callback<P: Fn(&ConfirmedConn<'_>) -> bool>(
    ct: *mut bindings::nf_conn,
    predicate: *mut c_void,
) -> c_int {
    let Some(ct) = NonNull::new(ct) else {
        return 0;
    };
    // SAFETY: `predicate` points to the closure that `cleanup` borrows for the whole walk, and nothing
    // writes to it.
    let predicate = unsafe { &*predicate.cast::<P>() };
    // INVARIANT: An entry is put into the table when it is confirmed, and stays while its bucket is
    // locked.
    let conn = ConfirmedConn {
        ct,
        borrow: PhantomData,
    };
    c_int::from(predicate(&conn))
}

/// Counts a dropped packet in the namespace's statistics (`conntrack -S`, `drop`).
///
/// Any context.
pub(crate) fn count_drop(net: &Net) {
    // SAFETY: The namespace is valid by its type's invariant, and its statistics are freed only when it is
    // torn down, after its last entry and a grace period. They are per CPU, and `this_cpu_inc` is safe
    // against preemption and interrupts.
    unsafe { bindings::rustmasq_nf_ct_stat_inc_drop(net.as_raw()) };
}
