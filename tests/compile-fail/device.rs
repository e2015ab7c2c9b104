// SPDX-License-Identifier: GPL-2.0
// error[E0521]: a device does not outlive the hook.

use crate::netfilter::{
    hook::*,
    net::Device,
    *, //
};

fn keep(_: Option<&'static Device>) {}

struct Keeps;

impl Handler for Keeps {
    fn handle<F: Family>(hooked: &Hooked<'_, F>) -> Verdict {
        keep(hooked.output());
        Verdict::Accept
    }
}
