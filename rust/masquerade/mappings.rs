// SPDX-License-Identifier: GPL-2.0

//! The mappings of a namespace: which outside port belongs to an inside endpoint, whatever it talks to.
//!
//! A mapping is in two tables, by its inside endpoint and by its outside one. A third table has the ports that mappings use,
//! by outside address. Each table is cut into parts with a lock of their own. Who needs a part of several takes that of the
//! inside endpoint first, and of the others one at a time.

use super::{
    cone,
    per_net::State,
    used_ports::{
        Search,
        UsedPorts, //
    },
};
use crate::{
    net::{
        context::BottomHalvesOff,
        namespace::Net,
        parameters::mappings_max,
        proc::{
            NetFile,
            NetFileContent, //
        },
        random::KeyedHash,
        rcu::{
            free_after_grace_period,
            RcuBox, //
        },
        AnyAddress,
        ProcessContext, //
    },
    netfilter::{
        conntrack::Zone,
        tuple::End, //
    },
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
            Relaxed, //
        },
        new_spinlock,
        rcu,
        Arc,
        SpinLock, //
    },
};

/// The number of parts of a table.
const PARTS: u32 = 256;
/// The places of a part that is not empty, at least.
const FEWEST_PLACES: usize = 4;
/// The number of seconds in which all parts are looked through for mappings that are over.
const ROUND: u32 = 8;

/// Who may begin a flow to a mapping from outside.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Filtering {
    /// Anybody (RFC 4787: endpoint-independent filtering).
    EndpointIndependent,
    /// Who has an address that the inside endpoint speaks to (address-dependent filtering).
    AddressDependent,
    /// Nobody: conntrack lets those answer that the inside endpoint has spoken to (address and port-dependent filtering).
    AddressAndPortDependent,
}

/// What an outside port is given for: an inside endpoint that leaves with an outside address.
#[derive(Clone, Copy, Eq, PartialEq)]
pub(super) struct Inside {
    pub(super) end: End,
    pub(super) outside_address: AnyAddress,
    pub(super) zone: Zone,
    pub(super) protocol: u8,
}

/// An outside address with a port.
#[derive(Clone, Copy, Eq, PartialEq)]
pub(super) struct Outside {
    pub(super) end: End,
    pub(super) zone: Zone,
    pub(super) protocol: u8,
}

/// An outside address, for which ports are given.
#[derive(Clone, Copy, Eq, PartialEq)]
struct OutsideAddress {
    address: AnyAddress,
    zone: Zone,
    protocol: u8,
}

/// The ports of an outside address.
struct Ports {
    outside_address: OutsideAddress,
    used: UsedPorts,
}

impl Key for OutsideAddress {
    type Item = Ports;

    fn of(ports: &Ports) -> Self {
        ports.outside_address
    }

    fn hash(&self, hash: &KeyedHash) -> u32 {
        let [a, b] = self.address.words();
        hash.hash(&[a, b, rest(0, self.zone, self.protocol)])
    }
}

/// An outside address that the inside endpoint of a mapping speaks to.
#[derive(Clone, Copy, Eq, PartialEq)]
struct Peer {
    mapping: Outside,
    address: AnyAddress,
}

/// What is known of a peer.
struct Conversation {
    peer: Peer,
    /// The number of flows to it.
    flows: Atomic<u32>,
}

impl Key for Peer {
    type Item = Conversation;

    fn of(conversation: &Conversation) -> Self {
        conversation.peer
    }

    fn hash(&self, hash: &KeyedHash) -> u32 {
        let Outside {
            end,
            zone,
            protocol,
        } = self.mapping;
        let [a, b] = end.address.words();
        let [c, d] = self.address.words();
        hash.hash(&[a, b, c, d, rest(end.port, zone, protocol)])
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
    /// The number of its flows from inside that live, and of those from outside; some of these may have been dropped.
    flows: Atomic<u32>,
    flows_from_outside: Atomic<u32>,
    /// When it was made, and when a flow of it began or ended last that the inside endpoint wanted; in seconds.
    made: u32,
    used: Atomic<u32>,
}

impl Inside {
    /// Returns the outside address together with whose ports it is.
    fn outside_address(&self) -> OutsideAddress {
        OutsideAddress {
            address: self.outside_address,
            zone: self.zone,
            protocol: self.protocol,
        }
    }

