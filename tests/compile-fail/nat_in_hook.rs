// SPDX-License-Identifier: GPL-2.0
// error[E0308]: a hook cannot set up source NAT, not even for a flow that is not confirmed.

use crate::{
    net::*,
    netfilter::{
        hook::*,
        nat::{
            self,
            NatRange, //
        },
        tuple::Direction,
        *, //
    },
};

struct Translate;

impl HookHandler for Translate {
    fn handle<F: Family>(context: &HookContext<'_, F>) -> Verdict {
        if let (Some(flow), Some(out)) = (context.conntrack().new_flow(), context.output()) {
            let source = flow.source(Direction::Original);
            return nat::masquerade::<F>(flow, source, NatRange::new(None, false), out);
        }
        Verdict::Accept
    }
}
