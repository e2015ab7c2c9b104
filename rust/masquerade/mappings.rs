// SPDX-License-Identifier: GPL-2.0

//! The mappings of a namespace: which outside port belongs to an inside endpoint, whatever it talks to.
//!
//! A mapping is in two tables, by its inside endpoint and by its outside one. A third table has the ports that mappings
//! use, by outside address, a fourth one whom they speak to. Of several parts, that of the inside endpoint is locked
//! first, and the others one at a time.

use super::{
    cone,
    endpoint::Endpoint,
    per_net::{
        look_after_mappings,
        State, //
    },
    table::{
        Key,
        Part,
        Table,
        PARTS, //
    },
    uplinks::Uplinks,
    used_ports::UsedPorts,
};
use crate::net::{
    context::BottomHalvesOff,
    namespace::Net,
    parameters::mappings_max,
    proc::{
        NetFile,
        NetFileContent, //
    },
    random::{
        WordsHash,
        FACTOR, //
    },
    rcu::{
        free_after_grace_period,
        RcuBox, //
    },
    AnyAddress,
    ProcessContext, //
};
use core::{
    cell::Cell,
    ops::Range, //
};
use kernel::{
    prelude::*,
    seq_file::{
        seq_print,
        SeqFile, //
    },
    sync::{
        atomic::{
            Atomic,
            AtomicFlag,
            Relaxed, //
        },
        new_spinlock,
        rcu,
        Arc, //
    },
};

/// The number of seconds in which all parts are looked through for mappings that are over.
const ROUND: u32 = 8;

/// The senders that may begin a flow to a mapping from outside.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Filtering {
    /// Anybody (RFC 4787: endpoint-independent filtering).
    EndpointIndependent,
    /// Those with an address that the inside endpoint speaks to (address-dependent filtering).
    AddressDependent,
    /// Nobody: conntrack lets those answer that the inside endpoint has spoken to (address and port-dependent filtering).
    AddressAndPortDependent,
}

/// An inside endpoint that leaves with an outside address, for which a port is given.
#[derive(Clone, Copy, Eq, PartialEq)]
pub(super) struct Inside {
    pub(super) endpoint: Endpoint,
    /// The address, of the same family, as words.
    pub(super) outside_address: [u64; 2],
    /// The zone of replies. That of the endpoint may be for the other direction alone.
    pub(super) outside_zone: u16,
}

impl Inside {
    /// Returns the outside end with a port, in host order.
    fn outside(&self, port: u16) -> Endpoint {
        self.endpoint
            .with_address(self.outside_address, self.outside_zone)
            .with_port(port)
    }
}

impl Key for Inside {
    type Item = Mapping;

    fn of(mapping: &Mapping) -> Self {
        mapping.inside
    }

    #[inline(always)]
    fn is_of(&self, mapping: &Mapping) -> bool {
        mapping.inside == *self
    }

    #[inline(always)]
    fn hash(&self, hash: &WordsHash) -> u32 {
        let ([low, high, rest], [outside, more]) = (self.endpoint.words(), self.outside_address);
        hash.hash([[low, rest], [outside, high]], [more, 0])
    }
}

/// An outside endpoint.
#[derive(Clone, Copy, Eq, PartialEq)]
struct Outside(Endpoint);

impl Key for Outside {
    type Item = Mapping;

    fn of(mapping: &Mapping) -> Self {
        Self(mapping.outside())
    }

    #[inline(always)]
    fn is_of(&self, mapping: &Mapping) -> bool {
        mapping.outside() == self.0
    }

    #[inline(always)]
    fn hash(&self, hash: &WordsHash) -> u32 {
        self.0.hash(hash)
    }
}

/// An outside address, for which ports are given, as an endpoint with port 0.
#[derive(Clone, Copy, Eq, PartialEq)]
struct OutsideAddress(Endpoint);

/// The ports of an outside address.
struct Ports {
    address: Endpoint,
    used: UsedPorts,
}

impl Key for OutsideAddress {
    type Item = Ports;

    fn of(ports: &Ports) -> Self {
        Self(ports.address)
    }

    #[inline(always)]
    fn is_of(&self, ports: &Ports) -> bool {
        ports.address == self.0
    }

    #[inline(always)]
    fn hash(&self, hash: &WordsHash) -> u32 {
        self.0.hash(hash)
    }
}

/// An outside address that the inside endpoint of a mapping speaks to.
#[derive(Clone, Copy, Eq, PartialEq)]
struct Peer {
    /// The number of the mapping.
    mapping: u32,
    address: [u64; 2],
}

/// The flows to a peer.
struct Conversation {
    peer: Peer,
    /// The outside endpoint of the mapping.
    outside: Endpoint,
    flows: Atomic<u32>,
}

impl Key for Peer {
    type Item = Conversation;

