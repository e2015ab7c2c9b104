// SPDX-License-Identifier: GPL-2.0
// error[E0308]: source NAT does not happen where packets come in.

use crate::{
    net::*,
    netfilter::{
        hook::*,
        trace,
        *, //
    },
};

struct Look;

impl HookHandler for Look {
    fn handle<F: Family>(_context: &HookContext<'_, F>) -> Verdict {
        Verdict::Accept
    }
}

static HOOKS: [Hook; 1] = [Hook::new::<Ipv4, Look, Inbound>(
    Point::PRE_ROUTING,
    Priority::<Outbound>::after_snat(),
    &trace::PACKET,
)];
