// SPDX-License-Identifier: GPL-2.0

//! Ports that must not be chosen now although no flow in conntrack's table has them.
//!
//! A flow enters the table when its packet has passed all hooks. Until then a look-up does not find its port, and
//! another CPU could choose it for a flow to the same destination; conntrack drops the one that comes second. So
//! who chooses a port claims it here first, and looks it up then. Of two who want the same, the second finds
//! the claim of the first, here or, if that has expired, in conntrack's table.
//!
//! A port whose flow has ended rests for a minute: a server may have the old connection still, and refuse another one
//! (RFC 6888, REQ-8). The flow that had the port may have it again at once.
//!
//! The table is small and forgets: a mark that another one overwrites protects no more. For a claim that takes two
//! of them in one of 16,384 slots at the same moment. A rest is forgotten when about as many flows have begun or ended.
//! A mark that is found by mistake costs a port that is not kept, nothing else.

use crate::{
    net::{
        clock,
        namespace::Net,
        random::{
            self,
            FACTOR, //
        },
    },
    netfilter::tuple::{
        FlowTags,
        Tuple, //
    },
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
const SLOT_BITS: u32 = 14;
/// The number of bits that tell reply tuples of one slot apart.
const REPLY_BITS: u32 = 24;
/// The number of bits of a time.
const TIME_BITS: u32 = 15;
/// The time for which a claim stands, in ticks: a packet that takes longer from source NAT to its end is rare.
pub(super) const CLAIM_LIFETIME: u64 = 25;
/// The time for which a port rests, in seconds.
const REST: u64 = 60;
/// The number of times that a claim is tried if others write to its slot.
const TRIES: usize = 4;

/// The way that a claim treats a port that rests.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Rests {
    /// It is refused.
    Respected,
    /// It may be claimed.
    Ignored,
}

/// The table of claims and of ports at rest.
pub(super) struct Claims {
    /// The key of the reply tuples' fingerprints, so that nobody can choose whose slot to share.
    key: Atomic<u64>,
    slots: [Atomic<u64>; 1 << SLOT_BITS],
}

/// A claim of a reply tuple, or its rest, in the form of a slot.
///
/// From the highest bit on: 24 bits that tell flows apart that have or had the same reply tuple, a bit that is set for a
/// rest, the time in ticks (for a rest in seconds), and 24 bits that tell reply tuples of one slot apart.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Mark(u64);

impl Mark {
    /// Returns the claim of a reply tuple for a flow, by the fingerprint of the one and the tag of the other. The
    /// highest 24 bits of both count.
    #[inline(always)]
    fn claim(reply: u64, flow: u64, ticks: u64) -> Self {
        Self::new(reply, flow, ticks & ((1 << TIME_BITS) - 1))
    }

    /// Returns the rest of a reply tuple that the flow had.
    fn rest(reply: u64, flow: u64, seconds: u64) -> Self {
        Self::new(
            reply,
            flow,
            seconds & ((1 << TIME_BITS) - 1) | 1 << TIME_BITS,
        )
    }

    #[inline(always)]
    fn new(reply: u64, flow: u64, kind_and_time: u64) -> Self {
        Self((flow >> 40 << 16 | kind_and_time) << REPLY_BITS | reply >> (64 - REPLY_BITS))
    }

    /// Returns whether the two are marks of the same reply tuple.
    #[inline(always)]
    fn is_of_same_reply(self, other: Self) -> bool {
        (self.0 ^ other.0) << (64 - REPLY_BITS) == 0
    }

    #[inline(always)]
    fn is_of_same_flow(self, other: Self) -> bool {
        (self.0 ^ other.0) >> 40 == 0
    }

    /// Returns whether the two are marks of the same flow for the same reply tuple.
    fn is_of_same(self, other: Self) -> bool {
        self.is_of_same_reply(other) && self.is_of_same_flow(other)
    }

    fn is_rest(self) -> bool {
        self.0 >> (REPLY_BITS + TIME_BITS) & 1 != 0
    }

    /// Returns the time from this mark until now, in ticks or seconds.
    fn age(self, now: u64) -> u64 {
        now.wrapping_sub(self.0 >> REPLY_BITS) & ((1 << TIME_BITS) - 1)
    }

    /// Returns whether this is a claim that still stands.
    fn is_standing_claim(self, ticks: u64) -> bool {
        !self.is_rest() && self.age(ticks) <= CLAIM_LIFETIME
    }

    /// Returns for how many seconds the port has rested, if it does so still.
    fn rested(self, seconds: u64) -> Option<u64> {
        Some(self.age(seconds)).filter(|age| self.is_rest() && *age <= REST)
    }

    /// Returns whether this mark, found in the slot of `claim`, forbids that.
    #[inline(always)]
    fn forbids(self, claim: Self, rests: Rests) -> bool {
        // The first comparison nearly always decides.
        self.is_of_same_reply(claim)
            && !self.is_of_same_flow(claim)
            && self.stands_against(claim, rests)
    }