    fn of(conversation: &Conversation) -> Self {
        conversation.peer
    }

    fn is_of(&self, conversation: &Conversation) -> bool {
        conversation.peer == *self
    }

    fn hash(&self, hash: &WordsHash) -> u32 {
        let [low, high] = self.address;
        hash.hash([[low, self.mapping.into()]], [high, 0])
    }
}

/// A mapping.
pub(super) struct Mapping {
    inside: Inside,
    port: u16,
    /// The number of the [`Filtering`] that the rule of the last flow from inside says.
    filtering: Atomic<u32>,
    /// The index of the device that it leaves by.
    device: c_int,
    /// The number of its flows from inside that live.
    flows: Atomic<u32>,
    /// The number of flows from outside that were led in so far; a filter may have dropped some of these.
    inbound: Atomic<u32>,
    /// When it was made, and when a flow of it began or ended last that the inside endpoint wanted; in seconds.
    made: u32,
    used: Atomic<u32>,
    number: u32,
}

impl Mapping {
    /// Returns the inside endpoint.
    pub(super) fn inside(&self) -> &Inside {
        &self.inside
    }

    /// Returns the outside port, in host order.
    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// Returns who may begin a flow from outside.
    pub(super) fn filtering(&self) -> Filtering {
        match self.filtering.load(Relaxed) {
            0 => Filtering::EndpointIndependent,
            1 => Filtering::AddressDependent,
            _ => Filtering::AddressAndPortDependent,
        }
    }

    /// Notes that a flow leaves by a rule with this filtering.
    #[inline(always)]
    pub(super) fn note_filtering(&self, filtering: Filtering) {
        // CAST: The number of a variant.
        let filtering = filtering as u32;
        if self.filtering.load(Relaxed) != filtering {
            self.filtering.store(filtering, Relaxed);
        }
    }

    /// Returns the index of the device that its flows leave by.
    pub(super) fn device(&self) -> c_int {
        self.device
    }

    /// Returns whether it has a flow from inside.
    pub(super) fn has_flow(&self) -> bool {
        self.flows.load(Relaxed) > 0
    }

    /// Returns the number that tells it from all others, for a long time.
    pub(super) fn number(&self) -> u32 {
        self.number
    }

    /// Returns the outside address.
    pub(super) fn outside_address(&self) -> AnyAddress {
        self.outside().address()
    }

    /// Prints the mapping as a line.
    fn print(&self, file: &SeqFile, now: u32) {
        let (inside, outside) = (self.inside.endpoint, self.outside());
        let filtering = match self.filtering() {
            Filtering::EndpointIndependent => "full",
            Filtering::AddressDependent => "address",
            Filtering::AddressAndPortDependent => "port",
        };
        let flows = self.flows.load(Relaxed);
        let inbound = self.inbound.load(Relaxed);
        seq_print!(
            file,
            "protocol={} inside={} port={} outside={} outside_port={} zone={} device={} \
            cone={filtering} flows={flows} inbound={inbound} age={} unused={}\n",
            inside.protocol(),
            inside.address(),
            inside.port(),
            outside.address(),
            outside.port(),
            inside.zone_id(),
            self.device,
            age(self.made, now),
            age(self.used.load(Relaxed), now)
        );
    }

    /// Returns the outside endpoint.
    #[inline(always)]
    pub(super) fn outside(&self) -> Endpoint {
        self.inside.outside(self.port)
    }

    /// Counts a flow from inside that begins.
    #[inline(always)]
    fn begin_flow(&self, now: u32) {
        self.flows.fetch_add(1_u32, Relaxed);
        self.used.store(now, Relaxed);
    }

    /// Takes the count of a flow back that did not begin.
    #[cold]
    pub(super) fn give_up_flow(&self) {
        count_down(&self.flows);
    }

    /// Counts a flow from inside that has ended.
    pub(super) fn end_flow(&self, now: u32) {
        count_down(&self.flows);
        self.used.store(now, Relaxed);
    }

    /// Counts a flow that is led in from outside.
    pub(super) fn count_inbound(&self) {
        self.inbound.fetch_add(1_u32, Relaxed);
    }

    /// Notes that a flow from outside keeps the mapping.
    pub(super) fn refresh(&self, now: u32) {
        self.used.store(now, Relaxed);
    }

    /// Returns whether the mapping is over: it has no flow, and none has begun or ended for its lifetime.
    fn is_over(&self, now: u32) -> bool {
        self.flows.load(Relaxed) == 0
            && age(self.used.load(Relaxed), now) >= lifetime(self.inside.endpoint.protocol())
    }
}

/// Returns how long ago a time was, in seconds. It may be later than `now`, as the clock goes on while mappings are looked
/// at: that is 0.
fn age(time: u32, now: u32) -> u32 {
    // CAST: A difference of times that are near each other.
    let age = now.wrapping_sub(time) as i32;
    u32::try_from(age).unwrap_or(0)
}

