// SPDX-License-Identifier: GPL-2.0

//! The target RUSTMASQ, which gives a flow the source address of the device that it leaves by.

mod flush;
mod options;
mod source;

pub(crate) use flush::Flush;

use crate::{
    net::log,
    netfilter::{
        conntrack::{
            self,
            FlowState,
            UnsettledFlow, //
        },
        nat::{
            self,
            NatRange, //
        },
        xtables::{
            SourceNatTarget,
            TargetContext, //
        },
        Verdict, //
    },
    uapi, //
};
use core::marker::PhantomData;
use kernel::prelude::*;
use options::Options;
use source::SelectSource;

/// The first port that needs no privilege (`PROT_SOCK`).
const FIRST_UNPRIVILEGED_PORT: u16 = 1024;

/// The target for one family.
pub(crate) struct Masquerade<F>(PhantomData<F>);

impl<F: SelectSource> SourceNatTarget for Masquerade<F> {
    type Family = F;
    type Rule = uapi::xt_rustmasq_info;
    type Options = NatRange;

    const NAME: &'static CStr = c"RUSTMASQ";
    const REVISION: u8 = 0;
    const PRIVATE_OFFSET: usize = core::mem::offset_of!(uapi::xt_rustmasq_info, kernel_private);

    /// Parses a rule's options.
    ///
    /// Returns EINVAL, and logs the field, for a rule that the iptables extension would not send.
    fn check(rule: &uapi::xt_rustmasq_info) -> Result<NatRange> {
        let options = Options::parse(rule).map_err(|refusal| {
            if log::rule_rate_permits() {
                pr_warn!("rule refused: {refusal}\n");
            }
            EINVAL
        })?;
        Ok(options.nat_range())
    }

    /// Follows `nf_nat_masquerade_ipv4`, for both families.
    fn target(range: &NatRange, context: TargetContext<'_, F>) -> Verdict {
        let TargetContext {
            packet,
            flow,
            out,
            without_input,
        } = context;
        // A flow that was confirmed before there was a rule keeps its tuples, as in `nf_nat_setup_info`.
        let FlowState::Unsettled(flow) = flow else {
            return Verdict::Accept;
        };
        if F::is_exempt(&flow) {
            return Verdict::Accept;
        }
        let Some(source) = F::select_source(&packet, out) else {
            conntrack::count_drop(out.net());
            if log::packet_rate_permits() {
                let name = out.name();
                pr_warn!("no usable address for {name}: a new flow was dropped\n");
            }
            return Verdict::Drop;
        };
        let mut range = *range;
        if range.randomizes_all_ports() && without_input && keeps_port(&flow, source) {
            range = range.without_random();
        }
        nat::masquerade(flow, source, range, out)
    }
}

/// Returns whether a flow of this host keeps its port although others get a random one.
///
/// It does if it has the address `source` already and its port is below 1024. Nothing tells it apart but the
/// port then, which the other end may insist on: a DHCPv6 server answers to port 546.
fn keeps_port<F: SelectSource>(flow: &UnsettledFlow<'_, F>, source: F::Address) -> bool {
    flow.original_source() == source
        && flow
            .original_source_port()
            .is_some_and(|port| port < FIRST_UNPRIVILEGED_PORT)
}
