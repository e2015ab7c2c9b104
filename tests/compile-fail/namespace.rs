// SPDX-License-Identifier: GPL-2.0
// error[E0521]: a borrowed namespace does not outlive the hook.

use crate::netfilter::{
    hook::*,
    net::Net,
    *, //
};

fn keep(_: &'static Net) {}

struct Keeps;

impl Handler for Keeps {
    fn handle<F: Family>(hooked: &Hooked<'_, F>) -> Verdict {
        keep(hooked.net());
        Verdict::Accept
    }
}
