// SPDX-License-Identifier: GPL-2.0

//! The target RUSTMASQ, which gives a flow the source address of the device that it leaves by.

mod claims;
mod cone;
mod conversations;
mod counters;
pub(crate) mod drop_in;
mod endpoint;
mod flush;
mod mapping;
mod mappings;
mod moved;
mod options;
mod outside;
mod per_net;
mod pool;
mod pools;
mod port_states;
mod ports;
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
        xtables::{
            SourceNatTarget,
            TargetContext, //
        },
        Verdict, //
    },
    uapi, //
};
use cone::{
    Port,
    Wish, //
};
use core::marker::PhantomData;
use counters::Counter;
use kernel::prelude::*;
use mapping::Filtering;
use options::Options;
use source::SelectSource;

/// The target for one family.
pub(crate) struct Masquerade<F>(PhantomData<F>);

impl<F: SelectSource> SourceNatTarget for Masquerade<F> {
    type Family = F;
    type Rule = uapi::xt_rustmasq_info;
    type Options = Options;

    const NAME: &'static CStr = c"RUSTMASQ";
    const REVISION: u8 = 0;
    const PRIVATE_OFFSET: usize = core::mem::offset_of!(uapi::xt_rustmasq_info, kernel_private);

    /// Parses a rule's options.
    ///
    /// Returns EINVAL, and logs the field, for a rule that the iptables extension would not send.
    fn check(rule: &uapi::xt_rustmasq_info) -> Result<Options> {
        Options::parse(rule).map_err(|refusal| {
            if log::rule_rate_permits() {
                pr_warn!("rule refused: {refusal}\n");
            }
            EINVAL
        })
    }

    fn prepare(options: &Options, net: &Net, context: &mut ProcessContext) -> Result {
        if options.mapping.is_some() {
            cone::enable(net, context)?;
        }
        Ok(())
    }

    fn added() {
        per_net::rule_added();
    }

    fn removed() {
        per_net::rule_removed();
    }

    fn target(options: &Options, context: TargetContext<'_, F>) -> Verdict {
        masquerade_flow(options, context)
    }
}

/// Masquerades the flow of a packet as a rule's options say.
///
/// Follows `nf_nat_masquerade_ipv4`, for both families.
#[inline(always)]
fn masquerade_flow<F: SelectSource>(options: &Options, context: TargetContext<'_, F>) -> Verdict {
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
    let Some(source) = F::select_source(&packet, out) else {
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
            leave_by_mapping(options, filtering, source, flow, packet, input, out)
        }
        // Flows of this host need no mapping: their sockets hear who sends to their ports.
        _ => leave_by_port(options, source, flow, packet, input, out),
    }
}

/// Masquerades a flow with a port that is free towards its destination, or drops its packet.
#[inline(always)]
fn leave_by_port<F: SelectSource>(
    options: &Options,
    source: F::Address,
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
        None => choose_port(options, source, flow, packet, input, out),
    }
}

/// Masquerades a flow by the mapping of its inside endpoint, or drops its packet.
#[inline(never)]
fn leave_by_mapping<F: SelectSource>(
    options: &Options,
    filtering: Filtering,
    source: F::Address,
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
            refuse(options, flow, packet, input, out)
        }
        Port::Unmapped => leave_by_port(options, source, flow, packet, input, out),
    }
}

/// Masquerades a flow that does not simply keep its own port, or drops its packet.
#[inline(never)]
fn choose_port<F: SelectSource>(
    options: &Options,
    source: F::Address,
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
            refuse(options, flow, packet, input, out)
        }
    }
}

/// Drops the packet of a flow for which no port is free, and answers it if the rule says so.
#[cold]
fn refuse<F: SelectSource>(
    options: &Options,
    flow: UnsettledFlow<'_, F>,
    packet: Packet<'_, F>,
    input: Option<&Device>,
    out: &Device,
) -> Verdict {
    conntrack::count_drop(out.net());
    if log::packet_rate_permits() {
        let name = out.name();
        pr_warn!("{name}: all ports are taken towards a destination: a new flow was dropped\n");
    }
    if options.reject_when_full {
        return reject::prohibit(flow, packet, input);
    }
    Verdict::Drop
}
