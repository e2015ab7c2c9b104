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
    mappings::{
        Denied,
        Filtering,
        Given,
        Inside,
        Mapping,
        Mappings,
        Outside,
        Tables, //
    },
    options::Options,
    per_net::{
        look_after_mappings,
        State, //
    },
    ports,
    used_ports::Search, //
};
use crate::{
    net::{
        clock,
        device::Device,
        namespace::Net,
        parameters::inbound_refreshes_mappings,
        Family,
        ProcessContext, //
    },
    netfilter::{
        conntrack::{
            self,
            ConfirmedConn,
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
            End,
            Tuple, //
        },
        xtables::TargetContext,
        Verdict, //
    },
};
use kernel::{
    prelude::*,
    sync::Arc, //
};

static FUNCTIONS: Functions<Cone> = Functions::new();

/// Prepares a namespace for mappings, unless that was done before.
///
/// Errors: ENOMEM. Process context.
pub(super) fn enable(net: &Net, context: &mut ProcessContext) -> Result {
    let state = State::of(net).ok_or(ENOENT)?;
    if state.mappings.enable()? {
        FUNCTIONS
            .add_to(net, context)
            .inspect_err(|_| state.mappings.free(context))?;
    }
    Ok(())
}

/// Ends what [`enable`] began, if it did.
pub(super) fn disable(net: &Net, context: &mut ProcessContext) {
    if let Some(State { mappings, .. }) = State::of(net) {
        if !mappings.is_off() {
            FUNCTIONS.remove_from(net, context);
            mappings.free(context);
        }
    }
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
pub(super) struct Mapped {
    mapping: Arc<Mapping>,
    range: NatRange,
    /// The counter of the flow.
    counter: Counter,
}

/// Returns the port that a flow from inside leaves by, with the source address `source` and by the device with the index
/// `out`. A hook.
pub(super) fn port_of<F: Family>(
    flow: &UnsettledFlow<'_, F>,
    source: F::Address,
    options: &Options,
    filtering: Filtering,
    out: c_int,
) -> Port {
    let reply = flow.reply_to(source);
    let (Some(own), Some(State { mappings, .. })) = (reply.nat_port(), State::of(flow.net()))
    else {
        return Port::Unmapped;
    };
    let inside = Inside {
        end: flow.tuple(Direction::Original).ends().source,
        outside_address: F::any(source),
        zone: flow.zone_of_both(),
        protocol: reply.protocol(),
    };
    let given = mappings.with(|tables| {
        let request = Request {
            flow,
            tables,
            inside,
            filtering,
            device: out,
            options,
            own,
        };
        request.give(reply)
    });
    match given {
        None => Port::Unmapped,
        Some(Err(Denied::Full)) => Port::Refused,
        Some(Err(Denied::TooMany)) => {
            counters::count(flow.net(), Counter::MappingsDenied);
            Port::Unmapped
        }
        Some(Ok(mapping)) => {
            let port = mapping.port();
            let (range, counter) = if port == own {
                (NatRange::own(port), Counter::Kept)
            } else {
                (NatRange::other(flow, source, port), Counter::Moved)
            };
            Port::Mapped(Mapped {
                mapping,
                range,
                counter,
            })
        }
    }
}

/// A flow that asks for the port of its endpoint's mapping.
struct Request<'a, 'hook, F: Family> {
    flow: &'a UnsettledFlow<'hook, F>,
    tables: &'a Tables,
    inside: Inside,
    filtering: Filtering,
    device: c_int,
    options: &'a Options,
    own: u16,
}

impl<F: Family> Request<'_, '_, F> {
    /// Returns the endpoint's mapping, or makes one.
    fn give(&self, mut reply: Tuple) -> Result<Arc<Mapping>, Denied> {
        let own = self.options.allow(self.own).then_some(self.own);
        let ranges = match &self.options.to_ports {
            Some(range) => core::slice::from_ref(range),
            None => ports::class(&reply),
        };
        let mut search = Search::new(own, ranges);
        loop {
            let Given { mapping, new } = self.tables.find_or_make(
                self.inside,
                self.filtering,
                self.device,
                now(),
                &mut search,
            )?;
            if new {
                ports::set_held(true);
                look_after_mappings();
            }
            reply.set_nat_port(mapping.port());
            // A mapping that is older than a socket stays: who answers has been spoken to.
            let taken = self.flow.is_taken(&reply) || new && self.flow.shadows_socket(&reply);
            if !taken {
                return Ok(mapping);
            }
            if !new {
                // A flow to this destination has the port that is none of the mapping's.
                return Err(Denied::Full);
            }
            self.tables.remove_unless(&mapping, Mapping::has_flow);
        }
    }
}

/// Counts the end of a flow. Softirq or process context.
pub(super) fn flow_ended(flow: &EndedFlow<'_>, reply: &Tuple) {
    let Some(state) = State::of(flow.net()).filter(|state| !state.mappings.is_off()) else {
        return;
    };
    let (original, zone) = (flow.original(), flow.zone());
    let outside = |end| Outside {
        end,
        zone,
        protocol: reply.protocol(),
    };
    let (sent, answered) = (original.ends(), reply.ends());
    state.mappings.with(|tables| {
        if let Some(mapping) = tables.of_outside(&outside(destination_of(&original))) {
            if mapping.inside().end.address == answered.source.address {
                mapping.end_flow_from_outside();
                if inbound_refreshes_mappings() {
                    mapping.refresh(now());
                }
            }
        }
        if let Some(mapping) = tables.of_outside(&outside(answered.destination)) {
            if mapping.inside().end == sent.source {
                mapping.end_flow(now());
                tables.end_conversation(&mapping, sent.destination.address);
            }
        }
    });
}

/// What NAT calls.
struct Cone;

impl NatFunctions for Cone {
    fn incoming<F: Family>(context: IncomingContext<'_, F>) -> Verdict {
        let Some(flow) = context.flow else {
            return Verdict::Accept;
        };
        let tuple = flow.tuple(Direction::Original);
        let Some(mapping) = mapping_of(flow.net(), &tuple, flow.zone_of_both()) else {
            return Verdict::Accept;
        };
        if !may_come_in(flow.net(), &mapping, &tuple, context.input)
            || flow.has_receiver(&tuple, context.input.index())
        {
            return Verdict::Accept;
        }
        let end = mapping.inside().end;
        let port = (!tuple.is_icmp()).then_some(end.port);
        match F::of_any(end.address) {
            Some(address) => {
                let verdict = nat::translate_destination(flow, address, port);
                if verdict == Verdict::Accept {
                    mapping.begin_flow_from_outside();
                }
                verdict
            }
            None => Verdict::Accept,
        }
    }

    fn leaving<F: Family>(context: TargetContext<'_, F>) -> Verdict {
        let TargetContext {
            flow, input, out, ..
        } = context;
        let (Some(flow), Some(input)) = (flow, input) else {
            return Verdict::Accept;
        };
        let tuple = flow.tuple(Direction::Original);
        let Some(mapping) = mapping_of(flow.net(), &tuple, flow.zone_of_both()) else {
            return Verdict::Accept;
        };
        // A flow from outside keeps its source.
        if input.index() == mapping.device() {
            return Verdict::Accept;
        }
        let Some(source) = F::of_any(mapping.inside().outside_address) else {
            return Verdict::Accept;
        };
        let port = port_of(
            &flow,
            source,
            &Options::default(),
            mapping.filtering(),
            mapping.device(),
        );
        match port {
            Port::Mapped(mapped) => leave(flow, source, mapped, out),
            Port::Refused => {
                counters::count(out.net(), Counter::Refused);
                Verdict::Drop
            }
            Port::Unmapped => Verdict::Accept,
        }
    }
}

/// Returns the end that an original tuple goes to; its port is a query's identifier, as that is the mapping's.
fn destination_of(original: &Tuple) -> End {
    let ends = original.ends();
    if original.is_icmp() {
        End {
            address: ends.destination.address,
            port: ends.source.port,
        }
    } else {
        ends.destination
    }
}

/// Removes the namespace's mappings that are over. Only one thread does that at a time.
pub(super) fn maintain(net: &Net, mappings: &Mappings, context: &mut ProcessContext) {
    mappings.maintain(now(), |mappings| {
        let note = |conn: &ConfirmedConn<'_>| {
            let wanted = conn.is_answered() || inbound_refreshes_mappings();
            if let Some((original, zone)) = conn.translated_destination().filter(|_| wanted) {
                let outside = Outside {
                    end: destination_of(&original),
                    zone,
                    protocol: original.protocol(),
                };
                mappings.with(|tables| {
                    if let Some(mapping) = tables.of_outside(&outside) {
                        mapping.refresh(now());
                    }
                });
            }
            false
        };
        conntrack::cleanup(net, note, context);
    });
}