/// Subtracts one, unless there is none: a flow that a rule without mappings let leave by the same port was not counted.
fn count_down(count: &Atomic<u32>) {
    let mut old = count.load(Relaxed);
    while old > 0 {
        match count.cmpxchg(old, old - 1, Relaxed) {
            Ok(_) => break,
            Err(other) => old = other,
        }
    }
}

/// Returns for how many seconds a mapping is kept without a flow (RFC 4787, REQ-5; RFC 5382 and RFC 5508 ask for less).
fn lifetime(protocol: u8) -> u32 {
    const UDP: u8 = 17;
    if protocol == UDP {
        300
    } else {
        240
    }
}

/// The number of places of the filter of outside addresses.
const FILTER: usize = 64;

/// The tables of a namespace.
pub(super) struct Tables {
    hash: WordsHash,
    inside: Table<Inside>,
    outside: Table<Outside>,
    ports: Table<OutsideAddress>,
    peers: Table<Peer>,
    uplinks: Uplinks,
    /// For each place, the number of addresses in `ports` that lead to it ([`place_of`]).
    addresses: [Atomic<u32>; FILTER],
    count: Atomic<u32>,
    /// The number of the next mapping.
    numbers: Atomic<u32>,
    /// A mapping without flows from inside is kept, as one from outside may keep it.
    doubtful: AtomicFlag,
    /// The number of peers that are known.
    conversations: Atomic<u32>,
    /// The part that is looked through next.
    turn: Atomic<u32>,
}

/// The reason why an inside endpoint gets no mapping.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Denied {
    /// The ports that it may get are taken.
    Full,
    /// There are too many mappings, or devices that they leave by, or there is no memory.
    TooMany,
}

/// A mapping that was found or made.
pub(super) struct Given {
    pub(super) mapping: Arc<Mapping>,
    /// It was made.
    pub(super) new: bool,
}

/// Returns the place of an address in the filter.
#[inline(always)]
fn place_of([a, b]: [u64; 2]) -> usize {
    // CAST: The highest bits, to which the multiplication carries all others.
    ((a ^ b.rotate_left(32)).wrapping_mul(FACTOR) >> 58) as usize
}

/// The place of a mapping that is not there yet, with the lock for it held.
pub(super) struct Gap<'a> {
    tables: &'a Tables,
    part: &'a mut Part<Inside>,
    hash: u32,
    no_softirq: &'a BottomHalvesOff,
}

impl Gap<'_> {
    /// Makes the mapping of the inside endpoint, with the port that `choose` chooses of those that are not used.
    #[inline(always)]
    pub(super) fn fill(
        self,
        inside: &Inside,
        filtering: Filtering,
        device: c_int,
        now: u32,
        choose: impl FnOnce(&UsedPorts) -> Option<u16>,
    ) -> Result<Given, Denied> {
        let Self {
            tables,
            part,
            hash,
            no_softirq,
        } = self;
        part.reserve(&tables.hash).map_err(|_| Denied::TooMany)?;
        if tables.count.load(Relaxed) >= mappings_max() || !tables.uplinks.add(device) {
            return Err(Denied::TooMany);
        }
        let port = tables
            .take_port(inside, choose, no_softirq)
            .inspect_err(|_| tables.uplinks.remove(device))?;
        let mapping = Mapping {
            inside: *inside,
            port,
            // CAST: The number of a variant.
            filtering: Atomic::new(filtering as u32),
            device,
            flows: Atomic::new(1),
            inbound: Atomic::new(0),
            made: now,
            used: Atomic::new(now),
            number: tables.numbers.fetch_add(1_u32, Relaxed),
        };
        let mapping = tables.publish(mapping, no_softirq).inspect_err(|_| {
            tables.release_port(inside, port, no_softirq);
            tables.uplinks.remove(device);
        })?;
        part.put(mapping.clone(), hash);
        if tables.count.fetch_add(1_u32, Relaxed) == 0 {
            look_after_mappings();
        }
        Ok(Given { mapping, new: true })
    }
}

impl Tables {
    fn new() -> Result<Pin<KBox<Self>>> {
        Ok(Pin::from(KBox::new(
            Self {
                hash: WordsHash::random(),
                // Each table's locks are a class of their own: one may be taken while one of another is held.
                inside: Table::new(|part| new_spinlock!(part))?,
                outside: Table::new(|part| new_spinlock!(part))?,
                ports: Table::new(|part| new_spinlock!(part))?,
                peers: Table::new(|part| new_spinlock!(part))?,
                uplinks: Uplinks::new(),
                addresses: core::array::from_fn(|_| Atomic::new(0)),
                count: Atomic::new(0),
                numbers: Atomic::new(0),
                doubtful: AtomicFlag::new(false),
                conversations: Atomic::new(0),
                turn: Atomic::new(0),
            },
            GFP_KERNEL,
        )?))
    }

