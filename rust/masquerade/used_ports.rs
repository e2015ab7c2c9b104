// SPDX-License-Identifier: GPL-2.0

//! The ports of an outside address that mappings use, and the search for a free one.
//!
//! There is a bit for each port. While at most nine of ten are used, a few random tries find a free one; after that the
//! free ones of the range are counted, word by word, and one of them is taken at random. So the search is short however
//! many are used, and each free port is equally likely.

use super::{
    options::PortSets,
    port_set::{
        PortSet,
        WORD_PORTS, //
    }, //
};
use crate::net::random;
use core::num::NonZeroU32;
use kernel::{
    alloc::Flags,
    prelude::*, //
};

/// The number of words for all ports, 0 included, which is a query identifier.
const WORDS: usize = 1 << 16 >> 6;
/// The number of random ports that are looked at before the free ones are counted.
const RANDOM_TRIES: u32 = 16;
/// The number of further ports of a range that a search offers if flows without mappings, or sockets, have those before.
const MOST_FURTHER: u32 = 512;

/// The ports that are used.
pub(super) struct UsedPorts {
    words: KVec<u64>,
}

impl UsedPorts {
    /// Returns ports of which none is used. Errors: ENOMEM.
    pub(super) fn new(flags: Flags) -> Result<Self> {
        Ok(Self {
            words: KVec::zeroed(WORDS, flags)?,
        })
    }

    /// Returns the ports from `64 * number` on, as bits.
    fn word(&self, number: u32) -> u64 {
        // CAST: A small number.
        self.words.get(number as usize).copied().unwrap_or(u64::MAX)
    }

    /// Replaces the word of a port by what `f` makes of it and of the port's bit.
    fn change(&mut self, port: u16, f: impl FnOnce(u64, u64) -> u64) {
        if let Some(word) = self.words.get_mut(usize::from(port / 64)) {
            *word = f(*word, 1 << (port % 64));
        }
    }

    /// Returns whether nobody uses the port.
    pub(super) fn is_free(&self, port: u16) -> bool {
        let port = u32::from(port);
        self.word(port / WORD_PORTS) >> (port % WORD_PORTS) & 1 == 0
    }

    /// Notes that a free port is used from now on.
    pub(super) fn take(&mut self, port: u16) {
        self.change(port, |word, bit| word | bit);
    }

    /// Notes that a used port is free from now on.
    pub(super) fn release(&mut self, port: u16) {
        self.change(port, |word, bit| word & !bit);
    }

    /// Returns the numbers of the words that have ports of the set, each with its free ones as bits.
    fn free_in<'a>(&'a self, set: PortSet<'a>) -> impl Iterator<Item = (u32, u64)> + 'a {
        set.words()
            .map(|(number, ports)| (number, ports & !self.word(number)))
    }

    /// Returns a free port of the set, each with the same probability.
    fn random_free(&self, set: PortSet<'_>) -> Option<u16> {
        let count = set.count();
        let mut at_random = (0..RANDOM_TRIES).map(|_| set.nth(random::below(count)));
        let is_free = |port: &u16| self.is_free(*port) && !set.is_reserved(*port);
        at_random.find(is_free).or_else(|| {
            let free: u32 = self.free_in(set).map(|(_, free)| free.count_ones()).sum();
            self.nth_free(set, random::below(NonZeroU32::new(free)?))
        })
    }

    /// Returns the free port of the set that has the place among the free ones, counted from 0.
    fn nth_free(&self, set: PortSet<'_>, mut place: u32) -> Option<u16> {
        for (number, mut free) in self.free_in(set) {
            let count = free.count_ones();
            if place < count {
                for _ in 0..place {
                    free &= free - 1;
                }
                return u16::try_from(number * WORD_PORTS + free.trailing_zeros()).ok();
            }
            place -= count;
        }
        None
    }

    /// Returns the first free port of the set behind a port, or, if there is none, the first one.
    fn free_behind(&self, set: PortSet<'_>, port: u16) -> Option<u16> {
        let first_of = |part: Option<PortSet<'_>>| {
            let (number, free) = self.free_in(part?).find(|(_, free)| *free != 0)?;
            u16::try_from(number * WORD_PORTS + free.trailing_zeros()).ok()
        };
        first_of(set.behind(port)).or_else(|| first_of(Some(set)))
    }
}

/// A search for a port, of some sets, that no mapping uses.
pub(super) struct Search<'a> {
    sets: PortSets<'a>,
    /// The set that ports were offered of.
    current: Option<Current<'a>>,
}

