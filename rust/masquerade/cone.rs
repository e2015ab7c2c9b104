// SPDX-License-Identifier: GPL-2.0

//! Mappings that do not depend on the endpoint: what `--full-cone` and its sisters do with flows.
//!
//! A flow from inside leaves by the port of its endpoint's mapping. A flow from outside to a mapping, for which no rule of
//! the user has set up destination NAT, is led to the inside endpoint. One from inside to a mapping does the same, and
//! leaves by the mapping of the endpoint that it comes from (RFC 4787, REQ-9, hairpinning).

use super::{
    counters::{
        self,
        Counter, //
    },
    endpoint::Endpoint,
    mapping::{
        Filtering,
        Mapping, //
    },
    mappings::{
        Denied,
        Gap,
        Given,
        Inside,
        Mappings,
        Tables, //
    },
    options::{
        Options,
        RuleOptions, //
    },
    per_net::{
        expect_ends,
        State, //
    },
    ports,
    used_ports::{
        Search,
        UsedPorts, //
    },
};
use crate::{
    net::{
        clock,
        device::Device,
        namespace::Net,
        parameters::inbound_refreshes_mappings,
        skb::Packet,
        Family,
        ProcessContext, //
    },
    netfilter::{
        conntrack::{
            self,
            ConfirmedConn,
            CtInfo,
            IncomingFlow,
            UnsettledFlow,
            Zone, //
        },
        flow_end::EndedFlow,
        nat::{
            self,
            NatRange, //
        },
        nat_function::{
            Functions,
            IncomingContext,
            NatFunctions, //
        },
        tuple::{
            Direction,
            Tuple, //
        },
        Verdict, //
    },
};
use kernel::prelude::*;

/// The functions that NAT calls in namespaces that have mappings.
pub(super) static FUNCTIONS: Functions<Cone> = Functions::new();

/// Prepares a namespace for mappings, unless that was done before.
///
/// Errors: ENOMEM, and those of registering with NAT. Process context.
pub(super) fn enable(net: &Net, context: &mut ProcessContext) -> Result {
    let state = State::of(net).ok_or(ENOENT)?;
    state.mappings.enable()?;
    FUNCTIONS.add_to(net, context)
}

/// The time in seconds.
pub(super) fn now() -> u32 {
    // CAST: Ages are differences of these, which wrap.
    clock::seconds() as u32
}

/// The outside port of a flow by the mapping of its inside endpoint.
pub(super) enum Port {
    /// The flow leaves by this one.
    Mapped(Mapped),
    /// All that it may get are taken.
    Refused,
    /// It gets one as without mappings: the protocol has no ports, or there are too many mappings.
    Unmapped,
}

/// A flow's mapping.
#[derive(Clone, Copy)]
pub(super) struct Mapped {
    given: Given,
    /// The flow's own port.
    own: u16,
}

/// A rule's wishes for a mapping.
#[derive(Clone, Copy)]
pub(super) struct Wish<'a> {
    pub(super) options: RuleOptions<'a>,
    /// The filtering that the rule asks for, if there is a rule.
    pub(super) filtering: Option<Filtering>,
    /// The index of the device that the mapping leaves by.
    pub(super) device: c_int,
}

/// Prepares for the first mapping. Returns whether there may be one. Any context.
#[cold]
fn begin_to_hold() -> bool {
    ports::set_held(true);
    expect_ends()
}

/// Returns the port that a flow from inside leaves by, with the source address `source`. A hook.
#[inline(always)]
pub(super) fn port_of<F: Family>(
    flow: &UnsettledFlow<'_, F>,
    source: F::Address,
    wish: Wish<'_>,
) -> Port {
    let reply = flow.reply_to(source);
    let state = State::of_locked(flow.net(), flow);
    let (Some(own), Some(State { mappings, .. })) = (reply.nat_port(), state) else {
        return Port::Unmapped;
    };
    let request = Request {
        flow,
        wish,
        own,
        inside: Inside::of::<F>(
            &flow.tuple(Direction::Original),
            flow.zone_of_both(),
            source,
        ),
    };
    match mappings.get(flow) {
        Some(tables) => request.find_port(tables, reply),
        None => Port::Unmapped,
    }
}

impl Inside {
    /// Returns the inside endpoint of a flow with this original tuple that leaves with the source address `source`.
    #[inline(always)]
    fn of<F: Family>(original: &Tuple, zone: Zone, source: F::Address) -> Self {
        Self {
            endpoint: Endpoint::source_of(original, zone),
            outside_address: F::to_raw(source).words(),
            outside_zone: zone.id_in(Direction::Reply),
        }
    }
}

