// SPDX-License-Identifier: GPL-2.0

//! The ports, or query identifiers, that a rule's flows may get.
//!
//! Mostly that is one range. A list, a port set of MAP (RFC 7597) and exceptions make a bitmap of all ports, with counts
//! that lead from a place in the set to its port and back, so that all that works by places works for any set: the choice
//! is unbiased, and costs the same however the ports lie. The bitmap is made once, when the rule is added.

use super::port_states::Ranked;
use crate::{
    net::{
        namespace::Net,
        reserved::ReservedPorts, //
    },
    netfilter::nat::PortRange, //
};
use core::num::NonZeroU32;
use kernel::{
    alloc::Flags,
    fmt::{
        self,
        Display, //
    },
    prelude::*,
    sync::Arc, //
};

/// The number of ports of a word.
pub(super) const WORD_PORTS: u32 = 64;
/// The number of words for all ports, 0 included, which is a query identifier.
const WORDS: usize = 1 << 16 >> 6;
/// The most ranges of a list.
pub(super) const MOST_RANGES: usize = crate::uapi::XT_RUSTMASQ_RANGES_MAX as usize;
/// The number of ports that are looked at for one that is not reserved.
const DRAWS: usize = 32;

/// Ranges of ports that ascend, with a port at least between two of them; or none.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct PortList([Option<PortRange>; MOST_RANGES]);

impl PortList {
    /// Returns the list of these ranges, which the caller has put into order. More than fit are left out.
    pub(super) fn new(ranges: impl Iterator<Item = PortRange>) -> Self {
        let mut list = Self::default();
        for (to, range) in list.0.iter_mut().zip(ranges) {
            *to = Some(range);
        }
        list
    }

    fn ranges(&self) -> impl Iterator<Item = PortRange> + '_ {
        self.0.iter().copied().flatten()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ranges().next().is_none()
    }
}

/// As on a command line: `1024-2047,50000`.
impl Display for PortList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, range) in self.ranges().enumerate() {
            if n > 0 {
                f.write_str(",")?;
            }
            write!(f, "{}", range.first())?;
            if range.last() > range.first() {
                write!(f, "-{}", range.last())?;
            }
        }
        Ok(())
    }
}

/// A port set of MAP (RFC 7597, section 5.1): a port is `offset` bits, then `length` bits that are `psid`, then the rest.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct PortSetId {
    offset: u8,
    length: u8,
    psid: u16,
}

impl PortSetId {
    /// Returns the set with these numbers.
    ///
    /// Returns `None` if offset and length are more than 16 bits, or if the identifier has more than `length`.
    pub(super) fn new(offset: u8, length: u8, psid: u16) -> Option<Self> {
        let fits = offset.checked_add(length)? <= 16 && u32::from(psid) >> length == 0;
        fits.then_some(Self {
            offset,
            length,
            psid,
        })
    }

    /// Returns the first and the last port of each part, from the second block on if there are several.
    fn parts(self) -> impl Iterator<Item = (u32, u32)> {
        let rest = 16 - u32::from(self.offset) - u32::from(self.length);
        let blocks = u32::from(self.offset > 0)..1 << self.offset;
        blocks.map(move |block| {
            let first = (block << self.length | u32::from(self.psid)) << rest;
            (first, first + (1 << rest) - 1)
        })
    }
}

/// As on a command line: `6/8/52`.
impl Display for PortSetId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.offset, self.length, self.psid)
    }
}

/// The ports that a rule asks for.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct PortSpec {
    /// `--to-ports`; empty without it.
    pub(super) to_ports: PortList,
    /// `--psid`, which excludes `--to-ports`.
    pub(super) psid: Option<PortSetId>,
    /// `--except-ports`; empty without it.
    pub(super) except: PortList,
}

impl PortSpec {
    /// Returns whether the rule says which ports its flows may get; else these depend on the flow.
    pub(super) fn names_ports(&self) -> bool {
        self.psid.is_some() || !self.to_ports.is_empty()
    }

    /// Returns whether the rule says anything of ports.
    pub(super) fn is_empty(&self) -> bool {
        !self.names_ports() && self.except.is_empty()
    }
}

