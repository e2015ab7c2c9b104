// SPDX-License-Identifier: GPL-2.0

//! The flows that each inside address has by rules that limit them (`--max-flows-per-host`).
//!
//! A flow is counted before its source NAT is set up, so that two CPUs cannot exceed the limit together, and its count
//! is taken back when conntrack frees it, however it ends. The flow's key tells then that it was counted, and by which
//! rules.

use super::{
    endpoint::Endpoint,
    per_net::{
        expect_ends,
        State, //
    },
    table::{
        Part,
        Table, //
    },
};
use crate::{
    net::{
        context::BottomHalvesOff,
        log,
        namespace::Net,
        random::{
            WordsHash,
            FACTOR, //
        },
        rcu::RcuBox,
        Family,
        ProcessContext, //
    },
    netfilter::{
        conntrack::{
            FlowKey,
            UnsettledFlow, //
        },
        flow_end::EndedFlow,
        tuple::Direction, //
    },
};
use core::{
    hash::{
        Hash,
        Hasher, //
    },
    num::NonZeroU32, //
};
use kernel::{
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        new_spinlock, //
    },
};

/// The most flows that an inside address has at a time, by rules that are alike.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Limit {
    most: NonZeroU32,
    /// A number that tells these rules from others. iptables adds all rules anew with each change of its table, so the
    /// rule itself has none that lasts.
    rules: u64,
}

impl Limit {
    /// Returns the limit of rules that ask for what `rule` has.
    pub(super) fn new(most: NonZeroU32, rule: &impl Hash) -> Self {
        let mut hasher = Fnv::new();
        rule.hash(&mut hasher);
        Self {
            most,
            rules: hasher.finish(),
        }
    }
}

/// The hash function FNV-1a, with 64 bits.
struct Fnv(u64);

impl Fnv {
    fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Hasher for Fnv {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// An inside address that has flows by some rules.
struct Host {
    /// The address in its zone, without port and protocol.
    address: Endpoint,
    rules: u64,
    flows: NonZeroU32,
}

/// A flow that was counted.
struct Counted {
    flow: FlowKey,
    rules: u64,
}

/// Returns the hash of a flow's key, which nobody outside chooses.
#[inline(always)]
fn hash_of_flow(flow: FlowKey) -> u32 {
    // CAST: The highest bits, to which the multiplication carries all others.
    (flow.number().wrapping_mul(FACTOR) >> 32) as u32
}

/// The result of the attempt to count a flow.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Outcome {
    /// It is counted.
    Counted,
    /// It was counted before: this is another packet of it, a clone.
    CountedBefore,
    /// The address has as many flows as the limit says, or there is no memory.
    Refused,
}

/// The hosts and flows of a namespace.
struct Tables {
    hash: WordsHash,
    hosts: Table<Host>,
    flows: Table<Counted>,
    /// The number of flows.
    count: Atomic<u32>,
}

impl Tables {
    fn new() -> Result<Pin<KBox<Self>>> {
        Ok(Pin::from(KBox::new(
            Self {
                hash: WordsHash::random(),
                hosts: Table::new(|part| new_spinlock!(part))?,
                flows: Table::new(|part| new_spinlock!(part))?,
                count: Atomic::new(0),
            },
            GFP_KERNEL,
        )?))
    }

    #[inline(always)]
    fn hash_of_host(&self, address: &Endpoint, rules: u64) -> u32 {
        let [low, high, rest] = address.words();
        self.hash.hash([[low, rest], [rules, 0]], [high, 0])
    }

    /// Counts a flow of a host, within the limit. Any context.
    fn begin(&self, flow: FlowKey, address: Endpoint, limit: Limit) -> Outcome {
        let no_softirq = BottomHalvesOff::new();
        if !self.add_to_host(address, limit, &no_softirq) {
            return Outcome::Refused;
        }
        let hash = hash_of_flow(flow);
        let outcome = self.flows.with(hash, &no_softirq, |part| {
            if part.get(hash, |counted| counted.flow == flow).is_some() {
                return Outcome::CountedBefore;
            }
            if part.reserve(|other| hash_of_flow(other.flow)).is_err() {
                return Outcome::Refused;
            }
            let rules = limit.rules;
            part.put(Counted { flow, rules }, hash);
            Outcome::Counted
        });
        match outcome {
            Some(Outcome::Counted) => {
                self.count.fetch_add(1_u32, Relaxed);
                Outcome::Counted
            }
            other => {
                self.take_from_host(address, limit.rules, &no_softirq);
                other.unwrap_or(Outcome::Refused)
            }
        }
    }

