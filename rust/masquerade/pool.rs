// SPDX-License-Identifier: GPL-2.0

//! The pool of one crowded destination: which of its ports are in use.
//!
//! A pool knows of all flows to the destination that were set up through it and of all that have ended. It does not
//! know of flows that others set up, as the host's own, so each port that it gives is looked up as well; one that is
//! taken stays marked. What it believes wrongly to be in use is found out by an audit.

use super::{
    claims::{
        Claims,
        CLAIM_LIFETIME, //
    },
    port_set::OwnedPortSet,
    port_states::PortStates, //
};
use crate::{
    net::{
        clock,
        context::BottomHalvesOff,
        namespace::Net,
        random,
        ProcessContext, //
    },
    netfilter::{
        conntrack::{
            self,
            Use,
            Zone, //
        },
        tuple::{
            Ends,
            Tuple, //
        },
    },
};
use kernel::{
    fmt,
    prelude::*,
    seq_file::{
        seq_print,
        SeqFile, //
    },
    sync::{
        atomic::{
            Acquire,
            Atomic,
            AtomicFlag,
            Relaxed,
            Release, //
        },
        new_spinlock,
        SpinLock, //
    },
    time::{
        delay::fsleep,
        Delta, //
    },
};

/// The time between two generations of freed ports, in seconds: a port rests for four to five of them.
const GENERATION: i64 = 15;
/// A pool goes when it was hardly used for so many generations.
const IDLE_GENERATIONS: u32 = 4;
/// The number of ports that an audit looks at in one go.
const CHUNK: usize = 512;
/// The number of flows that a pool remembers by their tags, as long as a claim would stand.
const REMEMBERED: usize = 8;
/// The ticks after which no choice is in flight that was made before the pool.
const SETTLED_AFTER: u64 = 2 * CLAIM_LIFETIME;

/// The flows that share the ports of a pool: where they go, and which address they leave with.
pub(super) struct Destination {
    /// The reply tuple that they have in common, with the port 0.
    reply: Tuple,
    zone: Zone,
}

impl Destination {
    /// Returns the destination of a flow with the reply tuple `reply`.
    pub(super) fn of(reply: &Tuple, zone: Zone) -> Self {
        let mut reply = reply.copy();
        reply.set_nat_port(0);
        Self { reply, zone }
    }

    /// Returns a copy.
    pub(super) fn copy(&self) -> Self {
        Self {
            reply: self.reply.copy(),
            zone: self.zone,
        }
    }

    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.zone == other.zone && self.reply.is_same(&other.reply)
    }

    /// Returns a number for a hash table, which nobody can predict who does not know `key`.
    pub(super) fn fingerprint(&self, key: u64) -> u64 {
        self.reply.fingerprint(key)
    }

    /// Returns the reply tuple of a flow with the port.
    fn reply_to(&self, port: u16) -> Tuple {
        let mut reply = self.reply.copy();
        reply.set_nat_port(port);
        reply
    }
}

/// A port that was taken from a pool.
pub(super) struct Taken {
    pub(super) port: u16,
    /// No port was left but those that were freed a moment ago.
    pub(super) rested: bool,
}

/// Returns the number of generations that have begun in so many seconds, at least.
fn turns_in(seconds: u64) -> usize {
    // CAST: The constant is positive, and a `usize` has 64 bits here.
    (seconds / GENERATION as u64) as usize
}

/// The part of a pool that its lock protects.
struct Ports {
    states: PortStates,
    /// The ports that were taken last, and for which flows: another packet of the same flow may come at the same time.
    last: [Last; REMEMBERED],
    /// The place in `last` of the next one.
    next: usize,
}

/// A port that was taken for a flow.
#[derive(Clone, Copy)]
struct Last {
    /// The flow's tag.
    flow: u64,
    port: u16,
    /// The time, in ticks.
    time: u64,
}

impl Ports {
    /// Returns the port that was taken for the flow a moment ago, if one was.
    fn of_flow(&self, flow: u64) -> Option<u16> {
        let now = clock::ticks();
        let fits = |last: &&Last| {
            last.flow == flow
                && now.wrapping_sub(last.time) <= CLAIM_LIFETIME
                && self.states.is_in_use(last.port)
        };
        self.last.iter().find(fits).map(|last| last.port)
    }

    /// Remembers that the port was taken for the flow.
    fn remember(&mut self, flow: u64, port: u16) {
        if let Some(last) = self.last.get_mut(self.next) {
            *last = Last {
                flow,
                port,
                time: clock::ticks(),
            };
        }
        self.next = (self.next + 1) % REMEMBERED;
    }

    /// Forgets for which flow the port was taken.
    fn forget(&mut self, port: u16) {
        for last in self.last.iter_mut().filter(|last| last.port == port) {
            last.flow = 0;
        }
    }
}

