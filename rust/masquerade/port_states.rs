// SPDX-License-Identifier: GPL-2.0

//! The states of the ports, or query identifiers, of one crowded destination.
//!
//! A state has three bits, and there is a bitmap for each of them: one look finds those of 64 ports that are in a
//! certain state. For each block of 512 ports, and for groups of eight blocks, there is the number of ports in each
//! state. A random number finds its port by these counts and then by the bitmaps of one block. So the search is short however full the range is, and
//! each port is equally likely, however the others lie.
//!
//! All ports together take 26 KiB, in pieces of at most 8 KiB: the kernel would round one of 24 KiB up to 32.

use crate::netfilter::nat::PortRange;
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

/// The state of each port of a range. No method sleeps or allocates.
///
/// # Invariants
///
/// - `counts` and `totals` say how many ports are in each state, by the bitmaps.
/// - The bits beyond the range, which follow those of all its ports, are 0 and in none of the counts. So no rank leads
///   to them.
pub(super) struct PortStates {
    range: PortRange,
    bitmaps: [KVec<u64>; BITS],
    /// The number of ports in each block: those in the state 0, block by block, then those in the state 1, ...
    counts: KVec<u16>,
    /// The same for each group.
    groups: KVec<u16>,
    /// The number of ports in each state.
    totals: [u32; STATES],
    /// The newest generation, counted from 0. The states of generations take turns, so that no port has to change
    /// its state as it ages.
    newest: usize,
}