    /// Returns the mapping of an inside endpoint, or what `make` returns if there is none, and counts a flow.
    ///
    /// `now` is the time in seconds. Any context.
    #[inline(always)]
    pub(super) fn find_or_else(
        &self,
        inside: &Inside,
        now: u32,
        make: impl FnOnce(Gap<'_>) -> Result<Given, Denied>,
    ) -> Result<Given, Denied> {
        let no_softirq = BottomHalvesOff::new();
        let hash = inside.hash(&self.hash);
        let given = self.inside.with(hash, &no_softirq, |part| {
            let Some(mapping) = part.get(inside, hash) else {
                return make(Gap {
                    tables: self,
                    part,
                    hash,
                    no_softirq: &no_softirq,
                });
            };
            mapping.begin_flow(now);
            Ok(Given {
                mapping: mapping.clone(),
                new: false,
            })
        });
        given.unwrap_or(Err(Denied::TooMany))
    }

    /// Takes the port that `choose` chooses.
    #[inline(always)]
    fn take_port(
        &self,
        inside: &Inside,
        choose: impl FnOnce(&UsedPorts) -> Option<u16>,
        no_softirq: &BottomHalvesOff,
    ) -> Result<u16, Denied> {
        let address = OutsideAddress(inside.outside(0));
        let hash = address.hash(&self.hash);
        let taken = self.ports.with(hash, no_softirq, |part| {
            let ports = match part.get(&address, hash) {
                Some(ports) => ports,
                None => {
                    self.add_address(part, address, hash)?;
                    part.get(&address, hash).ok_or(ENOENT)?
                }
            };
            let port = choose(&ports.used);
            Ok::<_, Error>(port.inspect(|port| ports.used.take(*port)))
        });
        match taken {
            Some(Ok(port)) => port.ok_or(Denied::Full),
            _ => Err(Denied::TooMany),
        }
    }

    /// Adds an outside address to a part of the table of ports.
    #[cold]
    fn add_address(
        &self,
        part: &mut Part<OutsideAddress>,
        address: OutsideAddress,
        hash: u32,
    ) -> Result {
        let flags = GFP_ATOMIC | __GFP_NOWARN;
        part.reserve(&self.hash)?;
        let ports = Ports {
            address: address.0,
            used: UsedPorts::new(flags)?,
        };
        part.put(Arc::new(ports, flags)?, hash);
        if let Some(count) = self.addresses.get(place_of(address.0.address_words())) {
            count.fetch_add(1_u32, Relaxed);
        }
        Ok(())
    }

    /// Gives a port back that was taken for an inside endpoint.
    fn release_port(&self, inside: &Inside, port: u16, no_softirq: &BottomHalvesOff) {
        let address = OutsideAddress(inside.outside(0));
        let hash = address.hash(&self.hash);
        let unused = self.ports.with(hash, no_softirq, |part| {
            part.take_if(&address, hash, &self.hash, |ports| ports.used.release(port))
        });
        if let Some(Some(_)) = unused {
            if let Some(count) = self.addresses.get(place_of(address.0.address_words())) {
                count.fetch_sub(1_u32, Relaxed);
            }
        }
    }

    /// Puts a mapping into the table by outside ends.
    fn publish(
        &self,
        mapping: Mapping,
        no_softirq: &BottomHalvesOff,
    ) -> Result<Arc<Mapping>, Denied> {
        let hash = Outside(mapping.outside()).hash(&self.hash);
        let published = self.outside.with(hash, no_softirq, |part| {
            part.reserve(&self.hash)?;
            let mapping = Arc::new(mapping, GFP_ATOMIC | __GFP_NOWARN)?;
            part.put(mapping.clone(), hash);
            Ok::<_, Error>(mapping)
        });
        published.and_then(Result::ok).ok_or(Denied::TooMany)
    }

    /// Returns whether there may be a mapping with the outside address. Any context.
    #[inline(always)]
    pub(super) fn may_have(&self, outside_address: [u64; 2]) -> bool {
        self.addresses
            .get(place_of(outside_address))
            .is_some_and(|count| count.load(Relaxed) > 0)
    }

    /// Returns whether mappings leave by the device, so that who comes by it comes from outside. Any context.
    pub(super) fn leave_by(&self, device: c_int) -> bool {
        self.uplinks.has(device)
    }

    /// Calls `f` with the mapping of an outside endpoint, if there is one. Any context.
    #[inline(always)]
    pub(super) fn with_outside<R>(
        &self,
        outside: &Endpoint,
        f: impl FnOnce(&Arc<Mapping>) -> R,
    ) -> Option<R> {
        let no_softirq = BottomHalvesOff::new();
        let outside = Outside(*outside);
        let hash = outside.hash(&self.hash);
        self.outside
            .with(hash, &no_softirq, |part| part.get(&outside, hash).map(f))?
    }

    /// Counts a flow to a peer that begins. Any context.
    ///
    /// Without memory the peer may answer in its flow alone.
    pub(super) fn begin_conversation(&self, mapping: &Mapping, address: [u64; 2]) {
        let no_softirq = BottomHalvesOff::new();
        let peer = Peer {
            mapping: mapping.number,
            address,
        };
        let hash = peer.hash(&self.hash);
        self.peers.with(hash, &no_softirq, |part| {
            if let Some(conversation) = part.get(&peer, hash) {
                conversation.flows.fetch_add(1_u32, Relaxed);
                return;
            }
            let conversation = Conversation {
                peer,
                outside: mapping.outside(),
                flows: Atomic::new(1),
            };
            if part.reserve(&self.hash).is_ok() {
                if let Ok(conversation) = Arc::new(conversation, GFP_ATOMIC | __GFP_NOWARN) {
                    part.put(conversation, hash);
                    self.conversations.fetch_add(1_u32, Relaxed);
                }
            }
        });
    }

    /// Counts a flow to a peer, of the mapping with a number, that has ended. Any context.
    pub(super) fn end_conversation(&self, mapping: u32, address: [u64; 2]) {
        if self.conversations.load(Relaxed) == 0 {
            return;
        }
        let no_softirq = BottomHalvesOff::new();
        let peer = Peer { mapping, address };
        let is_last = |peer: &Arc<Conversation>| peer.flows.fetch_sub(1_u32, Relaxed) <= 1;
        let hash = peer.hash(&self.hash);
        let ended = self.peers.with(hash, &no_softirq, |part| {
            part.take_if(&peer, hash, &self.hash, is_last)
        });
        if let Some(Some(_)) = ended {
            self.conversations.fetch_sub(1_u32, Relaxed);
        }
    }

    /// Removes the conversations of mappings that have gone from some parts: nobody tells of the end of their flows.
    fn forget_conversations(&self, parts: Range<u32>) {
        if self.conversations.load(Relaxed) == 0 {
            return;
        }
        self.peers.take_all(parts, &self.hash, |conversation, _| {
            let is_it = |mapping: &Arc<Mapping>| mapping.number == conversation.peer.mapping;
            let has_gone = self.with_outside(&conversation.outside, is_it) != Some(true);
            if has_gone {
                self.conversations.fetch_sub(1_u32, Relaxed);
            }
            has_gone
        });
    }

    /// Returns whether the inside endpoint of the mapping with a number speaks to the address. Any context.
    pub(super) fn speaks_to(&self, mapping: u32, address: [u64; 2]) -> bool {
        let no_softirq = BottomHalvesOff::new();
        let peer = Peer { mapping, address };
        let hash = peer.hash(&self.hash);
        let found = self
            .peers
            .with(hash, &no_softirq, |part| part.get(&peer, hash).is_some());
        found.unwrap_or(false)
    }

    /// Returns whether an inside endpoint has a mapping. Any context.
    pub(super) fn has_inside(&self, inside: &Inside) -> bool {
        let no_softirq = BottomHalvesOff::new();
        let hash = inside.hash(&self.hash);
        let found = self
            .inside
            .with(hash, &no_softirq, |part| part.get(inside, hash).is_some());
        found.unwrap_or(false)
    }

    /// Removes a mapping, unless `keep` says no then. Any context.
    pub(super) fn remove_unless(&self, mapping: &Arc<Mapping>, keep: impl Fn(&Mapping) -> bool) {
        let no_softirq = BottomHalvesOff::new();
        let inside = *mapping.inside();
        let hash = inside.hash(&self.hash);
        let gone = self.inside.with(hash, &no_softirq, |part| {
            part.take_if(&inside, hash, &self.hash, |found| {
                let is_gone = core::ptr::eq(&**found, &**mapping) && !keep(found);
                if is_gone {
                    self.forget(found, &no_softirq);
                }
                is_gone
            })
        });
        drop(gone);
    }

    /// Removes a mapping from the table by outside ends, and frees its port, as the first step to its end.
    fn forget(&self, mapping: &Mapping, no_softirq: &BottomHalvesOff) {
        let outside = Outside(mapping.outside());
        let hash = outside.hash(&self.hash);
        let taken = self.outside.with(hash, no_softirq, |part| {
            part.take_if(&outside, hash, &self.hash, |_| true)
        });
        drop(taken);
        self.release_port(mapping.inside(), mapping.port(), no_softirq);
        self.uplinks.remove(mapping.device());
        self.count.fetch_sub(1_u32, Relaxed);
    }

    /// Removes the mappings for which `is_stale` returns true from some parts.
    fn remove_from_parts(&self, parts: Range<u32>, is_stale: impl Fn(&Mapping) -> bool) {
        self.inside
            .take_all(parts, &self.hash, |mapping, no_softirq| {
                let is_stale = is_stale(mapping);
                if is_stale {
                    self.forget(mapping, no_softirq);
                }
                is_stale
            });
    }

    /// Calls `f` with each mapping. Any context.
    pub(super) fn for_each(&self, f: impl FnMut(&Mapping)) {
        self.inside.for_each(f);
    }
}

/// The mappings of a namespace.
pub(super) struct Mappings(RcuBox<Tables>);

impl Mappings {
    /// Returns no mappings.
    pub(super) const fn new() -> Self {
        Self(RcuBox::empty())
    }