    /// Returns the outside end with a port.
    fn outside(&self, port: u16) -> Outside {
        Outside {
            end: End {
                address: self.outside_address,
                port,
            },
            zone: self.zone,
            protocol: self.protocol,
        }
    }
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

    /// Notes a flow from inside that is about to begin, by a rule with this filtering.
    fn note(&self, filtering: Filtering, now: u32) {
        self.used.store(now, Relaxed);
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

    /// Prints the mapping as a line.
    fn print(&self, file: &SeqFile, now: u32) {
        let Inside {
            end,
            outside_address,
            zone,
            protocol,
        } = self.inside;
        let filtering = match self.filtering() {
            Filtering::EndpointIndependent => "full",
            Filtering::AddressDependent => "address",
            Filtering::AddressAndPortDependent => "port",
        };
        let flows = self.flows.load(Relaxed);
        let from_outside = self.flows_from_outside.load(Relaxed);
        seq_print!(
            file,
            "protocol={protocol} inside={} port={} outside={outside_address} outside_port={} zone={} device={} \
            cone={filtering} flows={flows} from_outside={from_outside} age={} unused={}\n",
            end.address,
            end.port,
            self.port,
            zone.id(),
            self.device,
            now.wrapping_sub(self.made),
            now.wrapping_sub(self.used.load(Relaxed))
        );
    }

    /// Returns the outside end.
    pub(super) fn outside(&self) -> Outside {
        self.inside.outside(self.port)
    }

    /// Counts a flow that begins.
    pub(super) fn begin_flow(&self) {
        self.flows.fetch_add(1_u32, Relaxed);
    }

    /// Counts a flow from inside that has ended.
    pub(super) fn end_flow(&self, now: u32) {
        count_down(&self.flows);
        self.used.store(now, Relaxed);
    }

    /// Counts a flow from outside that begins.
    pub(super) fn begin_flow_from_outside(&self) {
        self.flows_from_outside.fetch_add(1_u32, Relaxed);
    }

    /// Counts a flow from outside that has ended.
    pub(super) fn end_flow_from_outside(&self) {
        count_down(&self.flows_from_outside);
    }

    /// Notes that a flow from outside keeps the mapping.
    pub(super) fn refresh(&self, now: u32) {
        self.used.store(now, Relaxed);
    }

    /// Returns whether the mapping is over: it has no flow, and none has begun or ended for its lifetime.
    fn is_over(&self, now: u32) -> bool {
        self.flows.load(Relaxed) == 0
            && now.wrapping_sub(self.used.load(Relaxed)) >= lifetime(self.inside.protocol)
    }
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

/// What a table finds an item by.
trait Key: Eq {
    type Item;

    fn of(item: &Self::Item) -> Self;
    fn hash(&self, hash: &KeyedHash) -> u32;
}

impl Key for Inside {
    type Item = Mapping;

    fn of(mapping: &Mapping) -> Self {
        mapping.inside
    }

    fn hash(&self, hash: &KeyedHash) -> u32 {
        let [a, b] = self.end.address.words();
        let [c, d] = self.outside_address.words();
        hash.hash(&[a, b, c, d, rest(self.end.port, self.zone, self.protocol)])
    }
}

impl Key for Outside {
    type Item = Mapping;

    fn of(mapping: &Mapping) -> Self {
        mapping.outside()
    }

    fn hash(&self, hash: &KeyedHash) -> u32 {
        let [a, b] = self.end.address.words();
        hash.hash(&[a, b, rest(self.end.port, self.zone, self.protocol)])
    }
}

fn rest(port: u16, zone: Zone, protocol: u8) -> u64 {
    u64::from(port) | u64::from(zone.id()) << 16 | u64::from(protocol) << 32
}

/// A part of a table: places, of which some are empty. An item is in the place that its hash points to, or behind it
/// without an empty place between.
struct Part<K: Key> {
    places: KVec<Option<Arc<K::Item>>>,
    count: usize,
}

impl<K: Key> Part<K> {
    const fn new() -> Self {
        Self {
            places: KVec::new(),
            count: 0,
        }
    }

    /// Returns the place that a hash points to.
    fn home(&self, hash: u32) -> usize {
        // The parts are chosen by the hash modulo their number.
        let spread = u64::from(hash / PARTS) * (self.places.len() as u64);
        // CAST: It is less than the number of places.
        (spread / u64::from(u32::MAX / PARTS + 1)) as usize
    }

    /// Returns the places from that which a hash points to, once around.
    fn walk(&self, hash: u32) -> impl Iterator<Item = usize> {
        let (home, len) = (self.home(hash), self.places.len());
        Iterator::chain(home..len, 0..home)
    }

    /// Returns the place of the item with the key.
    fn find(&self, key: &K, hash: u32) -> Option<usize> {
        for place in self.walk(hash) {
            match self.places.get(place)? {
                Some(item) if K::of(item) == *key => return Some(place),
                Some(_) => {}
                None => return None,
            }
        }
        None
    }

    fn get(&self, key: &K, hash: u32) -> Option<&Arc<K::Item>> {
        self.places.get(self.find(key, hash)?)?.as_ref()
    }

    /// Makes room for one more. Errors: ENOMEM.
    fn reserve(&mut self, hash: &KeyedHash) -> Result {
        // Six of seven places are used at most.
        if (self.count + 1) * 7 <= self.places.len() * 6 {
            return Ok(());
        }
        let flags = GFP_ATOMIC | __GFP_NOWARN;
        let len = FEWEST_PLACES.max(self.places.len() + self.places.len() / 2);
        let mut larger = Part {
            places: KVec::with_capacity(len, flags)?,
            count: self.count,
        };
        for _ in 0..len {
            larger.places.push(None, flags)?;
        }
        for item in self.places.drain_all().flatten() {
            let hash = K::of(&item).hash(hash);
            larger.put(item, hash);
        }
        *self = larger;
        Ok(())
    }

    /// Puts an item into the first empty place.
    fn put(&mut self, item: Arc<K::Item>, hash: u32) {
        let empty = self
            .walk(hash)
            .find(|place| self.places.get(*place).is_some_and(Option::is_none));
        if let Some(place) = empty.and_then(|place| self.places.get_mut(place)) {
            *place = Some(item);
        }
    }

    /// Takes the item out of a place, and moves others into the gap that belong before it.
    fn take(&mut self, place: usize, hash: &KeyedHash) -> Option<Arc<K::Item>> {
        let len = self.places.len();
        let taken = self.places.get_mut(place)?.take()?;
        self.count -= 1;
        let mut gap = place;
        for step in 1..len {
            let next = (place + step) % len;
            let Some(Some(item)) = self.places.get(next) else {
                break;
            };
            let home = self.home(K::of(item).hash(hash));
            // It may move if its home is not between the gap, which is left out, and its place.
            if (next + len - home) % len >= (next + len - gap) % len {
                self.places.swap(gap, next);
                gap = next;
            }
        }
        Some(taken)
    }
}

/// A table that finds items by one key.
struct Table<K: Key> {
    parts: KVec<Pin<KBox<SpinLock<Part<K>>>>>,
}

impl<K: Key> Table<K> {
    /// Returns an empty table with parts that `part` initialises. Process context.
    fn new<I: PinInit<SpinLock<Part<K>>>>(part: impl Fn() -> I) -> Result<Self> {
        let mut parts = KVec::with_capacity(PARTS as usize, GFP_KERNEL)?;
        for _ in 0..PARTS {
            parts.push(KBox::pin_init(part(), GFP_KERNEL)?, GFP_KERNEL)?;
        }
        Ok(Self { parts })
    }

    /// Calls `f` with the part for a hash. The caller has turned softirqs off.
    fn with<R>(
        &self,
        hash: u32,
        _: &BottomHalvesOff,
        f: impl FnOnce(&mut Part<K>) -> R,
    ) -> Option<R> {
        // CAST: It is less than the number of parts.
        let part = self.parts.get((hash % PARTS) as usize)?;
        Some(f(&mut part.lock()))
    }
}

/// The tables of a namespace.
pub(super) struct Tables {
    hash: KeyedHash,
    inside: Table<Inside>,
    outside: Table<Outside>,
    ports: Table<OutsideAddress>,
    peers: Table<Peer>,
    count: Atomic<u32>,
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
    /// There are too many mappings, or there is no memory.
    TooMany,
}

/// A mapping that was found or made.
pub(super) struct Given {
    pub(super) mapping: Arc<Mapping>,
    /// It was made.
    pub(super) new: bool,
}

impl Tables {
    fn new() -> Result<Pin<KBox<Self>>> {
        Ok(Pin::from(KBox::new(
            Self {
                hash: KeyedHash::random(),
                // Each table's locks are a class of their own: one may be taken while one of another is held.
                inside: Table::new(|| new_spinlock!(Part::new()))?,
                outside: Table::new(|| new_spinlock!(Part::new()))?,
                ports: Table::new(|| new_spinlock!(Part::new()))?,
                peers: Table::new(|| new_spinlock!(Part::new()))?,
                count: Atomic::new(0),
                conversations: Atomic::new(0),
                turn: Atomic::new(0),
            },
            GFP_KERNEL,
        )?))
    }

    /// Returns the mapping of an inside endpoint, or makes one with the next port of a search.
    ///
    /// `now` is the time in seconds. Any context.
    pub(super) fn find_or_make(
        &self,
        inside: Inside,
        filtering: Filtering,
        device: c_int,
        now: u32,
        search: &mut Search<'_>,
    ) -> Result<Given, Denied> {
        let no_softirq = BottomHalvesOff::new();
        let hash = inside.hash(&self.hash);
        self.inside
            .with(hash, &no_softirq, |part| {
                if let Some(mapping) = part.get(&inside, hash) {
                    mapping.note(filtering, now);
                    return Ok(Given {
                        mapping: mapping.clone(),
                        new: false,
                    });
                }
                if self.count.load(Relaxed) >= mappings_max() {
                    return Err(Denied::TooMany);
                }
                part.reserve(&self.hash).map_err(|_| Denied::TooMany)?;
                let port = self.take_port(&inside, search, &no_softirq)?;
                let mapping = Mapping {
                    inside,
                    port,
                    // CAST: The number of a variant.
                    filtering: Atomic::new(filtering as u32),
                    device,
                    flows: Atomic::new(0),
                    flows_from_outside: Atomic::new(0),
                    made: now,
                    used: Atomic::new(now),
                };
                let mapping = self.publish(mapping, &no_softirq).inspect_err(|_| {
                    self.release_port(&inside, port, &no_softirq);
                })?;
                part.put(mapping.clone(), hash);
                part.count += 1;
                self.count.fetch_add(1_u32, Relaxed);
                Ok(Given { mapping, new: true })
            })
            .unwrap_or(Err(Denied::TooMany))
    }

    /// Takes the next port of the search that no mapping uses.
    fn take_port(
        &self,
        inside: &Inside,
        search: &mut Search<'_>,
        no_softirq: &BottomHalvesOff,
    ) -> Result<u16, Denied> {
        let address = inside.outside_address();
        let hash = address.hash(&self.hash);
        let flags = GFP_ATOMIC | __GFP_NOWARN;
        let taken = self.ports.with(hash, no_softirq, |part| {
            if part.find(&address, hash).is_none() {
                part.reserve(&self.hash)?;
                let ports = Ports {
                    outside_address: address,
                    used: UsedPorts::new(flags)?,
                };
                part.put(Arc::new(ports, flags)?, hash);
                part.count += 1;
            }
            let used = &part.get(&address, hash).ok_or(ENOENT)?.used;
            Ok::<_, Error>(search.next(used).inspect(|port| used.take(*port)))
        });
        match taken {
            Some(Ok(port)) => port.ok_or(Denied::Full),
            _ => Err(Denied::TooMany),
        }
    }

    /// Gives a port back that was taken for an inside endpoint.
    fn release_port(&self, inside: &Inside, port: u16, no_softirq: &BottomHalvesOff) {
        let address = inside.outside_address();
        let hash = address.hash(&self.hash);
        let unused = self.ports.with(hash, no_softirq, |part| {
            let place = part.find(&address, hash)?;
            let ports = part.places.get(place)?.as_ref()?;
            if !ports.used.release(port) {
                return None;
            }
            part.take(place, &self.hash)
        });
        drop(unused);
    }

    /// Puts a mapping, whose port was taken for it, into the table by outside ends.
    fn publish(
        &self,
        mapping: Mapping,
        no_softirq: &BottomHalvesOff,
    ) -> Result<Arc<Mapping>, Denied> {
        let outside = mapping.outside();
        let hash = outside.hash(&self.hash);
        let published = self.outside.with(hash, no_softirq, |part| {
            part.reserve(&self.hash)?;
            let mapping = Arc::new(mapping, GFP_ATOMIC | __GFP_NOWARN)?;
            part.put(mapping.clone(), hash);
            part.count += 1;
            Ok::<_, Error>(mapping)
        });
        published.and_then(Result::ok).ok_or(Denied::TooMany)
    }

    /// Returns the mapping of an outside end. Any context.
    pub(super) fn of_outside(&self, outside: &Outside) -> Option<Arc<Mapping>> {
        let no_softirq = BottomHalvesOff::new();
        let hash = outside.hash(&self.hash);
        self.outside
            .with(hash, &no_softirq, |part| part.get(outside, hash).cloned())?
    }

    /// Returns whether an inside endpoint has a mapping. Any context.
    pub(super) fn has_inside(&self, inside: &Inside) -> bool {
        let no_softirq = BottomHalvesOff::new();
        let hash = inside.hash(&self.hash);
        let found = self
            .inside
            .with(hash, &no_softirq, |part| part.find(inside, hash).is_some());
        found.unwrap_or(false)
    }

    /// Counts a flow to a peer that begins. Any context.
    ///
    /// Without memory the peer may answer in its flow alone.
    pub(super) fn begin_conversation(&self, mapping: &Mapping, address: AnyAddress) {
        let no_softirq = BottomHalvesOff::new();
        let peer = Peer {
            mapping: mapping.outside(),
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
                flows: Atomic::new(1),
            };
            if part.reserve(&self.hash).is_ok() {
                if let Ok(conversation) = Arc::new(conversation, GFP_ATOMIC | __GFP_NOWARN) {
                    part.put(conversation, hash);
                    part.count += 1;
                    self.conversations.fetch_add(1_u32, Relaxed);
                }
            }
        });
    }