/// Returns whether a flow with this original tuple may be led to the inside endpoint of a mapping.
///
/// With a filtering, one that comes by another device than the mapping's may, if its source has a mapping itself: it is an
/// inside endpoint then, and no stranger that comes by another uplink.
fn may_come_in(net: &Net, mapping: &Mapping, tuple: &Tuple, input: &Device) -> bool {
    let filtering = mapping.filtering();
    if filtering == Filtering::EndpointIndependent {
        return true;
    }
    let Some(state) = State::of(net) else {
        return false;
    };
    let source = tuple.ends().source;
    let may = state.mappings.with(|tables| {
        if input.index() != mapping.device() {
            tables.has_inside(&Inside {
                end: source,
                ..*mapping.inside()
            })
        } else {
            filtering == Filtering::AddressDependent && tables.speaks_to(mapping, source.address)
        }
    });
    may.unwrap_or(false)
}

/// Returns the mapping that a packet with this original tuple goes to, if there is one. A hook.
fn mapping_of(net: &Net, tuple: &Tuple, zone: Zone) -> Option<Arc<Mapping>> {
    let state = State::of(net)?;
    let outside = Outside {
        end: destination_of(tuple),
        zone,
        protocol: tuple.protocol(),
    };
    state.mappings.with(|tables| tables.of_outside(&outside))?
}

