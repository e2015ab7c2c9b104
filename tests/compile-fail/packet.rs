// SPDX-License-Identifier: GPL-2.0
// error[E0521]: a packet does not outlive the hook.

use crate::{
    net::{
        skb::Packet,
        *, //
    },
    netfilter::{
        hook::*,
        *, //
    },
};

fn keep<F: Family>(_: &Packet<'static, F>) {}

struct Keep;

impl HookHandler for Keep {
    fn handle<F: Family>(context: &HookContext<'_, F>) -> Verdict {
        keep(context.packet());
        Verdict::Accept
    }
}
