// SPDX-License-Identifier: GPL-2.0

//! Hooks that assign a helper to all flows to a port, as a module parameter says.

use super::{
    helper::{
        ConntrackHelper,
        Helper,
        Transport, //
    },
    hook::{
        Hook,
        HookContext,
        HookHandler,
        Inbound,
        Point,
        Priority,
        Switch, //
    },
    tuple::Direction,
    Verdict, //
};
use crate::net::{
    Family,
    Ipv4,
    Ipv6, //
};
use core::marker::PhantomData;
use kernel::prelude::*;

/// A helper that a module parameter can assign.
pub(crate) trait AttachByPort: Helper {
    /// Returns the helper.
    fn helper() -> &'static ConntrackHelper;

    /// Returns the port of its servers in host order, or 0 for none.
    fn port() -> u16;
}

/// Returns the hooks that assign the helper to a flow as soon as its real server is known, while the switch is on.
pub(crate) const fn hooks<H: AttachByPort>(switch: &'static Switch) -> [Hook; 4] {
    [
        hook::<H, Ipv4>(Point::PRE_ROUTING, switch),
        hook::<H, Ipv4>(Point::LOCAL_OUT, switch),
        hook::<H, Ipv6>(Point::PRE_ROUTING, switch),
        hook::<H, Ipv6>(Point::LOCAL_OUT, switch),
    ]
}

const fn hook<H: AttachByPort, F: Family>(point: Point<Inbound>, switch: &'static Switch) -> Hook {
    Hook::new::<F, Attach<H>, _>(point, Priority::after_dnat(), switch)
}

/// Turns the switch of the helper's hooks on, unless the parameter names no port.
///
/// Errors: see [`Switch::turn_on`]. Process context.
pub(crate) fn enable<H: AttachByPort>(switch: &'static Switch) -> Result {
    if H::port() == 0 {
        return Ok(());
    }
    switch.turn_on()
}

struct Attach<H>(PhantomData<H>);

impl<H: AttachByPort> HookHandler for Attach<H> {
    fn handle<F: Family>(context: &HookContext<'_, F>) -> Verdict {
        if let Some(flow) = context.conntrack().new_flow() {
            let answer = flow.tuple(Direction::Reply);
            let is_of_protocol = match H::TRANSPORT {
                Transport::Tcp => answer.is_tcp(),
                Transport::Udp => answer.is_udp(),
            };
            if is_of_protocol && answer.ends().source.port == H::port() {
                H::helper().attach(&flow);
            }
        }
        Verdict::Accept
    }
}