/// A flow that asks for its port.
struct Request<'a, 'hook, F: Family> {
    flow: &'a UnsettledFlow<'hook, F>,
    wish: Wish<'a>,
    /// The flow's own port.
    own: u16,
    inside: Inside,
}

impl<F: Family> Request<'_, '_, F> {
    /// Returns the port; `reply` is the reply tuple that the flow would have with its own one.
    #[inline(always)]
    fn find_port(&self, tables: &Tables, mut reply: Tuple) -> Port {
        let now = now();
        let make = |gap: Gap<'_>| self.make(gap, &reply, now);
        let mut found = tables.find_or_else(&self.inside, now, make);
        if let Some(given) = found.as_ref().ok().filter(|given| !self.suits(given)) {
            match self.instead_of(tables, given, &reply) {
                Some(other) => found = other,
                None => return Port::Unmapped,
            }
        }
        let given = match found {
            Ok(given) => given,
            Err(denied) => return self.nothing(denied),
        };
        if given.port != self.own {
            reply.set_nat_port(given.port);
        }
        if self.is_free(&reply, given.new) {
            self.mapped(tables, given)
        } else {
            self.try_others(tables, reply, given)
        }
    }

    /// Returns whether the rule may give the mapping's port.
    #[inline(always)]
    fn suits(&self, given: &Given) -> bool {
        let options = self.wish.options;
        let by_no_rule = given.filtering == Filtering::NoRule && self.wish.filtering.is_some();
        given.new || options.offer(given.port, self.flow.net()) && !(by_no_rule && options.random)
    }

    /// Returns what is found instead of a mapping that does not suit: another one if that was made without a rule.
    #[cold]
    fn instead_of(
        &self,
        tables: &Tables,
        given: &Given,
        reply: &Tuple,
    ) -> Option<Result<Given, Denied>> {
        let mut given = *given;
        if given.filtering == Filtering::NoRule {
            tables.forget_if_there(&self.outside(&given), &given);
            let now = now();
            let make = |gap: Gap<'_>| self.make(gap, reply, now);
            match tables.find_or_else(&self.inside, now, make) {
                Ok(other) if !self.suits(&other) => given = other,
                found => return Some(found),
            }
        }
        // The endpoint has its port by another rule.
        tables.give_up(&self.outside(&given), &given, true);
        None
    }

    /// Returns whether the flow can have the reply tuple, by a mapping that is new or not.
    #[inline(always)]
    fn is_free(&self, reply: &Tuple, new: bool) -> bool {
        // A mapping that is older than a socket stays: who answers has been spoken to.
        !(self.flow.is_taken(reply) || new && self.flow.shadows_socket(reply))
    }

    /// Makes the mapping.
    #[inline(never)]
    fn make(&self, gap: Gap<'_>, reply: &Tuple, now: u32) -> Result<Given, Denied> {
        // As long as there are mappings, the ends of flows are heard, and ports may be held.
        if gap.is_first() && !begin_to_hold() {
            return Err(Denied::TooMany);
        }
        let own = self.own;
        let may_keep_own = self.wish.options.allow(own, self.flow.net());
        self.fill(gap, now, |used| {
            if may_keep_own && used.is_free(own) {
                Some(own)
            } else {
                self.search(reply).next(used)
            }
        })
    }

    #[inline(always)]
    fn fill(
        &self,
        gap: Gap<'_>,
        now: u32,
        choose: impl FnOnce(&UsedPorts) -> Option<u16>,
    ) -> Result<Given, Denied> {
        let filtering = self.wish.filtering;
        let filtering = filtering.unwrap_or(Filtering::NoRule);
        let inside = &self.inside.endpoint;
        gap.fill(inside, filtering, self.wish.device, now, choose)
    }

    /// Returns the outside endpoint of a mapping.
    #[inline(always)]
    fn outside(&self, given: &Given) -> Endpoint {
        self.inside.outside(given.port)
    }

