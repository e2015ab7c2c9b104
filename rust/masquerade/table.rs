// SPDX-License-Identifier: GPL-2.0

//! A hash table whose parts have locks of their own.

use crate::net::{
    context::BottomHalvesOff,
    random::WordsHash, //
};
use core::ops::Range;
use kernel::{
    alloc::Flags,
    prelude::*,
    sync::{
        Arc,
        SpinLock, //
    },
};

/// The number of parts of a table.
pub(super) const PARTS: u32 = 256;
/// The places of a part, at least.
const FEWEST_PLACES: usize = 8;

/// A key that a table finds an item by.
pub(super) trait Key: Copy + Eq {
    type Item;

    /// Returns the key of an item.
    fn of(item: &Self::Item) -> Self;

    /// Returns whether it is the key of an item.
    fn is_of(&self, item: &Self::Item) -> bool;

    /// Returns the key's hash.
    fn hash(&self, hash: &WordsHash) -> u32;
}

/// A part of a table: places, of which some are empty. An item is in the place that its hash points to, or behind it
/// without an empty place between.
pub(super) struct Part<K: Key> {
    /// As many as a power of two.
    places: KVec<Option<Arc<K::Item>>>,
    count: usize,
}

impl<K: Key> Part<K> {
    /// Returns an empty part. Errors: ENOMEM.
    pub(super) fn new(flags: Flags) -> Result<Self> {
        Self::with_places(FEWEST_PLACES, flags)
    }

