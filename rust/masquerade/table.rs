// SPDX-License-Identifier: GPL-2.0

//! A hash table whose parts have locks of their own.

use crate::net::context::BottomHalvesOff;
use core::ops::Range;
use kernel::{
    prelude::*,
    sync::{
        lock::{
            spinlock::SpinLockBackend,
            Guard, //
        },
        SpinLock, //
    },
};

/// The number of parts of a table.
pub(super) const PARTS: u32 = 256;
/// The places of a part that has any, at least.
const FEWEST_PLACES: usize = 32;

/// A part of a table: places, of which some are empty. An item is in the place that its hash points to, or behind it
/// without an empty place between.
pub(super) struct Part<T> {
    /// None, or as many as a power of two.
    places: KVec<Option<T>>,
    count: usize,
}

impl<T> Part<T> {
    /// Returns an empty part.
    pub(super) const fn new() -> Self {
        Self {
            places: KVec::new(),
            count: 0,
        }
    }

    fn with_places(len: usize) -> Result<Self> {
        let flags = GFP_ATOMIC | __GFP_NOWARN;
        let mut places = KVec::with_capacity(len, flags)?;
        for _ in 0..len {
            places.push(None, flags)?;
        }
        Ok(Self { places, count: 0 })
    }

    /// Returns the number of items.
    #[cfg(CONFIG_KUNIT = "y")]
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// Returns the items.
    pub(super) fn items(&self) -> impl Iterator<Item = &T> {
        self.places.iter().flatten()
    }

    /// Returns the items, to be changed.
    pub(super) fn items_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.places.iter_mut().flatten()
    }

    /// Returns the place that a hash points to.
    fn home(&self, hash: u32) -> usize {
        // The parts are chosen by the hash modulo their number.
        // CAST: A hash has 32 bits.
        (hash / PARTS) as usize & self.mask()
    }

    /// Returns the bits of the numbers of places.
    fn mask(&self) -> usize {
        self.places.len().wrapping_sub(1)
    }

    /// Returns the place of the item with the hash for which `is_it` says so.
    #[inline(always)]
    fn find(&self, hash: u32, is_it: impl Fn(&T) -> bool) -> Option<usize> {
        let mut place = self.home(hash);
        // A place is empty, or there is none.
        while let Some(item) = self.places.get(place)? {
            if is_it(item) {
                return Some(place);
            }
            place = (place + 1) & self.mask();
        }
        None
    }

    /// Returns the item with the hash for which `is_it` says so.
    #[inline(always)]
    pub(super) fn get(&self, hash: u32, is_it: impl Fn(&T) -> bool) -> Option<&T> {
        self.places.get(self.find(hash, is_it)?)?.as_ref()
    }

    /// Returns the item with the hash for which `is_it` says so, to be changed.
    #[inline(always)]
    pub(super) fn get_mut(&mut self, hash: u32, is_it: impl Fn(&T) -> bool) -> Option<&mut T> {
        let place = self.find(hash, is_it)?;
        self.places.get_mut(place)?.as_mut()
    }

    /// Makes room for one more; `hash_of` returns the hash of an item. Errors: ENOMEM. Any context.
    #[inline(always)]
    pub(super) fn reserve(&mut self, hash_of: impl Fn(&T) -> u32) -> Result {
        // Six of seven places are used at most.
        if (self.count + 1) * 7 <= self.places.len() * 6 {
            return Ok(());
        }
        self.grow(hash_of)
    }

    #[cold]
    fn grow(&mut self, hash_of: impl Fn(&T) -> u32) -> Result {
        let mut larger = Self::with_places((self.places.len() * 2).max(FEWEST_PLACES))?;
        for item in self.places.drain_all().flatten() {
            let hash = hash_of(&item);
            larger.put(item, hash);
        }
        *self = larger;
        Ok(())
    }

    /// Puts an item into the first empty place; there is one, as [`reserve`](Self::reserve) was called.
    #[inline(always)]
    pub(super) fn put(&mut self, item: T, hash: u32) {
        let mut place = self.home(hash);
        while let Some(Some(_)) = self.places.get(place) {
            place = (place + 1) & self.mask();
        }
        if let Some(place) = self.places.get_mut(place) {
            *place = Some(item);
            self.count += 1;
        }
    }

    /// Takes the item with the hash out for which `is_it` says so; `hash_of` returns the hash of any item.
    pub(super) fn take(
        &mut self,
        hash: u32,
        is_it: impl Fn(&T) -> bool,
        hash_of: impl Fn(&T) -> u32,
    ) -> Option<T> {
        let place = self.find(hash, is_it)?;
        let taken = self.take_from(place, hash_of);
        // One that had many items gives their memory back.
        if self.count == 0 && self.places.len() > FEWEST_PLACES {
            self.shrink();
        }
        taken
    }

    /// Takes the item out of a place, and moves others into the gap that belong before it.
    fn take_from(&mut self, place: usize, hash_of: impl Fn(&T) -> u32) -> Option<T> {
        let mask = self.mask();
        let taken = self.places.get_mut(place)?.take()?;
        self.count -= 1;
        let mut gap = place;
        let mut next = (place + 1) & mask;
        while let Some(Some(item)) = self.places.get(next) {
            let home = self.home(hash_of(item));
            // It may move if its home is not between the gap, which is left out, and its place.
            if next.wrapping_sub(home) & mask >= next.wrapping_sub(gap) & mask {
                self.places.swap(gap, next);
                gap = next;
            }
            next = (next + 1) & mask;
        }
        Some(taken)
    }

    /// Takes out all items for which `takes` returns true.
    pub(super) fn take_all(
        &mut self,
        hash_of: impl Fn(&T) -> u32,
        mut takes: impl FnMut(&mut T) -> bool,
    ) {
        let mut place = 0;
        while let Some(found) = self.places.get_mut(place) {
            if found.as_mut().is_some_and(&mut takes) {
                // Another one may move to its place.
                drop(self.take_from(place, &hash_of));
            } else {
                place += 1;
            }
        }
        self.shrink();
    }

    /// Gives the memory of an empty part back.
    pub(super) fn shrink(&mut self) {
        if self.count == 0 {
            self.places = KVec::new();
        }
    }
}

