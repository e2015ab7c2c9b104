// SPDX-License-Identifier: GPL-2.0

//! The choice of a flow's outside port.
//!
//! 1. The flow's own port, if the rule allows it and no other flow to the same destination has it; also if another one
//!    had it a moment ago, as long as the destination is not crowded.
//! 2. The port that belongs to the inside endpoint: all destinations get the same one, if it is free there, so that
//!    the mapping does not depend on the destination (RFC 4787, REQ-1). A keyed hash makes it, which nobody outside
//!    can compute (RFC 6056). With `--random` a random port instead.
//! 3. A few random ports.
//! 4. Then the destination is crowded and gets a [pool](super::pool): any port that is free, each with the same
//!    probability; else the one that was freed first; else that of a TCP connection that is over, for a SYN that can
//!    follow it; else the flow is refused.
//!
//! Without `--to-ports` a port below 1024 stays in its class while that has a free one.

use super::{
    claims::{
        Claims,
        Rests, //
    },
    cone,
    counters::{
        self,
        Counter, //
    },
    moved::Moved,
    options::RuleOptions,
    per_net::{
        expect_ends,
        look_after_pools,
        State, //
    },
    pool::{
        Destination,
        Pool,
        Taken, //
    },
    pools::Pools,
    port_set::PortSet, //
};
use crate::{
    net::{
        namespace::Net,
        random::{
            self,
            KeyedHash, //
        },
        Family, //
    },
    netfilter::{
        conntrack::UnsettledFlow,
        nat::{
            NatRange,
            PortRange, //
        },
        trace,
        tuple::{
            Direction,
            FlowTags,
            Tuple, //
        }, //
    },
};
use core::num::NonZeroU16;
use kernel::{
    prelude::kunit_tests,
    sync::{
        atomic::{
            AtomicFlag,
            Relaxed, //
        },
        SetOnce, //
    }, //
};

/// The number of random ports that are tried without a pool.
const RANDOM_TRIES: usize = 2;
/// The number of random ports that are tried where there can be no pool, and the kernel cannot choose.
const BLIND_TRIES: usize = 128;
/// The number of TCP connections that are looked at for one that is over.
const REUSE_TRIES: usize = 4;
/// The first port that needs no privilege (`PROT_SOCK`).
const FIRST_UNPRIVILEGED_PORT: u16 = 1024;

pub(super) static CLAIMS: Claims = Claims::new();
static MOVED: Moved = Moved::new();
static SECRETS: SetOnce<Secrets> = SetOnce::new();
/// There is a pool or a mapping somewhere. While it is false, a flow that keeps its port does not look for one.
static HELD: AtomicFlag = AtomicFlag::new(false);

/// Random numbers that the choices depend on, the same as long as the module is loaded.
struct Secrets {
    /// Leads from an inside endpoint to its port.
    endpoint: KeyedHash,
    /// Leads from a destination to its pools.
    pools: u64,
}

/// Makes the secrets. Called once, before the first rule can be added.
pub(super) fn make_secrets() {
    CLAIMS.make_key();
    SECRETS.populate(Secrets {
        endpoint: KeyedHash::random(),
        pools: random::number(),
    });
}

/// Returns the key that leads from a destination to its pools.
pub(super) fn pools_key() -> Option<u64> {
    SECRETS.as_ref().map(|secrets| secrets.pools)
}

/// Says whether there is a pool or a mapping in any namespace. Any context.
pub(super) fn set_held(held: bool) {
    if HELD.load(Relaxed) != held {
        HELD.store(held, Relaxed);
    }
}

/// Lets a flow have its own port, if that is simple, and returns the port.
///
/// `reply` is the reply tuple that it would have. Costs a look-up at most. Context: a hook.
#[inline(always)]
pub(super) fn keep_own<F: Family>(
    flow: &UnsettledFlow<'_, F>,
    reply: &Tuple,
    options: RuleOptions<'_>,
) -> Option<u16> {
    let own = reply.nat_port()?;
    if !options.allow(own, flow.net()) {
        return None;
    }
    let tags = flow.tags();
    if !is_simple(flow, reply, tags) {
        return None;
    }
    match attempt(flow, reply, tags, Rests::Ignored) {
        Outcome::Free => Some(own),
        Outcome::Taken => {
            counters::count(flow.net(), Counter::LookUps);
            None
        }
        Outcome::Claimed => None,
    }
}

