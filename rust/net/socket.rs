// SPDX-License-Identifier: GPL-2.0

//! Sockets of this host that receive what comes to a port.
//!
//! The kernel exports its look-ups for TCP and UDP. SCTP is a module of its own, which has no look-up of one port for
//! others, and would have to be loaded with this one.
//!
//! C headers: [`include/net/inet_hashtables.h`](srctree/include/net/inet_hashtables.h),
//! [`include/net/udp.h`](srctree/include/net/udp.h)

use super::{
    address::{
        ipv4_to_be32,
        ipv6_to_raw,
        AnyAddress, //
    },
    namespace::Net,
    rcu::ReadLocked, //
};
use crate::bindings;
use kernel::prelude::*;

/// A protocol whose sockets can be looked up.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// An address and a port, in host order.
pub(crate) type AddressAndPort = (AnyAddress, u16);

/// Returns whether a socket listens to new connections, or receives datagrams, from a remote end to a local one with the
/// port `port`, by the device with the index `device`. `ends` returns the two.
///
/// Where no socket of any address has the port, which is nearly always so, this costs two loads. Follows
/// `__inet_lookup_listener` and `__udp4_lib_lookup`. Any context but hard interrupts, under the RCU read lock.
#[inline(always)]
pub(crate) fn is_served(
    net: &Net,
    protocol: Protocol,
    port: u16,
    ends: impl Fn() -> (AddressAndPort, AddressAndPort),
    device: c_int,
    reader: &impl ReadLocked,
) -> bool {
    if is_unused(net, protocol, port, reader) {
        return false;
    }
    let (remote, local) = ends();
    has_socket(net, protocol, remote, local, device, reader)
}

/// Returns whether no socket of the namespace can have the port.
#[inline(always)]
fn is_unused(net: &Net, protocol: Protocol, port: u16, _: &impl ReadLocked) -> bool {
    // SAFETY: The namespace is valid by its type's invariant, and its tables of sockets are as old as itself. The functions
    // read one word of a bucket.
    unsafe {
        match protocol {
            Protocol::Tcp => bindings::rustmasq_tcp_port_is_unbound(net.as_raw(), port),
            Protocol::Udp => bindings::rustmasq_udp_port_users(net.as_raw(), port) == 0,
        }
    }
}

/// Returns whether there is such a socket.
#[cold]
#[inline(never)]
fn has_socket(
    net: &Net,
    protocol: Protocol,
    remote: AddressAndPort,
    local: AddressAndPort,
    device: c_int,
    _: &impl ReadLocked,
) -> bool {
    let (net, skb) = (net.as_raw(), core::ptr::null_mut());
    let (from, port) = (remote.1.to_be(), local.1);
    // In a VRF, the VRF device receives what its member does.
    // SAFETY: The namespace is valid by its type's invariant.
    let master = unsafe { bindings::rustmasq_l3mdev_master_ifindex_by_index(net, device) };
    let (device, member) = if master == 0 {
        (device, 0)
    } else {
        (master, device)
    };
    // SAFETY: The namespace is valid by its type's invariant, and the addresses live for the call. The reader is evidence of
    // the RCU read lock, under which a socket that is found stays valid; only whether it is null matters. Without a packet
    // the functions use none.
    unsafe {
        match (protocol, remote.0, local.0) {
            (Protocol::Tcp, AnyAddress::V4(remote), AnyAddress::V4(local)) => {
                let (remote, local) = (ipv4_to_be32(remote), ipv4_to_be32(local));
                !bindings::__inet_lookup_listener(
                    net, skb, 0, remote, from, local, port, device, member,
                )
                .is_null()
            }
            (Protocol::Udp, AnyAddress::V4(remote), AnyAddress::V4(local)) => {
                let (remote, local) = (ipv4_to_be32(remote), ipv4_to_be32(local));
                let port = port.to_be();
                !bindings::__udp4_lib_lookup(net, remote, from, local, port, device, member, skb)
                    .is_null()
            }
            (Protocol::Tcp, AnyAddress::V6(remote), AnyAddress::V6(local)) => {
                let (remote, local) = (ipv6_to_raw(remote), ipv6_to_raw(local));
                !bindings::inet6_lookup_listener(
                    net, skb, 0, &remote, from, &local, port, device, member,
                )
                .is_null()
            }
            (Protocol::Udp, AnyAddress::V6(remote), AnyAddress::V6(local)) => {
                let (remote, local) = (ipv6_to_raw(remote), ipv6_to_raw(local));
                let port = port.to_be();
                !bindings::__udp6_lib_lookup(net, &remote, from, &local, port, device, member, skb)
                    .is_null()
            }
            _ => false,
        }
    }
}
