// SPDX-License-Identifier: GPL-2.0

//! The mappings of a namespace: which outside port belongs to an inside endpoint, whatever it talks to.
//!
//! A mapping belongs to its outside address (outside.rs), and there is one lock for the mappings of an address.

use super::{
    cone,
    conversations::Conversations,
    endpoint::Endpoint,
    mapping::{
        Filtering,
        Mapping, //
    },
    outside::{
        OutsideAddress,
        MOST_CHUNKS, //
    },
    per_net::{
        look_after_mappings,
        State, //
    },
    ports,
    table::{
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
        RcuBox,
        ReadLocked, //
    },
    ProcessContext, //
};
use core::cell::Cell;
use kernel::{
    prelude::*,
    seq_file::SeqFile,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        new_spinlock, //
    },
};

/// The number of calls of [`Mappings::maintain`] of which one looks for mappings that are over.
const ROUND: u32 = 8;
/// The number of places of the filter of outside addresses.
const FILTER: usize = 64;

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
    #[inline(always)]
    pub(super) fn outside(&self, port: u16) -> Endpoint {
        self.endpoint
            .with_address(self.outside_address, self.outside_zone)
            .with_port(port)
    }
}

/// The reason why an inside endpoint gets no mapping.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Denied {
    /// The ports that it may get are taken.
    Full,
    /// There are too many mappings, or devices that they leave by, or there is no memory.
    TooMany,
}

/// A mapping that was found or made for a flow.
#[derive(Clone, Copy)]
pub(super) struct Given {
    /// The outside port, in host order.
    pub(super) port: u16,
    pub(super) filtering: Filtering,
    /// The mapping's number.
    pub(super) number: u32,
    /// It was made.
    pub(super) new: bool,
}

impl Given {
    #[inline(always)]
    fn of(mapping: &Mapping, new: bool) -> Self {
        Self {
            port: mapping.port,
            filtering: mapping.filtering,
            number: mapping.number,
            new,
        }
    }
}

/// The place of a mapping that is not there yet, with the lock for it held.
pub(super) struct Gap<'a> {
    tables: &'a Tables,
    address: &'a mut OutsideAddress,
    /// The hash of the inside endpoint.
    hash: u32,
}

impl Gap<'_> {
    /// Returns whether there is no mapping yet.
    #[inline(always)]
    pub(super) fn is_first(&self) -> bool {
        self.tables.are_empty()
    }

    /// Makes the mapping of the inside endpoint, with the port that `choose` chooses of those that are not used.
    #[inline(always)]
    pub(super) fn fill(
        self,
        inside: &Endpoint,
        filtering: Filtering,
        device: c_int,
        now: u32,
        choose: impl FnOnce(&UsedPorts) -> Option<u16>,
    ) -> Result<Given, Denied> {
        let Self {
            tables,
            address,
            hash,
        } = self;
        let flags = GFP_ATOMIC | __GFP_NOWARN;
        if tables.count.load(Relaxed) >= mappings_max() {
            return Err(Denied::TooMany);
        }
        let port = choose(address.used()).ok_or(Denied::Full)?;
        let number = tables.numbers.fetch_add(1_u32, Relaxed);
        let mapping = Mapping::new(*inside, hash, port, number, now).with(filtering, device);
        let given = Given::of(&mapping, true);
        if !tables.uplinks.add(device) {
            return Err(Denied::TooMany);
        }
        if address.add(mapping, flags).is_err() {
            tables.uplinks.remove(device);
            return Err(Denied::TooMany);
        }
        if tables.count.fetch_add(1_u32, Relaxed) == 0 {
            // The worker may have said meanwhile that no port is held.
            ports::set_held(true);
            look_after_mappings();
        }
        Ok(given)
    }
}