    /// Returns the search for another port than the flow's own.
    #[cold]
    fn search(&self, reply: &Tuple) -> Search<'_> {
        let (options, net) = (self.wish.options, self.flow.net());
        Search::new(options.port_sets(self.own, reply.is_icmp(), net))
    }

    /// Makes mappings until one has a port that no flow without a mapping has to this destination, and no socket.
    #[cold]
    fn try_others(&self, tables: &Tables, mut reply: Tuple, mut given: Given) -> Port {
        let mut search = self.search(&reply);
        while given.new {
            tables.give_up(&self.outside(&given), &given, false);
            let now = now();
            let made = tables.find_or_else(&self.inside, now, |gap| {
                self.fill(gap, now, |used| search.next(used))
            });
            given = match made {
                Ok(given) => given,
                Err(denied) => return self.nothing(denied),
            };
            reply.set_nat_port(given.port);
            if self.is_free(&reply, given.new) {
                return self.mapped(tables, given);
            }
        }
        // A flow to this destination has the port: one without a mapping, or one of this endpoint to another destination
        // that a rule of the user leads there, too. This one gets another port.
        tables.give_up(&self.outside(&given), &given, true);
        Port::Unmapped
    }

    #[inline(always)]
    fn mapped(&self, tables: &Tables, mut given: Given) -> Port {
        let asked = self
            .wish
            .filtering
            .filter(|asked| *asked != given.filtering);
        if let Some(filtering) = asked {
            tables.set_filtering(&self.outside(&given), &given, filtering);
            given.filtering = filtering;
        }
        let own = self.own;
        Port::Mapped(Mapped { given, own })
    }

    /// Returns what becomes of a flow without a mapping.
    #[cold]
    fn nothing(&self, denied: Denied) -> Port {
        match denied {
            Denied::Full => Port::Refused,
            Denied::TooMany => {
                counters::count(self.flow.net(), Counter::MappingsDenied);
                Port::Unmapped
            }
        }
    }
}

/// Counts the end of a flow. Softirq or process context.
pub(super) fn flow_ended(mappings: &Mappings, flow: &EndedFlow<'_>, reply: &Tuple) {
    if mappings.is_off() {
        return;
    }
    let (original, zone) = (flow.original(), flow.zone());
    let called = Endpoint::destination_of(&original, zone, Direction::Original);
    let source = Endpoint::source_of(&original, zone);
    let outside = Endpoint::destination_of(reply, zone, Direction::Reply);
    mappings.with(|tables| {
        let [low, high, _] = reply.source_words();
        let keeps = flow.is_answered() || inbound_refreshes_mappings();
        if keeps && tables.may_have(called.address_words()) {
            tables.with_outside(&called, |mapping| {
                if mapping.inside.address_words() == [low, high] {
                    mapping.refresh(now());
                }
            });
        }
        if tables.may_have(outside.address_words()) {
            let number = tables.with_outside(&outside, |mapping| {
                (mapping.inside == source).then(|| {
                    mapping.end_flow(now());
                    mapping.number
                })
            });
            if let Some(Some(number)) = number {
                tables.conversations().end(number, [low, high]);
            }
        }
    });
}

/// The functions that NAT calls.
pub(super) struct Cone;

impl NatFunctions for Cone {
    fn functions() -> &'static Functions<Self> {
        &FUNCTIONS
    }

    #[inline(always)]
    fn incoming<F: Family>(context: IncomingContext<'_, F>) -> Verdict {
        let IncomingContext { flow, input } = context;
        let Some(flow) = flow else {
            return Verdict::Accept;
        };
        let Some(State { mappings, .. }) = State::of_locked(input.net(), &flow) else {
            return Verdict::Accept;
        };
        let destination = F::to_raw(flow.destination(Direction::Original)).words();
        match mappings.get(&flow) {
            Some(tables) if tables.may_have(destination) => lead_in(flow, mappings, input),
            _ => Verdict::Accept,
        }
    }
}

/// Leads a flow to the inside endpoint of a mapping, if there is one at its destination.
#[inline(never)]
fn lead_in<F: Family>(flow: IncomingFlow<'_, F>, mappings: &Mappings, input: &Device) -> Verdict {
    let tuple = flow.tuple(Direction::Original);
    if flow.has_receiver(&tuple, input.index()) {
        return Verdict::Accept;
    }
    let Some(tables) = mappings.get(&flow) else {
        return Verdict::Accept;
    };
    let zone = flow.zone_of_both();
    let outside = Endpoint::destination_of(&tuple, zone, Direction::Original);
    let mut way = Way::NONE;
    let found = tables.with_outside(&outside, |mapping| {
        // As long as the mapping is there, its device is counted.
        way = Way::to(mapping, tables.leave_by(input.index()));
    });
    if found.is_none() {
        return Verdict::Accept;
    }
    let may_come_in = way.filtering == Filtering::EndpointIndependent
        || lets_in(tables, &outside, &way, &tuple, zone);
    if !may_come_in {
        return filter(&flow, &tuple, input.net());
    }
    let address = way.inside.raw_address();
    let port = (!tuple.is_icmp()).then_some(way.inside.port());
    let Some(flow) = nat::translate_destination(flow, address, port, way.device) else {
        return Verdict::Drop;
    };
    if way.is_outside {
        Verdict::Accept
    } else {
        hairpin(flow, &tuple, &way, input)
    }
}

