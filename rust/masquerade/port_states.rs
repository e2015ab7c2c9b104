// SPDX-License-Identifier: GPL-2.0

//! The states of the ports, or query identifiers, of one crowded destination.
//!
//! A state has three bits, and there is a bitmap for each of them: one look finds those of 64 ports that are in a
//! certain state. For each block of 512 ports, and for groups of eight blocks, there is the number of ports in each
//! state. A random number finds its port by these counts and then by the bitmaps of one block. So the search is short however full the range is, and
//! each port is equally likely, however the others lie.
//!
//! All ports together take 26 KiB, in pieces of at most 8 KiB: the kernel would round one of 24 KiB up to 32.

use super::port_set::OwnedPortSet;
use core::{
    array,
    num::NonZeroU32, //
};
use kernel::{
    alloc::Flags,
    prelude::*, //
};

/// The number of bits of a state.
const BITS: usize = 3;
/// The number of states.
const STATES: usize = 1 << BITS;
/// The number of generations of recently freed ports.
const GENERATIONS: usize = 5;
/// The number of ports of a word of a bitmap.
const WORD_PORTS: usize = 64;
/// The number of ports of a block.
const BLOCK_PORTS: usize = 512;
/// The number of words of a bitmap for a block.
const BLOCK_WORDS: usize = BLOCK_PORTS / WORD_PORTS;
/// The number of ports of a group of blocks.
const GROUP_PORTS: usize = 8 * BLOCK_PORTS;

/// The state of a port: free, of a generation of recently freed ports (1 to 5), reusable, or in use.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct State(usize);

impl State {
    const FREE: Self = Self(0);
    /// In use by a TCP flow that was in TIME_WAIT when last looked at.
    const REUSABLE: Self = Self(6);
    const IN_USE: Self = Self(7);

    fn has_bit(self, bit: usize) -> bool {
        self.0 >> bit & 1 != 0
    }
}

/// One word of each bitmap: the states of 64 ports.
#[derive(Clone, Copy)]
struct Word([u64; BITS]);

impl Word {
    /// Returns the state of a port of the word.
    fn state(self, port: usize) -> State {
        let bits = self.0.iter().rev();
        State(bits.fold(0, |state, bits| state << 1 | (bits >> port & 1) as usize))
    }

    /// Returns the ports that are in the state, as bits.
    fn ports_in(self, state: State) -> u64 {
        // Each bit is to be as that of the state.
        let [a, b, c] = self.0;
        let unlike = |bits: u64, bit| if state.has_bit(bit) { !bits } else { bits };
        !(unlike(a, 0) | unlike(b, 1) | unlike(c, 2))
    }
}

/// The state of each port of a set. No method sleeps or allocates.
///
/// # Invariants
///
/// - `blocks`, `groups` and `totals` say how many ports are in each state, by the bitmaps.
/// - The bits beyond the set, which follow those of all its ports, are 0 and in none of the counts. So no rank leads
///   to them.
pub(super) struct PortStates {
    set: OwnedPortSet,
    bitmaps: [KVec<u64>; BITS],
    /// The number of ports in each state, block by block.
    blocks: KVec<[u16; STATES]>,
    /// The same group by group.
    groups: KVec<[u16; STATES]>,
    /// The number of ports in each state.
    totals: [u32; STATES],
    /// The newest generation, counted from 0. The states of generations take turns, so that no port has to change
    /// its state as it ages.
    newest: usize,
}

impl PortStates {
    /// Returns the states of a set whose ports are all free.
    ///
    /// The flags are those of the allocation. Returns ENOMEM if there is no memory.
    pub(super) fn new(set: OwnedPortSet, flags: Flags) -> Result<Self> {
        // CAST: At most 65,536.
        let ports = set.as_set().count().get() as usize;
        // Whole blocks.
        let bitmap = || KVec::zeroed(ports.div_ceil(BLOCK_PORTS) * BLOCK_WORDS, flags);
        let bitmaps = [bitmap()?, bitmap()?, bitmap()?];
        let blocks = counts(ports, BLOCK_PORTS, flags)?;
        let groups = counts(ports, GROUP_PORTS, flags)?;
        let mut totals = [0; STATES];
        totals[State::FREE.0] = set.as_set().count().get();
        // INVARIANT: All ports are free, and the counts leave out the bits beyond the set.
        Ok(Self {
            set,
            bitmaps,
            blocks,
            groups,
            totals,
            newest: 0,
        })
    }

