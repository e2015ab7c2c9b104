// SPDX-License-Identifier: GPL-2.0

//! Numbers that nobody can guess.
//!
//! C headers: [`include/linux/random.h`](srctree/include/linux/random.h),
//! [`include/linux/siphash.h`](srctree/include/linux/siphash.h)

use crate::bindings;
use core::num::NonZeroU32;

/// Returns a random number below `limit`, each with the same probability (`get_random_u32_below`).
///
/// Any context.
pub(crate) fn below(limit: NonZeroU32) -> u32 {
    // SAFETY: The function takes no pointers and may be called in any context.
    unsafe { bindings::rustmasq_get_random_u32_below(limit.get()) }
}

/// Returns a random number (`get_random_u64`).
///
/// Any context.
pub(crate) fn number() -> u64 {
    // SAFETY: The function takes no pointers and may be called in any context.
    unsafe { bindings::get_random_u64() }
}

/// A hash function that nobody can compute who does not know its key (`hsiphash`).
pub(crate) struct KeyedHash(bindings::hsiphash_key_t);

impl KeyedHash {
    /// Returns a function with a random key.
    pub(crate) fn random() -> Self {
        Self(bindings::hsiphash_key_t {
            // CAST: The kernel's `unsigned long` has 64 bits here.
            key: [number() as usize, number() as usize],
        })
    }

    /// Returns the hash of some words. Any context.
    pub(crate) fn hash(&self, words: &[u64]) -> u32 {
        // SAFETY: The words and the key are valid for the call, which only reads them.
        unsafe { bindings::rustmasq_hsiphash(words.as_ptr().cast(), size_of_val(words), &self.0) }
    }
}
