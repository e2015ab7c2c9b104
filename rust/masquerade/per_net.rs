// SPDX-License-Identifier: GPL-2.0

//! The data that the target keeps for each namespace, and the registrations for that.

use super::{
    cone::{
        self,
        Cone, //
    },
    counters::{
        self,
        Counter,
        CountersFile, //
    },
    host_flows::HostFlows,
    mappings::{
        self,
        Mappings,
        MappingsFile, //
    },
    pool::Destination,
    pools::{
        self,
        Pools,
        PoolsFile, //
    },
    ports::{
        self,
        CLAIMS, //
    },
    route_sources::RouteSources, //
};
use crate::{
    net::{
        namespace::Net,
        pernet::{
            self,
            NetData,
            PerNet, //
        },
        proc,
        rcu::ReadLocked,
        work::{
            self,
            Work, //
        },
        ProcessContext, //
    },
    netfilter::{
        flow_end::{
            self,
            EndedFlow,
            FlowEnd,
            FlowEndHandler, //
        },
        nat_function, //
    },
};
use kernel::{
    prelude::*,
    sync::atomic::{
        Acquire,
        Atomic,
        Full,
        Relaxed, //
    },
    time::Msecs, //
};

/// The time between two looks after the pools.
const PERIOD: Msecs = 1000;

/// The data and the counters of all namespaces.
pub(super) static PER_NET: PerNet<State> = PerNet::new();
static FLOW_END: FlowEnd<Ends> = FlowEnd::new();
static WORK: Work<Maintenance> = Work::new();
/// The number of rules.
static RULES: Atomic<u32> = Atomic::new(0);

/// The data of a namespace.
pub(super) struct State {
    /// The pools of crowded destinations.
    pub(super) pools: Pools,
    /// The mappings of inside endpoints.
    pub(super) mappings: Mappings,
    /// The flows that are counted for their inside addresses.
    pub(super) host_flows: HostFlows,
    /// The addresses that routes have named.
    pub(super) route_sources: RouteSources,
}

impl State {
    /// Returns the namespace's data. Any context.
    #[inline(always)]
    pub(super) fn of(net: &Net) -> Option<&Self> {
        PER_NET.of(net)
    }

    /// Does the same in fewer instructions, under the RCU read lock.
    #[inline(always)]
    pub(super) fn of_locked<'a>(net: &'a Net, reader: &impl ReadLocked) -> Option<&'a Self> {
        PER_NET.of_locked(net, reader)
    }

    /// Returns whether there may be something to look after.
    fn is_in_use(&self) -> bool {
        !self.pools.is_empty() || !self.mappings.is_off() || self.host_flows.count() > 0
    }
}

impl NetData for State {
    type Counter = Counter;

    fn pernet() -> &'static PerNet<Self> {
        &PER_NET
    }

    fn new() -> Self {
        Self {
            pools: Pools::new(),
            mappings: Mappings::new(),
            host_flows: HostFlows::new(),
            route_sources: RouteSources::new(),
        }
    }

    fn pre_exit(&self) {
        self.pools.close();
    }

    fn exit(&self, context: &mut ProcessContext) {
        self.pools.free(context);
        self.mappings.free(context);
        self.host_flows.free(context);
    }
}

/// Hears of the ends of flows while there are rules, pools, mappings or flows that are counted for their hosts.
pub(super) struct Ends;

impl FlowEndHandler for Ends {
    fn flow_end() -> &'static FlowEnd<Self> {
        &FLOW_END
    }

    fn flow_ended(flow: &EndedFlow<'_>) {
        let state = State::of(flow.net());
        if let Some(state) = state {
            state.host_flows.flow_ended(flow);
        }
        let reply = flow.reply();
        let Some(port) = reply.nat_port() else {
            return;
        };
        CLAIMS.rest(&reply, flow.tags());
        let Some(state) = state else {
            return;
        };
        cone::flow_ended(&state.mappings, flow, &reply);
        if state.pools.is_empty() {
            return;
        }
        if let Some(key) = ports::pools_key() {
            let destination = Destination::of(&reply, flow.zone());
            state
                .pools
                .for_each_of(&destination, key, |pool| pool.release(port, 0));
        }
    }
}