    /// Counts a flow to a peer that has ended. Any context.
    pub(super) fn end_conversation(&self, mapping: &Mapping, address: AnyAddress) {
        if self.conversations.load(Relaxed) == 0 {
            return;
        }
        let no_softirq = BottomHalvesOff::new();
        let peer = Peer {
            mapping: mapping.outside(),
            address,
        };
        let hash = peer.hash(&self.hash);
        self.peers.with(hash, &no_softirq, |part| {
            let place = part.find(&peer, hash)?;
            let conversation = part.places.get(place)?.as_ref()?;
            if conversation.flows.fetch_sub(1_u32, Relaxed) > 1 {
                return None;
            }
            self.conversations.fetch_sub(1_u32, Relaxed);
            part.take(place, &self.hash)
        });
    }

    /// Returns whether the inside endpoint of a mapping speaks to the address. Any context.
    pub(super) fn speaks_to(&self, mapping: &Mapping, address: AnyAddress) -> bool {
        let no_softirq = BottomHalvesOff::new();
        let peer = Peer {
            mapping: mapping.outside(),
            address,
        };
        let hash = peer.hash(&self.hash);
        let found = self
            .peers
            .with(hash, &no_softirq, |part| part.find(&peer, hash).is_some());
        found.unwrap_or(false)
    }