/// Returns whether no other port may be better than the flow's own.
#[inline(always)]
fn is_simple<F: Family>(flow: &UnsettledFlow<'_, F>, reply: &Tuple, tags: FlowTags) -> bool {
    !(MOVED.has(tags.endpoint) || HELD.load(Relaxed) && may_be_held(flow, reply))
}

/// Returns whether the destination may have a pool, or the port a mapping of another endpoint. Context: a hook.
#[inline(never)]
fn may_be_held<F: Family>(flow: &UnsettledFlow<'_, F>, reply: &Tuple) -> bool {
    let (Some(State { pools, .. }), Some(secrets)) = (State::of(flow.net()), SECRETS.as_ref())
    else {
        return false;
    };
    let has_pool = || pools.may_have(&Destination::of(reply, flow.zone_of_both()), secrets.pools);
    !pools.is_empty() && has_pool() || is_mapped(flow, reply)
}

/// Returns whether the port belongs to a mapping of another inside endpoint, by a rule that makes such.
fn is_mapped<F: Family>(flow: &UnsettledFlow<'_, F>, reply: &Tuple) -> bool {
    HELD.load(Relaxed) && cone::has_mapping_of_another(flow, reply)
}

/// The outcome of an attempt to have a reply tuple.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Outcome {
    /// The flow has claimed it.
    Free,
    /// Another flow has it.
    Taken,
    /// Another flow has claimed it, or its port rests.
    Claimed,
}

/// Claims the reply tuple for the flow, unless another one has it.
#[inline(always)]
fn attempt<F: Family>(
    flow: &UnsettledFlow<'_, F>,
    reply: &Tuple,
    tags: FlowTags,
    rests: Rests,
) -> Outcome {
    // In this order: who comes second finds the first one's claim, or its entry.
    if !CLAIMS.claim(reply, tags, rests) {
        count_claim(flow.net(), reply);
        Outcome::Claimed
    } else if flow.is_taken(reply) || flow.shadows_socket(reply) {
        give_up(flow, reply);
        Outcome::Taken
    } else {
        Outcome::Free
    }
}

/// Takes the claim of a reply tuple back that another flow has.
///
/// It makes the flow's tags anew, so that nobody keeps them for this rare case.
#[cold]
#[inline(never)]
fn give_up<F: Family>(flow: &UnsettledFlow<'_, F>, reply: &Tuple) {
    CLAIMS.give_up(reply, flow.tags());
}

/// Counts a claim that was refused, unless that was because the port rests.
#[cold]
fn count_claim(net: &Net, reply: &Tuple) {
    if CLAIMS.rested(reply, net).is_none() {
        counters::count(net, Counter::RacesAvoided);
    }
}

/// The choice for a flow.
pub(super) struct Choice {
    /// The range for the kernel's NAT, or `None` if all ports are taken.
    pub(super) range: Option<NatRange>,
    /// The counter of the outcome, unless the kernel chooses.
    pub(super) counter: Option<Counter>,
    /// The number of look-ups that it took.
    pub(super) look_ups: u32,
}

/// Chooses the port of a flow that does not simply keep its own.
///
/// The flow leaves with the source address `source`. `without_input` says that this host sent the packet. Costs a look-up
/// for each port that is tried. Context: a hook.
pub(super) fn choose<F: Family>(
    flow: &UnsettledFlow<'_, F>,
    source: F::Address,
    options: RuleOptions<'_>,
    without_input: bool,
) -> Choice {
    let keeps_port =
        options.random && without_input && options.to_ports.is_none() && keeps_port(flow, source);
    let by_kernel = |random| NatRange::new(options.to_ports, random);
    let reply = flow.reply_to(source);
    // A protocol without ports.
    let (Some(own_port), Some(secrets)) = (reply.nat_port(), SECRETS.as_ref()) else {
        return Choice {
            range: Some(by_kernel(options.random && !keeps_port)),
            counter: None,
            look_ups: 0,
        };
    };
    let net = flow.net();
    let keeps_port = keeps_port && options.offer(own_port, net);
    let random = options.random && !keeps_port;
    let mut sets = options.port_sets(own_port, reply.is_icmp(), net);
    let last_range = sets.last_range();
    let mut attempt = Attempt {
        flow,
        reply,
        secrets,
        tags: flow.tags(),
        kernel_may_choose: options.names_one_range(),
        look_ups: 0,
    };
    let mut wish = Wish {
        own: (keeps_port || options.allow(own_port, net)).then_some(own_port),
        by_rule: !keeps_port,
        random,
    };
    let found = sets.find_map(|set| {
        let found = choose_from(&mut attempt, wish, &set);
        wish.own = None;
        found
    });
    let (range, counter) = match found {
        Some(Found::Port(port)) if port == own_port => {
            (Some(NatRange::own(port)), Some(Counter::Kept))
        }
        Some(Found::Port(port)) => (
            Some(NatRange::other(flow, source, port)),
            Some(Counter::Moved),
        ),
        Some(Found::Kernel) => (Some(by_kernel(random)), None),
        None => (None, Some(Counter::Refused)),
    };
    if let (None, Some(last)) = (range, last_range) {
        trace::port_refused(flow, source, last);
    }
    Choice {
        range,
        counter,
        look_ups: attempt.look_ups,
    }
}