    /// Takes the count of a flow back, if it was counted. Any context.
    fn end(&self, flow: FlowKey, address: impl FnOnce() -> Endpoint) {
        let no_softirq = BottomHalvesOff::new();
        let hash = hash_of_flow(flow);
        let taken = self.flows.with(hash, &no_softirq, |part| {
            part.take(
                hash,
                |counted| counted.flow == flow,
                |other| hash_of_flow(other.flow),
            )
        });
        if let Some(Some(Counted { rules, .. })) = taken {
            self.count.fetch_sub(1_u32, Relaxed);
            self.take_from_host(address(), rules, &no_softirq);
        }
    }

    /// Counts a flow of a host. Returns whether the limit, and the memory, allows it.
    #[inline(always)]
    fn add_to_host(&self, address: Endpoint, limit: Limit, no_softirq: &BottomHalvesOff) -> bool {
        let Limit { most, rules } = limit;
        let hash = self.hash_of_host(&address, rules);
        let add = |part: &mut Part<Host>| {
            let is_it = |host: &Host| host.address == address && host.rules == rules;
            if let Some(host) = part.get_mut(hash, is_it) {
                if host.flows >= most {
                    return false;
                }
                host.flows = host.flows.saturating_add(1);
                return true;
            }
            let hash_of = |other: &Host| self.hash_of_host(&other.address, other.rules);
            if part.reserve(hash_of).is_err() {
                return false;
            }
            let host = Host {
                address,
                rules,
                flows: NonZeroU32::MIN,
            };
            part.put(host, hash);
            true
        };
        self.hosts.with(hash, no_softirq, add).unwrap_or(false)
    }

    /// Counts a flow of a host less. A host without flows goes.
    #[inline(always)]
    fn take_from_host(&self, address: Endpoint, rules: u64, no_softirq: &BottomHalvesOff) {
        let hash = self.hash_of_host(&address, rules);
        self.hosts.with(hash, no_softirq, |part| {
            let is_it = |host: &Host| host.address == address && host.rules == rules;
            let Some(host) = part.get_mut(hash, is_it) else {
                return;
            };
            match NonZeroU32::new(host.flows.get() - 1) {
                Some(flows) => host.flows = flows,
                None => {
                    let hash_of = |other: &Host| self.hash_of_host(&other.address, other.rules);
                    part.take(hash, is_it, hash_of);
                }
            }
        });
    }
}

/// The counted flows of a namespace, and their hosts.
pub(super) struct HostFlows(RcuBox<Tables>);

impl HostFlows {
    /// Returns no flows.
    pub(super) const fn new() -> Self {
        Self(RcuBox::empty())
    }

    /// Returns the number of counted flows. Any context.
    pub(super) fn count(&self) -> u32 {
        let count = self.0.with(|tables| tables.count.load(Relaxed));
        count.unwrap_or(0)
    }

    /// Notes the end of a flow. Any context.
    #[inline(always)]
    pub(super) fn flow_ended(&self, flow: &EndedFlow<'_>) {
        if !self.0.is_empty() {
            self.forget(flow);
        }
    }

    #[inline(never)]
    fn forget(&self, flow: &EndedFlow<'_>) {
        let address = || Endpoint::source_of(&flow.original(), flow.zone()).without_port();
        self.0.with(|tables| tables.end(flow.key(), address));
    }

    /// Frees the tables when nobody reads them any more.
    pub(super) fn free(&self, context: &mut ProcessContext) {
        self.0.free(context);
    }
}

/// Prepares a namespace for rules with a limit.
///
/// Errors: ENOMEM; EBUSY if another module hears of the ends of flows in our place. Process context.
pub(super) fn enable(net: &Net) -> Result {
    let State { host_flows, .. } = State::of(net).ok_or(ENOENT)?;
    if !expect_ends() {
        if log::rule_rate_permits() {
            pr_warn!("rule refused: another module has taken nf_nat_hook, so ends of flows are not heard\n");
        }
        return Err(EBUSY);
    }
    host_flows.0.fill(Tables::new)
}

/// A flow that a rule with a limit has let pass, and that is going to be set up.
pub(super) struct Permit {
    flow: FlowKey,
    address: Endpoint,
    outcome: Outcome,
}

impl Permit {
    /// Counts a flow of an inside address, unless that has as many as the limit says. A hook.
    #[inline(always)]
    pub(super) fn new<F: Family>(flow: &UnsettledFlow<'_, F>, limit: Limit) -> Option<Self> {
        let State { host_flows, .. } = State::of(flow.net())?;
        let original = flow.tuple(Direction::Original);
        let address = Endpoint::source_of(&original, flow.zone_of_both()).without_port();
        let key = flow.key();
        let outcome = host_flows
            .0
            .with(|tables| tables.begin(key, address, limit))?;
        (outcome != Outcome::Refused).then_some(Self {
            flow: key,
            address,
            outcome,
        })
    }

