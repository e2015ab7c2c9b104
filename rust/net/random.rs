// SPDX-License-Identifier: GPL-2.0

//! Numbers that nobody can guess.
//!
//! C headers: [`include/linux/random.h`](srctree/include/linux/random.h),
//! [`include/linux/siphash.h`](srctree/include/linux/siphash.h)

use crate::bindings;
use core::num::NonZeroU32;

/// An odd number without a pattern, 2^64 divided by the golden ratio (Knuth): multiplication by it carries all bits of a
/// number to the highest ones.
pub(crate) const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

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

/// Numbers for tests, which are the same each time (Marsaglia's xorshift).
#[cfg(CONFIG_KUNIT = "y")]
pub(crate) struct Numbers(pub(crate) u64);

#[cfg(CONFIG_KUNIT = "y")]
impl Numbers {
    /// Returns a number below the limit.
    pub(crate) fn below(&mut self, limit: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        // CAST: The high half, brought below the limit.
        (((self.0 >> 32) * u64::from(limit)) >> 32) as u32
    }
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

/// A hash function of few words, chosen at random.
///
/// Two different lists of as many pairs rarely have the same hash, whatever they are, if the function is not known. Follows
/// NH (Black and others, "UMAC: fast and secure message authentication", 1999), whose 128 bits are folded.
pub(crate) struct WordsHash([[u64; 2]; Self::MOST]);

impl WordsHash {
    /// The most pairs of words.
    const MOST: usize = 3;

    /// Returns a random function.
    pub(crate) fn random() -> Self {
        Self(core::array::from_fn(|_| [number(), number()]))
    }

    /// Returns the hash of some pairs of words, of which `rest` is often 0. Any context.
    #[inline(always)]
    pub(crate) fn hash<const COUNT: usize>(&self, pairs: [[u64; 2]; COUNT], rest: [u64; 2]) -> u32 {
        const { assert!(COUNT < Self::MOST) };
        let add = |sum: u128, ([a, b], [key_a, key_b]): ([u64; 2], &[u64; 2])| {
            let product = u128::from(a.wrapping_add(*key_a)) * u128::from(b.wrapping_add(*key_b));
            sum.wrapping_add(product)
        };
        let mut sum = core::iter::zip(pairs, &self.0).fold(0, add);
        if let ([_, _, last], true) = (&self.0, rest != [0, 0]) {
            sum = add(sum, (rest, last));
        }
        // CAST: The two halves, and the highest bits.
        let folded = sum as u64 ^ (sum >> 64) as u64;
        (folded.wrapping_mul(FACTOR) >> 32) as u32
    }
}
