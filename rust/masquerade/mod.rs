// SPDX-License-Identifier: GPL-2.0

//! The target RUSTMASQ, which gives a flow the source address of the device that it leaves by.

mod claims;
mod cone;
mod conversations;
mod counters;
pub(crate) mod drop_in;
mod endpoint;
mod flush;
mod host_flows;
mod mapping;
mod mappings;
mod moved;
mod options;
mod outside;
mod per_net;
mod pool;
mod pools;
mod port_set;
mod port_states;
mod ports;
mod route_sources;
mod source;
mod table;
mod uplinks;
mod used_ports;

pub(crate) use flush::Flush;
pub(crate) use per_net::{
    register,
    Registrations, //
};

use crate::{
    net::{
        device::Device,
        log,
        namespace::Net,
        skb::Packet,
        Family,
        ProcessContext, //
    },
    netfilter::{
        conntrack::{
            self,
            UnsettledFlow, //
        },
        nat::{
            self,
            NatRange, //
        },
        reject,
        tuple::Direction,
        xtables::{
            MatchedProtocol,
            SourceNatTarget,
            TargetContext, //
        },
        Verdict, //
    }, //
};
use cone::{
    Port,
    Wish, //
};
use core::marker::PhantomData;
use counters::Counter;
use host_flows::Permit;
use kernel::prelude::*;
use mapping::Filtering;
use options::{
    CheckError,
    Form,
    MoreOptions,
    Options,
    RuleOptions, //
};
use per_net::State;
use source::SelectSource;

/// The target for one family, and one binary form of its rules.
pub(crate) struct Masquerade<F, R>(PhantomData<(F, R)>);

impl<F: SelectSource, R: Form + 'static> SourceNatTarget for Masquerade<F, R> {
    type Family = F;
    type Rule = R;
    type Options = R::Stored;

    const NAME: &'static CStr = c"RUSTMASQ";
    const REVISION: u8 = R::REVISION;
    const PRIVATE_OFFSET: usize = R::PRIVATE_OFFSET;

    /// Parses a rule's options.
    ///
    /// Returns EINVAL, and logs the field, for a rule that the iptables extension would not send. Other errors: ENOMEM.
    fn check(rule: &R, protocol: MatchedProtocol) -> Result<R::Stored> {
        rule.check(protocol).map_err(|error| match error {
            CheckError::Refused(refusal) => {
                if log::rule_rate_permits() {
                    pr_warn!("rule refused: {refusal}\n");
                }
                EINVAL
            }
            CheckError::Other(error) => error,
        })
    }

    fn prepare(options: &R::Stored, net: &Net, context: &mut ProcessContext) -> Result {
        let options = R::options(options);
        if options.mapping.is_some() {
            cone::enable(net, context)?;
        }
        let limit = options.more().and_then(|more| more.max_flows_per_host);
        if limit.is_some() {
            host_flows::enable(net)?;
        }
        Ok(())
    }

    fn added() {
        per_net::rule_added();
    }

    fn removed() {
        per_net::rule_removed();
    }

    fn target(options: &R::Stored, context: TargetContext<'_, F>) -> Verdict {
        masquerade_flow(R::options(options), context)
    }
}

/// Masquerades the flow of a packet as a rule's options say.
///
/// Follows `nf_nat_masquerade_ipv4`, for both families.
#[inline(always)]
fn masquerade_flow<F: SelectSource>(
    options: RuleOptions<'_>,
    context: TargetContext<'_, F>,
) -> Verdict {
    let TargetContext {
        packet,
        flow,
        input,
        out,
    } = context;
    // A flow that was confirmed before there was a rule keeps its tuples, as in `nf_nat_setup_info`.
    let Some(flow) = flow else {
        return Verdict::Accept;
    };
    if F::is_exempt(&flow) {
        return Verdict::Accept;
    }
    match options.more() {
        Some(more) => leave_with_more(more, options, flow, packet, input, out),
        None => leave(None, options.without_more(), flow, packet, input, out),
    }
}

/// Masquerades a flow by a rule that has options which few rules have, or drops its packet.
#[inline(never)]
fn leave_with_more<F: SelectSource>(
    more: &MoreOptions,
    options: RuleOptions<'_>,
    flow: UnsettledFlow<'_, F>,
    packet: Packet<'_, F>,
    input: Option<&Device>,
    out: &Device,
) -> Verdict {
    if more.keep_own && has_own_address(&flow, out) {
        return keep_address(options, flow, packet, input, out);
    }
    let named = if more.route_source {
        route_source(&packet, input, out)
    } else {
        None
    };
    // Flows of this host are not an inside address's.
    let Some(limit) = more.max_flows_per_host.filter(|_| input.is_some()) else {
        return leave(named, options, flow, packet, input, out);
    };
    let Some(permit) = Permit::new(&flow, limit) else {
        counters::count(out.net(), Counter::OverLimit);
        return refuse(OVER_LIMIT, options, flow, packet, input, out);
    };
    let verdict = leave(named, options, flow, packet, input, out);
    if verdict != Verdict::Accept {
        permit.give_up(out.net());
    }
    verdict
}

/// Returns whether a flow's source is an address of the device that it leaves by.
fn has_own_address<F: Family>(flow: &UnsettledFlow<'_, F>, out: &Device) -> bool {
    out.has_address(F::any(flow.source(Direction::Original)))
}

