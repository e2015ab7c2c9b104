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
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
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
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
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
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
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
    #[inline(never)]
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
    #[inline(never)]
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

impl<'a> Part<'a> {
    /// Returns the ports of the range, if the bitmap has any.
    fn new(bits: &'a Arc<PortBits>, range: PortRange) -> Option<Self> {
        let before = bits.rank(range.first().into());
        let count = bits.rank(u32::from(range.last()) + 1) - before;
        Some(Self {
            bits,
            before,
            count: NonZeroU32::new(count)?,
        })
    }
}

impl<'a> PortSet<'a> {
    /// Returns the ports of the range that the bitmap has, without those that are reserved.
    ///
    /// Returns `None` if it has none of the range.
    #[inline(always)]
    pub(super) fn new(
        range: PortRange,
        bits: Option<&'a Arc<PortBits>>,
        reserved: Option<ReservedPorts<'a>>,
    ) -> Option<Self> {
        let part = match bits {
            None => None,
            Some(bits) => Some(Part::new(bits, range)?),
        };
        Some(Self {
            range,
            part,
            reserved,
        })
    }

    /// Returns the range that all ports of the set are in.
    #[cfg(CONFIG_KUNIT = "y")]
    pub(super) fn range(&self) -> PortRange {
        self.range
    }

    /// Returns the number of ports, reserved ones included.
    #[inline(always)]
    pub(super) fn count(&self) -> NonZeroU32 {
        match self.part {
            None => self.range.count(),
            Some(part) => part.count,
        }
    }

    /// Returns the port at a place, counted from 0, reserved ones included; one beyond the end counts from the start
    /// again.
    #[inline(always)]
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
    #[inline(always)]
    pub(super) fn allows(&self, port: u16) -> bool {
        self.range.contains(port)
            && self.part.is_none_or(|part| part.bits.contains(port))
            && !self.is_reserved(port)
    }

