// SPDX-License-Identifier: GPL-2.0

//! Hook points and priorities, relative to conntrack and NAT.
//!
//! C headers: [`include/uapi/linux/netfilter.h`](srctree/include/uapi/linux/netfilter.h),
//! [`include/uapi/linux/netfilter_ipv4.h`](srctree/include/uapi/linux/netfilter_ipv4.h)

use crate::bindings;
use core::marker::PhantomData;
use kernel::prelude::*;

/// The side where conntrack looks packets up and destination NAT is done.
pub(crate) enum Inbound {}

/// The side where source NAT is done and conntrack confirms flows.
pub(crate) enum Outbound {}

/// A hook point of IPv4 and IPv6 on one `Side` of conntrack, [`Inbound`] or [`Outbound`].
///
/// A forwarded packet passes one point of each side; conntrack and NAT have no hook at FORWARD.
pub(crate) struct Point<Side> {
    number: c_uint,
    side: PhantomData<Side>,
}

impl<Side> Point<Side> {
    const fn new(number: bindings::nf_inet_hooks) -> Self {
        Self {
            number: number as c_uint,
            side: PhantomData,
        }
    }

    /// Returns the point's number (`enum nf_inet_hooks`).
    pub(super) const fn as_raw(&self) -> c_uint {
        self.number
    }
}

impl Point<Inbound> {
    /// The point of received packets, before routing.
    pub(crate) const PRE_ROUTING: Self = Self::new(bindings::nf_inet_hooks_NF_INET_PRE_ROUTING);
    /// The point of locally generated packets.
    pub(crate) const LOCAL_OUT: Self = Self::new(bindings::nf_inet_hooks_NF_INET_LOCAL_OUT);
}

impl Point<Outbound> {
    /// The point of packets for this host.
    pub(crate) const LOCAL_IN: Self = Self::new(bindings::nf_inet_hooks_NF_INET_LOCAL_IN);
    /// The point of packets that leave.
    pub(crate) const POST_ROUTING: Self = Self::new(bindings::nf_inet_hooks_NF_INET_POST_ROUTING);
}

/// A hook's priority at a point of the given `Side`; hooks with a lower priority run first.
///
/// If several hooks have the same priority, the last registered runs first.
pub(crate) struct Priority<Side> {
    value: c_int,
    side: PhantomData<Side>,
}

impl<Side> Priority<Side> {
    const fn new(value: c_int) -> Self {
        Self {
            value,
            side: PhantomData,
        }
    }

    /// Returns the priority's number (`enum nf_ip_hook_priorities`).
    pub(super) const fn as_raw(&self) -> c_int {
        self.value
    }
}

// Conntrack and NAT have the same priorities for IPv6 (`NF_IP6_PRI_*`); a test checks that.
const CONNTRACK: c_int = bindings::nf_ip_hook_priorities_NF_IP_PRI_CONNTRACK;
const NAT_DST: c_int = bindings::nf_ip_hook_priorities_NF_IP_PRI_NAT_DST;
const NAT_SRC: c_int = bindings::nf_ip_hook_priorities_NF_IP_PRI_NAT_SRC;
const CONFIRM: c_int = bindings::nf_ip_hook_priorities_NF_IP_PRI_CONNTRACK_CONFIRM;

impl Priority<Inbound> {
    /// Right before conntrack looks the packet up (`NF_IP_PRI_CONNTRACK - 1`).
    ///
    /// Defragmentation and the table `raw` come before.
    pub(crate) const fn before_conntrack() -> Self {
        Self::new(CONNTRACK - 1)
    }

    /// Right after conntrack has looked the packet up (`NF_IP_PRI_CONNTRACK + 1`).
    ///
    /// The table `mangle` comes after.
    pub(crate) const fn after_conntrack() -> Self {
        Self::new(CONNTRACK + 1)
    }

    /// Right before destination NAT (`NF_IP_PRI_NAT_DST - 1`).
    #[cfg_attr(not(CONFIG_KUNIT = "y"), expect(dead_code, reason = "one of a set"))]
    pub(crate) const fn before_dnat() -> Self {
        Self::new(NAT_DST - 1)
    }

    /// Right after destination NAT (`NF_IP_PRI_NAT_DST + 1`), when the real server is known.
    pub(crate) const fn after_dnat() -> Self {
        Self::new(NAT_DST + 1)
    }
}