/// Looks after all pools and mappings, while there are any, and lets the ends of counted flows be heard.
pub(super) struct Maintenance;

impl work::Handler for Maintenance {
    fn work() -> &'static Work<Self> {
        &WORK
    }

    fn run(context: &mut ProcessContext) -> Option<Msecs> {
        // It may have been stopped by a run that saw no pools, while one was made.
        FLOW_END.listen();
        let (mut any, mut counted) = (false, false);
        let mut last = None;
        let wanted = |net: &Net| State::of(net).is_some_and(State::is_in_use);
        while let Some(net) = Net::next_after(last, wanted, context) {
            last = Some(net.id());
            if let Some(state) = State::of(&net) {
                // Without memory, the next run does it.
                any |= state.pools.maintain(&net, &CLAIMS, context).unwrap_or(true);
                cone::maintain(&net, &state.mappings, context);
                any |= state.mappings.count() > 0;
                counted |= state.host_flows.count() > 0;
            }
        }
        if !any && !counted && RULES.load(Relaxed) == 0 {
            FLOW_END.stop();
            if RULES.load(Acquire) > 0 {
                // The first rule was added meanwhile.
                FLOW_END.listen();
            }
        }
        ports::set_held(any);
        let is_new = |net: &Net| State::of(net).is_some_and(|state| state.mappings.count() > 0);
        if !any && Net::next_after(None, is_new, context).is_some() {
            // The first mapping was made meanwhile.
            ports::set_held(true);
        }
        (any || counted).then_some(PERIOD)
    }
}

/// Counts a rule. The ends of flows are heard while there is one. Process context.
pub(super) fn rule_added() {
    if RULES.fetch_add(1_u32, Full) == 0 {
        FLOW_END.listen();
    }
}

/// Counts a rule less. Process context.
pub(super) fn rule_removed() {
    if RULES.fetch_sub(1_u32, Full) == 1 {
        // It stops listening, alone.
        WORK.queue(0);
    }
}

/// Lets the ends of flows be heard from now on, for what is not a rule. Returns whether that is so. Any context.
pub(super) fn expect_ends() -> bool {
    FLOW_END.listen()
}

/// Lets a new mapping be looked after. Any context.
pub(super) fn look_after_mappings() {
    WORK.queue_unless_queued(PERIOD);
}

/// Lets a new pool be looked after. Any context.
pub(super) fn look_after_pools() {
    WORK.queue(0);
}

/// The registrations, which are dropped in this order: NAT's functions and the work, which may begin to listen to the ends
/// of flows, go before those, and the namespaces' data, which all others read, go last.
pub(crate) struct Registrations {
    _counters_file: proc::Registration<CountersFile>,
    _pools_file: proc::Registration<PoolsFile>,
    _mappings_file: proc::Registration<MappingsFile>,
    _functions: nat_function::Registration<Cone>,
    _work: work::Registration<Maintenance>,
    _ends: flow_end::Registration<Ends>,
    _per_net: pernet::Registration<State>,
}

/// Registers what the choice of ports needs, before the first rule can be added.
///
/// Process context.
pub(crate) fn register() -> Result<Registrations> {
    ports::make_secrets();
    let per_net = PER_NET.register()?;
    let ends = FLOW_END.register()?;
    // The files come after the data, and so go before them with a namespace, too.
    Ok(Registrations {
        _counters_file: counters::FILE.register()?,
        _pools_file: pools::FILE.register()?,
        _mappings_file: mappings::FILE.register()?,
        _functions: cone::FUNCTIONS.register()?,
        _work: WORK.register()?,
        _ends: ends,
        _per_net: per_net,
    })
}