    /// Makes the tables, unless they are there. Returns whether they were made. Errors: ENOMEM. Process context.
    pub(super) fn enable(&self) -> Result<bool> {
        Ok(self.0.is_empty() && self.0.publish(Tables::new()?).is_ok())
    }

    /// Returns whether there are no tables. Any context.
    #[inline(always)]
    pub(super) fn is_off(&self) -> bool {
        self.0.is_empty()
    }

    /// Calls `f` with the tables, if they are there. Any context.
    #[inline(always)]
    pub(super) fn with<R>(&self, f: impl FnOnce(&Tables) -> R) -> Option<R> {
        let guard = rcu::read_lock();
        let tables = self.0.get(&guard)?;
        Some(f(tables.get_ref()))
    }

    /// Returns the number of mappings. Any context.
    pub(super) fn count(&self) -> u32 {
        self.with(|tables| tables.count.load(Relaxed)).unwrap_or(0)
    }

    /// Removes mappings that are over, those of all parts in [`ROUND`] calls. Only one thread calls it at a time.
    ///
    /// A mapping that only has flows from outside is over as well, unless one of them keeps it: `look` refreshes all such
    /// mappings. It is called if there is one that may be, and once in a round at most, as it takes long.
    pub(super) fn maintain(&self, now: u32, look: impl FnOnce(&Self)) {
        let parts = self.with(|tables| {
            let first = tables.turn.load(Relaxed);
            let parts = first..first + PARTS / ROUND;
            tables.turn.store(parts.end % PARTS, Relaxed);
            parts
        });
        let Some(parts) = parts else {
            return;
        };
        let doubtful = Cell::new(false);
        self.remove_from_parts(parts.clone(), |mapping| {
            let is_doubtful = mapping.inbound.load(Relaxed) > 0;
            let is_over = mapping.is_over(now);
            doubtful.set(doubtful.get() || is_over && is_doubtful);
            is_over && !is_doubtful
        });
        let looks = self.with(|tables| {
            tables.forget_conversations(parts.clone());
            if doubtful.get() {
                tables.doubtful.store(true, Relaxed);
            }
            let looks = parts.start == 0 && tables.doubtful.load(Relaxed);
            if looks {
                tables.doubtful.store(false, Relaxed);
            }
            looks
        });
        if looks == Some(true) {
            look(self);
            self.remove_from_parts(0..PARTS, |mapping| mapping.is_over(now));
        }
    }

