// SPDX-License-Identifier: GPL-2.0
// error[E0521]: a device does not outlive the hook.

use crate::{
    net::{
        device::Device,
        *, //
    },
    netfilter::{
        hook::*,
        *, //
    },
};

fn keep(_: Option<&'static Device>) {}

struct Keep;

impl HookHandler for Keep {
    fn handle<F: Family>(context: &HookContext<'_, F>) -> Verdict {
        keep(context.output());
        Verdict::Accept
    }
}