/// A choice among several ports.
enum Found {
    /// This port.
    Port(u16),
    /// One that the kernel chooses.
    Kernel,
}

/// The ports that a flow would like.
#[derive(Clone, Copy)]
struct Wish {
    /// Its own, if it may keep that.
    own: Option<u16>,
    /// The rule lets it keep that; else it is a flow of this host, which may in any case.
    by_rule: bool,
    /// A random one, instead of that of its inside endpoint.
    random: bool,
}

/// Chooses a port of the set. Returns `None` if all are taken.
#[inline(always)]
fn choose_from<F: Family>(
    attempt: &mut Attempt<'_, '_, F>,
    wish: Wish,
    set: &PortSet<'_>,
) -> Option<Found> {
    let candidates = Candidates {
        wish,
        set,
        moved: attempt.moved(),
        of_endpoint: (wish.own.is_none() && !wish.random).then(|| attempt.port_of_endpoint(set)),
    };
    let Some(State { pools, .. }) = State::of(attempt.flow.net()) else {
        return attempt.without_pool(&candidates);
    };
    if !pools.is_empty() {
        if let Some(found) = attempt.take_from_pools(pools, &candidates) {
            return found.map(|port| attempt.note(port, &candidates));
        }
    }
    match attempt.at_once(&candidates) {
        Some(Found::Port(port)) => Some(attempt.note(port, &candidates)),
        Some(Found::Kernel) => Some(Found::Kernel),
        None => crowd(attempt, pools, &candidates),
    }
}

/// Makes a pool and takes a port from it. Returns `None` if all are taken.
#[cold]
fn crowd<F: Family>(
    attempt: &mut Attempt<'_, '_, F>,
    pools: &Pools,
    candidates: &Candidates<'_>,
) -> Option<Found> {
    // Another CPU may make the pool in this moment.
    let made = expect_ends()
        && pools
            .make(
                &attempt.destination(),
                *candidates.set,
                attempt.secrets.pools,
            )
            .is_ok();
    if made {
        set_held(true);
        look_after_pools();
    } else {
        attempt.count(Counter::PoolsDenied);
    }
    match attempt.take_from_pools(pools, candidates) {
        Some(found) => found.map(|port| attempt.note(port, candidates)),
        None => attempt.without_pool(candidates),
    }
}

/// The ports of a set that suit a flow.
struct Candidates<'a> {
    wish: Wish,
    set: &'a PortSet<'a>,
    /// The port that the inside endpoint got towards another destination.
    moved: Option<u16>,
    /// The port that belongs to the inside endpoint, if it would get this one elsewhere.
    of_endpoint: Option<u16>,
}

impl Candidates<'_> {
    /// Returns the port that the inside endpoint got towards another destination, if it suits.
    fn moved(&self) -> Option<u16> {
        self.moved
            .filter(|port| !self.wish.random && self.set.allows(*port))
    }
}

/// An attempt to give a flow a port.
struct Attempt<'a, 'hook, F: Family> {
    flow: &'a UnsettledFlow<'hook, F>,
    /// The reply tuple that the flow would have.
    reply: Tuple,
    secrets: &'a Secrets,
    tags: FlowTags,
    /// All ports of one range will do, so that the kernel can be told which these are.
    kernel_may_choose: bool,
    /// The number of look-ups so far.
    look_ups: u32,
}

