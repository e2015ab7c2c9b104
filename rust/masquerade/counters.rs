// SPDX-License-Identifier: GPL-2.0

//! The counters of a namespace: what the target has done with flows and their ports.
//!
//! A flow that keeps its port at once, as nearly all do, increments one counter. What else is known of such a flow, one
//! look-up, is added when the counters are read.

use super::{
    per_net::{
        State,
        PER_NET, //
    },
    ports::Choice, //
};
use crate::{
    net::{
        namespace::Net,
        percpu::CounterName,
        proc::{
            NetFile,
            NetFileContent, //
        },
        skb::Packet,
        Family, //
    },
    netfilter::{
        conntrack::CtInfo,
        tuple::{
            Direction,
            Tuple, //
        },
    },
};
use kernel::{
    prelude::*,
    seq_file::{
        seq_print,
        SeqFile, //
    },
    sync::rcu,
};

/// The names of the counters.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Counter {
    /// Flows that kept their ports, by the first look-up.
    KeptAtOnce,
    /// Other flows that kept their ports.
    Kept,
    /// Flows that got other ports.
    Moved,
    /// Flows of protocols without ports.
    WithoutPort,
    /// Packets that were dropped because all ports are taken.
    Refused,
    /// Packets that were dropped because their inside addresses have as many flows as their rules allow.
    OverLimit,
    /// Look-ups, without those of [`KeptAtOnce`](Self::KeptAtOnce).
    LookUps,
    /// Claims that were refused.
    RacesAvoided,
    /// Pools that were not to be had.
    PoolsDenied,
    /// Flows whose inside endpoints got no mapping for want of room.
    MappingsDenied,
    /// Packets to mappings that were dropped because their senders may not come in.
    Filtered,
    /// Flows that the flush removed.
    Flushed,
    /// Packets that were dropped because there was no address.
    NoAddress,
}

impl CounterName for Counter {
    const COUNT: usize = Counter::NoAddress as usize + 1;

    fn index(self) -> usize {
        self as usize
    }
}

/// Counts in a namespace. Any context.
pub(super) fn count(net: &Net, counter: Counter) {
    PER_NET.add(net, counter, 1, &rcu::read_lock());
}

/// Counts a flow that has kept its port at once. A hook.
#[inline(always)]
pub(super) fn count_kept_at_once<F: Family>(net: &Net, packet: &Packet<'_, F>) {
    PER_NET.add(net, Counter::KeptAtOnce, 1, packet);
}

/// Counts any other flow whose source NAT was set up, or that was refused. A hook.
pub(super) fn count_choice<F: Family>(net: &Net, choice: &Choice, packet: &Packet<'_, F>) {
    PER_NET.add(net, Counter::LookUps, choice.look_ups.into(), packet);
    let counter = choice.counter.or_else(|| counter_of_flow(packet));
    if let Some(counter) = counter {
        PER_NET.add(net, counter, 1, packet);
    }
}

/// Returns the counter of a flow for which the kernel chose, by its tuples.
#[cold]
fn counter_of_flow<F: Family>(packet: &Packet<'_, F>) -> Option<Counter> {
    let info = CtInfo::of_packet(packet);
    let conn = info.conn()?;
    let port = |tuple: Tuple| tuple.nat_port();
    let untranslated = conn.tuple(Direction::Original).inverted().and_then(port);
    Some(match port(conn.tuple(Direction::Reply)) {
        None => Counter::WithoutPort,
        port if port == untranslated => Counter::Kept,
        Some(_) => Counter::Moved,
    })
}

/// The file `/proc/net/rustmasq`.
pub(super) static FILE: NetFile<CountersFile> = NetFile::new();

/// The content of `/proc/net/rustmasq`.
pub(super) struct CountersFile;

impl NetFileContent for CountersFile {
    const NAME: &'static CStr = c"rustmasq";
    const MODE: u16 = 0o444;

    fn print(net: &Net, file: &SeqFile, _: u64) {
        let counted = |counter| PER_NET.counted(net, counter);
        let at_once = counted(Counter::KeptAtOnce);
        let kept = at_once + counted(Counter::Kept);
        let moved = counted(Counter::Moved);
        let pools = State::of(net).map_or((0, 0), |state| state.pools.numbers());
        let mappings = State::of(net).map_or(0, |state| state.mappings.count());
        let values = [
            (
                "flows_masqueraded",
                kept + moved + counted(Counter::WithoutPort),
            ),
            ("ports_kept", kept),
            ("ports_moved", moved),
            ("ports_refused", counted(Counter::Refused)),
            ("flows_over_limit", counted(Counter::OverLimit)),
            ("lookups", at_once + counted(Counter::LookUps)),
            ("races_avoided", counted(Counter::RacesAvoided)),
            ("pools", pools.0.into()),
            ("pools_most", pools.1.into()),
            ("pools_denied", counted(Counter::PoolsDenied)),
            ("mappings", mappings.into()),
            ("mappings_denied", counted(Counter::MappingsDenied)),
            ("inbound_filtered", counted(Counter::Filtered)),
            ("flows_flushed", counted(Counter::Flushed)),
            ("no_address", counted(Counter::NoAddress)),
        ];
        for (name, value) in values {
            seq_print!(file, "{name} {value}\n");
        }
    }
}
