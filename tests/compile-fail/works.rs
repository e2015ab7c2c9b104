// SPDX-License-Identifier: GPL-2.0
// Compiles: what a hook may do with what it is lent.

use crate::netfilter::{
    conntrack::Entry,
    hook::*,
    net::Device,
    trace,
    tuple::Direction,
    *, //
};

struct Looks;

impl Handler for Looks {
    fn handle<F: Family>(hooked: &Hooked<'_, F>) -> Verdict {
        let sight = hooked.conntrack();
        let device = hooked.input().map(Device::index);
        let id = sight.entry().map(Entry::id);
        let ends = sight.entry().map(|entry| entry.tuple(Direction::Reply).ends());
        if device.is_some() && id.is_some() && ends.is_some() && hooked.packet().len() > 0 {
            return Verdict::Drop;
        }
        Verdict::Accept
    }
}

static HOOKS: [Hook; 2] = [
    Hook::new::<Ipv4, Looks, _>(Point::PRE_ROUTING, Priority::after_conntrack(), &trace::PACKET),
    Hook::new::<Ipv6, Looks, _>(Point::LOCAL_IN, Priority::before_confirm(), &trace::PACKET),
];
