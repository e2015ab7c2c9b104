// SPDX-License-Identifier: GPL-2.0

//! An outside address whose ports belong to mappings.
//!
//! The mappings lie one behind the other, in chunks. One is found by its inside endpoint and by its outside port: those
//! with hashes alike, and those with ports alike, are linked into lists. If one goes, the last one takes its place.

use super::{
    endpoint::Endpoint,
    mapping::Mapping,
    used_ports::UsedPorts, //
};
use core::marker::PhantomData;
use kernel::{
    alloc::Flags,
    prelude::*, //
};

/// The number of entries of a chunk.
const CHUNK: usize = 64;
/// The most chunks of an address, which has a mapping for each port at most.
pub(super) const MOST_CHUNKS: usize = (1 << 16) / CHUNK;
/// The number of lists of a kind, at first and at most: one for each port.
const FEWEST_LISTS: usize = 1024;
const MOST_LISTS: usize = 1 << 16;

/// The place of an entry, counted from 1, or 0: there is none.
type Link = u32;

/// Returns the link to a place, counted from 0.
#[inline(always)]
fn link_to(number: usize) -> Link {
    // CAST: There are at most as many entries as ports.
    number as Link + 1
}

/// Returns the place that a link leads to, counted from 0.
#[inline(always)]
fn place_at(link: Link) -> Option<usize> {
    // CAST: A `usize` has 64 bits here.
    link.checked_sub(1).map(|number| number as usize)
}

/// A mapping, in a list of each kind.
#[derive(Clone, Copy)]
struct Entry {
    mapping: Mapping,
    next_by_inside: Link,
    next_by_port: Link,
}

/// Entries that lie one behind the other.
struct Entries {
    /// Each has room for [`CHUNK`] entries. Those beyond `len` are not used.
    chunks: KVec<KVec<Entry>>,
    len: usize,
}

impl Entries {
    #[inline(always)]
    fn get(&self, number: usize) -> Option<&Entry> {
        self.chunks.get(number / CHUNK)?.get(number % CHUNK)
    }

    #[inline(always)]
    fn get_mut(&mut self, number: usize) -> Option<&mut Entry> {
        self.chunks.get_mut(number / CHUNK)?.get_mut(number % CHUNK)
    }

    /// Makes room for one more. Errors: ENOMEM.
    #[inline(always)]
    fn reserve(&mut self, flags: Flags) -> Result {
        if self.len / CHUNK < self.chunks.len() {
            return Ok(());
        }
        self.grow(flags)
    }

    #[cold]
    fn grow(&mut self, flags: Flags) -> Result {
        self.chunks
            .push(KVec::with_capacity(CHUNK, flags)?, flags)?;
        Ok(())
    }

    /// Adds an entry, for which [`reserve`](Self::reserve) has made room, and returns it with its place.
    #[inline(always)]
    fn push(&mut self, mapping: Mapping) -> Option<(&mut Entry, usize)> {
        let number = self.len;
        let chunk = self.chunks.get_mut(number / CHUNK)?;
        let entry = Entry {
            mapping,
            next_by_inside: 0,
            next_by_port: 0,
        };
        // One that went before it has left its place behind.
        match chunk.get_mut(number % CHUNK) {
            Some(place) => *place = entry,
            None => chunk.push_within_capacity(entry).ok()?,
        }
        self.len = number + 1;
        Some((chunk.get_mut(number % CHUNK)?, number))
    }
}

/// A kind of lists: those of entries whose keys are alike in the lowest bits.
trait Kind {
    /// Returns the key of a mapping.
    fn key(mapping: &Mapping) -> u32;

    /// Returns the link to the next entry.
    fn next(entry: &Entry) -> Link;

    /// Returns the place of the link to the next entry.
    fn next_mut(entry: &mut Entry) -> &mut Link;
}

/// By the hash of the inside endpoint.
struct ByInside;

impl Kind for ByInside {
    #[inline(always)]
    fn key(mapping: &Mapping) -> u32 {
        mapping.hash
    }

    #[inline(always)]
    fn next(entry: &Entry) -> Link {
        entry.next_by_inside
    }

    #[inline(always)]
    fn next_mut(entry: &mut Entry) -> &mut Link {
        &mut entry.next_by_inside
    }
}

/// By the outside port.
struct ByPort;

impl Kind for ByPort {
    #[inline(always)]
    fn key(mapping: &Mapping) -> u32 {
        mapping.port.into()
    }

    #[inline(always)]
    fn next(entry: &Entry) -> Link {
        entry.next_by_port
    }

    #[inline(always)]
    fn next_mut(entry: &mut Entry) -> &mut Link {
        &mut entry.next_by_port
    }
}

/// The lists of a kind.
struct Lists<K> {
    /// The first entries of as many as a power of two.
    first: KVec<Link>,
    kind: PhantomData<K>,
}

impl<K: Kind> Lists<K> {
    /// Returns empty lists. Errors: ENOMEM.
    fn new(len: usize, flags: Flags) -> Result<Self> {
        Ok(Self {
            first: KVec::zeroed(len, flags)?,
            kind: PhantomData,
        })
    }

