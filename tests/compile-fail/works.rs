// SPDX-License-Identifier: GPL-2.0
// Compiles: a hook uses what it borrows during the call, and a target sets up source NAT once.

use crate::{
    net::{
        device::Device,
        *, //
    },
    netfilter::{
        conntrack::Conn,
        hook::*,
        nat::{
            self,
            NatRange, //
        },
        trace,
        tuple::Direction,
        xtables::TargetContext,
        *, //
    },
};
use core::net::Ipv4Addr;

struct Look;

impl HookHandler for Look {
    fn handle<F: Family>(context: &HookContext<'_, F>) -> Verdict {
        let ctinfo = context.conntrack();
        let device = context.input().map(Device::index);
        let id = ctinfo.conn().map(Conn::id);
        let ends = ctinfo
            .conn()
            .map(|conn| conn.tuple(Direction::Reply).ends());
        if device.is_some() && id.is_some() && ends.is_some() && context.packet().len() > 0 {
            return Verdict::Drop;
        }
        Verdict::Accept
    }
}

static HOOKS: [Hook; 2] = [
    Hook::new::<Ipv4, Look, _>(
        Point::PRE_ROUTING,
        Priority::after_conntrack(),
        &trace::PACKET,
    ),
    Hook::new::<Ipv6, Look, _>(Point::LOCAL_IN, Priority::before_confirm(), &trace::PACKET),
];

fn target(range: &NatRange, context: TargetContext<'_, Ipv4>) -> Verdict {
    let Some(flow) = context.flow else {
        return Verdict::Accept;
    };
    nat::masquerade(flow, Ipv4Addr::LOCALHOST, *range, context.out)
}