    /// Returns the number of free ports, without those that were recently freed.
    pub(super) fn free(&self) -> u32 {
        self.total(State::FREE)
    }

    /// Returns the number of ports that were recently freed.
    pub(super) fn recent(&self) -> u32 {
        (0..GENERATIONS)
            .map(|age| self.total(self.generation(age)))
            .sum()
    }

    /// Returns the number of ports in use, reusable ones included.
    pub(super) fn in_use(&self) -> u32 {
        self.total(State::REUSABLE) + self.total(State::IN_USE)
    }

    /// Returns whether the port is of the set, and neither in use nor recently freed.
    #[cfg(CONFIG_KUNIT = "y")]
    pub(super) fn is_free(&self, port: u16) -> bool {
        self.place(port)
            .is_some_and(|place| self.state(place) == State::FREE)
    }

    /// Returns whether the port is in use, reusable or not.
    pub(super) fn is_in_use(&self, port: u16) -> bool {
        self.place(port)
            .is_some_and(|place| matches!(self.state(place), State::REUSABLE | State::IN_USE))
    }

    /// Takes a certain port if it is free, and returns whether it did.
    pub(super) fn take(&mut self, port: u16) -> bool {
        self.change(port, |state| state == State::FREE, State::IN_USE)
    }

    /// Takes a random port: one of the free ones or, if there is none, of the oldest generation of recently freed ones.
    ///
    /// Each of them has the same probability. `below` returns a random number below its argument. Returns `None` if
    /// all ports are in use.
    pub(super) fn take_any(&mut self, below: impl FnOnce(NonZeroU32) -> u32) -> Option<u16> {
        let has_ports = |state: &State| self.total(*state) > 0;
        let mut oldest_first = (0..GENERATIONS).rev().map(|age| self.generation(age));
        let state = Some(State::FREE)
            .filter(has_ports)
            .or_else(|| oldest_first.find(has_ports))?;
        self.take_from(state, below)
    }

    /// Takes a random port of the reusable ones, which is just "in use" then.
    ///
    /// `below` returns a random number below its argument. Returns `None` if no port is reusable.
    pub(super) fn take_reusable(&mut self, below: impl FnOnce(NonZeroU32) -> u32) -> Option<u16> {
        self.take_from(State::REUSABLE, below)
    }

    /// Lets a port that is in use join the generation that has seen so many turns: 0 if its flow has just ended.
    pub(super) fn release(&mut self, port: u16, turns: usize) {
        let in_use = |state| state == State::REUSABLE || state == State::IN_USE;
        self.change(port, in_use, self.generation(turns));
    }

    /// Does the same for a port that is free.
    pub(super) fn rest(&mut self, port: u16, turns: usize) {
        self.change(port, |state| state == State::FREE, self.generation(turns));
    }

    /// Notes that a look at conntrack's table found the port in use; `reusable` says that it is in TIME_WAIT.
    pub(super) fn found_in_use(&mut self, port: u16, reusable: bool) {
        let state = if reusable {
            State::REUSABLE
        } else {
            State::IN_USE
        };
        self.change(port, |_| true, state);
    }

    /// Begins a new generation, and frees the ports of the oldest one.
    pub(super) fn turn(&mut self) {
        let oldest = self.generation(GENERATIONS - 1);
        if self.total(oldest) > 0 {
            let ports = self.set.as_set().count().get() as usize;
            for place in (0..ports).step_by(WORD_PORTS) {
                let ports = self.word(place).ports_in(oldest);
                // CAST: A word has 64 bits.
                let number = ports.count_ones() as u16;
                self.move_ports(place, ports, number, oldest, State::FREE);
            }
        }
        // The state of the oldest generation, which no port has now, becomes that of the newest one.
        self.newest = (self.newest + 1) % GENERATIONS;
    }