    /// Takes the count back of a flow that was not set up. A hook.
    #[cold]
    pub(super) fn give_up(self, net: &Net) {
        if let (Outcome::Counted, Some(State { host_flows, .. })) = (self.outcome, State::of(net)) {
            host_flows
                .0
                .with(|tables| tables.end(self.flow, || self.address));
        }
    }
}

#[kunit_tests(rustmasq_host_flows)]
mod tests {
    use super::*;
    use crate::net::{
        random::Numbers,
        AnyAddress, //
    };
    use core::{
        mem,
        net::{
            Ipv4Addr,
            Ipv6Addr, //
        },
    };

    const HOSTS: usize = 16;
    const FLOWS: usize = 300;

    fn host(number: usize) -> Endpoint {
        // CAST: Few hosts.
        let last = number as u8;
        let address = if last % 2 == 0 {
            AnyAddress::V4(Ipv4Addr::new(172, 18, 0, last))
        } else {
            AnyAddress::V6(Ipv6Addr::new(0xfd00, 0x18, 0, 0, 0, 0, 0, last.into()))
        };
        Endpoint::of_udp(address, 1000 + u16::from(last)).without_port()
    }

    fn limit(most: u32) -> Limit {
        Limit::new(NonZeroU32::new(most).unwrap_or(NonZeroU32::MIN), &most)
    }

    #[test]
    fn flows_are_counted_as_a_model_says() -> Result {
        let tables = Tables::new()?;
        let limits = [limit(1), limit(3), limit(40)];
        // For each flow, the host and the limit that it was counted for.
        let mut model = [None; FLOWS];
        let mut numbers = Numbers(1);
        let mut outcomes = [0_u32; 3];
        for _ in 0..20_000 {
            // CAST: Small numbers.
            let number = numbers.below(FLOWS as u32) as usize;
            let flow = FlowKey::of_number(0x8000 + number * 320).ok_or(EINVAL)?;
            if numbers.below(2) == 0 {
                let address = model[number].take().map_or(0, |(host, _)| host);
                tables.end(flow, || host(address));
                continue;
            }
            // CAST: Small numbers.
            let (address, by) = (numbers.below(HOSTS as u32), numbers.below(3));
            let (address, by) = (address as usize, by as usize);
            let had = model
                .iter()
                .filter(|other| **other == Some((address, by)))
                .count();
            let expected = if had >= limits[by].most.get() as usize {
                Outcome::Refused
            } else if model[number].is_some() {
                Outcome::CountedBefore
            } else {
                model[number] = Some((address, by));
                Outcome::Counted
            };
            assert_eq!(tables.begin(flow, host(address), limits[by]), expected);
            outcomes[expected as usize] += 1;
            let count = model.iter().flatten().count();
            assert_eq!(tables.count.load(Relaxed) as usize, count);
        }
        assert!(outcomes.iter().all(|count| *count > 100));
        // A host's flows go with their ends alone.
        for (number, counted) in model.iter_mut().enumerate() {
            let flow = FlowKey::of_number(0x8000 + number * 320).ok_or(EINVAL)?;
            let address = counted.take().map_or(0, |(host, _)| host);
            tables.end(flow, || host(address));
        }
        let no_softirq = BottomHalvesOff::new();
        let left = (0..super::super::table::PARTS).any(|number| {
            let count = |part: &mut Part<Host>| part.count() > 0;
            tables.hosts.with(number, &no_softirq, count) == Some(true)
        });
        assert!(!left && tables.count.load(Relaxed) == 0);
        Ok(())
    }

    #[test]
    fn rules_are_told_apart_by_all_that_they_have() {
        let most = NonZeroU32::MIN;
        let of = |rule: &[u16]| Limit::new(most, &rule);
        assert_eq!(of(&[1, 2, 3]), of(&[1, 2, 3]));
        for other in [
            &[1_u16, 2, 4] as &[u16],
            &[3, 2, 1],
            &[1, 2],
            &[1, 2, 3, 0],
            &[],
        ] {
            assert_ne!(of(&[1, 2, 3]), of(other));
        }
    }

    #[test]
    fn a_host_takes_little_memory() {
        assert_eq!(mem::size_of::<Option<Host>>(), 40);
        assert_eq!(mem::size_of::<Option<Counted>>(), 16);
    }
}
