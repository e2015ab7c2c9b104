// SPDX-License-Identifier: GPL-2.0

//! The flow watch, which shows what conntrack and NAT do to each flow.
//!
//! Its hooks stand around conntrack and before confirmation, each behind a trace event: they are
//! registered while the event is enabled. They accept every packet.

use crate::{
    net::{
        device::Device,
        Family,
        Ipv4,
        Ipv6, //
    },
    netfilter::{
        conntrack::{
            self,
            Conn,
            State, //
        },
        hook::{
            Hook,
            HookContext,
            HookHandler,
            Inbound,
            Outbound,
            Point,
            Priority, //
        },
        trace::{
            self,
            Moved,
            Translation,
            When, //
        },
        tuple::{
            Direction,
            Ends, //
        },
        Verdict, //
    },
};
use kernel::prelude::*;

/// The hooks of the flow watch.
pub(crate) static HOOKS: [Hook; 16] = [
    flow_new::<Ipv4>(Point::PRE_ROUTING),
    flow_new::<Ipv4>(Point::LOCAL_OUT),
    flow_new::<Ipv6>(Point::PRE_ROUTING),
    flow_new::<Ipv6>(Point::LOCAL_OUT),
    flow_confirm::<Ipv4>(Point::LOCAL_IN),
    flow_confirm::<Ipv4>(Point::POST_ROUTING),
    flow_confirm::<Ipv6>(Point::LOCAL_IN),
    flow_confirm::<Ipv6>(Point::POST_ROUTING),
    packet_before::<Ipv4>(Point::PRE_ROUTING),
    packet_before::<Ipv4>(Point::LOCAL_OUT),
    packet_before::<Ipv6>(Point::PRE_ROUTING),
    packet_before::<Ipv6>(Point::LOCAL_OUT),
    packet_after::<Ipv4>(Point::PRE_ROUTING),
    packet_after::<Ipv4>(Point::LOCAL_OUT),
    packet_after::<Ipv6>(Point::PRE_ROUTING),
    packet_after::<Ipv6>(Point::LOCAL_OUT),
];

const fn flow_new<F: Family>(point: Point<Inbound>) -> Hook {
    Hook::new::<F, FlowNew, _>(point, Priority::after_conntrack(), &trace::FLOW_NEW)
}

const fn flow_confirm<F: Family>(point: Point<Outbound>) -> Hook {
    Hook::new::<F, FlowConfirm, _>(point, Priority::before_confirm(), &trace::FLOW_CONFIRM)
}

const fn packet_before<F: Family>(point: Point<Inbound>) -> Hook {
    Hook::new::<F, PacketBefore, _>(point, Priority::before_conntrack(), &trace::PACKET)
}

const fn packet_after<F: Family>(point: Point<Inbound>) -> Hook {
    Hook::new::<F, PacketAfter, _>(point, Priority::after_conntrack(), &trace::PACKET)
}

/// Emits `flow_new` for a flow as conntrack first saw it, before any NAT but that of an expectation.
struct FlowNew;

impl HookHandler for FlowNew {
    fn handle<F: Family>(context: &HookContext<'_, F>) -> Verdict {
        // Packets of a VRF pass this hook twice; ignore the second pass.
        let second_pass = context.input().is_some_and(Device::is_l3_master);
        if let Some(flow) = context.conntrack().new_flow().filter(|_| !second_pass) {
            trace::flow_new(context, &flow);
        }
        Verdict::Accept
    }
}

/// Emits `flow_confirm` for a flow right before its confirmation, which may still fail; all NAT is done.
struct FlowConfirm;

impl HookHandler for FlowConfirm {
    fn handle<F: Family>(context: &HookContext<'_, F>) -> Verdict {
        // Packets of a VRF pass this hook twice, and NAT and conntrack act in the second pass
        // (`in_vrf_postrouting`); ignore the first.
        let first_pass = context.output().is_some_and(Device::is_l3_master);
        if let Some(flow) = context.conntrack().new_flow().filter(|_| !first_pass) {
            trace::flow_confirm(context, &flow, &translation(context.output(), &flow));
        }
        Verdict::Accept
    }
}