    /// Returns the state of a generation, which has seen as many turns as its age says: 0 to 4; more are as good as 4.
    fn generation(&self, age: usize) -> State {
        let age = age.min(GENERATIONS - 1);
        State(1 + (self.newest + GENERATIONS - age) % GENERATIONS)
    }

    fn total(&self, state: State) -> u32 {
        self.totals.get(state.0).copied().unwrap_or(0)
    }

    /// Returns the place of a port in the set, counted from 0.
    fn place(&self, port: u16) -> Option<usize> {
        // CAST: Less than 65,536.
        self.set.as_set().place(port).map(|place| place as usize)
    }

    fn state(&self, place: usize) -> State {
        self.word(place).state(place % WORD_PORTS)
    }

    /// Returns the word that a place is in; one beyond the last is 0, as the bits beyond the set are.
    fn word(&self, place: usize) -> Word {
        let word = place / WORD_PORTS;
        Word(array::from_fn(|bit| {
            let bitmap = self.bitmaps.get(bit);
            let bits = bitmap.and_then(|bitmap| bitmap.get(word));
            bits.copied().unwrap_or(0)
        }))
    }

    /// Gives the port the state `to` if `fits` says so of its state, and returns whether it did.
    fn change(&mut self, port: u16, fits: impl FnOnce(State) -> bool, to: State) -> bool {
        let Some(place) = self.place(port) else {
            return false;
        };
        let from = self.state(place);
        let changes = fits(from);
        if changes {
            self.move_port(place, from, to);
        }
        changes
    }

    /// Takes a random port of those in the state `from`.
    fn take_from(&mut self, from: State, below: impl FnOnce(NonZeroU32) -> u32) -> Option<u16> {
        let rank = below(NonZeroU32::new(self.total(from))?);
        let place = self.find(from, rank)?;
        self.move_port(place, from, State::IN_USE);
        // CAST: The number of ports is at most 65,536.
        Some(self.set.as_set().nth(place as u32))
    }

    /// Returns the place of the port that as many ports of its state precede as `rank` says.
    fn find(&self, state: State, rank: u32) -> Option<usize> {
        let (group, rank) = descend(&self.groups, state, rank)?;
        let first = group * (GROUP_PORTS / BLOCK_PORTS);
        let (block, mut rank) = descend(self.blocks.get(first..)?, state, rank)?;
        let start = (first + block) * BLOCK_PORTS;
        let [a, b, c] = &self.bitmaps;
        let [a, b, c] = [
            block_of(a, start)?,
            block_of(b, start)?,
            block_of(c, start)?,
        ];
        for n in 0..BLOCK_WORDS {
            let ports = Ranked::new(Word([a[n], b[n], c[n]]).ports_in(state));
            match rank.checked_sub(ports.count()) {
                Some(rest) => rank = rest,
                None => return Some(start + n * WORD_PORTS + ports.find(rank)),
            }
        }
        None
    }

    /// Moves a port from one state to another.
    fn move_port(&mut self, place: usize, from: State, to: State) {
        self.move_ports(place, 1 << (place % WORD_PORTS), 1, from, to);
    }

    /// Moves so many ports from one state to another: those of the bits `ports` in the word that a place is in.
    #[inline(always)]
    fn move_ports(&mut self, place: usize, ports: u64, number: u16, from: State, to: State) {
        for (bit, bitmap) in self.bitmaps.iter_mut().enumerate() {
            if let Some(bits) = bitmap.get_mut(place / WORD_PORTS) {
                *bits = *bits & !ports | if to.has_bit(bit) { ports } else { 0 };
            }
        }
        // INVARIANT: The counts follow the bitmaps. So none of them wraps.
        let counts = [
            self.blocks.get_mut(place / BLOCK_PORTS),
            self.groups.get_mut(place / GROUP_PORTS),
        ];
        for counts in counts.into_iter().flatten() {
            if let Some(count) = counts.get_mut(from.0) {
                *count = count.wrapping_sub(number);
            }
            if let Some(count) = counts.get_mut(to.0) {
                *count = count.wrapping_add(number);
            }
        }
        if let Some(total) = self.totals.get_mut(from.0) {
            *total = total.wrapping_sub(number.into());
        }
        if let Some(total) = self.totals.get_mut(to.0) {
            *total = total.wrapping_add(number.into());
        }
    }
}