    /// Returns the number of the list for a key.
    #[inline(always)]
    fn list_of(&self, key: u32) -> usize {
        // CAST: A `usize` has 64 bits here.
        key as usize & self.first.len().wrapping_sub(1)
    }

    /// Returns the place of the entry with a key for which `is_it` returns true.
    #[inline(always)]
    fn find(&self, entries: &Entries, key: u32, is_it: impl Fn(&Mapping) -> bool) -> Option<usize> {
        let mut link = *self.first.get(self.list_of(key))?;
        loop {
            let number = place_at(link)?;
            let entry = entries.get(number)?;
            if is_it(&entry.mapping) {
                return Some(number);
            }
            link = K::next(entry);
        }
    }

    /// Puts an entry, which lies at a place, into its list.
    #[inline(always)]
    fn add(&mut self, entry: &mut Entry, number: usize) {
        let list = self.list_of(K::key(&entry.mapping));
        if let Some(first) = self.first.get_mut(list) {
            *K::next_mut(entry) = *first;
            *first = link_to(number);
        }
    }

    /// Replaces a link of the list for a key.
    fn replace(&mut self, entries: &mut Entries, key: u32, old: Link, new: Link) {
        let list = self.list_of(key);
        let mut link = self.first.get_mut(list);
        while let Some(found) = link {
            if *found == old {
                *found = new;
                return;
            }
            let next = place_at(*found);
            link = next.and_then(|number| Some(K::next_mut(entries.get_mut(number)?)));
        }
    }

    /// Makes four times as many lists, if there is memory. Else they are longer than usual.
    #[cold]
    fn split(&mut self, entries: &mut Entries, flags: Flags) {
        let len = (self.first.len() * 4).min(MOST_LISTS);
        if let Ok(lists) = Self::new(len, flags) {
            *self = lists;
            for number in 0..entries.len {
                if let Some(entry) = entries.get_mut(number) {
                    self.add(entry, number);
                }
            }
        }
    }
}

/// An outside address, of a protocol and a zone.
pub(super) struct OutsideAddress {
    /// The address, with port 0.
    address: Endpoint,
    used: UsedPorts,
    by_inside: Lists<ByInside>,
    by_port: Lists<ByPort>,
    entries: Entries,
}

impl OutsideAddress {
    /// Returns an address without mappings. Errors: ENOMEM.
    pub(super) fn new(address: Endpoint, flags: Flags) -> Result<KBox<Self>> {
        let address = Self {
            address,
            used: UsedPorts::new(flags)?,
            by_inside: Lists::new(FEWEST_LISTS, flags)?,
            by_port: Lists::new(FEWEST_LISTS, flags)?,
            entries: Entries {
                chunks: KVec::new(),
                len: 0,
            },
        };
        Ok(KBox::new(address, flags)?)
    }

    /// Returns the address, with port 0.
    #[inline(always)]
    pub(super) fn address(&self) -> &Endpoint {
        &self.address
    }

    /// Returns the ports that mappings use.
    pub(super) fn used(&self) -> &UsedPorts {
        &self.used
    }

    /// Returns whether there is no mapping.
    pub(super) fn is_empty(&self) -> bool {
        self.entries.len == 0
    }

    /// Returns the mapping of an inside endpoint with this hash.
    #[inline(always)]
    pub(super) fn of_inside(&mut self, inside: &Endpoint, hash: u32) -> Option<&mut Mapping> {
        let is_it = |mapping: &Mapping| mapping.inside == *inside;
        let number = self.by_inside.find(&self.entries, hash, is_it)?;
        Some(&mut self.entries.get_mut(number)?.mapping)
    }

    /// Returns the mapping with a port.
    #[inline(always)]
    pub(super) fn of_port(&mut self, port: u16) -> Option<&mut Mapping> {
        let number = self.place_of(port)?;
        Some(&mut self.entries.get_mut(number)?.mapping)
    }

    /// Returns the place of the entry with a port.
    #[inline(always)]
    fn place_of(&self, port: u16) -> Option<usize> {
        let is_it = |mapping: &Mapping| mapping.port == port;
        self.by_port.find(&self.entries, port.into(), is_it)
    }

    /// Adds a mapping with a port that is free. Errors: ENOMEM.
    #[inline(always)]
    pub(super) fn add(&mut self, mapping: Mapping, flags: Flags) -> Result {
        self.entries.reserve(flags)?;
        let (entry, number) = self.entries.push(mapping).ok_or(ENOMEM)?;
        self.by_inside.add(entry, number);
        self.by_port.add(entry, number);
        self.used.take(mapping.port);
        // They have two entries each on average then.
        let lists = self.by_inside.first.len();
        if number > lists && number.is_power_of_two() && lists < MOST_LISTS {
            self.by_inside.split(&mut self.entries, flags);
            self.by_port.split(&mut self.entries, flags);
        }
        Ok(())
    }