/// A pool.
#[pin_data]
pub(super) struct Pool {
    destination: Destination,
    set: OwnedPortSet,
    #[pin]
    ports: SpinLock<Ports>,
    /// When the pool was made, in ticks.
    made: u64,
    /// The pool knows of the flows that were there before it, and which ports are reserved.
    complete: AtomicFlag,
    /// When the last generation began, in seconds.
    turned: Atomic<i64>,
    /// The number of generations for which the pool was hardly used.
    idle: Atomic<u32>,
}

impl Pool {
    /// Returns a new pool, which knows of no flow. Any context.
    pub(super) fn new(destination: Destination, set: OwnedPortSet) -> Result<Pin<KBox<Self>>> {
        let flags = GFP_ATOMIC | __GFP_NOWARN;
        let states = PortStates::new(set.clone(), flags)?;
        KBox::pin_init(
            pin_init!(Self {
                destination,
                set,
                ports <- new_spinlock!(Ports {
                    states,
                    last: [Last {
                        flow: 0,
                        port: 0,
                        time: 0,
                    }; REMEMBERED],
                    next: 0,
                }),
                made: clock::ticks(),
                complete: AtomicFlag::new(false),
                turned: Atomic::new(clock::seconds()),
                idle: Atomic::new(0),
            }),
            flags,
        )
    }

    pub(super) fn set(&self) -> &OwnedPortSet {
        &self.set
    }

    /// Returns the number of ports, reserved ones included.
    pub(super) fn count(&self) -> u32 {
        self.set.as_set().count().get()
    }

    pub(super) fn destination(&self) -> &Destination {
        &self.destination
    }

    /// Returns whether all choices that were made without the pool are in conntrack's table by now.
    pub(super) fn is_settled(&self) -> bool {
        clock::ticks().wrapping_sub(self.made) > SETTLED_AFTER
    }

    /// Notes that the pool has offered a reserved port, which it may have more of. It stays marked; an audit looks for the
    /// others. Any context.
    pub(super) fn offered_reserved(&self) {
        self.complete.store(false, Release);
    }

    /// Returns whether the pool knows of the flows that were there before it, and which ports are reserved.
    pub(super) fn is_complete(&self) -> bool {
        self.complete.load(Acquire)
    }

    /// Calls `f` with the ports.
    fn with_ports<R>(&self, f: impl FnOnce(&mut Ports) -> R) -> R {
        let _no_softirq = BottomHalvesOff::new();
        // A variable, which goes before the one above: softirqs must stay off until the lock is free.
        let mut ports = self.ports.lock();
        f(&mut ports)
    }

    /// Calls `f` with the states of the ports.
    fn with<R>(&self, f: impl FnOnce(&mut PortStates) -> R) -> R {
        self.with_ports(|ports| f(&mut ports.states))
    }

    /// Takes a port for a flow, given by its tag: the one that another packet of the flow got a moment ago; else
    /// the first of `wanted` that is free; else a random free one; else the one that was freed first.
    ///
    /// Any context.
    pub(super) fn take(&self, flow: u64, wanted: [Option<u16>; 2]) -> Option<Taken> {
        self.with_ports(|ports| {
            let rested = ports.states.free() == 0;
            if let Some(port) = ports.of_flow(flow) {
                return Some(Taken { port, rested });
            }
            let mut take = |port: Option<u16>| port.filter(|port| ports.states.take(*port));
            let [first, second] = wanted;
            let port = take(first)
                .or_else(|| take(second))
                .or_else(|| ports.states.take_any(random::below))?;
            ports.remember(flow, port);
            Some(Taken { port, rested })
        })
    }

    /// Takes another port for the flow than this one, which turned out to be taken. It stays marked. Any context.
    pub(super) fn take_instead(&self, port: u16, flow: u64) -> Option<Taken> {
        self.with_ports(|ports| ports.forget(port));
        self.take(flow, [None, None])
    }

    /// Takes a port whose TCP connection was over when it was last looked at. Any context.
    pub(super) fn take_reusable(&self) -> Option<u16> {
        self.with(|states| states.take_reusable(random::below))
    }

    /// Marks a port as in use. Any context.
    pub(super) fn mark(&self, port: u16) {
        self.with(|states| states.found_in_use(port, false));
    }

    /// Gives back a port whose flow ended so many seconds ago. Any context.
    pub(super) fn release(&self, port: u16, seconds: u64) {
        self.with(|states| states.release(port, turns_in(seconds)));
    }

    /// Returns whether nothing is left to be taken.
    fn is_full(&self) -> bool {
        self.with(|states| states.free() + states.recent() == 0)
    }

