// SPDX-License-Identifier: GPL-2.0

//! The source addresses that routes name (`ip route ... src ADDRESS`).
//!
//! C headers: [`include/net/ip_fib.h`](srctree/include/net/ip_fib.h),
//! [`include/net/ip6_fib.h`](srctree/include/net/ip6_fib.h)

use super::{
    address::{
        ipv4_from_be32,
        ipv4_to_be32,
        ipv6_from_raw,
        AnyAddress,
        Family,
        Ipv4,
        Ipv6, //
    },
    device::Device,
    skb::Packet, //
};
use crate::bindings;
use core::{
    mem::MaybeUninit,
    net::{
        Ipv4Addr,
        Ipv6Addr, //
    },
    ptr, //
};
use kernel::prelude::*;

impl<F: Family> Packet<'_, F> {
    /// Returns the packet's route, or null if it has none of its family.
    ///
    /// A packet on a bridge has none: metadata of a tunnel, or br_netfilter's fake route, is in its place.
    fn route(&self) -> *const bindings::dst_entry {
        // SAFETY: The packet is valid by the type's invariant, and a hook holds the RCU read lock, which the functions
        // need for an entry without a reference. A valid entry is not null, and nobody replaces it meanwhile. Its
        // operations are those that it was made with.
        unsafe {
            if !bindings::rustmasq_skb_valid_dst(self.as_raw()) {
                return ptr::null();
            }
            let route = bindings::rustmasq_skb_dst(self.as_raw());
            let is_fake =
                c_uint::from(bindings::rustmasq_dst_flags(route)) & bindings::DST_FAKE_RTABLE != 0;
            if is_fake || bindings::rustmasq_dst_family(route) != c_ushort::from(F::NFPROTO) {
                return ptr::null();
            }
            route
        }
    }
}

impl Packet<'_, Ipv4> {
    /// Returns the source address that the packet's route names, if it names one that the namespace has.
    ///
    /// `input` is the device that the packet came by, unless this host sent it; `out` is that which it leaves by. The
    /// route itself does not know its source address, so it is looked up again, with all that rules of policy routing
    /// look at (`ip_route_input_slow`, `ip_route_output_key_hash_rcu`). `None` is returned if that leads to another
    /// device: the packet's mark, for example, was changed after it was routed. A hook.
    pub(crate) fn route_source(&self, input: Option<&Device>, out: &Device) -> Option<Ipv4Addr> {
        if self.route().is_null() {
            return None;
        }
        let net = out.net();
        let header = self.header();
        let mut flow: bindings::flowi4 = pin_init::zeroed();
        flow.saddr = ipv4_to_be32(header.source);
        flow.daddr = ipv4_to_be32(header.destination);
        let common = &mut flow.__fl_common;
        // SAFETY: The packet is valid by the type's invariant, with a complete IPv4 header. Its socket, if it has one,
        // is there as long as the packet. The namespace is valid by its type's invariant.
        unsafe {
            let socket = match input {
                Some(_) => ptr::null_mut(),
                None => bindings::rustmasq_skb_to_full_sk(self.as_raw()),
            };
            if !socket.is_null() {
                common.flowic_oif = bindings::rustmasq_sock_bound_dev_if(socket);
            }
            common.flowic_mark = bindings::rustmasq_skb_mark(self.as_raw());
            common.flowic_dscp = bindings::rustmasq_ip4h_dscp(self.as_raw());
            common.flowic_uid = bindings::rustmasq_sock_net_uid(net.as_raw(), socket);
        }
        common.flowic_iif = input.map_or(bindings::LOOPBACK_IFINDEX as c_int, Device::index);
        let mut keys = MaybeUninit::uninit();
        let mut result = MaybeUninit::uninit();
        // SAFETY: Packet and namespace are valid by their types' invariants. The first function writes protocol and
        // ports to `flow`, if a rule asks for them, by way of `keys`, which it zeroes before. The second one has filled
        // `result` if it returns 0. The route that this points to is valid as long as the hook holds the RCU read lock,
        // so no reference is taken, and its source address does not change. The device is only compared.
        let raw = unsafe {
            let net = net.as_raw();
            bindings::rustmasq_fib4_rules_early_flow_dissect(
                net,
                self.as_raw(),
                &mut flow,
                keys.as_mut_ptr(),
            );
            if bindings::rustmasq_fib_lookup(net, &mut flow, result.as_mut_ptr(), 0) != 0 {
                return None;
            }
            let route = bindings::rustmasq_fib_result_fi(result.as_ptr());
            let raw = bindings::rustmasq_fib_info_prefsrc(route);
            if raw == 0 || !bindings::fib_info_nh_uses_dev(route, out.as_raw()) {
                return None;
            }
            raw
        };
        let source = ipv4_from_be32(raw);
        let address = AnyAddress::V4(source);
        // Most routes name an address of their device, which is found faster.
        (out.has_address(address) || out.is_local_address(address)).then_some(source)
    }
}

impl Packet<'_, Ipv6> {
    /// Returns the source address that the packet's route names, if it names one that the namespace has.
    ///
    /// `out` is the device that the packet leaves by. Follows `rt6_get_prefsrc`. A route that IPsec has taken the
    /// place of names none. A hook.
    pub(crate) fn route_source(&self, out: &Device) -> Option<Ipv6Addr> {
        let route = self.route();
        if route.is_null() {
            return None;
        }
        // SAFETY: The route is one of IPv6, so it is a `struct rt6_info`, or begins with one (`struct xfrm_dst`, where
        // `from` is null). The packet holds a reference to it, or the RCU read lock of the hook keeps it, and that lock
        // keeps also what it was made from. The length is read once. The address does not change, even where its length
        // is set to 0 (`fib6_remove_prefsrc`).
        let source = unsafe {
            let from = bindings::rustmasq_rt6_info_from(bindings::rustmasq_dst_rt6_info(route));
            if from.is_null() || bindings::rustmasq_fib6_info_prefsrc_plen(from) == 0 {
                return None;
            }
            ipv6_from_raw(&*bindings::rustmasq_fib6_info_prefsrc_addr(from))
        };
        out.is_local_address(AnyAddress::V6(source))
            .then_some(source)
    }
}