/// Returns the verdict for a packet of one who may not come in to a mapping.
///
/// Nobody answers, as the endpoint may be about to speak to the sender: an answer of this host, or a flow of conntrack's,
/// would be in the way of that (RFC 5382, REQ-4). This host answers echo requests itself, and segments of TCP connections
/// that conntrack has forgotten.
#[cold]
fn filter<F: Family>(flow: &IncomingFlow<'_, F>, tuple: &Tuple, net: &Net) -> Verdict {
    if tuple.is_icmp() || tuple.is_tcp() && !flow.begins_with_syn() {
        return Verdict::Accept;
    }
    counters::count(net, Counter::Filtered);
    Verdict::Drop
}

/// The way in to an inside endpoint.
#[derive(Clone, Copy)]
struct Way {
    inside: Endpoint,
    filtering: Filtering,
    device: c_int,
    /// The mapping's number.
    number: u32,
    /// The packet comes from outside.
    is_outside: bool,
}

impl Way {
    /// No way.
    const NONE: Self = Self {
        inside: Endpoint::NONE,
        filtering: Filtering::NoRule,
        device: 0,
        number: 0,
        is_outside: false,
    };

    /// Returns the way to the inside endpoint of a mapping, and counts the flow if anybody may come in.
    #[inline(always)]
    fn to(mapping: &mut Mapping, is_outside: bool) -> Self {
        if mapping.filtering == Filtering::EndpointIndependent {
            mapping.count_inbound();
        }
        Self {
            inside: mapping.inside,
            filtering: mapping.filtering,
            device: mapping.device,
            number: mapping.number,
            is_outside,
        }
    }
}

/// Returns whether the sender of a packet with the original tuple may come in by a mapping's filtering, and counts the flow
/// then.
///
/// From inside, one may that has a mapping itself.
#[cold]
fn lets_in(tables: &Tables, outside: &Endpoint, way: &Way, tuple: &Tuple, zone: Zone) -> bool {
    let may_come_in = if way.is_outside {
        let [low, high, _] = tuple.source_words();
        way.filtering == Filtering::AddressDependent
            && tables.conversations().has(way.number, [low, high])
    } else {
        tables.has_inside(&Inside {
            endpoint: Endpoint::source_of(tuple, zone),
            outside_address: outside.address_words(),
            outside_zone: zone.id_in(Direction::Reply),
        })
    };
    if may_come_in {
        tables.with_outside(outside, Mapping::count_inbound);
    }
    may_come_in
}

/// Gives a flow from inside to a mapping the source that it would have outside. A hook.
#[cold]
#[inline(never)]
fn hairpin<F: Family>(
    flow: UnsettledFlow<'_, F>,
    tuple: &Tuple,
    way: &Way,
    input: &Device,
) -> Verdict {
    let Some(source) = F::of_any(tuple.destination().address) else {
        return Verdict::Accept;
    };
    let wish = Wish {
        options: (&Options::NONE).into(),
        filtering: None,
        device: way.device,
    };
    let zone = flow.zone_of_both();
    match port_of(&flow, source, wish) {
        Port::Mapped(mapped) => {
            let peer = mapped.peer(&flow);
            // It does not leave by the mapping's device, which NAT would insist on.
            let range = mapped.range(&flow, source);
            let verdict = nat::translate_source(flow, source, range);
            if mapped.begins(verdict == Verdict::Accept, input.net(), peer, || {
                Some(Inside::of::<F>(tuple, zone, source))
            }) {
                counters::count(input.net(), mapped.counter());
                counters::count(input.net(), Counter::LookUps);
            }
            verdict
        }
        Port::Refused => {
            counters::count(input.net(), Counter::Refused);
            Verdict::Drop
        }
        Port::Unmapped => Verdict::Accept,
    }
}

