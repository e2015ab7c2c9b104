// SPDX-License-Identifier: GPL-2.0

//! The addresses that flows of a namespace leave with because routes name them.
//!
//! Such an address may be another device's than the one that the flow leaves by. It is not borrowed, so the flow keeps
//! it when its device gets an address of its own.

use crate::net::random::FACTOR;
use kernel::{
    prelude::*,
    sync::atomic::{
        Atomic,
        AtomicFlag,
        Relaxed, //
    },
};

/// The number of addresses that are kept one by one.
const CAPACITY: usize = 64;

/// A set of addresses. Beyond its capacity it has every address.
pub(super) struct RouteSources {
    /// A number for each address, 0 for none.
    tags: [Atomic<u64>; CAPACITY],
    overflow: AtomicFlag,
}

impl RouteSources {
    /// Returns the empty set.
    pub(super) const fn new() -> Self {
        Self {
            tags: [const { Atomic::new(0) }; CAPACITY],
            overflow: AtomicFlag::new(false),
        }
    }

    /// Adds an address, given as words. Any context.
    #[inline(always)]
    pub(super) fn add(&self, address: [u64; 2]) {
        let tag = tag(address);
        // CAST: The place is less than the number of places.
        let first = self.tags.get(tag as usize % CAPACITY);
        if first.is_none_or(|place| place.load(Relaxed) != tag) {
            self.add_unless_there(tag);
        }
    }

    #[cold]
    fn add_unless_there(&self, tag: u64) {
        // Two threads, or a gap that was left by another address, may make it have two places.
        let is_added = self.places_for(tag).any(|place| match place.load(Relaxed) {
            0 => place.cmpxchg(0, tag, Relaxed).is_ok(),
            other => other == tag,
        });
        if !is_added && !self.overflow.load(Relaxed) {
            self.overflow.store(true, Relaxed);
        }
    }

    /// Returns all places, from that which a tag points to.
    fn places_for(&self, tag: u64) -> impl Iterator<Item = &Atomic<u64>> {
        // CAST: The place is less than the number of places.
        let (before, from) = self.tags.split_at(tag as usize % CAPACITY);
        Iterator::chain(from.iter(), before)
    }

    /// Returns whether the set has an address. Any context.
    pub(super) fn has(&self, address: [u64; 2]) -> bool {
        let tag = tag(address);
        self.overflow.load(Relaxed) || self.tags.iter().any(|place| place.load(Relaxed) == tag)
    }

    /// Removes an address. A set that had more than its capacity still has it. Any context.
    pub(super) fn remove(&self, address: [u64; 2]) {
        let tag = tag(address);
        for place in &self.tags {
            if place.load(Relaxed) == tag {
                place.store(0, Relaxed);
            }
        }
    }
}

/// Returns a number that tells an address from others, all of which are the machine's own.
fn tag([low, high]: [u64; 2]) -> u64 {
    (low.wrapping_mul(FACTOR).rotate_left(32) ^ high).max(1)
}

#[kunit_tests(rustmasq_route_sources)]
mod tests {
    use super::*;
    use crate::net::AnyAddress;
    use core::net::{
        Ipv4Addr,
        Ipv6Addr, //
    };

    fn ipv4(last: u8) -> [u64; 2] {
        AnyAddress::V4(Ipv4Addr::new(203, 0, 113, last)).words()
    }

    #[test]
    fn the_empty_set_has_no_address() {
        let set = RouteSources::new();
        assert!(!set.has(ipv4(1)));
        assert!(!set.has([0, 0]));
    }

    #[test]
    fn addresses_of_both_families() {
        let set = RouteSources::new();
        let ipv6 = |last| AnyAddress::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last)).words();
        set.add(ipv4(1));
        set.add(ipv6(1));
        assert!(set.has(ipv4(1)) && set.has(ipv6(1)));
        assert!(!set.has(ipv4(2)) && !set.has(ipv6(2)));
        set.remove(ipv6(1));
        assert!(set.has(ipv4(1)) && !set.has(ipv6(1)));
    }

    #[test]
    fn an_address_takes_one_place() {
        let set = RouteSources::new();
        set.add(ipv4(0));
        (0..100).for_each(|_| set.add(ipv4(1)));
        (2..CAPACITY as u8).for_each(|last| set.add(ipv4(last)));
        assert!((0..CAPACITY as u8).all(|last| set.has(ipv4(last))));
        assert!(!set.has(ipv4(100)));
        set.remove(ipv4(3));
        assert!(!set.has(ipv4(3)));
        set.add(ipv4(100));
        assert!(set.has(ipv4(100)) && !set.has(ipv4(3)));
    }

    #[test]
    fn beyond_its_capacity_it_has_every_address() {
        let set = RouteSources::new();
        (0..=CAPACITY as u8).for_each(|last| set.add(ipv4(last)));
        assert!(set.has(ipv4(100)));
        set.remove(ipv4(0));
        assert!(set.has(ipv4(0)));
    }
}
