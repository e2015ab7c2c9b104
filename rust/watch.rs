// SPDX-License-Identifier: GPL-2.0

//! The flow watch: who moved my five-tuple?
//!
//! Hooks around conntrack and before confirmation, each behind a trace event: they are there while
//! somebody reads it. They look, and accept everything.

use crate::netfilter::{
    conntrack::{
        self,
        State, //
    },
    hook::{
        Handler,
        Hook,
        Hooked,
        Inbound,
        Outbound,
        Point,
        Priority, //
    },
    net::Device,
    trace::{
        self,
        Moved,
        When, //
    },
    tuple::{
        Direction,
        Ends, //
    },
    Family,
    Ipv4,
    Ipv6,
    Verdict, //
};
use kernel::prelude::*;

/// All hooks of the watch.
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

/// A flow as conntrack first saw it: before any NAT but an expectation's.
struct FlowNew;

impl Handler for FlowNew {
    fn handle<F: Family>(hooked: &Hooked<'_, F>) -> Verdict {
        // Of a VRF, packets come in once more.
        let again = hooked.input().is_some_and(Device::is_l3_master);
        if let Some(flow) = hooked.conntrack().beginning().filter(|_| !again) {
            trace::flow_new(hooked, &flow);
        }
        Verdict::Accept
    }
}

/// A flow right before its confirmation, which may still fail: all NAT is done.
struct FlowConfirm;

impl Handler for FlowConfirm {
    fn handle<F: Family>(hooked: &Hooked<'_, F>) -> Verdict {
        // From a VRF's device they go on to one of its own: NAT and conntrack wait for that
        // (`in_vrf_postrouting`).
        let early = hooked.output().is_some_and(Device::is_l3_master);
        if let Some(flow) = hooked.conntrack().beginning().filter(|_| !early) {
            let reply = flow.tuple(Direction::Reply).ends();
            // Conntrack makes no entry for a tuple that has no inverse.
            let plain = flow.tuple(Direction::Original).inverted();
            let plain = plain.map_or(reply, |plain| plain.ends());
            trace::flow_confirm(hooked, &flow, plain, what_moved(plain, reply));
        }
        Verdict::Accept
    }
}

/// Compares the REPLY tuple that a flow would have without NAT with the one that it has: answers
/// come from its destination, and go to its source.
fn what_moved(plain: Ends, reply: Ends) -> Moved {
    Moved {
        source_address: plain.destination.address != reply.destination.address,
        source_port: plain.destination.port != reply.destination.port,
        destination_address: plain.source.address != reply.source.address,
        destination_port: plain.source.port != reply.source.port,
    }
}

/// A packet before conntrack.
struct PacketBefore;

impl Handler for PacketBefore {
    fn handle<F: Family>(hooked: &Hooked<'_, F>) -> Verdict {
        // What came over the loopback device has its entry already.
        let sight = hooked.conntrack();
        trace::packet(hooked, &sight, When::Before, sight.state());
        Verdict::Accept
    }
}

/// A packet after conntrack.
struct PacketAfter;

impl Handler for PacketAfter {
    fn handle<F: Family>(hooked: &Hooked<'_, F>) -> Verdict {
        let sight = hooked.conntrack();
        let looked = || conntrack::is_on::<F>(hooked.net());
        let state = sight.state().or_else(|| looked().then_some(State::Invalid));
        trace::packet(hooked, &sight, When::After, state);
        Verdict::Accept
    }
}

#[kunit_tests(rustmasq_watch)]
mod tests {
    use super::*;
    use crate::netfilter::{
        tuple::End,
        AnyAddress, //
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

    /// What moved of a flow from CLIENT, port 40000, to SERVER, port 53.
    fn moved(reply: Ends) -> Moved {
        what_moved(self::reply(SERVER, 53, CLIENT, 40000), reply)
    }

    #[test]
    fn without_nat_nothing_moves() {
        assert_eq!(moved(reply(SERVER, 53, CLIENT, 40000)), NOTHING);
    }

    #[test]
    fn masquerading_moves_the_source_address() {
        let expected = Moved {
            source_address: true,
            ..NOTHING
        };
        assert_eq!(moved(reply(SERVER, 53, ROUTER, 40000)), expected);
    }

    #[test]
    fn masquerading_with_ports_moves_both() {
        let expected = Moved {
            source_address: true,
            source_port: true,
            ..NOTHING
        };
        assert_eq!(moved(reply(SERVER, 53, ROUTER, 55666)), expected);
    }

    #[test]
    fn a_null_binding_can_move_the_source_port_alone() {
        let expected = Moved {
            source_port: true,
            ..NOTHING
        };
        assert_eq!(moved(reply(SERVER, 53, CLIENT, 1024)), expected);
    }

    #[test]
    fn a_redirection_moves_the_destination() {
        let expected = Moved {
            destination_address: true,
            destination_port: true,
            ..NOTHING
        };
        assert_eq!(moved(reply(ROUTER, 5353, CLIENT, 40000)), expected);
    }

    #[test]
    fn all_four_move() {
        let expected = Moved {
            source_address: true,
            source_port: true,
            destination_address: true,
            destination_port: true,
        };
        assert_eq!(moved(reply(ROUTER, 1, Ipv4Addr::LOCALHOST, 2)), expected);
    }
}