/// Lets a flow keep its source address, and its port where that is one of the rule's and free, or drops its packet.
#[inline(never)]
fn keep_address<F: SelectSource>(
    options: RuleOptions<'_>,
    flow: UnsettledFlow<'_, F>,
    packet: Packet<'_, F>,
    input: Option<&Device>,
    out: &Device,
) -> Verdict {
    let source = flow.source(Direction::Original);
    let not_random = Options {
        random: false,
        ..*options
    };
    leave_by_port(source, options.with(&not_random), flow, packet, input, out)
}

/// Returns the source address that a packet's route names, if it names one that the machine has, and notes it.
#[inline(always)]
fn route_source<F: SelectSource>(
    packet: &Packet<'_, F>,
    input: Option<&Device>,
    out: &Device,
) -> Option<F::Address> {
    let source = F::route_source(packet, input, out)?;
    if let Some(state) = State::of(out.net()) {
        state.route_sources.add(F::to_raw(source).words());
    }
    Some(source)
}

/// Masquerades a flow, to the address that is named, or else to one of the outgoing device, or drops its packet.
#[inline(always)]
fn leave<F: SelectSource>(
    named: Option<F::Address>,
    options: RuleOptions<'_>,
    flow: UnsettledFlow<'_, F>,
    packet: Packet<'_, F>,
    input: Option<&Device>,
    out: &Device,
) -> Verdict {
    let Some(source) = named.or_else(|| F::select_source(&packet, out)) else {
        conntrack::count_drop(out.net());
        counters::count(out.net(), Counter::NoAddress);
        if log::packet_rate_permits() {
            let name = out.name();
            pr_warn!("no usable address for {name}: a new flow was dropped\n");
        }
        return Verdict::Drop;
    };
    match (options.mapping, input) {
        (Some(filtering), Some(_)) => {
            leave_by_mapping(filtering, source, options, flow, packet, input, out)
        }
        // Flows of this host need no mapping: their sockets hear who sends to their ports.
        _ => leave_by_port(source, options, flow, packet, input, out),
    }
}

/// Masquerades a flow with a port that is free towards its destination, or drops its packet.
#[inline(always)]
fn leave_by_port<F: SelectSource>(
    source: F::Address,
    options: RuleOptions<'_>,
    flow: UnsettledFlow<'_, F>,
    packet: Packet<'_, F>,
    input: Option<&Device>,
    out: &Device,
) -> Verdict {
    match ports::keep_own(&flow, &flow.reply_to(source), options) {
        Some(port) => {
            counters::count_kept_at_once(out.net(), &packet);
            nat::masquerade(flow, source, NatRange::own(port), out)
        }
        None => choose_port(source, options, flow, packet, input, out),
    }
}

/// Masquerades a flow by the mapping of its inside endpoint, or drops its packet.
#[inline(never)]
fn leave_by_mapping<F: SelectSource>(
    filtering: Filtering,
    source: F::Address,
    options: RuleOptions<'_>,
    flow: UnsettledFlow<'_, F>,
    packet: Packet<'_, F>,
    input: Option<&Device>,
    out: &Device,
) -> Verdict {
    let wish = Wish {
        options,
        filtering: Some(filtering),
        device: out.index(),
    };
    match cone::port_of(&flow, source, wish) {
        Port::Mapped(mapped) => cone::leave(flow, source, mapped, &packet, out),
        Port::Refused => {
            counters::count(out.net(), Counter::Refused);
            refuse(ALL_TAKEN, options, flow, packet, input, out)
        }
        Port::Unmapped => leave_by_port(source, options, flow, packet, input, out),
    }
}

/// Masquerades a flow that does not simply keep its own port, or drops its packet.
#[inline(never)]
fn choose_port<F: SelectSource>(
    source: F::Address,
    options: RuleOptions<'_>,
    flow: UnsettledFlow<'_, F>,
    packet: Packet<'_, F>,
    input: Option<&Device>,
    out: &Device,
) -> Verdict {
    let choice = ports::choose(&flow, source, options, input.is_none());
    match choice.range {
        Some(range) => {
            let verdict = nat::masquerade(flow, source, range, out);
            counters::count_choice(out.net(), &choice, &packet);
            verdict
        }
        None => {
            counters::count_choice(out.net(), &choice, &packet);
            refuse(ALL_TAKEN, options, flow, packet, input, out)
        }
    }
}

/// The reasons why a flow is refused.
const ALL_TAKEN: &str = "all ports are taken towards a destination";
const OVER_LIMIT: &str = "a host has as many flows as its rule allows";

/// Drops the packet of a flow for a reason, and answers it if the rule says so.
#[cold]
fn refuse<F: SelectSource>(
    reason: &str,
    options: RuleOptions<'_>,
    flow: UnsettledFlow<'_, F>,
    packet: Packet<'_, F>,
    input: Option<&Device>,
    out: &Device,
) -> Verdict {
    conntrack::count_drop(out.net());
    if log::packet_rate_permits() {
        let name = out.name();
        pr_warn!("{name}: {reason}: a new flow was dropped\n");
    }
    if options.reject_when_full {
        return reject::prohibit(flow, packet, input);
    }
    Verdict::Drop
}