impl PortStates {
    /// Returns the states of a range whose ports are all free.
    ///
    /// The flags are those of the allocation. Returns ENOMEM if there is no memory.
    pub(super) fn new(range: PortRange, flags: Flags) -> Result<Self> {
        // CAST: At most 65,536.
        let ports = range.count().get() as usize;
        let words = ports.div_ceil(WORD_PORTS);
        let blocks = ports.div_ceil(BLOCK_PORTS);
        let bitmap = || KVec::zeroed(words, flags);
        let bitmaps = [bitmap()?, bitmap()?, bitmap()?];
        let mut counts = KVec::zeroed(STATES * blocks, flags)?;
        for (block, count) in counts.iter_mut().take(blocks).enumerate() {
            // CAST: A block has at most 512 ports.
            *count = (ports - block * BLOCK_PORTS).min(BLOCK_PORTS) as u16;
        }
        let mut groups = KVec::zeroed(STATES * ports.div_ceil(GROUP_PORTS), flags)?;
        for (group, count) in groups
            .iter_mut()
            .take(ports.div_ceil(GROUP_PORTS))
            .enumerate()
        {
            // CAST: A group has at most 4,096 ports.
            *count = (ports - group * GROUP_PORTS).min(GROUP_PORTS) as u16;
        }
        let mut totals = [0; STATES];
        totals[State::FREE.0] = range.count().get();
        // INVARIANT: All ports are free, and the counts leave out the bits beyond the range.
        Ok(Self {
            range,
            bitmaps,
            counts,
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

    /// Returns whether the port is of the range, and neither in use nor recently freed.
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
            for place in (0..self.range.count().get() as usize).step_by(WORD_PORTS) {
                let ports = self.word(place).ports_in(oldest);
                self.move_ports(place, ports, oldest, State::FREE);
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

    /// Returns the place of a port in the range, counted from 0.
    fn place(&self, port: u16) -> Option<usize> {
        let place = port.wrapping_sub(self.range.first());
        self.range.contains(port).then_some(place.into())
    }

    fn state(&self, place: usize) -> State {
        self.word(place).state(place % WORD_PORTS)
    }

    /// Returns the word that a place is in; one beyond the last is 0, as the bits beyond the range are.
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
            self.move_ports(place, 1 << (place % WORD_PORTS), from, to);
        }
        changes
    }

    /// Takes a random port of those in the state `from`.
    fn take_from(&mut self, from: State, below: impl FnOnce(NonZeroU32) -> u32) -> Option<u16> {
        let rank = below(NonZeroU32::new(self.total(from))?);
        let place = self.find(from, rank)?;
        self.move_ports(place, 1 << (place % WORD_PORTS), from, State::IN_USE);
        // CAST: The number of ports is at most 65,536.
        Some(self.range.nth(place as u32))
    }

    /// Returns the place of the port that as many ports of its state precede as `rank` says.
    fn find(&self, state: State, rank: u32) -> Option<usize> {
        let (group, rank) = descend(counts_of(&self.groups, state)?, rank)?;
        let first = group * (GROUP_PORTS / BLOCK_PORTS);
        let blocks = counts_of(&self.counts, state)?.get(first..)?;
        let (block, mut rank) = descend(blocks, rank)?;
        let start = (first + block) * BLOCK_PORTS;
        let [a, b, c] = &self.bitmaps;
        let first = start / WORD_PORTS;
        let words = first..a.len().min(first + BLOCK_PORTS / WORD_PORTS);
        let [a, b, c] = [a.get(words.clone())?, b.get(words.clone())?, c.get(words)?];
        for (n, ((a, b), c)) in a.iter().zip(b).zip(c).enumerate() {
            let ports = Word([*a, *b, *c]).ports_in(state);
            match rank.checked_sub(ports.count_ones()) {
                Some(rest) => rank = rest,
                None => return Some(start + n * WORD_PORTS + nth_bit(ports, rank)),
            }
        }
        None
    }

    /// Moves ports from one state to another: those of the bits `ports` in the word that a place is in.
    fn move_ports(&mut self, place: usize, ports: u64, from: State, to: State) {
        for (bit, bitmap) in self.bitmaps.iter_mut().enumerate() {
            if let Some(bits) = bitmap.get_mut(place / WORD_PORTS) {
                *bits = *bits & !ports | if to.has_bit(bit) { ports } else { 0 };
            }
        }
        // INVARIANT: The counts follow the bitmaps.
        // CAST: A word has 64 bits.
        let moved = ports.count_ones() as i16;
        self.add_to_count(place, from, -moved);
        self.add_to_count(place, to, moved);
    }

    /// Adds a number, which may be negative, to the counts of a state in the block and the group of a place.
    fn add_to_count(&mut self, place: usize, state: State, number: i16) {
        let blocks = state.0 * (self.counts.len() / STATES) + place / BLOCK_PORTS;
        let groups = state.0 * (self.groups.len() / STATES) + place / GROUP_PORTS;
        // By the invariant none of them wraps.
        let counts = [self.counts.get_mut(blocks), self.groups.get_mut(groups)];
        for count in counts.into_iter().flatten() {
            *count = count.wrapping_add_signed(number);
        }
        if let Some(total) = self.totals.get_mut(state.0) {
            *total = total.wrapping_add_signed(number.into());
        }
    }
}

/// Returns the counts of a state, block by block or group by group.
fn counts_of(counts: &[u16], state: State) -> Option<&[u16]> {
    let each = counts.len() / STATES;
    counts.get(state.0 * each..(state.0 + 1) * each)
}

/// Returns the place of the count that the rank falls into, and the rank within it.
fn descend(counts: &[u16], mut rank: u32) -> Option<(usize, u32)> {
    for (place, count) in counts.iter().enumerate() {
        match rank.checked_sub(u32::from(*count)) {
            Some(rest) => rank = rest,
            None => return Some((place, rank)),
        }
    }
    None
}

/// Returns the place of the set bit that as many set bits precede as `rank` says.
fn nth_bit(word: u64, rank: u32) -> usize {
    let rest = (0..rank).fold(word, |rest, _| rest & rest.wrapping_sub(1));
    // CAST: At most 64.
    rest.trailing_zeros() as usize
}

#[kunit_tests(rustmasq_port_states)]
mod tests {
    use super::*;
    use crate::net::random;
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
        PortStates::new(range(size), GFP_KERNEL)
    }

    fn ports(range: PortRange) -> impl Iterator<Item = u16> {
        range.first()..=range.last()
    }

    /// Returns whether the counts are those of the bitmaps.
    fn counts_are_right(states: &PortStates) -> bool {
        let mut totals = [0; STATES];
        let mut counts = states.counts.iter();
        let size = states.range.count().get() as usize;
        let blocks_agree = (0..STATES).all(|state| {
            (0..size).step_by(BLOCK_PORTS).all(|block| {
                let places = block..(block + BLOCK_PORTS).min(size);
                let words = places.step_by(WORD_PORTS).map(|place| {
                    // Without the ports beyond the range.
                    let ports = u64::MAX >> (WORD_PORTS - (size - place).min(WORD_PORTS));
                    (states.word(place).ports_in(State(state)) & ports).count_ones()
                });
                let count: u32 = words.sum();
                totals[state] += count;
                counts.next().copied().map(u32::from) == Some(count)
            })
        });
        let mut groups = states.groups.iter();
        let groups_agree = (0..STATES).map(State).all(|state| {
            let blocks = counts_of(&states.counts, state).unwrap_or(&[]);
            blocks.chunks(GROUP_PORTS / BLOCK_PORTS).all(|blocks| {
                let count: u16 = blocks.iter().sum();
                groups.next() == Some(&count)
            })
        });
        blocks_agree
            && groups_agree
            && counts.next().is_none()
            && groups.next().is_none()
            && totals == states.totals
    }

    /// Numbers that are the same each time (Marsaglia's xorshift).
    struct Numbers(u64);

    impl Numbers {
        fn below(&mut self, limit: u32) -> u32 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            // CAST: The high half, brought below the limit.
            (((self.0 >> 32) * u64::from(limit)) >> 32) as u32
        }
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
                assert!(states.range.contains(port) && !states.is_free(port));
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
            let range = states.range;
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
            let range = states.range;
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
        let range = states.range;
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
        let range = states.range;
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
        let range = states.range;
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
        let port = states.range.last();
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
        let (first, last) = (states.range.first(), states.range.last());
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
        let range = states.range;
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
    fn all_ports_take_less_than_32_kib() -> Result {
        let states = all_free(65_536)?;
        let bitmaps = states
            .bitmaps
            .iter()
            .map(|bitmap| bitmap.capacity() * size_of::<u64>());
        let counts = (states.counts.capacity() + states.groups.capacity()) * size_of::<u16>();
        assert!(size_of::<PortStates>() + bitmaps.sum::<usize>() + counts < 32 << 10);
        Ok(())
    }
}