/// Returns the words of the block that begins at a place.
fn block_of(bitmap: &[u64], start: usize) -> Option<&[u64; BLOCK_WORDS]> {
    bitmap.get(start / WORD_PORTS..)?.first_chunk()
}

/// Returns the counts of blocks or groups of so many ports each, all of which are free.
fn counts(ports: usize, each: usize, flags: Flags) -> Result<KVec<[u16; STATES]>> {
    let mut all = KVec::with_capacity(ports.div_ceil(each), flags)?;
    for first in (0..ports).step_by(each) {
        let mut states = [0; STATES];
        // CAST: A group has at most 4,096 ports.
        states[State::FREE.0] = (ports - first).min(each) as u16;
        all.push(states, flags)?;
    }
    Ok(all)
}

/// Returns the place of the counts whose state the rank falls into, and the rank within it.
#[inline(always)]
fn descend(counts: &[[u16; STATES]], state: State, mut rank: u32) -> Option<(usize, u32)> {
    for (place, counts) in counts.iter().enumerate() {
        let count = counts.get(state.0).copied().unwrap_or(0);
        match rank.checked_sub(count.into()) {
            Some(rest) => rank = rest,
            None => return Some((place, rank)),
        }
    }
    None
}

/// The set bits of a word, with what finds one by its rank.
pub(super) struct Ranked {
    bits: u64,
    /// For each byte, from the lowest on: the number of set bits in it and in those below it.
    sums: u64,
}

impl Ranked {
    /// Each byte is 1.
    const ONES: u64 = u64::MAX / 0xff;

    #[inline(always)]
    pub(super) fn new(bits: u64) -> Self {
        // The sums of 2, 4 and 8 bits, side by side.
        let [ones, twos, fours] = [0x55, 0x33, 0x0f].map(|byte| Self::ONES * byte);
        let pairs = bits.wrapping_sub(bits >> 1 & ones);
        let nibbles = (pairs & twos).wrapping_add(pairs >> 2 & twos);
        let bytes = nibbles.wrapping_add(nibbles >> 4) & fours;
        Self {
            bits,
            sums: bytes.wrapping_mul(Self::ONES),
        }
    }

    /// Returns the number of set bits.
    #[inline(always)]
    fn count(&self) -> u32 {
        // CAST: The highest byte.
        (self.sums >> 56) as u32
    }

    /// Returns the place of the set bit that as many set bits precede as `rank` says, which is less than their number.
    #[inline(always)]
    pub(super) fn find(&self, rank: u32) -> usize {
        // Sums and ranks are less than 128. The highest bit of a byte stays set where the sum is not above the rank.
        let (high, ranks) = (Self::ONES << 7, Self::ONES.wrapping_mul(rank.into()));
        let below = (ranks | high).wrapping_sub(self.sums) & high;
        // CAST: The number of these bytes, in bits: at most 64.
        let first = ((below >> 7).wrapping_mul(Self::ONES) >> 56 << 3) as u32;
        // CAST: The lowest byte.
        let before = (self.sums << 8).wrapping_shr(first) as u8;
        let mut bits = self.bits.wrapping_shr(first);
        for _ in u32::from(before)..rank {
            bits &= bits.wrapping_sub(1);
        }
        // CAST: At most 64.
        (first + bits.trailing_zeros()) as usize
    }
}

#[kunit_tests(rustmasq_port_states)]
mod tests {
    use super::super::port_set::PortSet;
    use super::*;
    use crate::{
        net::random::{
            self,
            Numbers, //
        },
        netfilter::nat::PortRange, //
    };
    use core::num::NonZeroU16;