/// The set as a bitmap.
///
/// # Invariants
///
/// `before` says how many ports the words before each one have, and `range` goes from the first port to the last one.
pub(super) struct PortBits {
    spec: PortSpec,
    words: KBox<[u64; WORDS]>,
    before: KBox<[u16; WORDS]>,
    range: PortRange,
    count: NonZeroU32,
}

impl PortBits {
    /// Returns the set that a rule asks for, or `None` if it has no port but 0. Errors: ENOMEM.
    pub(super) fn new(spec: PortSpec, flags: Flags) -> Result<Option<Self>> {
        let mut words = KBox::<[u64; WORDS]>::zeroed(flags)?;
        let mut before = KBox::<[u16; WORDS]>::zeroed(flags)?;
        fill(&mut words, &spec);
        let mut count = 0;
        for (word, before) in words.iter().zip(before.iter_mut()) {
            // CAST: The words before the last one have less than 65,536 ports.
            *before = count as u16;
            count += word.count_ones();
        }
        let is_some = |first: &PortRange| first.last() > 0;
        let ends = range_of(&words).filter(is_some).zip(NonZeroU32::new(count));
        // INVARIANT: Counts and range were just made from the words.
        Ok(ends.map(|(range, count)| Self {
            spec,
            words,
            before,
            range,
            count,
        }))
    }

    /// Returns the first and the last port of the set.
    pub(super) fn range(&self) -> PortRange {
        self.range
    }

    /// Returns whether the set has all ports from the first to the last one.
    pub(super) fn is_one_range(&self) -> bool {
        self.count == self.range.count()
    }

    /// Returns the ports from `64 * number` on, as bits.
    fn word(&self, number: u32) -> u64 {
        // CAST: A small number.
        self.words.get(number as usize).copied().unwrap_or(0)
    }

    pub(super) fn contains(&self, port: u16) -> bool {
        self.word(u32::from(port) / WORD_PORTS) >> (u32::from(port) % WORD_PORTS) & 1 != 0
    }

    /// Returns the number of ports of the set that are less than `port`, which is at most 65,536.
    fn rank(&self, port: u32) -> u32 {
        let number = port / WORD_PORTS;
        // CAST: A small number.
        match self.before.get(number as usize) {
            Some(before) => {
                let below = self.word(number) & !(u64::MAX << (port % WORD_PORTS));
                u32::from(*before) + below.count_ones()
            }
            None => self.count.get(),
        }
    }

    /// Returns the port that so many ports of the set are less than, or the last one.
    fn select(&self, rank: u32) -> u16 {
        let after = self
            .before
            .partition_point(|before| u32::from(*before) <= rank);
        let number = after.saturating_sub(1);
        let before = self.before.get(number).copied().unwrap_or(0);
        let word = self.words.get(number).copied().unwrap_or(0);
        let place = Ranked::new(word).find(rank.saturating_sub(before.into()) % WORD_PORTS);
        // CAST: A small number.
        let port = number as u32 * WORD_PORTS + place as u32;
        u16::try_from(port).unwrap_or(self.range.last())
    }
}

/// Sets the bits of the ports that a rule asks for.
fn fill(words: &mut [u64; WORDS], spec: &PortSpec) {
    if let Some(psid) = spec.psid {
        for (first, last) in psid.parts() {
            set(words, first, last, true);
        }
    }
    for range in spec.to_ports.ranges() {
        set(words, range.first().into(), range.last().into(), true);
    }
    if spec.names_ports() {
        // Unlike an identifier, a port is never 0.
        set(words, 0, 0, false);
    } else {
        set(words, 0, u16::MAX.into(), true);
    }
    for range in spec.except.ranges() {
        set(words, range.first().into(), range.last().into(), false);
    }
}

/// Sets or clears the bits of the ports from `first` to `last`.
fn set(words: &mut [u64; WORDS], first: u32, last: u32, to: bool) {
    for number in first / WORD_PORTS..=last / WORD_PORTS {
        let mask = mask(number, first, last);
        // CAST: A small number.
        if let Some(word) = words.get_mut(number as usize) {
            *word = if to { *word | mask } else { *word & !mask };
        }
    }
}

