// SPDX-License-Identifier: GPL-2.0
// error[E0382]: a flow's source NAT is not set up twice.

use crate::{
    net::*,
    netfilter::{
        nat::{
            self,
            NatRange, //
        },
        xtables::TargetContext,
        *, //
    },
};
use core::net::Ipv4Addr;

fn target(range: &NatRange, context: TargetContext<'_, Ipv4>) -> Verdict {
    let Some(flow) = context.flow else {
        return Verdict::Accept;
    };
    nat::masquerade(flow, Ipv4Addr::LOCALHOST, *range, context.out);
    nat::masquerade(flow, Ipv4Addr::LOCALHOST, *range, context.out)
}
