// SPDX-License-Identifier: GPL-2.0
// error[E0308]: source NAT does not happen where packets come in.

use crate::netfilter::{
    hook::*,
    trace,
    *, //
};

struct Looks;

impl Handler for Looks {
    fn handle<F: Family>(_hooked: &Hooked<'_, F>) -> Verdict {
        Verdict::Accept
    }
}

static HOOKS: [Hook; 1] = [Hook::new::<Ipv4, Looks, Inbound>(
    Point::PRE_ROUTING,
    Priority::<Outbound>::after_snat(),
    &trace::PACKET,
)];