    fn with_places(len: usize, flags: Flags) -> Result<Self> {
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
    pub(super) fn items(&self) -> impl Iterator<Item = &Arc<K::Item>> {
        self.places.iter().flatten()
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

    /// Returns the place of the item with the key.
    #[inline(always)]
    fn find(&self, key: &K, hash: u32) -> Option<usize> {
        let mut place = self.home(hash);
        // A place is empty, or there is none.
        while let Some(item) = self.places.get(place)? {
            if key.is_of(item) {
                return Some(place);
            }
            place = (place + 1) & self.mask();
        }
        None
    }

    /// Returns the item with the key.
    #[inline(always)]
    pub(super) fn get(&self, key: &K, hash: u32) -> Option<&Arc<K::Item>> {
        self.places.get(self.find(key, hash)?)?.as_ref()
    }

    /// Makes room for one more. Errors: ENOMEM.
    #[inline(always)]
    pub(super) fn reserve(&mut self, hash: &WordsHash) -> Result {
        // Six of seven places are used at most.
        if (self.count + 1) * 7 <= self.places.len() * 6 {
            return Ok(());
        }
        self.grow(hash)
    }

    #[cold]
    fn grow(&mut self, hash: &WordsHash) -> Result {
        let mut larger = Self::with_places(self.places.len() * 2, GFP_ATOMIC | __GFP_NOWARN)?;
        for item in self.places.drain_all().flatten() {
            let hash = K::of(&item).hash(hash);
            larger.put(item, hash);
        }
        *self = larger;
        Ok(())
    }

    /// Puts an item into the first empty place; there is one, as [`reserve`](Self::reserve) was called.
    #[inline(always)]
    pub(super) fn put(&mut self, item: Arc<K::Item>, hash: u32) {
        let mut place = self.home(hash);
        while let Some(Some(_)) = self.places.get(place) {
            place = (place + 1) & self.mask();
        }
        if let Some(place) = self.places.get_mut(place) {
            *place = Some(item);
            self.count += 1;
        }
    }

    /// Takes the item with the key, whose hash by `function` is `hash`, out, if `takes` says so.
    pub(super) fn take_if(
        &mut self,
        key: &K,
        hash: u32,
        function: &WordsHash,
        takes: impl FnOnce(&Arc<K::Item>) -> bool,
    ) -> Option<Arc<K::Item>> {
        let place = self.find(key, hash)?;
        if !takes(self.places.get(place)?.as_ref()?) {
            return None;
        }
        self.take(place, function)
    }

    /// Takes the item out of a place, and moves others into the gap that belong before it.
    fn take(&mut self, place: usize, hash: &WordsHash) -> Option<Arc<K::Item>> {
        let mask = self.mask();
        let taken = self.places.get_mut(place)?.take()?;
        self.count -= 1;
        let mut gap = place;
        let mut next = (place + 1) & mask;
        while let Some(Some(item)) = self.places.get(next) {
            let home = self.home(K::of(item).hash(hash));
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
    fn take_all(&mut self, hash: &WordsHash, mut takes: impl FnMut(&Arc<K::Item>) -> bool) {
        let mut place = 0;
        while let Some(found) = self.places.get(place) {
            match found {
                // Another one may have moved to its place then.
                Some(item) if takes(item) => drop(self.take(place, hash)),
                _ => place += 1,
            }
        }
        self.shrink();
    }

    /// Gives the memory of an empty part back, but for few places.
    fn shrink(&mut self) {
        if self.count == 0 && self.places.len() > FEWEST_PLACES {
            if let Ok(part) = Self::new(GFP_ATOMIC | __GFP_NOWARN) {
                *self = part;
            }
        }
    }
}

/// A table that finds items by one key.
pub(super) struct Table<K: Key> {
    parts: KVec<Pin<KBox<SpinLock<Part<K>>>>>,
}

impl<K: Key> Table<K> {
    /// Returns an empty table with parts that `lock` puts into locks. Errors: ENOMEM. Process context.
    pub(super) fn new<I: PinInit<SpinLock<Part<K>>>>(lock: impl Fn(Part<K>) -> I) -> Result<Self> {
        let mut parts = KVec::with_capacity(PARTS as usize, GFP_KERNEL)?;
        for _ in 0..PARTS {
            let part = lock(Part::new(GFP_KERNEL)?);
            parts.push(KBox::pin_init(part, GFP_KERNEL)?, GFP_KERNEL)?;
        }
        Ok(Self { parts })
    }

    /// Calls `f` with the part for a hash. The caller has turned softirqs off.
    #[inline(always)]
    pub(super) fn with<R>(
        &self,
        hash: u32,
        _: &BottomHalvesOff,
        f: impl FnOnce(&mut Part<K>) -> R,
    ) -> Option<R> {
        // CAST: It is less than the number of parts.
        let part = self.parts.get((hash % PARTS) as usize)?;
        Some(f(&mut part.lock()))
    }

    /// Takes out of some parts all items for which `takes` returns true, which is called under the part's lock.
    pub(super) fn take_all(
        &self,
        parts: Range<u32>,
        hash: &WordsHash,
        mut takes: impl FnMut(&Arc<K::Item>, &BottomHalvesOff) -> bool,
    ) {
        for number in parts {
            let no_softirq = BottomHalvesOff::new();
            self.with(number, &no_softirq, |part| {
                part.take_all(hash, |item| takes(item, &no_softirq));
            });
        }
    }

    /// Gives the memory of empty parts back.
    pub(super) fn shrink(&self, parts: Range<u32>) {
        for number in parts {
            let no_softirq = BottomHalvesOff::new();
            self.with(number, &no_softirq, Part::shrink);
        }
    }

    /// Calls `f` with each item, under its part's lock.
    pub(super) fn for_each(&self, mut f: impl FnMut(&K::Item)) {
        for number in 0..PARTS {
            let no_softirq = BottomHalvesOff::new();
            self.with(number, &no_softirq, |part| {
                part.items().for_each(|item| f(item))
            });
        }
    }
}

#[kunit_tests(rustmasq_table)]
mod tests {
    use super::*;

    /// A key whose hash is a part of it.
    #[derive(Clone, Copy, Eq, PartialEq)]
    struct Number(u32);

    impl Key for Number {
        type Item = u32;

        fn of(item: &u32) -> Self {
            Self(*item)
        }

        fn is_of(&self, item: &u32) -> bool {
            self.0 == *item
        }

        fn hash(&self, _: &WordsHash) -> u32 {
            // Four homes, next to each other, for all; and one part.
            self.0 % 4 * PARTS
        }
    }

    #[test]
    fn items_with_few_homes_are_as_a_model_says() -> Result {
        let hash = WordsHash::random();
        let mut part = Part::<Number>::new(GFP_KERNEL)?;
        let mut model = [false; 100];
        let mut random = 1_u32;
        for _ in 0..5000 {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let number = (random >> 16) % 100;
            let key = Number(number);
            // CAST: Less than 100.
            let expected = model.get_mut(number as usize).ok_or(EINVAL)?;
            assert_eq!(part.get(&key, key.hash(&hash)).is_some(), *expected);
            if *expected {
                assert!(part
                    .take_if(&key, key.hash(&hash), &hash, |_| false)
                    .is_none());
                assert!(part
                    .take_if(&key, key.hash(&hash), &hash, |_| true)
                    .is_some());
            } else {
                part.reserve(&hash)?;
                part.put(Arc::new(number, GFP_KERNEL)?, key.hash(&hash));
            }
            *expected = !*expected;
        }
        assert_eq!(part.count(), model.iter().filter(|there| **there).count());
        part.take_all(&hash, |item| **item % 2 == 0);
        let odd = (0..100).filter(|number| model[*number] && number % 2 == 1);
        assert_eq!(part.items().count(), odd.count());
        assert!(part.items().all(|item| **item % 2 == 1));
        part.take_all(&hash, |_| true);
        assert_eq!(part.places.len(), FEWEST_PLACES);
        Ok(())
    }

    #[test]
    fn six_of_seven_places_are_used_at_most() -> Result {
        let hash = WordsHash::random();
        let mut part = Part::<Number>::new(GFP_KERNEL)?;
        for number in 0..1000 {
            part.reserve(&hash)?;
            part.put(Arc::new(number, GFP_KERNEL)?, Number(number).hash(&hash));
            assert!(part.count() * 7 <= part.places.len() * 6);
            assert!(part.places.len().is_power_of_two());
        }
        Ok(())
    }
}
