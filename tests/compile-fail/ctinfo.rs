// SPDX-License-Identifier: GPL-2.0
// error[E0521]: a conntrack entry does not outlive the hook.

use crate::{
    net::*,
    netfilter::{
        conntrack::CtInfo,
        hook::*,
        *, //
    },
};

fn keep<F: Family>(_: CtInfo<'static, F>) {}

struct Keep;

impl HookHandler for Keep {
    fn handle<F: Family>(context: &HookContext<'_, F>) -> Verdict {
        keep(context.conntrack());
        Verdict::Accept
    }
}