    /// Numbers of ports about the sizes of words and blocks.
    const SIZES: [u32; 10] = [1, 3, 63, 64, 65, 511, 512, 513, 4000, 65_536];
    const DRAWS: u32 = 100_000;
    /// The most cells that the draws are sorted into.
    const CELLS: u32 = 1000;

    /// Returns a range of so many ports that leaves as many out below it as above.
    fn range(size: u32) -> PortRange {
        // CAST: `None`, or a number of ports that is less than 65,536.
        let first = NonZeroU16::new((65_536_u32.saturating_sub(size) / 2) as u16);
        first
            .and_then(|first| PortRange::new(first, first.saturating_add((size - 1) as u16)))
            .unwrap_or(PortRange::IDENTIFIERS)
    }

    fn all_free(size: u32) -> Result<PortStates> {
        let set = PortSet::new(range(size), None, None).ok_or(EINVAL)?;
        PortStates::new(set.to_owned(), GFP_KERNEL)
    }

    impl PortStates {
        fn range(&self) -> PortRange {
            self.set.as_set().range()
        }
    }

    fn ports(range: PortRange) -> impl Iterator<Item = u16> {
        range.first()..=range.last()
    }

    /// Returns whether the counts are those of the bitmaps.
    fn counts_are_right(states: &PortStates) -> bool {
        let size = states.range().count().get() as usize;
        let counted = |first: usize, each: usize| {
            let mut counts = [0; STATES];
            for place in (first..(first + each).min(size)).step_by(WORD_PORTS) {
                // Without the ports beyond the range.
                let ports = u64::MAX >> (WORD_PORTS - (size - place).min(WORD_PORTS));
                for (state, count) in counts.iter_mut().enumerate() {
                    *count += (states.word(place).ports_in(State(state)) & ports).count_ones();
                }
            }
            counts
        };
        let agree = |counts: &KVec<[u16; STATES]>, each: usize| {
            counts.len() == size.div_ceil(each)
                && (0..size)
                    .step_by(each)
                    .zip(counts)
                    .all(|(first, counts)| counted(first, each) == counts.map(u32::from))
        };
        agree(&states.blocks, BLOCK_PORTS)
            && agree(&states.groups, GROUP_PORTS)
            && counted(0, size) == states.totals
    }

    /// The states as they should be: 0 for a free port, its age in turns and 1 for a recently freed one, 6 reusable, 7 in
    /// use.
    struct Model {
        range: PortRange,
        states: KVec<u8>,
        numbers: [u32; 8],
    }

    impl Model {
        fn new(size: u32) -> Result<Self> {
            let mut numbers = [0; 8];
            numbers[0] = size;
            Ok(Self {
                range: range(size),
                states: KVec::from_elem(0, size as usize, GFP_KERNEL)?,
                numbers,
            })
        }

        fn state(&mut self, port: u16) -> Option<&mut u8> {
            let place = port.checked_sub(self.range.first())?;
            self.states.get_mut(usize::from(place))
        }

        /// Gives a port a state if it has one of those in `from`. Returns whether it does.
        fn change(&mut self, port: u16, from: &[u8], to: u8) -> bool {
            let Some(state) = self.state(port).filter(|state| from.contains(state)) else {
                return false;
            };
            let old = core::mem::replace(state, to);
            self.numbers[usize::from(old)] -= 1;
            self.numbers[usize::from(to)] += 1;
            true
        }

        /// Returns whether the model agrees that this port is taken, one of the first state of `from` that a port has.
        fn takes(&mut self, port: Option<u16>, from: &[u8]) -> bool {
            let first = from
                .iter()
                .find(|state| self.numbers[usize::from(**state)] > 0);
            match (port, first) {
                (Some(port), Some(state)) => self.change(port, &[*state], 7),
                (None, None) => true,
                _ => false,
            }
        }

        fn turn(&mut self) {
            for state in &mut self.states {
                *state = match *state {
                    5 => 0,
                    age @ 1..5 => age + 1,
                    other => other,
                };
            }
            self.numbers[0] += self.numbers[5];
            self.numbers.copy_within(1..5, 2);
            self.numbers[1] = 0;
        }

