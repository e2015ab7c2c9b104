// SPDX-License-Identifier: GPL-2.0
// error[E0521]: a borrowed namespace does not outlive the hook.

use crate::{
    net::{
        namespace::Net,
        *, //
    },
    netfilter::{
        hook::*,
        *, //
    },
};

fn keep(_: &'static Net) {}

struct Keep;

impl HookHandler for Keep {
    fn handle<F: Family>(context: &HookContext<'_, F>) -> Verdict {
        keep(context.net());
        Verdict::Accept
    }
}