/// The set of a search from which ports are offered, one behind the other.
struct Current<'a> {
    set: PortSet<'a>,
    first: u16,
    last: u16,
    /// The number of ports that may still be offered.
    left: u32,
}

impl<'a> Search<'a> {
    /// Returns the search for a port, of the first of the sets that has one.
    pub(super) fn new(sets: PortSets<'a>) -> Self {
        Self {
            sets,
            current: None,
        }
    }

    /// Returns the next free port, or `None` if all were offered. Each set is left after [`MOST_FURTHER`] ports.
    pub(super) fn next(&mut self, used: &UsedPorts) -> Option<u16> {
        let further = self.current.as_mut().and_then(|current| current.next(used));
        if further.is_some() {
            return further;
        }
        let (set, first) = self
            .sets
            .find_map(|set| Some((set, used.random_free(set)?)))?;
        self.current = Some(Current {
            set,
            first,
            last: first,
            left: MOST_FURTHER,
        });
        Some(first)
    }
}

impl Current<'_> {
    /// Returns the next free port, until the first one's turn comes again.
    fn next(&mut self, used: &UsedPorts) -> Option<u16> {
        self.left = self.left.checked_sub(1)?;
        let port = used.free_behind(self.set, self.last)?;
        self.last = port;
        (port != self.first).then_some(port)
    }
}

#[kunit_tests(rustmasq_used_ports)]
mod tests {
    use super::*;
    use crate::netfilter::nat::PortRange;
    use core::num::NonZeroU16;

    fn range(first: u16, last: u16) -> Result<PortRange> {
        let port = |port| NonZeroU16::new(port).ok_or(EINVAL);
        PortRange::new(port(first)?, port(last)?).ok_or(EINVAL)
    }

    #[test]
    fn all_ports_of_a_range_are_given_once() -> Result {
        let mut used = UsedPorts::new(GFP_KERNEL)?;
        for (first, last) in [(1, 511), (600, 1023), (1024, 65535), (7, 7)] {
            let ranges = [range(first, last)?];
            used.change(7, |word, bit| word & !bit);
            for _ in first..=last {
                let port = Search::new(PortSets::of(&ranges))
                    .next(&used)
                    .ok_or(ENOENT)?;
                assert!(ranges[0].contains(port) && used.is_free(port));
                used.take(port);
            }
            assert!(Search::new(PortSets::of(&ranges)).next(&used).is_none());
        }
        Ok(())
    }

    #[test]
    fn a_search_offers_each_free_port_once() -> Result {
        let mut used = UsedPorts::new(GFP_KERNEL)?;
        let ranges = [range(60, 69)?, range(200, 202)?];
        used.take(63);
        used.take(64);
        let mut search = Search::new(PortSets::of(&ranges));
        let mut offered = [false; 256];
        let mut count = 0;
        while let Some(port) = search.next(&used) {
            assert!(used.is_free(port));
            let offered = offered.get_mut(usize::from(port)).ok_or(EINVAL)?;
            assert!(!*offered);
            *offered = true;
            count += 1;
        }
        assert_eq!(count, 8 + 3);
        Ok(())
    }

    #[test]
    fn each_free_port_is_equally_likely() -> Result {
        // 64 free ports of 1,024, side by side.
        let mut used = UsedPorts::new(GFP_KERNEL)?;
        let all = PortSet::new(range(2048, 3071)?, None, None).ok_or(EINVAL)?;
        for port in (2048..=3071).filter(|port| !(2100..2164).contains(port)) {
            used.take(port);
        }
        let mut counts = [0_u32; 64];
        const DRAWS: u32 = 64_000;
        for _ in 0..DRAWS {
            let port = used.random_free(all).ok_or(ENOENT)?;
            let count = counts.get_mut(usize::from(port - 2100)).ok_or(EINVAL)?;
            *count += 1;
        }
        // Chi-squared with 63 degrees of freedom is above 124 once in 150,000 runs.
        let square = |count: &u32| u64::from(count.abs_diff(DRAWS / 64)).pow(2);
        assert!(counts.iter().map(square).sum::<u64>() < 124 * u64::from(DRAWS / 64));
        Ok(())
    }

    #[test]
    fn a_released_port_is_free() -> Result {
        let mut used = UsedPorts::new(GFP_KERNEL)?;
        used.take(0);
        used.take(65535);
        used.release(0);
        assert!(used.is_free(0) && !used.is_free(65535));
        used.release(65535);
        assert!(used.is_free(65535));
        Ok(())
    }
}