impl<F: Family> Attempt<'_, '_, F> {
    /// Returns the port that the inside endpoint got towards another destination, as far as is known.
    fn moved(&self) -> Option<u16> {
        MOVED.port_of(self.tags.endpoint).map(NonZeroU16::get)
    }

    /// Notes which port the inside endpoint got, if it is not the one that it would get elsewhere.
    fn note(&self, port: u16, candidates: &Candidates<'_>) -> Found {
        let elsewhere = candidates
            .moved
            .or(candidates.wish.own)
            .or(candidates.of_endpoint);
        if !candidates.wish.random && elsewhere != Some(port) {
            MOVED.note(self.tags.endpoint, port);
        }
        Found::Port(port)
    }

    /// Returns the port that belongs to the inside endpoint.
    #[inline(always)]
    fn port_of_endpoint(&self, set: &PortSet<'_>) -> u16 {
        self.secrets.port_of(self.flow.original_source_words(), set)
    }

    fn destination(&self) -> Destination {
        Destination::of(&self.reply, self.flow.zone_of_both())
    }

    /// Takes a port from the destination's pool, if there is one. It is `None` if all are taken.
    #[inline(never)]
    fn take_from_pools(
        &mut self,
        pools: &Pools,
        candidates: &Candidates<'_>,
    ) -> Option<Option<u16>> {
        let (destination, key) = (self.destination(), self.secrets.pools);
        pools.with(&destination, candidates.set, key, |pool| {
            self.take_from_pool(pool, candidates)
        })
    }

    /// Makes the attempt with the port.
    fn succeeds_with(&mut self, port: u16, rests: Rests) -> bool {
        self.reply.set_nat_port(port);
        if is_mapped(self.flow, &self.reply) {
            return false;
        }
        let outcome = attempt(self.flow, &self.reply, self.tags, rests);
        self.look_ups += u32::from(outcome != Outcome::Claimed);
        outcome == Outcome::Free
    }

    #[cold]
    fn count(&self, counter: Counter) {
        counters::count(self.flow.net(), counter);
    }

    /// Lets the kernel choose, if it can be told from which ports; else tries random ones. Returns `None` if none of these
    /// is free.
    #[cold]
    fn without_pool(&mut self, candidates: &Candidates<'_>) -> Option<Found> {
        if self.kernel_may_choose {
            return Some(Found::Kernel);
        }
        let set = candidates.set;
        let mut at_random = (0..BLIND_TRIES).map(|_| set.draw(random::below));
        let port = at_random.find(|port| self.gets(set, *port, Rests::Ignored))?;
        Some(self.note(port, candidates))
    }

    /// Makes the attempt with a port of the set, unless that is reserved.
    #[inline(always)]
    fn gets(&mut self, set: &PortSet<'_>, port: u16, rests: Rests) -> bool {
        !set.is_reserved(port) && self.succeeds_with(port, rests)
    }

    /// Tries the ports that need no pool.
    fn at_once(&mut self, candidates: &Candidates<'_>) -> Option<Found> {
        let wish = &candidates.wish;
        // An endpoint has one port everywhere, also where another one had that a moment ago.
        let moved = candidates.moved();
        if !self.kernel_may_choose
            && moved.is_some_and(|port| self.succeeds_with(port, Rests::Ignored))
        {
            return moved.map(Found::Port);
        }
        let tried = wish.by_rule && is_simple(self.flow, &self.reply, self.tags);
        if let Some(own) = wish.own.filter(|_| !tried) {
            if self.succeeds_with(own, Rests::Ignored) {
                // The kernel gives the port that the endpoint has elsewhere, if it still has one, or else its own.
                return Some(if candidates.moved.is_some() && self.kernel_may_choose {
                    Found::Kernel
                } else {
                    Found::Port(own)
                });
            }
        }
        if self.kernel_may_choose
            && moved.is_some_and(|port| self.succeeds_with(port, Rests::Ignored))
        {
            return moved.map(Found::Port);
        }
        let set = candidates.set;
        let of_endpoint = candidates
            .of_endpoint
            .or_else(|| (!wish.random).then(|| self.port_of_endpoint(set)));
        let at_random = (0..RANDOM_TRIES).map(|_| set.draw(random::below));
        of_endpoint
            .into_iter()
            .chain(at_random)
            .find(|port| self.gets(set, *port, Rests::Respected))
            .map(Found::Port)
    }

