// SPDX-License-Identifier: GPL-2.0

//! Choices of ports that are in flight: made, but not in conntrack's table yet.
//!
//! A flow enters the table when its packet has passed all hooks. Until then a look-up does not find its port, and
//! another CPU could choose it for a flow to the same destination; conntrack drops the one that comes second. So
//! who chooses a port claims it here first, and looks it up then. Of two who want the same, the second finds
//! the claim of the first, here or, if that has expired, in conntrack's table.
//!
//! The table is small and forgets: a claim that another one overwrites protects no more. That takes two claims
//! out of a thousand slots at the same moment. A claim that is found by mistake costs a port that is not
//! kept, nothing else.

use crate::{
    net::{
        clock,
        random, //
    },
    netfilter::tuple::Tuple, //
};
use kernel::{
    prelude::*,
    sync::atomic::{
        Atomic,
        Full,
        Relaxed, //
    },
};

/// The binary logarithm of the number of slots.
const SLOT_BITS: u32 = 10;
/// The number of bits that tell reply tuples of one slot apart.
const REPLY_BITS: u32 = 24;
/// The time for which a claim stands, in ticks: a packet that takes longer from source NAT to its end is rare.
const LIFETIME: u16 = 25;
/// How often a claim is tried if others write to its slot.
const TRIES: usize = 4;

/// The table of claims.
pub(super) struct Claims {
    /// The key of the reply tuples' fingerprints, so that nobody can choose whose slot to share.
    key: Atomic<u64>,
    slots: [Atomic<u64>; 1 << SLOT_BITS],
}

/// A claim, in the form of a slot.
///
/// From the highest bit on: 24 bits that tell flows apart that want the same reply tuple, the low 16 bits of the time
/// in ticks, and 24 bits that tell reply tuples of one slot apart.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Claim(u64);

impl Claim {
    /// Returns the claim of a reply tuple for a flow, by the fingerprint of the one and the tag of the other. The
    /// highest 24 bits of both count.
    #[inline(always)]
    fn new(reply: u64, flow: u64, time: u64) -> Self {
        Self((flow >> 40 << 16 | time & 0xffff) << REPLY_BITS | reply >> (64 - REPLY_BITS))
    }

    /// Returns whether this claim, found in the slot, forbids the claim `new`.
    #[inline(always)]
    fn forbids(self, new: Self) -> bool {
        // The comparison nearly always decides.
        (self.0 ^ new.0) << (64 - REPLY_BITS) == 0 && self.stands_against(new)
    }

    /// Returns the same for two claims of one reply tuple.
    #[cold]
    #[inline(never)]
    fn stands_against(self, new: Self) -> bool {
        (self.0 ^ new.0) >> 40 != 0 && new.age(self) <= LIFETIME
    }

    /// Returns the time since the claim `other`, in ticks.
    fn age(self, other: Self) -> u16 {
        let time = |claim: Self| (claim.0 >> REPLY_BITS) as u16; // CAST: The time has 16 bits.
        time(self).wrapping_sub(time(other))
    }
}

impl Claims {
    /// Returns a table without claims.
    pub(super) const fn new() -> Self {
        Self {
            key: Atomic::new(0),
            slots: [const { Atomic::new(0) }; 1 << SLOT_BITS],
        }
    }

    /// Makes the key, before the first claim.
    pub(super) fn make_key(&self) {
        self.key.store(random::number(), Relaxed);
    }

    /// Claims a reply tuple for a flow, of which this is the tag.
    ///
    /// Returns false if another flow has claimed the reply tuple a moment ago. Any context.
    #[inline(always)]
    pub(super) fn claim(&self, reply: &Tuple, flow: u64) -> bool {
        let reply = reply.fingerprint(self.key.load(Relaxed));
        claim_slot(self.slot(reply), Claim::new(reply, flow, clock::ticks()))
    }

    /// Returns the slot of a reply tuple, by its fingerprint.
    #[inline(always)]
    fn slot(&self, reply: u64) -> &Atomic<u64> {
        // The fingerprints of neighbours differ in their middle bits. Multiplication by an odd number (Knuth's, from the
        // golden ratio) carries all of them to the highest ones.
        let mixed = reply.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        // CAST: The number of a slot.
        &self.slots[(mixed >> (64 - SLOT_BITS)) as usize]
    }
}

/// Writes the claim `new` to the slot, unless another flow's claim stands there for the same reply tuple.
#[inline(always)]
fn claim_slot(slot: &Atomic<u64>, new: Claim) -> bool {
    let found = slot.load(Relaxed);
    // The order is full: the look-up comes after the claim.
    !Claim(found).forbids(new)
        && (slot.cmpxchg(found, new.0, Full).is_ok() || claim_busy_slot(slot, new))
}

/// Does the same for a slot that others write to at the same time.
#[cold]
fn claim_busy_slot(slot: &Atomic<u64>, new: Claim) -> bool {
    for _ in 0..TRIES {
        let found = slot.load(Relaxed);
        if Claim(found).forbids(new) {
            return false;
        }
        if slot.cmpxchg(found, new.0, Full).is_ok() {
            return true;
        }
    }
    // So many write to the slot that the claim would not stay. The look-up has to do.
    true
}

#[kunit_tests(rustmasq_claims)]
mod tests {
    use super::*;

    const REPLY: u64 = 0xabcdef << 40;
    const FLOW: u64 = 0x123456 << 40;
    const OTHER_FLOW: u64 = FLOW + (1 << 40);
    const NOW: u64 = 0x7_fff0;

    fn slot() -> Atomic<u64> {
        let slot = Atomic::new(0);
        assert!(claim_slot(&slot, Claim::new(REPLY, FLOW, NOW)));
        slot
    }

    #[test]
    fn a_claim_has_its_parts_in_place() {
        assert_eq!(Claim::new(REPLY, FLOW, NOW), Claim(0x1234_56ff_f0ab_cdef));
        let all = Claim::new(u64::MAX, u64::MAX, u64::MAX);
        assert_eq!(all, Claim(u64::MAX));
    }

    #[test]
    fn another_flow_is_refused_while_the_claim_stands() {
        let lifetime = u64::from(LIFETIME);
        for (ticks, free) in [(0, false), (lifetime, false), (lifetime + 1, true)] {
            let other = Claim::new(REPLY, OTHER_FLOW, NOW + ticks);
            assert_eq!(claim_slot(&slot(), other), free);
        }
    }

    #[test]
    fn a_refused_claim_leaves_the_first_one() {
        let slot = slot();
        assert!(!claim_slot(&slot, Claim::new(REPLY, OTHER_FLOW, NOW)));
        assert_eq!(Claim(slot.load(Relaxed)), Claim::new(REPLY, FLOW, NOW));
    }

    #[test]
    fn the_same_flow_is_not_refused() {
        assert!(claim_slot(&slot(), Claim::new(REPLY, FLOW, NOW + 1)));
    }

    #[test]
    fn another_reply_tuple_is_not_refused() {
        assert!(claim_slot(
            &slot(),
            Claim::new(REPLY + (1 << 40), OTHER_FLOW, NOW)
        ));
    }
}
