// SPDX-License-Identifier: GPL-2.0
// error[E0423]: a hook does not call what sleeps.

use crate::netfilter::{
    conntrack,
    hook::*,
    *, //
};

struct Sleeps;

impl Handler for Sleeps {
    fn handle<F: Family>(hooked: &Hooked<'_, F>) -> Verdict {
        let mut context = ProcessContext(core::marker::PhantomData);
        conntrack::forget(hooked.net(), |_| true, &mut context);
        Verdict::Accept
    }
}