    /// Returns the same for marks of two flows for one reply tuple.
    #[cold]
    #[inline(never)]
    fn stands_against(self, claim: Self, rests: Rests) -> bool {
        self.is_standing_claim(claim.0 >> REPLY_BITS)
            || rests == Rests::Respected && self.rested(seconds()).is_some()
    }
}

/// Returns the time in seconds since the kernel was booted.
fn seconds() -> u64 {
    // CAST: It is not negative.
    clock::seconds() as u64
}

impl Claims {
    /// Returns a table without marks.
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

    /// Claims a reply tuple for a flow.
    ///
    /// Returns false if another flow has claimed the reply tuple a moment ago, or if its port rests and that is respected.
    /// Any context.
    #[inline(always)]
    pub(super) fn claim(&self, reply: &Tuple, flow: FlowTags, rests: Rests) -> bool {
        let (reply, flow) = (self.fingerprint(reply, flow.namespace), flow.flow);
        let claim = Mark::claim(reply, flow, clock::ticks());
        claim_slot(self.slot(reply), claim, rests)
    }

    /// Takes the flow's claim of a reply tuple back, because another flow turned out to have it. Any context.
    ///
    /// Else nobody could have the port for a moment after that flow's end.
    pub(super) fn give_up(&self, reply: &Tuple, flow: FlowTags) {
        let (reply, flow) = (self.fingerprint(reply, flow.namespace), flow.flow);
        give_up_slot(self.slot(reply), Mark::claim(reply, flow, 0));
    }

    /// Lets the port of a reply tuple rest, which the flow had. Any context.
    pub(super) fn rest(&self, reply: &Tuple, flow: FlowTags) {
        let (reply, flow) = (self.fingerprint(reply, flow.namespace), flow.flow);
        let slot = self.slot(reply);
        let (found, rest) = (slot.load(Relaxed), Mark::rest(reply, flow, seconds()));
        let found_mark = Mark(found);
        // Another flow that is on its way is more important.
        if found_mark.is_of_same(rest) || !found_mark.is_standing_claim(clock::ticks()) {
            // Another CPU that is faster may have the slot.
            let _ = slot.cmpxchg(found, rest.0, Relaxed);
        }
    }

    /// Returns for how many seconds the port of a reply tuple has rested, if it still does. Any context.
    pub(super) fn rested(&self, reply: &Tuple, net: &Net) -> Option<u64> {
        let reply = self.fingerprint(reply, net.tag());
        let found = Mark(self.slot(reply).load(Relaxed));
        found
            .rested(seconds())
            .filter(|_| found.is_of_same_reply(Mark::claim(reply, 0, 0)))
    }

    #[inline(always)]
    fn fingerprint(&self, reply: &Tuple, namespace: u64) -> u64 {
        reply.fingerprint(self.key.load(Relaxed) ^ namespace)
    }

    /// Returns the slot of a reply tuple, by its fingerprint.
    #[inline(always)]
    fn slot(&self, reply: u64) -> &Atomic<u64> {
        // The fingerprints of neighbours differ in their middle bits.
        let mixed = reply.wrapping_mul(FACTOR);
        // CAST: The number of a slot.
        &self.slots[(mixed >> (64 - SLOT_BITS)) as usize]
    }
}

/// Writes the claim to the slot, unless another mark there forbids it.
#[inline(always)]
fn claim_slot(slot: &Atomic<u64>, claim: Mark, rests: Rests) -> bool {
    let found = slot.load(Relaxed);
    // The order is full: the look-up comes after the claim.
    !Mark(found).forbids(claim, rests)
        && (slot.cmpxchg(found, claim.0, Full).is_ok() || claim_busy_slot(slot, claim, rests))
}

/// Does the same for a slot that others write to at the same time.
#[cold]
fn claim_busy_slot(slot: &Atomic<u64>, claim: Mark, rests: Rests) -> bool {
    for _ in 0..TRIES {
        let found = slot.load(Relaxed);
        if Mark(found).forbids(claim, rests) {
            return false;
        }
        if slot.cmpxchg(found, claim.0, Full).is_ok() {
            return true;
        }
    }
    // So many write to the slot that the claim would not stay. The look-up has to do.
    true
}

/// Empties the slot if it has this claim, whenever that was made.
fn give_up_slot(slot: &Atomic<u64>, claim: Mark) {
    let found = slot.load(Relaxed);
    let mark = Mark(found);
    if mark.is_of_same(claim) && !mark.is_rest() {
        // Another CPU that is faster may have the slot.
        let _ = slot.cmpxchg(found, 0, Relaxed);
    }
}

#[kunit_tests(rustmasq_claims)]
mod tests {
    use super::*;