/// Returns the bits of a word that are of ports from `first` to `last`, one of which the word has.
fn mask(number: u32, first: u32, last: u32) -> u64 {
    let mut mask = u64::MAX;
    if number == first / WORD_PORTS {
        mask &= u64::MAX << (first % WORD_PORTS);
    }
    if number == last / WORD_PORTS {
        mask &= u64::MAX >> (WORD_PORTS - 1 - last % WORD_PORTS);
    }
    mask
}

/// Returns the range from the first to the last port.
fn range_of(words: &[u64; WORDS]) -> Option<PortRange> {
    let port = |(number, bit): (usize, u32)| u16::try_from(number * 64 + bit as usize).ok();
    let used = || words.iter().enumerate().filter(|(_, word)| **word != 0);
    let first = used().next().map(|(n, word)| (n, word.trailing_zeros()));
    let last = used()
        .next_back()
        .map(|(n, word)| (n, 63 - word.leading_zeros()));
    PortRange::of_identifiers(port(first?)?, port(last?)?)
}

/// The ports that a flow may get, in one of the classes of ports if the rule names none; one at least.
#[derive(Clone, Copy)]
pub(super) struct PortSet<'a> {
    range: PortRange,
    /// The ports of the range that the set has; without it all.
    part: Option<Part<'a>>,
    /// Ports that are not chosen. The set has them all the same: they change at any time.
    reserved: Option<ReservedPorts<'a>>,
}

/// The ports of a bitmap that are of a range.
#[derive(Clone, Copy)]
struct Part<'a> {
    bits: &'a Arc<PortBits>,
    /// The number of ports of the bitmap that are less than those of the range.
    before: u32,
    /// The number of ports of the range.
    count: NonZeroU32,
}

impl<'a> PortSet<'a> {
    /// Returns the ports of the range that the bitmap has, without those that are reserved.
    ///
    /// Returns `None` if it has none of the range.
    pub(super) fn new(
        range: PortRange,
        bits: Option<&'a Arc<PortBits>>,
        reserved: Option<ReservedPorts<'a>>,
    ) -> Option<Self> {
        let part = match bits {
            None => None,
            Some(bits) => {
                let before = bits.rank(range.first().into());
                let count = bits.rank(u32::from(range.last()) + 1) - before;
                Some(Part {
                    bits,
                    before,
                    count: NonZeroU32::new(count)?,
                })
            }
        };
        Some(Self {
            range,
            part,
            reserved,
        })
    }

    /// Returns the range that all ports of the set are in.
    pub(super) fn range(&self) -> PortRange {
        self.range
    }

    /// Returns the number of ports, reserved ones included.
    pub(super) fn count(&self) -> NonZeroU32 {
        match self.part {
            None => self.range.count(),
            Some(part) => part.count,
        }
    }

    /// Returns the port at a place, counted from 0, reserved ones included; one beyond the end counts from the start
    /// again.
    pub(super) fn nth(&self, place: u32) -> u16 {
        match self.part {
            None => self.range.nth(place),
            Some(part) => part.bits.select(part.before + place % part.count),
        }
    }

    /// Returns the place of a port, if the set has it, reserved or not.
    pub(super) fn place(&self, port: u16) -> Option<u32> {
        match self.part {
            _ if !self.range.contains(port) => None,
            None => Some(u32::from(port - self.range.first())),
            Some(part) => {
                let place = || part.bits.rank(port.into()) - part.before;
                part.bits.contains(port).then(place)
            }
        }
    }

    /// Returns whether a flow may get the port now.
    pub(super) fn allows(&self, port: u16) -> bool {
        self.range.contains(port)
            && self.part.is_none_or(|part| part.bits.contains(port))
            && !self.is_reserved(port)
    }

    /// Returns whether the port is reserved now, if that counts.
    pub(super) fn is_reserved(&self, port: u16) -> bool {
        self.reserved
            .is_some_and(|reserved| reserved.contains(port))
    }

    /// Returns the number of ports that are reserved now, if that counts.
    pub(super) fn reserved(&self) -> u32 {
        let allowed = || {
            self.words()
                .map(|(_, ports)| ports.count_ones())
                .sum::<u32>()
        };
        match self.reserved {
            None => 0,
            Some(_) => self.count().get().saturating_sub(allowed()),
        }
    }