        fn agrees(&self, states: &PortStates) -> bool {
            let [free, recent @ .., reusable, in_use] = self.numbers;
            let numbers = [free, recent.iter().sum(), reusable + in_use];
            numbers == [states.free(), states.recent(), states.in_use()]
        }

        fn agrees_on_all_ports(&self, states: &PortStates) -> bool {
            self.states.iter().enumerate().all(|(place, state)| {
                let expected = match usize::from(*state) {
                    age @ 1..=GENERATIONS => states.generation(age - 1),
                    other => State(other),
                };
                states.state(place) == expected
            })
        }
    }

    /// Does one random operation on both, and returns whether the results are the same.
    fn same_result(
        states: &mut PortStates,
        model: &mut Model,
        numbers: &mut Numbers,
        operation: u32,
    ) -> bool {
        let size = model.range.count().get();
        // Now and then one beyond the range.
        let port = model
            .range
            .first()
            .wrapping_add(numbers.below(size + 2) as u16)
            .wrapping_sub(1);
        match operation {
            0 | 1 => model.takes(states.take_any(random::below), &[0, 5, 4, 3, 2, 1]),
            2 => states.take(port) == model.change(port, &[0], 7),
            3 => model.takes(states.take_reusable(random::below), &[6]),
            4 | 5 => {
                states.release(port, 0);
                model.change(port, &[6, 7], 1);
                true
            }
            6 => {
                let reusable = numbers.below(2) == 0;
                states.found_in_use(port, reusable);
                model.change(
                    port,
                    &[0, 1, 2, 3, 4, 5, 6, 7],
                    if reusable { 6 } else { 7 },
                );
                true
            }
            _ => states.is_free(port) == (model.state(port).is_some_and(|state| *state == 0)),
        }
    }