    fn remove_from_parts(&self, parts: Range<u32>, is_stale: impl Fn(&Mapping) -> bool) {
        self.with(|tables| {
            tables.remove_from_parts(parts.clone(), is_stale);
            tables.outside.shrink(parts.clone());
            tables.peers.shrink(parts);
        });
    }

    /// Removes the mappings for which `is_stale` returns true.
    pub(super) fn remove(&self, is_stale: impl Fn(&Mapping) -> bool) {
        self.remove_from_parts(0..PARTS, is_stale);
    }

    /// Frees the tables when nobody reads them any more.
    pub(super) fn free(&self, context: &mut ProcessContext) {
        if let Some(tables) = self.0.retract() {
            free_after_grace_period(core::iter::once(tables), context);
        }
    }
}

/// The file `/proc/net/rustmasq_mappings`.
pub(super) static FILE: NetFile<MappingsFile> = NetFile::new();

/// The content of `/proc/net/rustmasq_mappings`: a line for each mapping.
pub(super) struct MappingsFile;

impl NetFileContent for MappingsFile {
    const NAME: &'static CStr = c"rustmasq_mappings";
    /// It tells who uses which port, as conntrack's table does.
    const MODE: u16 = 0o440;

    fn print(net: &Net, file: &SeqFile) {
        if let Some(state) = State::of(net) {
            let now = cone::now();
            state
                .mappings
                .with(|tables| tables.for_each(|mapping| mapping.print(file, now)));
        }
    }
}

#[kunit_tests(rustmasq_mappings)]
mod tests {
    use super::*;
    use crate::{
        masquerade::used_ports::Search,
        netfilter::nat::PortRange, //
    };
    use core::{
        net::Ipv4Addr,
        num::NonZeroU16, //
    };