    /// Removes a mapping, unless `keep` says no then. Any context.
    pub(super) fn remove_unless(&self, mapping: &Mapping, keep: impl Fn(&Mapping) -> bool) {
        let no_softirq = BottomHalvesOff::new();
        let inside = *mapping.inside();
        let hash = inside.hash(&self.hash);
        let gone = self.inside.with(hash, &no_softirq, |part| {
            let place = part.find(&inside, hash)?;
            let found = part.places.get(place)?.as_ref()?;
            if !core::ptr::eq(&**found, mapping) || keep(found) {
                return None;
            }
            self.forget(mapping, &no_softirq);
            part.take(place, &self.hash)
        });
        drop(gone);
    }

    /// Removes a mapping from the table by outside ends, and frees its port, as the first step to its end.
    fn forget(&self, mapping: &Mapping, no_softirq: &BottomHalvesOff) {
        let outside = mapping.outside();
        let hash = outside.hash(&self.hash);
        let taken = self.outside.with(hash, no_softirq, |part| {
            part.take(part.find(&outside, hash)?, &self.hash)
        });
        drop(taken);
        self.release_port(mapping.inside(), mapping.port(), no_softirq);
        self.count.fetch_sub(1_u32, Relaxed);
    }

    /// Removes the mappings that are over from some parts, or those from all parts for which `is_stale` returns true.
    fn remove_from_parts(
        &self,
        parts: impl Iterator<Item = u32>,
        is_stale: impl Fn(&Mapping) -> bool,
    ) {
        for number in parts {
            let no_softirq = BottomHalvesOff::new();
            self.inside.with(number, &no_softirq, |part| {
                let mut place = 0;
                while place < part.places.len() {
                    match part.places.get(place) {
                        // Another one may have moved to its place then.
                        Some(Some(mapping)) if is_stale(mapping) => {
                            let mapping = mapping.clone();
                            self.forget(&mapping, &no_softirq);
                            part.take(place, &self.hash);
                        }
                        _ => place += 1,
                    }
                }
                if part.count == 0 {
                    part.places = KVec::new();
                }
            });
        }
    }