/// Returns whether the outside port of the flow, if its reply tuple is `reply`, belongs to the mapping of another inside
/// endpoint. A hook.
pub(super) fn has_mapping_of_another<F: Family>(
    flow: &UnsettledFlow<'_, F>,
    reply: &Tuple,
) -> bool {
    let (Some(port), Some(State { mappings, .. })) = (reply.nat_port(), State::of(flow.net()))
    else {
        return false;
    };
    let outside = Outside {
        end: End {
            address: reply.ends().destination.address,
            port,
        },
        zone: flow.zone_of_both(),
        protocol: reply.protocol(),
    };
    let own = flow.tuple(Direction::Original).ends().source;
    let is_another = |mapping: Arc<Mapping>| mapping.inside().end != own;
    let found = mappings.with(|tables| tables.of_outside(&outside).is_some_and(is_another));
    found.unwrap_or(false)
}

/// Sets up the source NAT of a flow by its mapping. A hook.
pub(super) fn leave<F: Family>(
    flow: UnsettledFlow<'_, F>,
    source: F::Address,
    mapped: Mapped,
    out: &Device,
) -> Verdict {
    let peer = flow.tuple(Direction::Original).ends().destination.address;
    let verdict = nat::masquerade(flow, source, mapped.range, out);
    if verdict == Verdict::Accept {
        mapped.mapping.begin_flow();
        if mapped.mapping.filtering() == Filtering::AddressDependent {
            if let Some(state) = State::of(out.net()) {
                let begin = |tables: &Tables| tables.begin_conversation(&mapped.mapping, peer);
                state.mappings.with(begin);
            }
        }
        counters::count(out.net(), Counter::LookUps);
        counters::count(out.net(), mapped.counter);
    }
    verdict
}