    /// Takes a port from the pool. Returns `None` if all are taken.
    fn take_from_pool(&mut self, pool: &Pool, candidates: &Candidates<'_>) -> Option<u16> {
        let set = candidates.set;
        let flow = self.tags.flow;
        let usual = candidates.wish.own.or(candidates.of_endpoint);
        let mut port = pool.take(flow, [candidates.moved(), usual]);
        // The pool does not know of flows that others set up, nor at first of those that were there before it. What
        // turns out to be taken stays marked, so all flows together try each port once; or twice, if it rests.
        // CAST: A number of ports.
        let tries = 2 * pool.count() as usize;
        for _ in 0..tries {
            let Some(taken) = port else {
                return self.after_another(pool, set);
            };
            self.reply.set_nat_port(taken.port);
            if set.is_reserved(taken.port) {
                pool.offered_reserved();
            } else if self.is_free_for(pool, &taken) {
                return Some(taken.port);
            }
            port = pool.take_instead(taken.port, flow);
        }
        None
    }

    /// Returns whether the flow can have the port, which was free as far as the pool knows.
    fn is_free_for(&mut self, pool: &Pool, taken: &Taken) -> bool {
        if is_mapped(self.flow, &self.reply) {
            return false;
        }
        // A pool that knows all flows needs no claim: its states tell who has a port.
        let knows_all = pool.is_complete() && pool.is_settled();
        if !knows_all && !self.claims_from(pool, taken) {
            return false;
        }
        self.look_ups += 1;
        let taken = self.flow.is_taken(&self.reply) || self.flow.shadows_socket(&self.reply);
        if taken && !knows_all {
            give_up(self.flow, &self.reply);
        }
        !taken
    }

    /// Claims the port for the flow, as some may not have asked the pool yet.
    #[cold]
    fn claims_from(&self, pool: &Pool, taken: &Taken) -> bool {
        let rests = if taken.rested {
            Rests::Ignored
        } else {
            Rests::Respected
        };
        if CLAIMS.claim(&self.reply, self.tags, rests) {
            return true;
        }
        if !taken.rested {
            if let Some(seconds) = CLAIMS.rested(&self.reply, self.flow.net()) {
                // It was freed before there was the pool.
                pool.release(taken.port, seconds);
                return false;
            }
        }
        if !pool.is_settled() {
            self.count(Counter::RacesAvoided);
        }
        pool.is_settled()
    }

    /// Takes the port of a TCP connection that is over, for a SYN that can follow it.
    fn after_another(&mut self, pool: &Pool, set: &PortSet<'_>) -> Option<u16> {
        if !self.reply.is_tcp() {
            return None;
        }
        (0..REUSE_TRIES)
            .map(|_| {
                pool.take_reusable()
                    .unwrap_or_else(|| set.draw(random::below))
            })
            .find(|port| {
                self.reply.set_nat_port(*port);
                self.look_ups += 1;
                !set.is_reserved(*port)
                    && !is_mapped(self.flow, &self.reply)
                    && !self.flow.shadows_socket(&self.reply)
                    && self.flow.succeed(&self.reply)
            })
            .inspect(|port| pool.mark(*port))
    }
}

impl Secrets {
    /// Returns the port that belongs to an inside endpoint.
    fn port_of(&self, [high, low, rest]: [u64; 3], set: &PortSet<'_>) -> u16 {
        let mut hash = if low == 0 {
            // IPv4's address is the lower half of the first word, and one word has room for all.
            self.endpoint.hash(&[high ^ rest << 32])
        } else {
            self.endpoint.hash(&[high, low, rest])
        };
        set.draw(|count| {
            // Multiplication spreads the hash evenly over the set.
            let place = (u64::from(hash) * u64::from(count.get())) >> 32;
            // Another number, for another port if this one is reserved (Knuth, section 6.4).
            hash = hash.wrapping_mul(0x9e37_79b1).rotate_left(16);
            // CAST: The place is less than the number of ports.
            place as u32
        })
    }
}

