// SPDX-License-Identifier: GPL-2.0

//! The devices that mappings leave by: who comes in by one of them comes from outside.

use kernel::{
    prelude::*,
    sync::atomic::{
        Atomic,
        Relaxed, //
    },
};

/// The most devices.
const MOST: usize = 16;

/// The indexes of devices, each with the number of mappings that leave by it.
///
/// An entry is the index in the upper half of a word, and the number in the lower one.
pub(super) struct Uplinks([Atomic<u64>; MOST]);

impl Uplinks {
    /// Returns no devices.
    pub(super) fn new() -> Self {
        Self(core::array::from_fn(|_| Atomic::new(0)))
    }

    /// Counts a mapping. Returns whether there was room for its device. Any context.
    #[inline(always)]
    pub(super) fn add(&self, device: c_int) -> bool {
        // All have the same device, where there is one.
        let is_first = |index: c_int, count: u32| {
            (index == device && count > 0).then_some((index, count.checked_add(1)?))
        };
        let [first, ..] = &self.0;
        change(first, is_first) || self.add_to_any(device)
    }

    #[cold]
    fn add_to_any(&self, device: c_int) -> bool {
        self.0.iter().any(|entry| {
            change(entry, |index, count| {
                (index == device || count == 0).then_some((device, count.checked_add(1)?))
            })
        })
    }

    /// Subtracts a mapping that was counted. Any context.
    pub(super) fn remove(&self, device: c_int) {
        let _ = self.0.iter().any(|entry| {
            change(entry, |index, count| {
                (index == device).then_some((index, count.checked_sub(1)?))
            })
        });
    }

    /// Returns whether a mapping leaves by the device. Any context.
    pub(super) fn has(&self, device: c_int) -> bool {
        let is_used = |(index, count): (c_int, u32)| index == device && count > 0;
        self.0
            .iter()
            .any(|entry| is_used(split(entry.load(Relaxed))))
    }
}

/// Returns the two parts of an entry.
fn split(entry: u64) -> (c_int, u32) {
    // CAST: The two halves.
    ((entry >> 32) as c_int, entry as u32)
}

/// Replaces an entry by what `f` makes of its parts, unless that is nothing. Returns whether it did.
#[inline(always)]
fn change(entry: &Atomic<u64>, f: impl Fn(c_int, u32) -> Option<(c_int, u32)>) -> bool {
    let mut old = entry.load(Relaxed);
    loop {
        let (index, count) = split(old);
        let Some((index, count)) = f(index, count) else {
            return false;
        };
        // CAST: The bits of the index.
        let new = u64::from(index as u32) << 32 | u64::from(count);
        match entry.cmpxchg(old, new, Relaxed) {
            Ok(_) => return true,
            Err(other) => old = other,
        }
    }
}

#[kunit_tests(rustmasq_uplinks)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_there_as_long_as_a_mapping_leaves_by_it() {
        let uplinks = Uplinks::new();
        assert!(!uplinks.has(0) && !uplinks.has(7));
        assert!(uplinks.add(7) && uplinks.add(8) && uplinks.add(7));
        assert!(uplinks.has(7) && uplinks.has(8) && !uplinks.has(9));
        uplinks.remove(7);
        assert!(uplinks.has(7));
        uplinks.remove(7);
        assert!(!uplinks.has(7) && uplinks.has(8));
        // The first entry is free again, and another device may use it.
        assert!(uplinks.add(8) && uplinks.add(9));
        uplinks.remove(8);
        assert!(uplinks.has(8));
        uplinks.remove(8);
        assert!(!uplinks.has(8) && uplinks.has(9));
        // One too many does nothing.
        uplinks.remove(8);
        assert!(uplinks.has(9));
    }

    #[test]
    fn there_is_room_for_sixteen() {
        let uplinks = Uplinks::new();
        for device in 1..=16 {
            assert!(uplinks.add(device));
        }
        assert!(!uplinks.add(17) && uplinks.add(16));
        assert!(!uplinks.has(17));
    }
}
