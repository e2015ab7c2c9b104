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
use host_flows::{
    Limit,
    Permit, //
};
use kernel::prelude::*;
use mapping::Filtering;
use options::{
    CheckError,
    Form,
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
        masquerade_flow(&R::options(options), context)
    }
}

/// Masquerades the flow of a packet as a rule's options say.
///
/// Follows `nf_nat_masquerade_ipv4`, for both families.
#[inline(always)]
fn masquerade_flow<F: SelectSource>(
    options: &RuleOptions<'_>,
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
    let leaving = Leaving {
        options,
        flow,
        packet,
        input,
        out,
    };
    let Some(more) = options.more() else {
        return leaving.leave_with(None);
    };
    if more.keep_own && leaving.has_own_address() {
        return leaving.keep_address();
    }
    let named = if more.route_source {
        leaving.route_source()
    } else {
        None
    };
    match more.max_flows_per_host {
        // Flows of this host are not an inside address's.
        Some(limit) if input.is_some() => leaving.leave_within(limit, named),
        _ => leaving.leave_with(named),
    }
}

/// A flow that leaves by a rule.
struct Leaving<'a, 'hook, F: Family> {
    options: &'a RuleOptions<'a>,
    flow: UnsettledFlow<'hook, F>,
    packet: Packet<'hook, F>,
    input: Option<&'hook Device>,
    out: &'hook Device,
}

impl<F: SelectSource> Leaving<'_, '_, F> {
    /// Returns whether the flow's source is an address of the device that it leaves by.
    fn has_own_address(&self) -> bool {
        let source = self.flow.source(Direction::Original);
        self.out.has_address(F::any(source))
    }

    /// Lets the flow keep its source address, and its port where that is one of the rule's and free, or drops its packet.
    #[inline(never)]
    fn keep_address(self) -> Verdict {
        let source = self.flow.source(Direction::Original);
        let options = &self.options.without_random();
        Leaving { options, ..self }.leave_by_port(source)
    }

    /// Returns the source address that the packet's route names, if it names one that the machine has, and notes it.
    #[inline(never)]
    fn route_source(&self) -> Option<F::Address> {
        let source = F::route_source(&self.packet, self.input, self.out)?;
        if let Some(state) = State::of(self.out.net()) {
            state.route_sources.add(F::to_raw(source).words());
        }
        Some(source)
    }

    /// Masquerades the flow if its host has less flows than the limit says, or drops its packet.
    #[inline(never)]
    fn leave_within(self, limit: Limit, named: Option<F::Address>) -> Verdict {
        let net = self.out.net();
        let Some(permit) = Permit::new(&self.flow, limit) else {
            counters::count(net, Counter::OverLimit);
            return self.refuse("a host has as many flows as its rule allows");
        };
        let verdict = self.leave_with(named);
        if verdict != Verdict::Accept {
            permit.give_up(net);
        }
        verdict
    }

    /// Masquerades the flow, to the address that is named, or else to one of the outgoing device, or drops its packet.
    #[inline(always)]
    fn leave_with(self, named: Option<F::Address>) -> Verdict {
        let Some(source) = named.or_else(|| F::select_source(&self.packet, self.out)) else {
            let net = self.out.net();
            conntrack::count_drop(net);
            counters::count(net, Counter::NoAddress);
            if log::packet_rate_permits() {
                let name = self.out.name();
                pr_warn!("no usable address for {name}: a new flow was dropped\n");
            }
            return Verdict::Drop;
        };
        match (self.options.mapping, self.input) {
            (Some(filtering), Some(_)) => self.leave_by_mapping(filtering, source),
            // Flows of this host need no mapping: their sockets hear who sends to their ports.
            _ => self.leave_by_port(source),
        }
    }

    /// Masquerades the flow with a port that is free towards its destination, or drops its packet.
    #[inline(always)]
    fn leave_by_port(self, source: F::Address) -> Verdict {
        match ports::keep_own(&self.flow, &self.flow.reply_to(source), self.options) {
            Some(port) => {
                counters::count_kept_at_once(self.out.net(), &self.packet);
                nat::masquerade(self.flow, source, NatRange::own(port), self.out)
            }
            None => self.choose_port(source),
        }
    }

    /// Masquerades the flow by the mapping of its inside endpoint, or drops its packet.
    #[inline(never)]
    fn leave_by_mapping(self, filtering: Filtering, source: F::Address) -> Verdict {
        let wish = Wish {
            options: self.options,
            filtering: Some(filtering),
            device: self.out.index(),
        };
        match cone::port_of(&self.flow, source, wish) {
            Port::Mapped(mapped) => cone::leave(self.flow, source, mapped, &self.packet, self.out),
            Port::Refused => {
                counters::count(self.out.net(), Counter::Refused);
                self.refuse(ALL_TAKEN)
            }
            Port::Unmapped => self.leave_by_port(source),
        }
    }

    /// Masquerades the flow that does not simply keep its own port, or drops its packet.
    #[inline(never)]
    fn choose_port(self, source: F::Address) -> Verdict {
        let choice = ports::choose(&self.flow, source, self.options, self.input.is_none());
        match choice.range {
            Some(range) => {
                let verdict = nat::masquerade(self.flow, source, range, self.out);
                counters::count_choice(self.out.net(), &choice, &self.packet);
                verdict
            }
            None => {
                counters::count_choice(self.out.net(), &choice, &self.packet);
                self.refuse(ALL_TAKEN)
            }
        }
    }

    /// Drops the flow's packet for a reason, and answers it if the rule says so.
    #[cold]
    fn refuse(self, reason: &str) -> Verdict {
        conntrack::count_drop(self.out.net());
        if log::packet_rate_permits() {
            let name = self.out.name();
            pr_warn!("{name}: {reason}: a new flow was dropped\n");
        }
        if self.options.reject_when_full {
            return reject::prohibit(self.flow, self.packet, self.input);
        }
        Verdict::Drop
    }
}

/// The reason why a flow is refused if no port is left for it.
const ALL_TAKEN: &str = "all ports are taken towards a destination";