    const REPLY: u64 = 0xabcdef << 40;
    const FLOW: u64 = 0x123456 << 40;
    const OTHER_FLOW: u64 = FLOW + (1 << 40);
    /// The next multiple of 2^15 is near.
    const NOW: u64 = 0x7_fff0;

    fn holding(mark: Mark) -> Atomic<u64> {
        Atomic::new(mark.0)
    }

    fn slot() -> Atomic<u64> {
        let slot = Atomic::new(0);
        assert!(claim_slot(
            &slot,
            Mark::claim(REPLY, FLOW, NOW),
            Rests::Respected
        ));
        slot
    }

    #[test]
    fn a_claim_that_was_given_up_forbids_nothing() {
        let (slot, claim) = (slot(), Mark::claim(REPLY, FLOW, 0));
        give_up_slot(&slot, claim);
        assert_eq!(slot.load(Relaxed), 0);
        let other = Mark::claim(REPLY, OTHER_FLOW, NOW);
        assert!(claim_slot(&slot, other, Rests::Respected));
    }

    #[test]
    fn a_flow_gives_up_its_own_claim_alone() {
        let claim = Mark::claim(REPLY, FLOW, 0);
        for mark in [
            Mark::claim(REPLY, OTHER_FLOW, NOW),
            Mark::claim(REPLY + (1 << 40), FLOW, NOW),
            Mark::rest(REPLY, FLOW, NOW),
        ] {
            let slot = holding(mark);
            give_up_slot(&slot, claim);
            assert_eq!(slot.load(Relaxed), mark.0);
        }
    }

    #[test]
    fn a_mark_has_its_parts_in_place() {
        assert_eq!(Mark::claim(REPLY, FLOW, NOW), Mark(0x1234_567f_f0ab_cdef));
        assert_eq!(Mark::rest(REPLY, FLOW, NOW), Mark(0x1234_56ff_f0ab_cdef));
        let all = Mark::rest(u64::MAX, u64::MAX, u64::MAX);
        assert_eq!(all, Mark(u64::MAX));
    }

    #[test]
    fn another_flow_is_refused_while_the_claim_stands() {
        for (ticks, free) in [
            (0, false),
            (CLAIM_LIFETIME, false),
            (CLAIM_LIFETIME + 1, true),
        ] {
            for rests in [Rests::Respected, Rests::Ignored] {
                let other = Mark::claim(REPLY, OTHER_FLOW, NOW + ticks);
                assert_eq!(claim_slot(&slot(), other, rests), free);
            }
        }
    }

    #[test]
    fn a_refused_claim_leaves_the_first_one() {
        let slot = slot();
        assert!(!claim_slot(
            &slot,
            Mark::claim(REPLY, OTHER_FLOW, NOW),
            Rests::Respected
        ));
        assert_eq!(Mark(slot.load(Relaxed)), Mark::claim(REPLY, FLOW, NOW));
    }

    #[test]
    fn the_same_flow_is_not_refused() {
        assert!(claim_slot(
            &slot(),
            Mark::claim(REPLY, FLOW, NOW + 1),
            Rests::Respected
        ));
        let resting = holding(Mark::rest(REPLY, FLOW, seconds()));
        assert!(claim_slot(
            &resting,
            Mark::claim(REPLY, FLOW, NOW),
            Rests::Respected
        ));
    }

    #[test]
    fn another_reply_tuple_is_not_refused() {
        let other = Mark::claim(REPLY + (1 << 40), OTHER_FLOW, NOW);
        assert!(claim_slot(&slot(), other, Rests::Respected));
    }

    #[test]
    fn another_flow_is_refused_while_the_port_rests() {
        // One more than a minute, in case that a second ends meanwhile.
        for (age, free) in [
            (0, false),
            (REST - 1, false),
            (REST + 1, true),
            (REST + 9, true),
        ] {
            let resting = holding(Mark::rest(REPLY, FLOW, seconds().wrapping_sub(age)));
            let other = Mark::claim(REPLY, OTHER_FLOW, NOW);
            assert_eq!(claim_slot(&resting, other, Rests::Respected), free);
        }
    }

    #[test]
    fn a_port_at_rest_is_claimed_if_that_is_allowed() {
        let resting = holding(Mark::rest(REPLY, FLOW, seconds()));
        assert!(claim_slot(
            &resting,
            Mark::claim(REPLY, OTHER_FLOW, NOW),
            Rests::Ignored
        ));
    }

    #[test]
    fn a_rest_tells_its_age() {
        for (age, rested) in [(0, Some(0)), (REST, Some(REST)), (REST + 1, None)] {
            assert_eq!(Mark::rest(REPLY, FLOW, NOW).rested(NOW + age), rested);
            assert_eq!(Mark::claim(REPLY, FLOW, NOW).rested(NOW + age), None);
        }
    }
}