/// A table.
pub(super) struct Table<T> {
    parts: KVec<Pin<KBox<SpinLock<Part<T>>>>>,
}

impl<T> Table<T> {
    /// Returns an empty table with parts that `lock` puts into locks. Errors: ENOMEM. Process context.
    pub(super) fn new<I: PinInit<SpinLock<Part<T>>>>(lock: impl Fn(Part<T>) -> I) -> Result<Self> {
        let mut parts = KVec::with_capacity(PARTS as usize, GFP_KERNEL)?;
        for _ in 0..PARTS {
            parts.push(KBox::pin_init(lock(Part::new()), GFP_KERNEL)?, GFP_KERNEL)?;
        }
        Ok(Self { parts })
    }

    /// Returns the part for a hash, locked. The caller has turned softirqs off.
    #[inline(always)]
    pub(super) fn lock<'a>(
        &'a self,
        hash: u32,
        _: &'a BottomHalvesOff,
    ) -> Option<Guard<'a, Part<T>, SpinLockBackend>> {
        // CAST: It is less than the number of parts.
        Some(self.parts.get((hash % PARTS) as usize)?.lock())
    }

    /// Calls `f` with the part for a hash. The caller has turned softirqs off.
    #[inline(always)]
    pub(super) fn with<R>(
        &self,
        hash: u32,
        no_softirq: &BottomHalvesOff,
        f: impl FnOnce(&mut Part<T>) -> R,
    ) -> Option<R> {
        Some(f(&mut *self.lock(hash, no_softirq)?))
    }

    /// Takes out of some parts all items for which `takes` returns true, which is called under the part's lock.
    pub(super) fn take_all(
        &self,
        parts: Range<u32>,
        hash_of: impl Fn(&T) -> u32,
        mut takes: impl FnMut(&mut T) -> bool,
    ) {
        for number in parts {
            let no_softirq = BottomHalvesOff::new();
            self.with(number, &no_softirq, |part| {
                part.take_all(&hash_of, &mut takes);
            });
        }
    }
}

#[kunit_tests(rustmasq_table)]
mod tests {
    use super::*;

    /// Four homes, next to each other, for all numbers; and one part.
    fn hash_of(number: &u32) -> u32 {
        number % 4 * PARTS
    }

    #[test]
    fn items_with_few_homes_are_as_a_model_says() -> Result {
        let mut part = Part::new();
        let mut model = [false; 100];
        let mut random = 1_u32;
        for _ in 0..5000 {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let number = (random >> 16) % 100;
            let is_it = |item: &u32| *item == number;
            let hash = hash_of(&number);
            // CAST: Less than 100.
            let expected = model.get_mut(number as usize).ok_or(EINVAL)?;
            assert_eq!(part.get(hash, is_it).is_some(), *expected);
            assert_eq!(part.get_mut(hash, is_it).is_some(), *expected);
            if *expected {
                assert_eq!(part.take(hash, is_it, hash_of), Some(number));
            } else {
                part.reserve(hash_of)?;
                part.put(number, hash);
            }
            *expected = !*expected;
        }
        assert_eq!(part.count(), model.iter().filter(|there| **there).count());
        part.take_all(hash_of, |item| *item % 2 == 0);
        let odd = (0..100).filter(|number| model[*number] && number % 2 == 1);
        assert_eq!(part.items().count(), odd.count());
        assert!(part.items().all(|item| *item % 2 == 1));
        part.take_all(hash_of, |_| true);
        assert!(part.places.is_empty());
        Ok(())
    }

    #[test]
    fn an_empty_part_has_no_memory_and_finds_nothing() {
        let mut part = Part::<u32>::new();
        assert_eq!(part.places.capacity(), 0);
        assert!(part.get(7, |_| true).is_none());
        assert!(part.take(7, |_| true, hash_of).is_none());
        assert_eq!(part.items_mut().count(), 0);
    }

    #[test]
    fn an_empty_part_keeps_little_memory() -> Result {
        let mut part = Part::new();
        for count in [5, 1000] {
            for number in 0..count {
                part.reserve(hash_of)?;
                part.put(number, hash_of(&number));
            }
            for number in 0..count {
                part.take(hash_of(&number), |item| *item == number, hash_of);
            }
            assert!(part.count() == 0 && part.places.len() <= FEWEST_PLACES);
        }
        Ok(())
    }

    #[test]
    fn six_of_seven_places_are_used_at_most() -> Result {
        let mut part = Part::new();
        for number in 0..1000 {
            part.reserve(hash_of)?;
            part.put(number, hash_of(&number));
            assert!(part.count() * 7 <= part.places.len() * 6);
            assert!(part.places.len().is_power_of_two());
        }
        Ok(())
    }
}