/// Returns the ports that a flow may get without `--to-ports`: those of its own port's class, and the classes above.
///
/// Follows `nf_nat_l4proto_unique_tuple`, which stays in the class.
pub(super) fn class(own: u16, is_icmp: bool) -> &'static [PortRange] {
    const CLASSES: [PortRange; 3] = [
        PortRange::BELOW_512,
        PortRange::BELOW_1024,
        PortRange::UNPRIVILEGED,
    ];
    match own {
        _ if is_icmp => &[PortRange::IDENTIFIERS],
        ..512 => &CLASSES,
        512..FIRST_UNPRIVILEGED_PORT => &CLASSES[1..],
        _ => &CLASSES[2..],
    }
}

/// Returns whether a flow of this host keeps its port although others get a random one.
///
/// It does if it has the address `source` already and its port is below 1024. Nothing tells it apart but the
/// port then, which the other end may insist on: a DHCPv6 server answers to port 546.
fn keeps_port<F: Family>(flow: &UnsettledFlow<'_, F>, source: F::Address) -> bool {
    flow.source(Direction::Original) == source
        && flow
            .original_source_port()
            .is_some_and(|port| port < FIRST_UNPRIVILEGED_PORT)
}

#[kunit_tests(rustmasq_ports)]
mod tests {
    use super::*;
    use kernel::prelude::*;

    const ENDPOINTS: u32 = 100_000;

    fn secrets() -> Secrets {
        Secrets {
            endpoint: KeyedHash::random(),
            pools: 0,
        }
    }

    /// Returns a range of so many ports.
    fn range_of(ports: u16) -> Result<PortRange> {
        let (first, last) = (NonZeroU16::new(1024), NonZeroU16::new(1023 + ports));
        PortRange::new(first.ok_or(EINVAL)?, last.ok_or(EINVAL)?).ok_or(EINVAL)
    }

    /// Returns an inside endpoint as words: one of 250 neighbours, whose ports count up.
    fn endpoint(number: u32, prefix: u64) -> [u64; 3] {
        // CAST: At most 400.
        let (host, port) = (number % 250, (number / 250) as u16);
        let rest = u64::from(port.to_be()) << 8 | 17;
        match prefix {
            0 => [u64::from(host), 0, rest],
            _ => [prefix, u64::from(host) << 32 | 1, rest],
        }
    }

    /// Returns whether the ports of many endpoints are spread evenly over so many cells of a range (chi-squared test).
    fn endpoints_are_even(ports: u16, cells: u16, prefix: u64) -> Result<bool> {
        let (secrets, range) = (secrets(), range_of(ports)?);
        let set = PortSet::new(range, None, None).ok_or(EINVAL)?;
        let mut counts = KVec::from_elem(0_u64, cells.into(), GFP_KERNEL)?;
        for number in 0..ENDPOINTS {
            let port = secrets.port_of(endpoint(number, prefix), &set);
            let place = port.checked_sub(range.first()).ok_or(ERANGE)?;
            *counts
                .get_mut(usize::from(place / (ports / cells)))
                .ok_or(ERANGE)? += 1;
        }
        let sum: u64 = counts.iter().map(|count| count * count).sum();
        let all = u64::from(ENDPOINTS);
        let statistic = (sum * u64::from(cells) / all).saturating_sub(all);
        // As in the tests of port_states.rs: less often than four times in a million it exceeds that.
        let degrees = u64::from(cells) - 1;
        let excess = statistic.saturating_sub(degrees + 25);
        Ok(excess * excess <= 25 * 2 * degrees)
    }

    #[test]
    fn inside_endpoints_are_spread_evenly() -> Result {
        // Cells of as many ports each.
        let ranges = [
            (3, 3),
            (100, 100),
            (1000, 1000),
            (40_000, 1000),
            (64_512, 1008),
        ];
        for (ports, cells) in ranges {
            assert!(endpoints_are_even(ports, cells, 0)?);
            assert!(endpoints_are_even(ports, cells, 0x2001_0db8)?);
        }
        Ok(())
    }

    #[test]
    fn who_has_another_key_finds_other_ports() -> Result {
        let (ours, theirs) = (secrets(), secrets());
        let set = PortSet::new(range_of(1000)?, None, None).ok_or(EINVAL)?;
        let same = |number: &u32| {
            let words = endpoint(*number, 0);
            ours.port_of(words, &set) == theirs.port_of(words, &set)
        };
        // One by chance.
        assert!((0..1000).filter(same).count() < 30);
        Ok(())
    }
}