fn translation<F: Family>(output: Option<&Device>, flow: &Conn<'_, F>) -> Translation {
    let original = flow.tuple(Direction::Original);
    let reply_tuple = flow.tuple(Direction::Reply);
    let reply = reply_tuple.ends();
    // Conntrack makes no entry for a tuple without an inverse.
    let untranslated = original.inverted().map_or(reply, |tuple| tuple.ends());
    let moved = moved(untranslated, reply);
    let kept = || reply_tuple.with_source_port_of(&original);
    Translation {
        untranslated,
        moved,
        taken_by: moved
            .source_port
            .then(kept)
            .flatten()
            .and_then(|tuple| flow.holder(&tuple)),
        source_is_own: output
            .filter(|_| moved.source_address)
            .map(|device| device.has_address(reply.destination.address)),
    }
}

/// Compares a flow's reply tuple with the one that it would have without NAT.
///
/// Replies come from the flow's destination and go to its source.
fn moved(untranslated: Ends, reply: Ends) -> Moved {
    Moved {
        source_address: untranslated.destination.address != reply.destination.address,
        source_port: untranslated.destination.port != reply.destination.port,
        destination_address: untranslated.source.address != reply.source.address,
        destination_port: untranslated.source.port != reply.source.port,
    }
}

/// Emits `packet` for a packet before conntrack.
struct PacketBefore;

impl HookHandler for PacketBefore {
    fn handle<F: Family>(context: &HookContext<'_, F>) -> Verdict {
        // A packet that came over the loopback device has its entry already.
        let ctinfo = context.conntrack();
        trace::packet(context, &ctinfo, When::Before, ctinfo.state());
        Verdict::Accept
    }
}

/// Emits `packet` for a packet after conntrack.
struct PacketAfter;

impl HookHandler for PacketAfter {
    fn handle<F: Family>(context: &HookContext<'_, F>) -> Verdict {
        let ctinfo = context.conntrack();
        let is_enabled = || conntrack::is_enabled::<F>(context.net());
        let state = ctinfo
            .state()
            .or_else(|| is_enabled().then_some(State::Invalid));
        trace::packet(context, &ctinfo, When::After, state);
        Verdict::Accept
    }
}

#[kunit_tests(rustmasq_watch)]
mod tests {
    use super::*;
    use crate::{
        net::AnyAddress,
        netfilter::tuple::End, //
    };
    use core::net::Ipv4Addr;

    const CLIENT: Ipv4Addr = Ipv4Addr::new(172, 18, 0, 2);
    const ROUTER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
    const SERVER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);

    fn reply(server: Ipv4Addr, server_port: u16, client: Ipv4Addr, client_port: u16) -> Ends {
        Ends {
            source: End {
                address: AnyAddress::V4(server),
                port: server_port,
            },
            destination: End {
                address: AnyAddress::V4(client),
                port: client_port,
            },
        }
    }

    const NOTHING: Moved = Moved {
        source_address: false,
        source_port: false,
        destination_address: false,
        destination_port: false,
    };

    /// Returns what moved of a flow from CLIENT, port 40000, to SERVER, port 53.
    fn moved_to(reply: Ends) -> Moved {
        moved(self::reply(SERVER, 53, CLIENT, 40000), reply)
    }

    #[test]
    fn without_nat_nothing_moves() {
        assert_eq!(moved_to(reply(SERVER, 53, CLIENT, 40000)), NOTHING);
    }

    #[test]
    fn masquerading_moves_the_source_address() {
        let expected = Moved {
            source_address: true,
            ..NOTHING
        };
        assert_eq!(moved_to(reply(SERVER, 53, ROUTER, 40000)), expected);
    }

    #[test]
    fn masquerading_with_ports_moves_both() {
        let expected = Moved {
            source_address: true,
            source_port: true,
            ..NOTHING
        };
        assert_eq!(moved_to(reply(SERVER, 53, ROUTER, 55666)), expected);
    }

    #[test]
    fn a_null_binding_can_move_the_source_port_alone() {
        let expected = Moved {
            source_port: true,
            ..NOTHING
        };
        assert_eq!(moved_to(reply(SERVER, 53, CLIENT, 1024)), expected);
    }

    #[test]
    fn a_redirection_moves_the_destination() {
        let expected = Moved {
            destination_address: true,
            destination_port: true,
            ..NOTHING
        };
        assert_eq!(moved_to(reply(ROUTER, 5353, CLIENT, 40000)), expected);
    }

    #[test]
    fn all_four_move() {
        let expected = Moved {
            source_address: true,
            source_port: true,
            destination_address: true,
            destination_port: true,
        };
        assert_eq!(moved_to(reply(ROUTER, 1, Ipv4Addr::LOCALHOST, 2)), expected);
    }
}
