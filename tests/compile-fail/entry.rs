// SPDX-License-Identifier: GPL-2.0
// error[E0521]: a conntrack entry does not outlive the hook.

use crate::netfilter::{
    conntrack::Sight,
    hook::*,
    *, //
};

fn keep<F: Family>(_: Sight<'static, F>) {}

struct Keeps;

impl Handler for Keeps {
    fn handle<F: Family>(hooked: &Hooked<'_, F>) -> Verdict {
        keep(hooked.conntrack());
        Verdict::Accept
    }
}