    /// Prints the pool as a line of `/proc/net/rustmasq_pools`.
    pub(super) fn print(&self, file: &SeqFile) {
        let (in_use, resting, free) =
            self.with(|states| (states.in_use(), states.recent(), states.free()));
        let Destination { reply, zone } = &self.destination;
        let Ends {
            source: server,
            destination: outside,
        } = reply.ends();
        let protocol = Protocol(reply.protocol());
        let (to, port, from) = (server.address, server.port, outside.address);
        seq_print!(
            file,
            "protocol={protocol} destination={to} port={port} source={from} "
        );
        let (zone, set) = (zone.id(), &self.set);
        seq_print!(file, "zone={zone} range={set} ");
        seq_print!(file, "in_use={in_use} resting={resting} free={free}\n");
    }

    /// Begins a generation if it is time to. Returns whether the pool is of no use any more.
    pub(super) fn turn(&self, net: &Net) -> bool {
        let now = clock::seconds();
        if now - self.turned.load(Relaxed) < GENERATION {
            return false;
        }
        self.turned.store(now, Relaxed);
        let used = self.with(|states| {
            states.turn();
            states.in_use()
        });
        // Reserved ports are marked, too.
        let reserved = self.set.in_namespace(net).reserved();
        let idle = if used.saturating_sub(reserved) < (self.count() - reserved) / 4 {
            self.idle.load(Relaxed) + 1
        } else {
            0
        };
        self.idle.store(idle, Relaxed);
        idle >= IDLE_GENERATIONS
    }

    /// Returns whether the pool needs an [`audit`](Self::audit).
    pub(super) fn needs_audit(&self) -> bool {
        !self.is_complete() || self.is_full()
    }

    /// Compares a part of the ports with conntrack's table. Returns the number of the next part, if there is one.
    ///
    /// The caller holds the RCU read lock; `suspects` gets the ports that no flow has although they are marked. Any
    /// context.
    pub(super) fn audit(
        &self,
        net: &Net,
        claims: &Claims,
        part: u32,
        suspects: &mut Suspects,
    ) -> Option<u32> {
        let first = part * CHUNK as u32;
        let (count, set) = (self.count(), self.set.in_namespace(net));
        for place in first..count.min(first + CHUNK as u32) {
            let port = set.nth(place);
            if set.is_reserved(port) {
                self.mark(port);
                continue;
            }
            let reply = self.destination.reply_to(port);
            match conntrack::look_up(net, self.destination.zone, &reply) {
                Use::Taken => self.mark(port),
                Use::Over => self.with(|states| states.found_in_use(port, true)),
                Use::Free => {
                    if self.with(|states| states.is_in_use(port)) {
                        suspects.add(port);
                    } else if let Some(seconds) = claims.rested(&reply, net) {
                        self.with(|states| states.rest(port, turns_in(seconds)));
                    }
                }
            }
        }
        let more = first + (CHUNK as u32) < count;
        if !more {
            self.complete.store(true, Release);
        }
        more.then_some(part + 1)
    }

    /// Frees those suspects that still no flow has.
    pub(super) fn acquit(&self, net: &Net, suspects: &Suspects) {
        for port in suspects.ports() {
            let reply = self.destination.reply_to(port);
            if conntrack::look_up(net, self.destination.zone, &reply) == Use::Free {
                self.release(port, 0);
            }
        }
    }
}

/// A protocol's number, which is printed as its name if it has ports or identifiers.
struct Protocol(u8);

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Numbers that IANA has assigned.
        match self.0 {
            1 => f.write_str("icmp"),
            6 => f.write_str("tcp"),
            17 => f.write_str("udp"),
            58 => f.write_str("icmpv6"),
            132 => f.write_str("sctp"),
            number => write!(f, "{number}"),
        }
    }
}

/// Ports that are marked although no flow has them. A flow may be on its way: who asks again a moment later knows.
pub(super) struct Suspects {
    ports: KVec<u16>,
}

impl Suspects {
    /// The time after which a flow that was on its way is in conntrack's table.
    const PAUSE: Delta = Delta::from_millis(100);

    /// Returns room for the suspects of one part. Process context.
    pub(super) fn new() -> Result<Self> {
        Ok(Self {
            ports: KVec::with_capacity(CHUNK, GFP_KERNEL)?,
        })
    }

    pub(super) fn clear(&mut self) {
        self.ports.clear();
    }

    fn add(&mut self, port: u16) {
        // The next audit finds one that does not fit.
        let _ = self.ports.push_within_capacity(port);
    }

    fn ports(&self) -> impl Iterator<Item = u16> + '_ {
        self.ports.iter().copied()
    }

    /// Waits, if there are suspects. Returns whether there are.
    pub(super) fn wait(&self, context: &mut ProcessContext) -> bool {
        if self.ports.is_empty() {
            return false;
        }
        context.assert_may_sleep();
        fsleep(Self::PAUSE);
        true
    }
}