    const OUTSIDE: AnyAddress = AnyAddress::V4(Ipv4Addr::new(203, 0, 113, 1));

    fn inside(host: u16, port: u16) -> Inside {
        let [high, low] = host.to_be_bytes();
        let address = AnyAddress::V4(Ipv4Addr::new(10, 0, high, low));
        Inside {
            endpoint: Endpoint::of_udp(address, port),
            outside_address: OUTSIDE.words(),
            outside_zone: 0,
        }
    }

    fn outside(port: u16) -> Endpoint {
        Endpoint::of_udp(OUTSIDE, port)
    }

    /// Returns the mapping of an outside port.
    fn mapping_of(tables: &Tables, port: u16) -> Option<Arc<Mapping>> {
        tables.with_outside(&outside(port), Clone::clone)
    }

    /// Asks for a mapping, with the port `own` or one of the range from `first` to `last`.
    fn ask(
        tables: &Tables,
        host: u16,
        own: u16,
        [first, last]: [u16; 2],
    ) -> Result<(u16, bool), Denied> {
        let port = |port| NonZeroU16::new(port).unwrap_or(NonZeroU16::MIN);
        let range = PortRange::new(port(first), port(last)).unwrap_or(PortRange::UNPRIVILEGED);
        let ranges = &[range];
        let (inside, filtering) = (inside(host, 5000), Filtering::EndpointIndependent);
        tables
            .find_or_else(&inside, 100, |gap| {
                gap.fill(&inside, filtering, 7, 100, |used| {
                    let own = used.is_free(own).then_some(own);
                    own.or_else(|| Search::new(ranges).next(used))
                })
            })
            .map(|given| (given.mapping.port(), given.new))
    }

    /// Asks for a mapping with this port.
    fn give(tables: &Tables, host: u16, port: u16) -> Result<(u16, bool), Denied> {
        ask(tables, host, port, [port, port])
    }

    #[test]
    fn an_endpoint_keeps_its_port() -> Result {
        let tables = Tables::new()?;
        assert_eq!(give(&tables, 1, 5000), Ok((5000, true)));
        assert_eq!(give(&tables, 1, 6000), Ok((5000, false)));
        Ok(())
    }

    #[test]
    fn no_two_endpoints_have_a_port() -> Result {
        let tables = Tables::new()?;
        assert_eq!(give(&tables, 1, 5000), Ok((5000, true)));
        assert_eq!(ask(&tables, 2, 5000, [5000, 5001]), Ok((5001, true)));
        assert_eq!(ask(&tables, 3, 5000, [5000, 5001]), Err(Denied::Full));
        Ok(())
    }

    #[test]
    fn a_mapping_is_found_from_outside() -> Result {
        let tables = Tables::new()?;
        assert!(mapping_of(&tables, 5000).is_none());
        assert_eq!(give(&tables, 1, 5000), Ok((5000, true)));
        let found = mapping_of(&tables, 5000).ok_or(ENOENT)?;
        assert!(*found.inside() == inside(1, 5000));
        assert!(tables.may_have(OUTSIDE.words()) && tables.leave_by(7));
        Ok(())
    }

    #[test]
    fn a_mapping_lives_as_long_as_its_flows_and_its_lifetime() -> Result {
        let tables = Tables::new()?;
        assert_eq!(give(&tables, 1, 5000), Ok((5000, true)));
        let mapping = mapping_of(&tables, 5000).ok_or(ENOENT)?;
        assert!(!mapping.is_over(4000));
        mapping.end_flow(100);
        // The time of a use may be later than that which it is compared with.
        assert!(!mapping.is_over(99) && !mapping.is_over(100));
        assert!(!mapping.is_over(399));
        assert!(mapping.is_over(400));
        mapping.begin_flow(4000);
        assert!(!mapping.is_over(5000));
        mapping.end_flow(5000);
        assert!(!mapping.is_over(5299));
        assert!(mapping.is_over(5300));
        // An end too many does nothing.
        mapping.end_flow(5000);
        assert!(mapping.is_over(5300));
        assert!(!mapping.has_flow());
        Ok(())
    }