    /// Returns whether the port is reserved now, if that counts.
    #[inline(always)]
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
    #[inline(always)]
    pub(super) fn draw(&self, mut place: impl FnMut(NonZeroU32) -> u32) -> u16 {
        let mut port = self.nth(place(self.count()));
        if self.reserved.is_some() {
            for _ in 1..DRAWS {
                if !self.is_reserved(port) {
                    break;
                }
                port = self.nth(place(self.count()));
            }
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

#[kunit_tests(rustmasq_port_set)]
mod tests {
    use super::*;
    use crate::net::random::Numbers;
    use core::num::NonZeroU16;

    fn range(first: u16, last: u16) -> Option<PortRange> {
        PortRange::new(NonZeroU16::new(first)?, NonZeroU16::new(last)?)
    }

    fn list(ranges: &[(u16, u16)]) -> PortList {
        PortList::new(
            ranges
                .iter()
                .filter_map(|(first, last)| range(*first, *last)),
        )
    }

    fn bits(spec: PortSpec) -> Result<PortBits> {
        PortBits::new(spec, GFP_KERNEL)?.ok_or(ENOENT)
    }

    /// Returns whether all that a set tells of its ports is as the model has it.
    fn is_as_model(set: &PortSet<'_>, is_in: impl Fn(u16) -> bool) -> bool {
        let ports = || (0..=u16::MAX).filter(|port| is_in(*port));
        let places = || 0..set.count().get();
        let of_words = set.words().flat_map(|(number, bits)| {
            (0..WORD_PORTS)
                .filter(move |bit| bits >> bit & 1 != 0)
                .map(move |bit| number * WORD_PORTS + bit)
        });
        places().map(|place| set.nth(place)).eq(ports())
            && ports().map(|port| set.place(port)).eq(places().map(Some))
            && of_words.eq(ports().map(u32::from))
            && (0..=u16::MAX).all(|port| set.allows(port) == is_in(port))
            && (0..=u16::MAX).all(|port| set.place(port).is_some() == is_in(port))
            && set.nth(set.count().get()) == set.nth(0)
    }

    /// Returns some ranges that ascend, at most `most`, each below its own share of the ports.
    fn some_list(numbers: &mut Numbers, most: u32) -> PortList {
        let count = 1 + numbers.below(most);
        let share = 65_535 / count;
        PortList::new((0..count).filter_map(|n| {
            let first = n * share + 2 + numbers.below(share / 2);
            // CAST: At most 65,535.
            range(first as u16, (first + numbers.below(share / 2 - 2)) as u16)
        }))
    }

    fn list_has(list: &PortList, port: u16) -> bool {
        list.ranges().any(|range| range.contains(port))
    }

    #[test]
    fn a_range_alone() {
        for (first, last) in [(1, 65535), (7, 7), (1024, 65535), (63, 64), (600, 1023)] {
            let set = range(first, last).and_then(|range| PortSet::new(range, None, None));
            assert!(set.is_some_and(|set| is_as_model(&set, |port| (first..=last).contains(&port))));
        }
    }

    #[test]
    fn lists_and_exceptions_are_as_their_model() -> Result {
        let mut numbers = Numbers(0x2200);
        for most in [1, 2, 3, 15, 15, 15] {
            let (to_ports, except) = (some_list(&mut numbers, most), some_list(&mut numbers, most));
            let spec = PortSpec {
                to_ports,
                psid: None,
                except,
            };
            let bits = Arc::new(bits(spec)?, GFP_KERNEL)?;
            let set = PortSet::new(bits.range(), Some(&bits), None).ok_or(ENOENT)?;
            let is_in = |port| list_has(&to_ports, port) && !list_has(&except, port);
            assert!(is_as_model(&set, is_in));
            assert!(is_in(bits.range().first()) && is_in(bits.range().last()));
        }
        Ok(())
    }

    #[test]
    fn exceptions_alone_leave_the_rest_of_each_class() -> Result {
        let except = list(&[(100, 700), (1024, 1024), (30_000, 32_767), (65_535, 65_535)]);
        let spec = PortSpec {
            except,
            ..PortSpec::default()
        };
        let bits = Arc::new(bits(spec)?, GFP_KERNEL)?;
        let classes = [
            PortRange::BELOW_512,
            PortRange::BELOW_1024,
            PortRange::UNPRIVILEGED,
            PortRange::IDENTIFIERS,
        ];
        for class in classes {
            let set = PortSet::new(class, Some(&bits), None).ok_or(ENOENT)?;
            let is_in = |port| class.contains(port) && !list_has(&except, port);
            assert!(is_as_model(&set, is_in));
        }
        assert!(
            range(100, 700).is_some_and(|range| PortSet::new(range, Some(&bits), None).is_none())
        );
        Ok(())
    }

    /// Returns the ports of a port set as RFC 7597, section 5.1, makes them: the offset's bits, those of the identifier,
    /// and the rest, for all values of the first and the last.
    fn ports_of_map(offset: u32, length: u32, psid: u32) -> impl Iterator<Item = u32> {
        let rest = 16 - offset - length;
        (0..1_u32 << offset)
            .filter(move |a| offset == 0 || *a > 0)
            .flat_map(move |a| {
                (0..1_u32 << rest).map(move |j| (a << (16 - offset)) + psid * (1 << rest) + j)
            })
            .filter(|port| *port != 0)
    }

    #[test]
    fn port_sets_are_those_of_rfc_7597() -> Result {
        for offset in 0..=16 {
            for length in 0..=16 - offset {
                // The first, the last, and one between them.
                for psid in [0, (1 << length) - 1, (1 << length) / 3] {
                    // CAST: Small numbers.
                    let id = PortSetId::new(offset as u8, length as u8, psid as u16);
                    let spec = PortSpec {
                        psid: Some(id.ok_or(EINVAL)?),
                        ..PortSpec::default()
                    };
                    let bits = PortBits::new(spec, GFP_KERNEL)?;
                    let count = ports_of_map(offset, length, psid).count();
                    let Some(bits) = bits else {
                        assert_eq!(count, 0);
                        continue;
                    };
                    assert_eq!(bits.count.get() as usize, count);
                    let bits = Arc::new(bits, GFP_KERNEL)?;
                    let set = PortSet::new(bits.range(), Some(&bits), None).ok_or(ENOENT)?;
                    let ports = (0..set.count().get()).map(|place| u32::from(set.nth(place)));
                    assert!(ports.eq(ports_of_map(offset, length, psid)));
                }
            }
        }
        Ok(())
    }

    #[test]
    fn wrong_port_sets() {
        assert_eq!(PortSetId::new(9, 8, 0), None);
        assert_eq!(PortSetId::new(17, 0, 0), None);
        assert_eq!(PortSetId::new(255, 255, 0), None);
        assert_eq!(PortSetId::new(6, 8, 256), None);
        assert_eq!(PortSetId::new(0, 0, 1), None);
        assert!(PortSetId::new(0, 16, 65_535).is_some() && PortSetId::new(16, 0, 0).is_some());
    }

    #[test]
    fn sets_without_a_port() -> Result {
        let nothing = |to_ports, except| {
            let spec = PortSpec {
                to_ports,
                psid: None,
                except,
            };
            PortBits::new(spec, GFP_KERNEL).map(|bits| bits.is_none())
        };
        assert!(nothing(list(&[(5, 9)]), list(&[(1, 20)]))?);
        assert!(nothing(list(&[]), list(&[(1, 65_535)]))?);
        assert!(!nothing(list(&[]), list(&[(2, 65_535)]))?);
        Ok(())
    }

    #[test]
    fn one_range_is_seen() -> Result {
        let one_range = |to_ports, except| {
            let spec = PortSpec {
                to_ports,
                psid: None,
                except,
            };
            bits(spec).map(|bits| {
                bits.is_one_range()
                    .then(|| (bits.range.first(), bits.range.last()))
            })
        };
        assert_eq!(one_range(list(&[(64, 200)]), list(&[]))?, Some((64, 200)));
        assert_eq!(
            one_range(list(&[(64, 200)]), list(&[(1, 99)]))?,
            Some((100, 200))
        );
        assert_eq!(one_range(list(&[(64, 200)]), list(&[(99, 99)]))?, None);
        assert_eq!(one_range(list(&[(64, 200), (202, 202)]), list(&[]))?, None);
        Ok(())
    }

    #[test]
    fn the_same_set_made_again_is_the_same() -> Result {
        let spec = |last| PortSpec {
            to_ports: list(&[(5, 9), (20, last)]),
            ..PortSpec::default()
        };
        let made = |last| Arc::new(bits(spec(last))?, GFP_KERNEL).map_err(Error::from);
        let (first, again, other) = (made(30)?, made(30)?, made(31)?);
        let set = |bits| PortSet::new(PortRange::UNPRIVILEGED, bits, None);
        let whole = range(5, 30).ok_or(EINVAL)?;
        let part = |bits| PortSet::new(whole, Some(bits), None).ok_or(ENOENT);
        let owned = part(&first)?.to_owned();
        assert!(owned.is_same(&part(&first)?) && owned.is_same(&part(&again)?));
        assert!(!owned.is_same(&part(&other)?));
        assert!(!owned.is_same(&PortSet::new(whole, None, None).ok_or(ENOENT)?));
        assert!(set(Some(&first)).is_none());
        Ok(())
    }

    #[test]
    fn draws_are_even() -> Result {
        // 100 ports, in three parts, each of which is drawn as often as any other.
        let spec = PortSpec {
            to_ports: list(&[(60, 69), (1000, 1059), (65_506, 65_535)]),
            ..PortSpec::default()
        };
        let bits = Arc::new(bits(spec)?, GFP_KERNEL)?;
        let set = PortSet::new(bits.range(), Some(&bits), None).ok_or(ENOENT)?;
        const DRAWS: u32 = 100_000;
        let mut counts = [0_u32; 100];
        for _ in 0..DRAWS {
            let place = set
                .place(set.draw(crate::net::random::below))
                .ok_or(ENOENT)?;
            *counts.get_mut(place as usize).ok_or(EINVAL)? += 1;
        }
        // Chi-squared with 99 degrees of freedom is above 176 once in 300,000 runs.
        let square = |count: &u32| u64::from(count.abs_diff(DRAWS / 100)).pow(2);
        assert!(counts.iter().map(square).sum::<u64>() < 176 * u64::from(DRAWS / 100));
        Ok(())
    }

    #[test]
    fn text_of_a_set() -> Result {
        use kernel::str::CString;
        let text = |spec: PortSpec| {
            let bits = Arc::new(bits(spec)?, GFP_KERNEL)?;
            let set = PortSet::new(bits.range(), Some(&bits), None).ok_or(ENOENT)?;
            let owned = set.to_owned();
            CString::try_from_fmt(kernel::prelude::fmt!("{}", owned))
        };
        let spec = PortSpec {
            to_ports: list(&[(5, 9), (20, 20)]),
            except: list(&[(6, 6)]),
            ..PortSpec::default()
        };
        assert_eq!(text(spec)?.to_bytes(), b"5-9,20!6");
        let spec = PortSpec {
            psid: PortSetId::new(6, 8, 52),
            ..PortSpec::default()
        };
        assert_eq!(text(spec)?.to_bytes(), b"psid:6/8/52");
        Ok(())
    }
}