    /// Returns the first of some ports that is not reserved, by their places; the last one if all are.
    ///
    /// `place` returns a place below its argument, another one each time. It is called once if reserved ports do not count.
    pub(super) fn draw(&self, mut place: impl FnMut(NonZeroU32) -> u32) -> u16 {
        let count = self.count();
        let mut port = self.nth(place(count));
        for _ in 1..DRAWS {
            if !self.is_reserved(port) {
                break;
            }
            port = self.nth(place(count));
        }
        port
    }

    /// Returns the numbers of the words that have ports of the set, each with those that a flow may get now as bits.
    pub(super) fn words(&self) -> impl Iterator<Item = (u32, u64)> + 'a {
        let (first, last) = (self.range.first().into(), self.range.last().into());
        let (part, reserved) = (self.part, self.reserved);
        (first / WORD_PORTS..=last / WORD_PORTS).map(move |number| {
            let bits = part.map_or(u64::MAX, |part| part.bits.word(number));
            let reserved = reserved.map_or(0, |reserved| reserved.word(number));
            (number, mask(number, first, last) & bits & !reserved)
        })
    }

    /// Returns the set of those ports that are greater than a port, if there are any.
    pub(super) fn behind(&self, port: u16) -> Option<Self> {
        Self::new(
            self.range.behind(port)?,
            self.part.map(|part| part.bits),
            self.reserved,
        )
    }

    /// Returns a set that outlives the rule.
    pub(super) fn to_owned(self) -> OwnedPortSet {
        OwnedPortSet {
            range: self.range,
            part: self.part.map(|part| OwnedPart {
                bits: part.bits.clone(),
                before: part.before,
                count: part.count,
            }),
            respects_reserved: self.reserved.is_some(),
        }
    }
}

/// A [`PortSet`] that outlives its rule. It says that reserved ports are not chosen, but not which ones are.
#[derive(Clone)]
pub(super) struct OwnedPortSet {
    range: PortRange,
    part: Option<OwnedPart>,
    respects_reserved: bool,
}

#[derive(Clone)]
struct OwnedPart {
    bits: Arc<PortBits>,
    before: u32,
    count: NonZeroU32,
}

impl OwnedPortSet {
    /// Returns the set, all of whose ports count as not reserved.
    pub(super) fn as_set(&self) -> PortSet<'_> {
        PortSet {
            range: self.range,
            part: self.part.as_ref().map(|part| Part {
                bits: &part.bits,
                before: part.before,
                count: part.count,
            }),
            reserved: None,
        }
    }

    /// Returns the set without those ports that are reserved now, if that counts.
    pub(super) fn in_namespace<'a>(&'a self, net: &'a Net) -> PortSet<'a> {
        let reserved = self
            .respects_reserved
            .then(|| net.reserved_ports())
            .flatten();
        PortSet {
            reserved,
            ..self.as_set()
        }
    }

    /// Returns whether two rules ask for the same: every rule of iptables-legacy is made anew when one changes.
    pub(super) fn is_same(&self, other: &PortSet<'_>) -> bool {
        let same_bits = match (&self.part, &other.part) {
            (None, None) => true,
            (Some(own), Some(other)) => {
                Arc::ptr_eq(&own.bits, other.bits) || own.bits.spec == other.bits.spec
            }
            _ => false,
        };
        self.range == other.range && same_bits && self.respects_reserved == other.reserved.is_some()
    }
}

/// As in `/proc/net/rustmasq_pools`: the range or its parts, and after each `!` what is left out.
impl Display for OwnedPortSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let spec = self.part.as_ref().map(|part| part.bits.spec);
        match spec {
            Some(PortSpec {
                psid: Some(psid), ..
            }) => {
                f.write_str("psid:")?;
                psid.fmt(f)?;
            }
            Some(spec) if spec.names_ports() => spec.to_ports.fmt(f)?,
            _ => write!(f, "{}-{}", self.range.first(), self.range.last())?,
        }
        if let Some(except) = spec.map(|spec| spec.except).filter(|list| !list.is_empty()) {
            f.write_str("!")?;
            except.fmt(f)?;
        }
        if self.respects_reserved {
            f.write_str("!reserved")?;
        }
        Ok(())
    }
}