    #[test]
    fn an_endpoint_speaks_to_a_peer_as_long_as_a_flow_to_it_lives() -> Result {
        let tables = Tables::new()?;
        assert_eq!(give(&tables, 1, 5000), Ok((5000, true)));
        assert_eq!(give(&tables, 2, 6000), Ok((6000, true)));
        let mapping = mapping_of(&tables, 5000).ok_or(ENOENT)?;
        let other = mapping_of(&tables, 6000).ok_or(ENOENT)?;
        let peer = AnyAddress::V4(Ipv4Addr::new(192, 0, 2, 1)).words();
        assert!(!tables.speaks_to(mapping.number(), peer));
        tables.begin_conversation(&mapping, peer);
        tables.begin_conversation(&mapping, peer);
        assert!(tables.speaks_to(mapping.number(), peer));
        assert!(!tables.speaks_to(other.number(), peer));
        assert!(!tables.speaks_to(mapping.number(), OUTSIDE.words()));
        tables.end_conversation(mapping.number(), peer);
        assert!(tables.speaks_to(mapping.number(), peer));
        tables.end_conversation(mapping.number(), peer);
        assert!(!tables.speaks_to(mapping.number(), peer));
        tables.end_conversation(mapping.number(), peer);
        assert_eq!(tables.conversations.load(Relaxed), 0);
        Ok(())
    }

    #[test]
    fn the_next_mapping_with_a_port_does_not_speak_to_the_peers_of_the_last_one() -> Result {
        let tables = Tables::new()?;
        let peer = AnyAddress::V4(Ipv4Addr::new(192, 0, 2, 1)).words();
        assert_eq!(give(&tables, 1, 5000), Ok((5000, true)));
        let mapping = mapping_of(&tables, 5000).ok_or(ENOENT)?;
        tables.begin_conversation(&mapping, peer);
        tables.forget_conversations(0..PARTS);
        assert!(tables.speaks_to(mapping.number(), peer));
        tables.remove_unless(&mapping, |_| false);
        assert_eq!(give(&tables, 2, 5000), Ok((5000, true)));
        let next = mapping_of(&tables, 5000).ok_or(ENOENT)?;
        assert!(!tables.speaks_to(next.number(), peer));
        tables.begin_conversation(&next, peer);
        tables.forget_conversations(0..PARTS);
        assert_eq!(tables.conversations.load(Relaxed), 1);
        assert!(tables.speaks_to(next.number(), peer));
        Ok(())
    }

    #[test]
    fn tables_are_as_a_model_says() -> Result {
        let tables = Tables::new()?;
        let mut ports = KVec::new();
        for _ in 0..2000 {
            ports.push(None, GFP_KERNEL)?;
        }
        let mut random = 1_u32;
        for _ in 0..20_000 {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            // CAST: A few bits.
            let (host, removes) = ((random >> 16) as u16 % 2000, random >> 31 == 1);
            let expected = ports.get_mut(usize::from(host)).ok_or(EINVAL)?;
            if removes {
                if let Some(port) = expected.take() {
                    let mapping = mapping_of(&tables, port).ok_or(ENOENT)?;
                    tables.remove_unless(&mapping, |_| false);
                    assert!(mapping_of(&tables, port).is_none());
                }
            } else {
                let port = host + 1000;
                assert_eq!(give(&tables, host, port), Ok((port, expected.is_none())));
                *expected = Some(port);
            }
        }
        let mut count = 0;
        tables.for_each(|_| count += 1);
        assert_eq!(count, ports.iter().flatten().count());
        for port in ports.iter().flatten() {
            assert!(mapping_of(&tables, *port).is_some());
        }
        tables.remove_from_parts(0..PARTS, |_| true);
        let mut left = 0;
        tables.for_each(|_| left += 1);
        assert_eq!(left, 0);
        assert_eq!(tables.count.load(Relaxed), 0);
        // The ports are free again, and their bitmap is gone.
        let mut addresses = 0;
        tables.ports.for_each(|_| addresses += 1);
        assert_eq!(addresses, 0);
        assert!(!tables.may_have(OUTSIDE.words()) && !tables.leave_by(7));
        Ok(())
    }

    #[test]
    fn a_port_is_given_again_when_its_mapping_has_gone() -> Result {
        let tables = Tables::new()?;
        for host in 0..10 {
            assert!(ask(&tables, host, 5000, [5000, 5009]).is_ok());
        }
        assert_eq!(ask(&tables, 10, 5000, [5000, 5009]), Err(Denied::Full));
        let mapping = mapping_of(&tables, 5003).ok_or(ENOENT)?;
        tables.remove_unless(&mapping, |_| false);
        assert_eq!(ask(&tables, 10, 5000, [5000, 5009]), Ok((5003, true)));
        Ok(())
    }

    #[test]
    fn a_mapping_takes_at_most_128_bytes_in_large_tables() {
        // `Arc` counts its references. The allocator has pieces of 96 bytes.
        assert!(size_of::<Mapping>() + size_of::<u64>() <= 96);
        // 100,000 in the parts of two tables of pointers, which double when six of seven places are used.
        let places = (100_000 / PARTS as usize * 7 / 6).next_power_of_two();
        let pointers = 2 * size_of::<usize>() * places * PARTS as usize / 100_000;
        assert!(96 + pointers <= 128);
    }
}
