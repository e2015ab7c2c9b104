// SPDX-License-Identifier: GPL-2.0
// error[E0521]: a packet does not outlive the hook.

use crate::netfilter::{
    hook::*,
    skb::Packet,
    *, //
};

fn keep<F: Family>(_: &Packet<'static, F>) {}

struct Keeps;

impl Handler for Keeps {
    fn handle<F: Family>(hooked: &Hooked<'_, F>) -> Verdict {
        keep(hooked.packet());
        Verdict::Accept
    }
}