    /// Calls `f` with each mapping. Any context.
    pub(super) fn for_each(&self, mut f: impl FnMut(&Mapping)) {
        for number in 0..PARTS {
            let no_softirq = BottomHalvesOff::new();
            self.inside.with(number, &no_softirq, |part| {
                part.places.iter().flatten().for_each(|mapping| f(mapping));
            });
        }
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
    /// mappings. It is called if there is one that may be.
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
            let is_doubtful = mapping.flows_from_outside.load(Relaxed) > 0;
            let is_over = mapping.is_over(now);
            doubtful.set(doubtful.get() || is_over && is_doubtful);
            is_over && !is_doubtful
        });
        if doubtful.get() {
            look(self);
            self.remove_from_parts(parts, |mapping| mapping.is_over(now));
        }
    }

    fn remove_from_parts(&self, parts: Range<u32>, is_stale: impl Fn(&Mapping) -> bool) {
        self.with(|tables| tables.remove_from_parts(parts, is_stale));
    }

    /// Removes the mappings for which `is_stale` returns true.
    pub(super) fn remove(&self, is_stale: impl Fn(&Mapping) -> bool) {
        self.with(|tables| tables.remove_from_parts(0..PARTS, is_stale));
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
    use crate::netfilter::nat::PortRange;
    use core::{
        net::Ipv4Addr,
        num::NonZeroU16, //
    };

    const OUTSIDE: AnyAddress = AnyAddress::V4(Ipv4Addr::new(203, 0, 113, 1));
    const UDP: u8 = 17;

    fn inside(host: u16, port: u16) -> Inside {
        let [high, low] = host.to_be_bytes();
        Inside {
            end: End {
                address: AnyAddress::V4(Ipv4Addr::new(10, 0, high, low)),
                port,
            },
            outside_address: OUTSIDE,
            zone: Zone::DEFAULT,
            protocol: UDP,
        }
    }

    fn outside(port: u16) -> Outside {
        Outside {
            end: End {
                address: OUTSIDE,
                port,
            },
            zone: Zone::DEFAULT,
            protocol: UDP,
        }
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
        tables
            .find_or_make(
                inside(host, 5000),
                Filtering::EndpointIndependent,
                7,
                100,
                &mut Search::new(Some(own), &[range]),
            )
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
        assert!(tables.of_outside(&outside(5000)).is_none());
        assert_eq!(give(&tables, 1, 5000), Ok((5000, true)));
        let found = tables.of_outside(&outside(5000)).ok_or(ENOENT)?;
        assert!(*found.inside() == inside(1, 5000));
        Ok(())
    }

    #[test]
    fn a_mapping_lives_as_long_as_its_flows_and_its_lifetime() -> Result {
        let tables = Tables::new()?;
        assert_eq!(give(&tables, 1, 5000), Ok((5000, true)));
        let mapping = tables.of_outside(&outside(5000)).ok_or(ENOENT)?;
        assert!(!mapping.is_over(399));
        assert!(mapping.is_over(400));
        mapping.begin_flow();
        assert!(!mapping.is_over(4000));
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
        let mapping = tables.of_outside(&outside(5000)).ok_or(ENOENT)?;
        let other = tables.of_outside(&outside(6000)).ok_or(ENOENT)?;
        let peer = AnyAddress::V4(Ipv4Addr::new(192, 0, 2, 1));
        assert!(!tables.speaks_to(&mapping, peer));
        tables.begin_conversation(&mapping, peer);
        tables.begin_conversation(&mapping, peer);
        assert!(tables.speaks_to(&mapping, peer));
        assert!(!tables.speaks_to(&other, peer));
        assert!(!tables.speaks_to(&mapping, OUTSIDE));
        tables.end_conversation(&mapping, peer);
        assert!(tables.speaks_to(&mapping, peer));
        tables.end_conversation(&mapping, peer);
        assert!(!tables.speaks_to(&mapping, peer));
        tables.end_conversation(&mapping, peer);
        assert_eq!(tables.conversations.load(Relaxed), 0);
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
                    let mapping = tables.of_outside(&outside(port)).ok_or(ENOENT)?;
                    tables.remove_unless(&mapping, |_| false);
                    assert!(tables.of_outside(&outside(port)).is_none());
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
            assert!(tables.of_outside(&outside(*port)).is_some());
        }
        tables.remove_from_parts(0..PARTS, |_| true);
        let mut left = 0;
        tables.for_each(|_| left += 1);
        assert_eq!(left, 0);
        assert_eq!(tables.count.load(Relaxed), 0);
        // The ports are free again, and their bitmap is gone.
        let address = inside(1, 5000).outside_address();
        let hash = address.hash(&tables.hash);
        let no_softirq = BottomHalvesOff::new();
        let count = tables.ports.with(hash, &no_softirq, |part| part.count);
        assert_eq!(count, Some(0));
        Ok(())
    }

    #[test]
    fn a_port_is_given_again_when_its_mapping_has_gone() -> Result {
        let tables = Tables::new()?;
        for host in 0..10 {
            assert!(ask(&tables, host, 5000, [5000, 5009]).is_ok());
        }
        assert_eq!(ask(&tables, 10, 5000, [5000, 5009]), Err(Denied::Full));
        let mapping = tables.of_outside(&outside(5003)).ok_or(ENOENT)?;
        tables.remove_unless(&mapping, |_| false);
        assert_eq!(ask(&tables, 10, 5000, [5000, 5009]), Ok((5003, true)));
        Ok(())
    }

    #[test]
    fn a_mapping_takes_at_most_128_bytes_in_large_tables() {
        // `Arc` counts its references. The allocator has pieces of 96 bytes.
        assert!(size_of::<Mapping>() + size_of::<u64>() <= 96);
        // At most 12/7 places for each item in two tables of pointers (after growth by half).
        let places = size_of::<usize>() * 2 * 12 / 7;
        assert!(96 + places <= 128);
    }
}
