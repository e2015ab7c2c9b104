// SPDX-License-Identifier: GPL-2.0

//! The target RUSTMASQ: a flow's source address becomes the one of the device it leaves by.

mod flush;
mod options;
mod ports;
mod source;

use crate::{
    netfilter::{
        conntrack::{
            self,
            Flow, //
        },
        log,
        nat::{
            self,
            PortChoice, //
        },
        xtables::{
            Leaving,
            SourceNatTarget, //
        },
        Verdict, //
    },
    uapi, //
};
use core::marker::PhantomData;
pub(crate) use flush::Flush;
use kernel::prelude::*;
use options::Options;
use source::SourceAddress;

/// The target, for one family.
pub(crate) struct Masquerade<F>(PhantomData<F>);

impl<F: SourceAddress> SourceNatTarget for Masquerade<F> {
    type Family = F;
    type Rule = uapi::xt_rustmasq_info;
    type Options = PortChoice;

    const NAME: &'static CStr = c"RUSTMASQ";
    const REVISION: u8 = 0;
    const PRIVATE_OFFSET: usize = core::mem::offset_of!(uapi::xt_rustmasq_info, kernel_private);

    /// EINVAL: the rule is none that our userspace extension sends; the log names the field.
    fn check(rule: &uapi::xt_rustmasq_info) -> Result<PortChoice> {
        let options = Options::parse(rule).map_err(|refusal| {
            if log::rule_rate_permits() {
                pr_warn!("rule refused: {refusal}\n");
            }
            EINVAL
        })?;
        Ok(ports::choose(&options))
    }

    /// Follows `nf_nat_masquerade_ipv4`, for both families.
    fn target(ports: &PortChoice, leaving: &Leaving<'_, F>) -> Verdict {
        // What was confirmed before there was a rule goes on as it was, as in `nf_nat_setup_info`.
        let Flow::New(flow) = &leaving.flow else {
            return Verdict::Accept;
        };
        if F::is_left_alone(flow.original_source()) {
            return Verdict::Accept;
        }
        let Some(source) = F::source(&leaving.packet, leaving.out) else {
            conntrack::count_drop(leaving.out.net());
            if log::packet_rate_permits() {
                let name = leaving.out.name();
                pr_warn!("no usable address for {name}: a new flow was dropped\n");
            }
            return Verdict::Drop;
        };
        nat::masquerade(flow, source, *ports, leaving.out)
    }
}
