// SPDX-License-Identifier: GPL-2.0
// error[E0133]: a hook has no evidence of process context, so it cannot call a function that sleeps.

use crate::{
    net::*,
    netfilter::{
        conntrack,
        hook::*,
        *, //
    },
};

struct Sleep;

impl HookHandler for Sleep {
    fn handle<F: Family>(context: &HookContext<'_, F>) -> Verdict {
        let mut process = ProcessContext::new();
        conntrack::cleanup(context.net(), |_| true, &mut process);
        Verdict::Accept
    }
}