/// Sets up the source NAT of a flow by its mapping. A hook.
#[inline(always)]
pub(super) fn leave<F: Family>(
    flow: UnsettledFlow<'_, F>,
    source: F::Address,
    mapped: Mapped,
    packet: &Packet<'_, F>,
    out: &Device,
) -> Verdict {
    let peer = mapped.peer(&flow);
    let range = mapped.range(&flow, source);
    let (verdict, is_first) = nat::masquerade_once(flow, source, range, out);
    let inside = || {
        let info = CtInfo::of_packet(packet);
        let conn = info.conn()?;
        let original = conn.tuple(Direction::Original);
        Some(Inside::of::<F>(&original, conn.zone_of_both(), source))
    };
    let begins = verdict == Verdict::Accept && is_first;
    if mapped.begins(begins, out.net(), peer, inside) {
        if mapped.is_kept() {
            counters::count_kept_at_once(out.net(), packet);
        } else {
            counters::count(out.net(), mapped.counter());
            counters::count(out.net(), Counter::LookUps);
        }
    }
    verdict
}

impl Mapped {
    /// Returns the address that answers a flow, if it may begin another one then.
    #[inline(always)]
    fn peer<F: Family>(&self, flow: &UnsettledFlow<'_, F>) -> Option<[u64; 2]> {
        let may_begin = self.given.filtering == Filtering::AddressDependent;
        may_begin.then(|| {
            let [low, high, _] = flow.tuple(Direction::Reply).source_words();
            [low, high]
        })
    }

    /// Returns whether the flow keeps its own port.
    #[inline(always)]
    fn is_kept(&self) -> bool {
        self.given.port == self.own
    }

    /// Returns the range that the flow's NAT chooses from: its port.
    #[inline(always)]
    fn range<F: Family>(&self, flow: &UnsettledFlow<'_, F>, source: F::Address) -> NatRange {
        let port = self.given.port;
        if !self.given.new {
            NatRange::of_endpoint(port)
        } else if self.is_kept() {
            NatRange::own(port)
        } else {
            NatRange::other(flow, source, port)
        }
    }

    /// Notes whether a flow begins, to the address `peer` if it is given. Returns the same.
    #[inline(always)]
    fn begins(
        &self,
        begins: bool,
        net: &Net,
        peer: Option<[u64; 2]>,
        inside: impl FnOnce() -> Option<Inside>,
    ) -> bool {
        if !begins || peer.is_some() {
            self.note(net, begins, peer, inside);
        }
        begins
    }

    /// Notes that a flow did not begin, or that it did, to the address `peer`.
    #[cold]
    #[inline(never)]
    fn note(
        &self,
        net: &Net,
        begins: bool,
        peer: Option<[u64; 2]>,
        inside: impl FnOnce() -> Option<Inside>,
    ) {
        let (Some(inside), Some(State { mappings, .. })) = (inside(), State::of(net)) else {
            return;
        };
        let outside = inside.outside(self.given.port);
        mappings.with(|tables| match peer {
            Some(peer) if begins => {
                tables
                    .conversations()
                    .begin(self.given.number, outside, peer);
            }
            _ => tables.give_up(&outside, &self.given, true),
        });
    }

    /// Returns the counter of a flow that has begun.
    fn counter(&self) -> Counter {
        if self.is_kept() {
            Counter::Kept
        } else {
            Counter::Moved
        }
    }
}

/// Removes the namespace's mappings that are over. Only one thread does that at a time.
pub(super) fn maintain(net: &Net, mappings: &Mappings, context: &mut ProcessContext) {
    mappings.maintain(now(), |mappings| {
        let note = |conn: &ConfirmedConn<'_>| {
            let wanted = conn.is_answered() || inbound_refreshes_mappings();
            if let Some((original, zone)) = conn.translated_destination().filter(|_| wanted) {
                let outside = Endpoint::destination_of(&original, zone, Direction::Original);
                mappings.with(|tables| {
                    tables.with_outside(&outside, |mapping| mapping.refresh(now()));
                });
            }
            false
        };
        conntrack::cleanup(net, note, context);
    });
}

/// Returns whether the outside port of the flow, if its reply tuple is `reply`, belongs to the mapping of another inside
/// endpoint. A hook.
pub(super) fn has_mapping_of_another<F: Family>(
    flow: &UnsettledFlow<'_, F>,
    reply: &Tuple,
) -> bool {
    let Some(State { mappings, .. }) =
        State::of(flow.net()).filter(|state| !state.mappings.is_off())
    else {
        return false;
    };
    let found = mappings.with(|tables| {
        let zone = flow.zone_of_both();
        let outside = Endpoint::destination_of(reply, zone, Direction::Reply);
        if !tables.may_have(outside.address_words()) {
            return None;
        }
        let own = Endpoint::source_of(&flow.tuple(Direction::Original), zone);
        tables.with_outside(&outside, |mapping| mapping.inside != own)
    });
    found.flatten().unwrap_or(false)
}