    /// Does random operations on a range of so many ports, and returns whether all went as in the model.
    fn behaves_like_the_model(size: u32) -> Result<bool> {
        let mut states = all_free(size)?;
        let mut model = Model::new(size)?;
        let mut numbers = Numbers(0x1350_0000 + u64::from(size));
        for _ in 0..(25 + 20_000 / size).min(400) {
            let operation = numbers.below(10);
            if operation > 7 {
                states.turn();
                model.turn();
            }
            // Now and then so many that the range is full.
            let repetitions = match operation {
                0 => size,
                _ => 1 + numbers.below(size / 8 + 2),
            };
            for _ in 0..repetitions {
                if !same_result(&mut states, &mut model, &mut numbers, operation)
                    || !model.agrees(&states)
                {
                    return Ok(false);
                }
            }
            if !model.agrees_on_all_ports(&states) || !counts_are_right(&states) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    #[test]
    fn random_operations_go_as_in_a_model() -> Result {
        for size in SIZES {
            assert!(behaves_like_the_model(size)?);
        }
        Ok(())
    }

    #[test]
    fn each_port_is_taken_once() -> Result {
        for size in SIZES {
            let mut states = all_free(size)?;
            let mut taken = KVec::from_elem(false, 65_536, GFP_KERNEL)?;
            for _ in 0..size {
                let port = states.take_any(random::below).ok_or(ENOSPC)?;
                let before = taken
                    .get_mut(usize::from(port))
                    .map(|taken| core::mem::replace(taken, true));
                assert_eq!(before, Some(false));
                assert!(states.range().contains(port) && !states.is_free(port));
            }
            assert_eq!((states.free(), states.in_use()), (0, size));
            assert_eq!(states.take_any(random::below), None);
        }
        Ok(())
    }

    #[test]
    fn each_port_can_be_asked_for() -> Result {
        for size in SIZES {
            let mut states = all_free(size)?;
            let range = states.range();
            assert!(ports(range).all(|port| states.take(port)));
            assert!(!ports(range).any(|port| states.take(port)));
            assert_eq!((states.free(), states.in_use()), (0, size));
        }
        Ok(())
    }

    #[test]
    fn ranks_lead_to_the_free_ports_in_order() -> Result {
        for size in SIZES {
            let mut states = all_free(size)?;
            let range = states.range();
            ports(range).filter(|port| port % 3 == 1).for_each(|port| {
                states.take(port);
            });
            let free = ports(range).filter(|port| port % 3 != 1);
            let found = (0..states.free()).map_while(|rank| states.find(State::FREE, rank));
            assert!(free.map(|port| states.place(port)).eq(found.map(Some)));
            assert_eq!(states.find(State::FREE, states.free()), None);
        }
        Ok(())
    }

    /// Draws many ports, each of which is put back, and returns whether they are spread evenly (chi-squared test).
    ///
    /// `is_taken` says which ports are not free, by their places.
    fn draws_are_even(size: u32, is_taken: impl Fn(u32) -> bool) -> Result<bool> {
        let mut states = all_free(size)?;
        let range = states.range();
        (0..size)
            .filter(|place| is_taken(*place))
            .for_each(|place| {
                states.take(range.nth(place));
            });
        let free = states.free();
        // Cells of as many free ports each as can be: how many these are, and how often one was drawn.
        let mut cells = KVec::from_elem((0_u64, 0_u64), free.min(CELLS) as usize, GFP_KERNEL)?;
        let mut cell_of = KVec::with_capacity(size as usize, GFP_KERNEL)?;
        let mut rank = 0;
        for place in 0..size {
            let cell = (rank * free.min(CELLS) / free) as usize;
            let is_free = !is_taken(place);
            cell_of.push(is_free.then_some(cell), GFP_KERNEL)?;
            if let Some((ports, _)) = cells.get_mut(cell).filter(|_| is_free) {
                *ports += 1;
                rank += 1;
            }
        }
        for _ in 0..DRAWS {
            let port = states.take_any(random::below).ok_or(ENOSPC)?;
            let place = states.place(port).ok_or(ERANGE)?;
            states.change(port, |_| true, State::FREE);
            let cell = cell_of.get(place).copied().flatten().ok_or(EEXIST)?;
            if let Some((_, drawn)) = cells.get_mut(cell) {
                *drawn += 1;
            }
        }
        let draws = u64::from(DRAWS);
        let sum: u64 = cells
            .iter()
            .map(|(ports, drawn)| drawn * drawn * u64::from(free) / ports)
            .sum();
        let statistic = (sum / draws).saturating_sub(draws);
        // The mean and five standard deviations; and 25, for the distribution of a few degrees has a longer tail. Even
        // draws exceed it less often than four times in a million (Laurent and Massart, 2000, lemma 1).
        let degrees = cells.len() as u64 - 1;
        let excess = statistic.saturating_sub(degrees + 25);
        Ok(excess * excess <= 25 * 2 * degrees)
    }

    /// The numbers of ports that are drawn from.
    const DRAWN_FROM: [u32; 5] = [3, 100, 1000, 40_000, 64_512];

    #[test]
    fn draws_from_an_empty_range_are_even() -> Result {
        for size in DRAWN_FROM {
            assert!(draws_are_even(size, |_| false)?);
        }
        Ok(())
    }

    #[test]
    fn draws_are_even_if_taken_ports_lie_side_by_side() -> Result {
        for size in DRAWN_FROM {
            assert!(draws_are_even(size, |place| place < size / 2)?);
        }
        Ok(())
    }

    #[test]
    fn draws_are_even_if_every_second_port_is_taken() -> Result {
        for size in DRAWN_FROM {
            assert!(draws_are_even(size, |place| place % 2 == 1)?);
        }
        Ok(())
    }

    #[test]
    fn the_oldest_generation_goes_first() -> Result {
        let mut states = all_free(5)?;
        let range = states.range();
        ports(range).for_each(|port| states.found_in_use(port, false));
        // Not in the order of their numbers.
        let order = [2, 4, 0, 3, 1].map(|place| range.nth(place));
        for (age, port) in order.into_iter().enumerate() {
            if age > 0 {
                states.turn();
            }
            states.release(port, 0);
        }
        assert_eq!(states.recent(), 5);
        for port in order {
            assert_eq!(states.take_any(random::below), Some(port));
        }
        assert_eq!(states.take_any(random::below), None);
        Ok(())
    }

    #[test]
    fn recently_freed_ports_are_taken_only_if_none_is_free() -> Result {
        let mut states = all_free(600)?;
        let range = states.range();
        for port in ports(range).take(599) {
            states.take(port);
            states.release(port, 0);
        }
        assert_eq!(states.take_any(random::below), Some(range.last()));
        assert!(!states.take(range.first()));
        assert!(states.take_any(random::below).is_some());
        assert_eq!((states.recent(), states.in_use()), (598, 2));
        Ok(())
    }

    #[test]
    fn a_port_is_recent_through_four_turns() -> Result {
        // As often as the generations take turns.
        let mut states = all_free(65)?;
        let port = states.range().last();
        for _ in 0..GENERATIONS {
            assert!(states.take(port));
            states.release(port, 0);
            for _ in 0..4 {
                states.turn();
                assert_eq!((states.is_free(port), states.recent()), (false, 1));
            }
            states.turn();
            assert_eq!((states.is_free(port), states.recent()), (true, 0));
            states.turn();
        }
        Ok(())
    }

    #[test]
    fn only_reusable_ports_are_reused_each_once() -> Result {
        let mut states = all_free(2)?;
        let (first, last) = (states.range().first(), states.range().last());
        states.found_in_use(first, false);
        states.found_in_use(last, true);
        assert_eq!(states.in_use(), 2);
        assert_eq!(states.take_reusable(random::below), Some(last));
        assert_eq!(states.take_reusable(random::below), None);
        assert_eq!(states.in_use(), 2);
        Ok(())
    }

    #[test]
    fn ports_beyond_the_range_are_ignored() -> Result {
        let mut states = all_free(65)?;
        let range = states.range();
        for port in [0, range.first() - 1, range.last() + 1, u16::MAX] {
            states.found_in_use(port, true);
            states.release(port, 0);
            assert!(!states.is_free(port) && !states.take(port));
        }
        assert_eq!(
            (states.free(), states.recent(), states.in_use()),
            (65, 0, 0)
        );
        Ok(())
    }

    #[test]
    fn a_random_number_that_is_too_large_takes_nothing() -> Result {
        for size in SIZES {
            let mut states = all_free(size)?;
            assert_eq!(states.take_any(NonZeroU32::get), None);
            assert_eq!(states.take_any(|_| u32::MAX), None);
            assert_eq!(states.free(), size);
        }
        Ok(())
    }

    #[test]
    fn bits_are_found_by_rank() {
        let mut numbers = Numbers(1);
        for n in 0..2000_u32 {
            let word =
                u64::from(numbers.below(u32::MAX)) << 32 | u64::from(numbers.below(u32::MAX));
            // Few bits, many bits, and all of them.
            let bits = match n % 4 {
                0 => word,
                1 => word & word.rotate_left(7) & word.rotate_left(29),
                2 => word | word.rotate_left(11) | word.rotate_left(31),
                _ => u64::MAX >> (n % 64),
            };
            let ranked = Ranked::new(bits);
            assert_eq!(ranked.count(), bits.count_ones());
            let places = (0..64).filter(|place| bits >> place & 1 != 0);
            assert!(places.eq((0..ranked.count()).map(|rank| ranked.find(rank))));
        }
    }

    #[test]
    fn all_ports_take_less_than_32_kib() -> Result {
        let states = all_free(65_536)?;
        let bitmaps = states
            .bitmaps
            .iter()
            .map(|bitmap| bitmap.capacity() * size_of::<u64>());
        let counts = states.blocks.capacity() + states.groups.capacity();
        let counts = counts * size_of::<[u16; STATES]>();
        assert!(size_of::<PortStates>() + bitmaps.sum::<usize>() + counts < 32 << 10);
        Ok(())
    }
}