impl Priority<Outbound> {
    /// Right before source NAT (`NF_IP_PRI_NAT_SRC - 1`).
    #[cfg_attr(not(CONFIG_KUNIT = "y"), expect(dead_code, reason = "one of a set"))]
    pub(crate) const fn before_snat() -> Self {
        Self::new(NAT_SRC - 1)
    }

    /// Right after source NAT (`NF_IP_PRI_NAT_SRC + 1`).
    #[cfg_attr(not(CONFIG_KUNIT = "y"), expect(dead_code, reason = "one of a set"))]
    pub(crate) const fn after_snat() -> Self {
        Self::new(NAT_SRC + 1)
    }

    /// Right before conntrack calls helpers and confirms the flow (INT_MAX - 2).
    ///
    /// One hook of conntrack's does both, at `NF_IP_PRI_CONNTRACK_CONFIRM` (INT_MAX), except for IPv6 at
    /// LOCAL_IN, where it is at INT_MAX - 1. Nothing can run between the helper and the confirmation.
    pub(crate) const fn before_confirm() -> Self {
        Self::new(CONFIRM - 2)
    }
}

#[kunit_tests(rustmasq_hook_point)]
mod tests {
    use super::*;

    // The kernel's numbers, from include/uapi/linux/netfilter_ipv4.h and _ipv6.h.
    const DEFRAG: c_int = bindings::nf_ip_hook_priorities_NF_IP_PRI_CONNTRACK_DEFRAG;
    const RAW: c_int = bindings::nf_ip_hook_priorities_NF_IP_PRI_RAW;
    const MANGLE: c_int = bindings::nf_ip_hook_priorities_NF_IP_PRI_MANGLE;
    const FILTER: c_int = bindings::nf_ip_hook_priorities_NF_IP_PRI_FILTER;
    const SECURITY: c_int = bindings::nf_ip_hook_priorities_NF_IP_PRI_SECURITY;

    fn ascends(priorities: &[c_int]) -> bool {
        priorities
            .iter()
            .zip(priorities.iter().skip(1))
            .all(|(earlier, later)| earlier < later)
    }

    #[test]
    fn inbound_order() {
        assert!(ascends(&[
            DEFRAG,
            RAW,
            Priority::before_conntrack().value,
            CONNTRACK,
            Priority::after_conntrack().value,
            MANGLE,
            Priority::before_dnat().value,
            NAT_DST,
            Priority::after_dnat().value,
            FILTER,
        ]));
    }

    #[test]
    fn outbound_order() {
        assert!(ascends(&[
            MANGLE,
            FILTER,
            SECURITY,
            Priority::before_snat().value,
            NAT_SRC,
            Priority::after_snat().value,
            Priority::before_confirm().value,
            // The confirmation of IPv6 at LOCAL_IN (nf_conntrack_proto.c).
            CONFIRM - 1,
            CONFIRM,
        ]));
    }

    #[test]
    fn priorities_are_next_to_the_kernels() {
        assert_eq!(CONNTRACK - Priority::before_conntrack().value, 1);
        assert_eq!(Priority::after_conntrack().value - CONNTRACK, 1);
        assert_eq!(NAT_DST - Priority::before_dnat().value, 1);
        assert_eq!(Priority::after_dnat().value - NAT_DST, 1);
        assert_eq!(NAT_SRC - Priority::before_snat().value, 1);
        assert_eq!(Priority::after_snat().value - NAT_SRC, 1);
        assert_eq!(Priority::before_confirm().value, c_int::MAX - 2);
    }

    #[test]
    fn both_families_have_the_same_numbers() {
        use bindings::*;
        assert_eq!(CONNTRACK, nf_ip6_hook_priorities_NF_IP6_PRI_CONNTRACK);
        assert_eq!(NAT_DST, nf_ip6_hook_priorities_NF_IP6_PRI_NAT_DST);
        assert_eq!(NAT_SRC, nf_ip6_hook_priorities_NF_IP6_PRI_NAT_SRC);
        assert_eq!(CONFIRM, nf_ip6_hook_priorities_NF_IP6_PRI_LAST);
    }

    #[test]
    fn points_have_the_kernels_numbers() {
        assert_eq!(Point::PRE_ROUTING.number, 0);
        assert_eq!(Point::LOCAL_IN.number, 1);
        assert_eq!(Point::LOCAL_OUT.number, 3);
        assert_eq!(Point::POST_ROUTING.number, 4);
    }
}