    /// Removes the mapping with a port.
    pub(super) fn remove(&mut self, port: u16) -> Option<Mapping> {
        let number = self.place_of(port)?;
        let Self {
            by_inside,
            by_port,
            entries,
            ..
        } = self;
        let gone = *entries.get(number)?;
        let link = link_to(number);
        by_inside.replace(entries, gone.mapping.hash, link, gone.next_by_inside);
        by_port.replace(entries, port.into(), link, gone.next_by_port);
        self.used.release(port);
        entries.len = entries.len.checked_sub(1)?;
        let last = *entries.get(entries.len)?;
        if entries.len != number {
            // The last one takes the place.
            let old = link_to(entries.len);
            by_inside.replace(entries, last.mapping.hash, old, link);
            by_port.replace(entries, last.mapping.port.into(), old, link);
            *entries.get_mut(number)? = last;
        }
        Some(gone.mapping)
    }

    /// Returns the number of chunks.
    pub(super) fn chunks(&self) -> usize {
        self.entries.len.div_ceil(CHUNK)
    }

    /// Returns the mappings of a chunk.
    pub(super) fn chunk(&self, number: usize) -> impl Iterator<Item = &Mapping> {
        let used = self.entries.len.saturating_sub(number * CHUNK);
        let chunk = self.entries.chunks.get(number);
        let entries = chunk.map_or(&[][..], |chunk| chunk.as_slice());
        entries.iter().take(used).map(|entry| &entry.mapping)
    }

    /// Removes the mappings of a chunk for which `is_stale` returns true, and calls `removed` with each.
    ///
    /// The chunks are to be looked through from the last one to the first: their mappings move to earlier ones.
    pub(super) fn remove_from_chunk(
        &mut self,
        number: usize,
        is_stale: impl Fn(&Mapping) -> bool,
        removed: impl Fn(Mapping),
    ) {
        let first = number * CHUNK;
        for number in (first..self.entries.len.min(first + CHUNK)).rev() {
            let entry = self.entries.get(number);
            let stale = entry.filter(|entry| is_stale(&entry.mapping));
            if let Some(port) = stale.map(|entry| entry.mapping.port) {
                self.remove(port).into_iter().for_each(&removed);
            }
        }
    }

    /// Gives memory back that is not used.
    pub(super) fn shrink(&mut self) {
        self.entries.chunks.truncate(self.chunks());
    }
}

#[kunit_tests(rustmasq_outside)]
mod tests {
    use super::*;
    use crate::{
        net::{
            random::WordsHash,
            AnyAddress, //
        }, //
    };
    use core::net::Ipv4Addr;

    fn inside(host: u16) -> Endpoint {
        let [high, low] = host.to_be_bytes();
        Endpoint::of_udp(AnyAddress::V4(Ipv4Addr::new(10, 0, high, low)), 5000)
    }

    /// Returns an address whose ports from 1000 on are those of as many hosts.
    fn address(count: u16, hash: impl Fn(u16) -> u32) -> Result<KBox<OutsideAddress>> {
        let mut address = OutsideAddress::new(inside(0).with_port(0), GFP_KERNEL)?;
        for host in 0..count {
            let port = host + 1000;
            let mapping = Mapping::new(inside(host), hash(host), port, 0, 0);
            address.add(mapping, GFP_KERNEL)?;
        }
        Ok(address)
    }

    #[test]
    fn mappings_are_found_however_many_and_wherever_they_move() -> Result {
        const COUNT: u16 = 40_000;
        let function = WordsHash::random();
        let hash = |host: u16| inside(host).hash(&function);
        let mut address = address(COUNT, hash)?;
        assert_eq!(address.by_inside.first.len(), MOST_LISTS);
        assert_eq!(address.by_port.first.len(), MOST_LISTS);
        for host in (0..COUNT).filter(|host| host % 3 > 0) {
            let removed = address.remove(host + 1000).ok_or(ENOENT)?;
            assert!(removed.inside == inside(host));
        }
        for host in 0..COUNT {
            let stays = host % 3 == 0;
            let port = address
                .of_inside(&inside(host), hash(host))
                .map(|found| found.port);
            assert_eq!(port, stays.then_some(host + 1000));
            let found = address.of_port(host + 1000).map(|found| found.inside);
            assert!(found == stays.then_some(inside(host)));
        }
        address.shrink();
        assert_eq!(address.entries.chunks.len(), address.chunks());
        Ok(())
    }

    #[test]
    fn mappings_with_the_same_hash_are_told_apart() -> Result {
        let mut address = address(100, |_| 7)?;
        for host in (0..100).rev().step_by(3) {
            assert!(address.remove(host + 1000).is_some());
            assert!(address.remove(host + 1000).is_none());
        }
        for host in 0..100 {
            let found = address.of_inside(&inside(host), 7).is_some();
            assert_eq!(found, host % 3 > 0);
        }
        Ok(())
    }

    #[test]
    fn a_mapping_takes_at_most_128_bytes_in_large_tables() {
        // Chunks in pieces of 4,096 bytes, of which the allocator has some.
        assert!(size_of::<Entry>() * CHUNK <= 4096);
        // When lists are made, there are two of each kind for a mapping.
        let lists = 2 * size_of::<Link>() * 2;
        assert!(4096 / CHUNK + lists <= 128);
    }
}