/// The tables of a namespace.
pub(super) struct Tables {
    hash: WordsHash,
    addresses: Table<KBox<OutsideAddress>>,
    conversations: Conversations,
    uplinks: Uplinks,
    /// For each place, the number of outside addresses that lead to it ([`place_of`]).
    filter: [Atomic<u32>; FILTER],
    /// The number of mappings.
    count: Atomic<u32>,
    /// The number of the next mapping.
    numbers: Atomic<u32>,
    /// The number of times that they were looked after.
    turn: Atomic<u32>,
}

/// Returns the place of an address in the filter.
#[inline(always)]
fn place_of([a, b]: [u64; 2]) -> usize {
    // CAST: The highest bits, to which the multiplication carries all others.
    ((a ^ b.rotate_left(32)).wrapping_mul(FACTOR) >> 58) as usize
}

/// Returns an outside address, given as a key with its hash, of its part of the table.
#[inline(always)]
fn find_address<'a>(
    part: &'a mut Part<KBox<OutsideAddress>>,
    key: &Endpoint,
    hash: u32,
) -> Option<&'a mut KBox<OutsideAddress>> {
    part.get_mut(hash, |address| address.address() == key)
}

impl Tables {
    fn new() -> Result<Pin<KBox<Self>>> {
        Ok(Pin::from(KBox::new(
            Self {
                hash: WordsHash::random(),
                addresses: Table::new(|part| new_spinlock!(part))?,
                conversations: Conversations::new()?,
                uplinks: Uplinks::new(),
                filter: core::array::from_fn(|_| Atomic::new(0)),
                count: Atomic::new(0),
                numbers: Atomic::new(0),
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
        let key = inside.outside(0);
        let address_hash = key.plain_hash();
        let part = self.addresses.lock(address_hash, &no_softirq);
        let mut part = part.ok_or(Denied::TooMany)?;
        let hash = inside.endpoint.hash(&self.hash);
        let Some(address) = find_address(&mut part, &key, address_hash) else {
            return self.make_first(&mut part, key, address_hash, hash, make);
        };
        if let Some(mapping) = address.of_inside(&inside.endpoint, hash) {
            mapping.begin_flow(now);
            return Ok(Given::of(mapping, false));
        }
        make(Gap {
            tables: self,
            address,
            hash,
        })
    }

    /// Makes the first mapping of an outside address.
    #[cold]
    fn make_first(
        &self,
        part: &mut Part<KBox<OutsideAddress>>,
        key: Endpoint,
        address_hash: u32,
        hash: u32,
        make: impl FnOnce(Gap<'_>) -> Result<Given, Denied>,
    ) -> Result<Given, Denied> {
        part.reserve(|other| other.address().plain_hash())
            .map_err(|_| Denied::TooMany)?;
        let address = OutsideAddress::new(key, GFP_ATOMIC | __GFP_NOWARN);
        let mut address = address.map_err(|_| Denied::TooMany)?;
        let given = make(Gap {
            tables: self,
            address: &mut address,
            hash,
        })?;
        part.put(address, address_hash);
        if let Some(count) = self.filter.get(place_of(key.address_words())) {
            count.fetch_add(1_u32, Relaxed);
        }
        Ok(given)
    }

    /// Calls `f` with an outside address, given with a port that does not matter, if it has mappings. If it has none
    /// after that, it goes.
    #[inline(always)]
    fn with_address<R>(
        &self,
        outside: &Endpoint,
        f: impl FnOnce(&mut OutsideAddress) -> R,
    ) -> Option<R> {
        let no_softirq = BottomHalvesOff::new();
        let key = outside.with_port(0);
        let hash = key.plain_hash();
        let mut part = self.addresses.lock(hash, &no_softirq)?;
        let address = find_address(&mut part, &key, hash)?;
        let result = f(address);
        if address.is_empty() {
            let is_it = |address: &KBox<OutsideAddress>| *address.address() == key;
            let unused = part.take(hash, is_it, |other| other.address().plain_hash());
            self.note_gone(unused.as_deref());
        }
        Some(result)
    }

    /// Notes that an outside address has gone, if one has.
    #[cold]
    fn note_gone(&self, address: Option<&OutsideAddress>) {
        let place = address.map(|address| place_of(address.address().address_words()));
        if let Some(count) = place.and_then(|place| self.filter.get(place)) {
            count.fetch_sub(1_u32, Relaxed);
        }
    }

    /// Returns whether there may be a mapping with the outside address. Any context.
    #[inline(always)]
    pub(super) fn may_have(&self, outside_address: [u64; 2]) -> bool {
        self.filter
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
        f: impl FnOnce(&mut Mapping) -> R,
    ) -> Option<R> {
        let no_softirq = BottomHalvesOff::new();
        let key = outside.with_port(0);
        let hash = key.plain_hash();
        let mut part = self.addresses.lock(hash, &no_softirq)?;
        let address = find_address(&mut part, &key, hash)?;
        Some(f(address.of_port(outside.port())?))
    }

    /// Lets the filtering of a mapping that was given to a flow be another one from now on. Any context.
    #[cold]
    pub(super) fn set_filtering(&self, outside: &Endpoint, given: &Given, filtering: Filtering) {
        self.with_outside(outside, |mapping| {
            if mapping.number == given.number {
                mapping.filtering = filtering;
            }
        });
    }

    /// Takes the count of a flow back that did not begin, from the mapping that was given to it. Any context.
    ///
    /// If the mapping was made for that flow alone, and `keep` is false, it goes.
    #[cold]
    pub(super) fn give_up(&self, outside: &Endpoint, given: &Given, keep: bool) {
        let goes = |mapping: &mut Mapping| mapping.give_up_flow() && given.new && !keep;
        self.remove_if(outside, given, goes);
    }

    /// Removes a mapping that was given to a flow, although others may have it, if it is still there. Any context.
    #[cold]
    pub(super) fn forget_if_there(&self, outside: &Endpoint, given: &Given) {
        self.remove_if(outside, given, |_| true);
    }

    /// Removes a mapping that was given to a flow, if it is still there and `goes` returns true.
    fn remove_if(
        &self,
        outside: &Endpoint,
        given: &Given,
        goes: impl FnOnce(&mut Mapping) -> bool,
    ) {
        self.with_address(outside, |address| {
            let mapping = address.of_port(given.port);
            let there = mapping.filter(|mapping| mapping.number == given.number);
            if there.is_some_and(goes) {
                let gone = address.remove(given.port);
                gone.into_iter().for_each(|mapping| self.forget(mapping));
            }
        });
    }

    /// Notes that a mapping was removed from its address.
    fn forget(&self, mapping: Mapping) {
        self.uplinks.remove(mapping.device);
        self.count.fetch_sub(1_u32, Relaxed);
    }

    /// Returns the conversations of all mappings.
    pub(super) fn conversations(&self) -> &Conversations {
        &self.conversations
    }

    /// Removes the conversations of mappings that have gone.
    fn forget_conversations(&self) {
        self.conversations.forget(|outside, number| {
            self.with_outside(outside, |mapping| mapping.number == number) == Some(true)
        });
    }

    /// Returns whether an inside endpoint has a mapping. Any context.
    pub(super) fn has_inside(&self, inside: &Inside) -> bool {
        let hash = inside.endpoint.hash(&self.hash);
        let found = self.with_address(&inside.outside(0), |address| {
            address.of_inside(&inside.endpoint, hash).is_some()
        });
        found.unwrap_or(false)
    }

    /// Returns the first position from `position` on that has mappings, if there is one. Any context.
    ///
    /// A position is that of a chunk, of all outside addresses of a part. The last chunk of a part comes first, as mappings
    /// move to earlier ones. No lock is held between two positions, so mappings that are made meanwhile may be left out.
    fn position_from(&self, position: u64) -> Option<u64> {
        let first_part = u32::try_from(position / MOST_CHUNKS as u64).ok()?;
        (first_part..PARTS).find_map(|number| {
            let no_softirq = BottomHalvesOff::new();
            let chunks = self.addresses.with(number, &no_softirq, |part| {
                part.items().map(|address| address.chunks()).max()
            });
            let unused = MOST_CHUNKS.saturating_sub(chunks??);
            let end = (u64::from(number) + 1) * MOST_CHUNKS as u64;
            let found = position.max(end - MOST_CHUNKS as u64 + unused as u64);
            (found < end).then_some(found)
        })
    }

    /// Calls `f` with each position that has mappings. Any context.
    fn for_each_position(&self, mut f: impl FnMut(u64)) {
        let mut next = 0;
        while let Some(position) = self.position_from(next) {
            f(position);
            next = position + 1;
        }
    }

    /// Calls `f` with the outside addresses of a position, and the number of the chunk there. Any context.
    fn for_each_at(&self, position: u64, mut f: impl FnMut(&mut OutsideAddress, usize)) {
        // CAST: Both are small numbers.
        let (number, place) = (
            (position / MOST_CHUNKS as u64) as u32,
            (position % MOST_CHUNKS as u64) as usize,
        );
        let no_softirq = BottomHalvesOff::new();
        self.addresses.with(number, &no_softirq, |part| {
            part.items_mut()
                .for_each(|address| f(address, MOST_CHUNKS - 1 - place));
        });
    }

    /// Removes the mappings for which `is_stale` returns true; it gets the outside address as an endpoint, too. Any
    /// context.
    fn remove(&self, is_stale: impl Fn(&Mapping, &Endpoint) -> bool) {
        self.for_each_position(|position| {
            self.for_each_at(position, |address, chunk| {
                let key = *address.address();
                let is_stale = |mapping: &Mapping| is_stale(mapping, &key);
                let removed = |mapping| self.forget(mapping);
                address.remove_from_chunk(chunk, is_stale, removed);
            });
        });
        let hash_of = |address: &KBox<OutsideAddress>| address.address().plain_hash();
        self.addresses.take_all(0..PARTS, hash_of, |address| {
            address.shrink();
            let is_unused = address.is_empty();
            if is_unused {
                self.note_gone(Some(address));
            }
            is_unused
        });
    }

    /// Returns whether there is no mapping now. Any context.
    #[inline(always)]
    pub(super) fn are_empty(&self) -> bool {
        self.count.load(Relaxed) == 0
    }

    /// Calls `f` with each mapping of a position, and its outside address as an endpoint. Any context.
    fn for_each_mapping_at(&self, position: u64, mut f: impl FnMut(&Mapping, &Endpoint)) {
        self.for_each_at(position, |address, chunk| {
            for mapping in address.chunk(chunk) {
                f(mapping, address.address());
            }
        });
    }
}

/// The mappings of a namespace.
pub(super) struct Mappings(RcuBox<Tables>);

impl Mappings {
    /// Returns no mappings.
    pub(super) const fn new() -> Self {
        Self(RcuBox::empty())
    }

    /// Makes the tables, unless they are there. Errors: ENOMEM. Process context.
    pub(super) fn enable(&self) -> Result {
        self.0.fill(Tables::new)
    }

    /// Returns whether there are no tables. Any context.
    #[inline(always)]
    pub(super) fn is_off(&self) -> bool {
        self.0.is_empty()
    }

    /// Calls `f` with the tables, if they are there. Any context.
    #[inline(always)]
    pub(super) fn with<R>(&self, f: impl FnOnce(&Tables) -> R) -> Option<R> {
        self.0.with(f)
    }

    /// Returns the tables, if they are there. Any context.
    #[inline(always)]
    pub(super) fn get<'a>(&'a self, reader: &'a impl ReadLocked) -> Option<&'a Tables> {
        Some(self.0.get(reader)?.get_ref())
    }

    /// Returns the number of mappings. Any context.
    pub(super) fn count(&self) -> u32 {
        self.with(|tables| tables.count.load(Relaxed)).unwrap_or(0)
    }

    /// Removes mappings that are over, in one of [`ROUND`] calls. Only one thread calls it at a time.
    ///
    /// A mapping that only has flows from outside is over as well, unless one of them keeps it: `look` refreshes all such
    /// mappings. It is called if there is one that may be, as it takes long.
    pub(super) fn maintain(&self, now: u32, look: impl FnOnce(&Self)) {
        let turn = self.with(|tables| tables.turn.fetch_add(1_u32, Relaxed));
        if turn.is_none_or(|turn| turn % ROUND != 0) {
            return;
        }
        let is_doubtful = Cell::new(false);
        self.remove(|mapping, _| {
            let is_over = mapping.is_over(now);
            is_doubtful.set(is_doubtful.get() || is_over && mapping.has_inbound());
            is_over && !mapping.has_inbound()
        });
        if is_doubtful.get() {
            look(self);
            self.remove(|mapping, _| mapping.is_over(now));
        }
        self.with(Tables::forget_conversations);
    }

    /// Removes the mappings for which `is_stale` returns true; it gets the outside address as an endpoint, too. Any
    /// context.
    pub(super) fn remove(&self, is_stale: impl Fn(&Mapping, &Endpoint) -> bool) {
        self.with(|tables| tables.remove(is_stale));
    }

    /// Frees the tables when nobody reads them any more.
    pub(super) fn free(&self, context: &mut ProcessContext) {
        self.0.free(context);
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

    fn position_from(net: &Net, position: u64) -> Option<u64> {
        let State { mappings, .. } = State::of(net)?;
        mappings.with(|tables| tables.position_from(position))?
    }

    fn print(net: &Net, file: &SeqFile, position: u64) {
        if let Some(state) = State::of(net) {
            let now = cone::now();
            state.mappings.with(|tables| {
                let print =
                    |mapping: &Mapping, outside: &Endpoint| mapping.print(file, outside, now);
                tables.for_each_mapping_at(position, print);
            });
        }
    }
}

#[kunit_tests(rustmasq_mappings)]
mod tests {
    use super::*;
    use crate::{
        masquerade::{
            options::PortSets,
            used_ports::Search, //
        },
        net::AnyAddress,
        netfilter::nat::PortRange, //
    };
    use core::{
        net::Ipv4Addr,
        num::NonZeroU16, //
    };

    const OUTSIDE: AnyAddress = AnyAddress::V4(Ipv4Addr::new(203, 0, 113, 1));

    fn inside(host: u16) -> Inside {
        let [high, low] = host.to_be_bytes();
        let address = AnyAddress::V4(Ipv4Addr::new(10, 0, high, low));
        Inside {
            endpoint: Endpoint::of_udp(address, 5000),
            outside_address: OUTSIDE.words(),
            outside_zone: 0,
        }
    }

    fn outside(port: u16) -> Endpoint {
        Endpoint::of_udp(OUTSIDE, port)
    }

    /// Returns the mapping of an outside port, as if it had been made for a flow, with its inside endpoint.
    fn mapping_of(tables: &Tables, port: u16) -> Option<(Given, Endpoint)> {
        tables.with_outside(&outside(port), |mapping| {
            (Given::of(mapping, true), mapping.inside)
        })
    }

    /// Removes the mapping of an outside port, which has one flow.
    fn remove(tables: &Tables, port: u16) -> Result {
        let (given, _) = mapping_of(tables, port).ok_or(ENOENT)?;
        tables.give_up(&outside(port), &given, false);
        Ok(())
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
        let (inside, filtering) = (inside(host), Filtering::EndpointIndependent);
        tables
            .find_or_else(&inside, 100, |gap| {
                gap.fill(&inside.endpoint, filtering, 7, 100, |used| {
                    let own = used.is_free(own).then_some(own);
                    own.or_else(|| Search::new(PortSets::of(ranges)).next(used))
                })
            })
            .map(|given| (given.port, given.new))
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
        assert!(tables.has_inside(&inside(1)) && !tables.has_inside(&inside(2)));
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
        let (_, endpoint) = mapping_of(&tables, 5000).ok_or(ENOENT)?;
        assert!(endpoint == inside(1).endpoint);
        assert!(tables.may_have(OUTSIDE.words()) && tables.leave_by(7));
        Ok(())
    }

    #[test]
    fn a_flow_that_is_given_up_takes_the_mapping_along_that_was_made_for_it() -> Result {
        let tables = Tables::new()?;
        assert_eq!(give(&tables, 1, 5000), Ok((5000, true)));
        let (made, _) = mapping_of(&tables, 5000).ok_or(ENOENT)?;
        // Another flow has begun meanwhile.
        assert_eq!(give(&tables, 1, 5000), Ok((5000, false)));
        tables.give_up(&outside(5000), &made, false);
        assert!(mapping_of(&tables, 5000).is_some());
        // This one keeps it, and so does one of a mapping with another number.
        tables.give_up(&outside(5000), &made, true);
        let other = Given {
            number: made.number + 1,
            ..made
        };
        tables.give_up(&outside(5000), &other, false);
        assert!(mapping_of(&tables, 5000).is_some());
        tables.give_up(&outside(5000), &made, false);
        assert!(mapping_of(&tables, 5000).is_none());
        assert!(!tables.may_have(OUTSIDE.words()) && !tables.leave_by(7));
        Ok(())
    }

    #[test]
    fn the_filtering_is_that_of_the_last_flow_that_left() -> Result {
        let tables = Tables::new()?;
        let filtering_of = |port| mapping_of(&tables, port).map(|(given, _)| given.filtering);
        assert_eq!(give(&tables, 1, 5000), Ok((5000, true)));
        let (given, _) = mapping_of(&tables, 5000).ok_or(ENOENT)?;
        // A flow that finds it does not change it yet.
        assert_eq!(give(&tables, 1, 6000), Ok((5000, false)));
        assert_eq!(filtering_of(5000), Some(Filtering::EndpointIndependent));
        tables.set_filtering(&outside(5000), &given, Filtering::AddressDependent);
        assert_eq!(filtering_of(5000), Some(Filtering::AddressDependent));
        let gone = Given {
            number: given.number + 1,
            ..given
        };
        tables.set_filtering(&outside(5000), &gone, Filtering::EndpointIndependent);
        assert_eq!(filtering_of(5000), Some(Filtering::AddressDependent));
        Ok(())
    }

    #[test]
    fn an_endpoint_speaks_to_a_peer_as_long_as_a_flow_to_it_lives() -> Result {
        let tables = Tables::new()?;
        let known = tables.conversations();
        let peer = AnyAddress::V4(Ipv4Addr::new(192, 0, 2, 1)).words();
        assert!(!known.has(1, peer));
        known.begin(1, outside(5000), peer);
        known.begin(1, outside(5000), peer);
        assert!(known.has(1, peer) && !known.has(2, peer));
        assert!(!known.has(1, OUTSIDE.words()));
        known.end(1, peer);
        assert!(known.has(1, peer));
        known.end(1, peer);
        assert!(!known.has(1, peer));
        known.end(1, peer);
        assert_eq!(known.count(), 0);
        Ok(())
    }

    #[test]
    fn the_next_mapping_with_a_port_does_not_speak_to_the_peers_of_the_last_one() -> Result {
        let tables = Tables::new()?;
        let known = tables.conversations();
        let peer = AnyAddress::V4(Ipv4Addr::new(192, 0, 2, 1)).words();
        assert_eq!(give(&tables, 1, 5000), Ok((5000, true)));
        let (first, _) = mapping_of(&tables, 5000).ok_or(ENOENT)?;
        known.begin(first.number, outside(5000), peer);
        tables.forget_conversations();
        assert!(known.has(first.number, peer));
        remove(&tables, 5000)?;
        assert_eq!(give(&tables, 2, 5000), Ok((5000, true)));
        let (next, _) = mapping_of(&tables, 5000).ok_or(ENOENT)?;
        assert!(!known.has(next.number, peer));
        known.begin(next.number, outside(5000), peer);
        tables.forget_conversations();
        assert_eq!(known.count(), 1);
        assert!(known.has(next.number, peer));
        Ok(())
    }

    /// Returns how many mappings the positions lead to.
    fn count(tables: &Tables) -> usize {
        let mut count = 0;
        tables.for_each_position(|position| {
            tables.for_each_mapping_at(position, |_, _| count += 1);
        });
        count
    }

    #[test]
    fn positions_lead_to_pieces_of_few_mappings_of_all_addresses() -> Result {
        let tables = Tables::new()?;
        assert_eq!(tables.position_from(0), None);
        for host in 0..300 {
            assert!(give(&tables, host % 200, host + 1000).is_ok());
            // As many addresses as hosts, and one more.
            let mut inside = inside(host);
            inside.outside_address = [u64::from(host), 1];
            let (endpoint, filtering) = (inside.endpoint, Filtering::EndpointIndependent);
            let fill = |gap: Gap<'_>| gap.fill(&endpoint, filtering, 7, 100, |_| Some(1000));
            assert!(tables.find_or_else(&inside, 100, fill).is_ok());
        }
        assert_eq!(count(&tables), 500);
        let first = tables.position_from(0).ok_or(ENOENT)?;
        assert_eq!(tables.position_from(first), Some(first));
        assert!(tables
            .position_from(first + 1)
            .is_some_and(|next| next > first));
        let end = u64::from(PARTS) * MOST_CHUNKS as u64;
        assert_eq!(tables.position_from(end), None);
        assert_eq!(tables.position_from(u64::MAX), None);
        // A mapping of the address with many is removed during the walk: those that are left are found.
        let mut seen = 0;
        tables.for_each_position(|position| {
            tables.for_each_mapping_at(position, |_, _| seen += 1);
            remove(&tables, 1000 + (position % 200) as u16).unwrap_or(());
        });
        assert!(seen >= count(&tables) && count(&tables) < 500);
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
                    while mapping_of(&tables, port).is_some() {
                        remove(&tables, port)?;
                    }
                }
            } else {
                let port = host + 1000;
                assert_eq!(give(&tables, host, port), Ok((port, expected.is_none())));
                *expected = Some(port);
            }
        }
        assert_eq!(count(&tables), ports.iter().flatten().count());
        for (host, port) in (0..).zip(&ports) {
            assert_eq!(tables.has_inside(&inside(host)), port.is_some());
            if let Some(port) = port {
                let found = mapping_of(&tables, *port).ok_or(ENOENT)?;
                assert!(found.1 == inside(host).endpoint);
            }
        }
        // Every other one goes, and the others are found where they lie now.
        tables.remove(|mapping, _| mapping.port % 2 == 0);
        for (host, port) in (0..).zip(&ports) {
            let stays = port.is_some_and(|port| port % 2 == 1);
            assert_eq!(tables.has_inside(&inside(host)), stays);
            assert_eq!(mapping_of(&tables, host + 1000).is_some(), stays);
        }
        tables.remove(|_, _| true);
        assert_eq!((count(&tables), tables.count.load(Relaxed)), (0, 0));
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
        remove(&tables, 5003)?;
        assert_eq!(ask(&tables, 10, 5000, [5000, 5009]), Ok((5003, true)));
        Ok(())
    }
}
