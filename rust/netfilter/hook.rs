// SPDX-License-Identifier: GPL-2.0

//! Hooks: functions that see every packet at a point of its way, in every network namespace.
//!
//! A module has one table of them, in static memory ([`Registration::register`]). Each hangs on a
//! [`Switch`]: while that is off the hook is registered nowhere and costs nothing. The callbacks of
//! trace events turn switches on and off, and they may come before the module's init and after its
//! exit; so what they touch is ready from the start and empty at the end: one mutex, the switch, and
//! a list of our own of the namespaces there are (the kernel's misses one that is being born).
//!
//! C headers: [`include/linux/netfilter.h`](srctree/include/linux/netfilter.h),
//! [`include/uapi/linux/netfilter_ipv4.h`](srctree/include/uapi/linux/netfilter_ipv4.h)

use super::{
    conntrack::Sight,
    net::{
        Device,
        Net, //
    },
    skb::Packet,
    Family,
    Verdict, //
};
use crate::bindings;
use core::{
    cell::UnsafeCell,
    marker::PhantomData,
    ptr::NonNull, //
};
use kernel::{
    error::{
        from_result,
        to_result, //
    },
    prelude::*,
    sync::atomic::{
        AtomicFlag,
        Relaxed, //
    },
    types::Opaque, //
};

/// Where flows come in: conntrack looks packets up here, then destination NAT is done.
pub(crate) enum Inbound {}

/// Where flows go out: source NAT is done here, then conntrack confirms.
pub(crate) enum Outbound {}

/// A hook point of IPv4 and IPv6, of those that are [`Inbound`] or [`Outbound`] to conntrack. (What
/// is forwarded passes one of each; nothing of conntrack's is in between.)
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
}

impl Point<Inbound> {
    /// Packets that were received, before they are routed.
    pub(crate) const PRE_ROUTING: Self = Self::new(bindings::nf_inet_hooks_NF_INET_PRE_ROUTING);
    /// Packets that are made here.
    pub(crate) const LOCAL_OUT: Self = Self::new(bindings::nf_inet_hooks_NF_INET_LOCAL_OUT);
}

impl Point<Outbound> {
    /// Packets that are for us.
    pub(crate) const LOCAL_IN: Self = Self::new(bindings::nf_inet_hooks_NF_INET_LOCAL_IN);
    /// Packets that leave.
    pub(crate) const POST_ROUTING: Self = Self::new(bindings::nf_inet_hooks_NF_INET_POST_ROUTING);
}

/// When a hook has its turn at a point of that side: lower ones come first. Of hooks with the same
/// priority the one that was registered last comes first.
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
}

// Conntrack and NAT use the same numbers for IPv6 (`NF_IP6_PRI_*`); the tests say so.
const CONNTRACK: c_int = bindings::nf_ip_hook_priorities_NF_IP_PRI_CONNTRACK;
const NAT_DST: c_int = bindings::nf_ip_hook_priorities_NF_IP_PRI_NAT_DST;
const NAT_SRC: c_int = bindings::nf_ip_hook_priorities_NF_IP_PRI_NAT_SRC;
const CONFIRM: c_int = bindings::nf_ip_hook_priorities_NF_IP_PRI_CONNTRACK_CONFIRM;

impl Priority<Inbound> {
    /// Right before conntrack looks the packet up (`NF_IP_PRI_CONNTRACK - 1`); after
    /// defragmentation and the table raw.
    pub(crate) const fn before_conntrack() -> Self {
        Self::new(CONNTRACK - 1)
    }

    /// Right after conntrack has looked the packet up (`NF_IP_PRI_CONNTRACK + 1`); before the table
    /// mangle.
    pub(crate) const fn after_conntrack() -> Self {
        Self::new(CONNTRACK + 1)
    }

    /// Right before destination NAT (`NF_IP_PRI_NAT_DST - 1`).
    #[cfg_attr(not(CONFIG_KUNIT = "y"), expect(dead_code, reason = "one of a set"))]
    pub(crate) const fn before_dnat() -> Self {
        Self::new(NAT_DST - 1)
    }

    /// Right after destination NAT (`NF_IP_PRI_NAT_DST + 1`): the real server is known.
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

    /// Before conntrack's helpers are called and the flow is confirmed, in one hook of conntrack's
    /// at `NF_IP_PRI_CONNTRACK_CONFIRM` (INT_MAX), but one less for what IPv6 receives: hence
    /// INT_MAX - 2, for both families. There is no point between helper and confirmation.
    pub(crate) const fn before_confirm() -> Self {
        Self::new(CONFIRM - 2)
    }
}

/// What a hook sees: a packet, and where it is.
pub(crate) struct Hooked<'hook, F: Family> {
    packet: Packet<'hook, F>,
    state: &'hook bindings::nf_hook_state,
}

impl<'hook, F: Family> Hooked<'hook, F> {
    /// The packet.
    pub(crate) fn packet(&self) -> &Packet<'hook, F> {
        &self.packet
    }

    /// The namespace.
    pub(crate) fn net(&self) -> &'hook Net {
        // SAFETY: the hook's state names the namespace that it runs in, which outlives the hook.
        unsafe { Net::from_raw(self.state.net) }
    }

    /// The device that the packet came in by. None: it was made here.
    pub(crate) fn input(&self) -> Option<&'hook Device> {
        Self::device(self.state.in_)
    }

    /// The device that it is going to leave by. None: it is for us, or not routed yet.
    pub(crate) fn output(&self) -> Option<&'hook Device> {
        Self::device(self.state.out)
    }

    fn device(raw: *mut bindings::net_device) -> Option<&'hook Device> {
        // SAFETY: a device in a hook's state stays, by RCU, until the hook has ended.
        (!raw.is_null()).then(|| unsafe { Device::from_raw(raw) })
    }

    /// The point's number, of `enum nf_inet_hooks`.
    pub(crate) fn point(&self) -> u8 {
        self.state.hook
    }

    /// What conntrack made of the packet up to here.
    pub(crate) fn conntrack(&self) -> Sight<'hook, F> {
        Sight::of_packet(&self.packet)
    }
}

/// What a hook does.
pub(crate) trait Handler: 'static {
    /// Called for each packet, in softirq or process context; it must not sleep.
    fn handle<F: Family>(hooked: &Hooked<'_, F>) -> Verdict;
}

/// A hook, to be put into a static table.
pub(crate) struct Hook {
    ops: bindings::nf_hook_ops,
    switch: &'static Switch,
}

// SAFETY: nobody ever writes to a hook: the kernel takes its own operations as const, and what it
// refers to is static.
unsafe impl Sync for Hook {}

impl Hook {
    /// The hook `H` for the family `F`, while `switch` is on.
    pub(crate) const fn new<F: Family, H: Handler, Side>(
        point: Point<Side>,
        priority: Priority<Side>,
        switch: &'static Switch,
    ) -> Self {
        // SAFETY: plain data: pointers that may be null, and integers.
        let mut ops: bindings::nf_hook_ops =
            unsafe { core::mem::MaybeUninit::zeroed().assume_init() };
        ops.hook = Some(callback::<F, H>);
        ops.pf = F::NFPROTO;
        ops.hooknum = point.number;
        ops.priority = priority.value;
        Self { ops, switch }
    }
}

/// # Safety
///
/// Called by netfilter at a hook point of `F`: `state` and what it names are valid for the call, and
/// `skb` is a packet of `F`, ours for the call.
unsafe extern "C" fn callback<F: Family, H: Handler>(
    _private: *mut c_void,
    skb: *mut bindings::sk_buff,
    state: *const bindings::nf_hook_state,
) -> c_uint {
    let Some(skb) = NonNull::new(skb) else {
        return Verdict::Drop.into_raw();
    };
    // SAFETY: by the contract. The network header of a received packet was checked and pulled
    // before the first hook (`ip_rcv_core`, `ip6_rcv_core`, `br_validate_ipv4` and its brother),
    // that of one made here was made by the kernel or checked (`raw_send_hdrinc`,
    // `rawv6_send_hdrinc`), that of one which a user of NFQUEUE wrote, too (`nfqnl_validate_write`).
    let hooked = unsafe {
        Hooked {
            packet: Packet::<F>::from_raw(skb),
            state: &*state,
        }
    };
    H::handle(&hooked).into_raw()
}

/// Whether hooks are to be there. For statics; changed under the registry's lock alone.
pub(crate) struct Switch(AtomicFlag);

impl Switch {
    /// One that is off.
    pub(crate) const fn new() -> Self {
        Self(AtomicFlag::new(false))
    }

    fn is_on(&self) -> bool {
        self.0.load(Relaxed)
    }

    /// Registers its hooks in every namespace, those to come included; before the module's init,
    /// with that. Process context. On an error it stays off.
    pub(crate) fn turn_on(&'static self) -> Result {
        locked(|registry| {
            if self.is_on() {
                return Ok(());
            }
            registry.add_everywhere(self)?;
            self.0.store(true, Relaxed);
            Ok(())
        })
    }

    /// Takes them out again. They may still run when this returns.
    pub(crate) fn turn_off(&'static self) {
        locked(|registry| {
            if self.is_on() {
                self.0.store(false, Relaxed);
                registry.remove_everywhere(self);
            }
        });
    }
}

/// The module's hooks and the namespaces that they are in.
///
/// # Invariants
///
/// `namespaces` are those that were born ([`born`]) and whose end ([`dying`]) was not announced yet:
/// each is valid. In each of them exactly those hooks of `tables` are registered whose switch is on.
/// Without `tables` there is no [`Registration`], and no namespace.
struct Registry {
    tables: Option<&'static [&'static [Hook]]>,
    namespaces: KVec<NonNull<bindings::net>>,
}

struct Global(UnsafeCell<Registry>);

// SAFETY: `locked` alone reaches what is inside, under a mutex; pointers to namespaces are bound to no
// thread.
unsafe impl Sync for Global {}

static REGISTRY: Global = Global(UnsafeCell::new(Registry {
    tables: None,
    namespaces: KVec::new(),
}));

/// Calls `f` with the registry, which it has for itself. Process context.
fn locked<R>(f: impl FnOnce(&mut Registry) -> R) -> R {
    // SAFETY: the mutex is initialised at compile time; process context.
    unsafe { bindings::rustmasq_hooks_lock() };
    // SAFETY: who holds the mutex is alone here, and `f` cannot keep the reference.
    let result = f(unsafe { &mut *REGISTRY.0.get() });
    // SAFETY: we hold it.
    unsafe { bindings::rustmasq_hooks_unlock() };
    result
}

impl Registry {
    fn hooks(&self, wanted: impl Fn(&Switch) -> bool) -> impl Iterator<Item = &'static Hook> {
        let tables = self.tables.unwrap_or_default();
        tables
            .iter()
            .copied()
            .flatten()
            .filter(move |hook| wanted(hook.switch))
    }

    /// Registers the wanted hooks in the namespace: all of them or, on an error, none.
    fn add(&self, net: NonNull<bindings::net>, wanted: impl Fn(&Switch) -> bool + Copy) -> Result {
        for (count, hook) in self.hooks(wanted).enumerate() {
            // SAFETY: the namespace is valid (its registration, or its birth); the hook is static.
            // Process context, and the locks that it takes are never held around ours.
            let added =
                to_result(unsafe { bindings::nf_register_net_hook(net.as_ptr(), &hook.ops) });
            if added.is_err() {
                for hook in self.hooks(wanted).take(count) {
                    // SAFETY: we have just registered it.
                    unsafe { bindings::nf_unregister_net_hook(net.as_ptr(), &hook.ops) };
                }
                return added;
            }
        }
        Ok(())
    }

    fn remove(&self, net: NonNull<bindings::net>, wanted: impl Fn(&Switch) -> bool) {
        for hook in self.hooks(wanted) {
            // SAFETY: the namespace is valid, and the hook registered in it, by the invariant.
            unsafe { bindings::nf_unregister_net_hook(net.as_ptr(), &hook.ops) };
        }
    }

    fn add_everywhere(&self, switch: &'static Switch) -> Result {
        let wanted = |other: &Switch| core::ptr::eq(other, switch);
        for (count, net) in self.namespaces.iter().enumerate() {
            self.add(*net, wanted).inspect_err(|_| {
                for net in self.namespaces.iter().take(count) {
                    self.remove(*net, wanted);
                }
            })?;
        }
        Ok(())
    }

    fn remove_everywhere(&self, switch: &'static Switch) {
        for net in &self.namespaces {
            self.remove(*net, |other| core::ptr::eq(other, switch));
        }
    }
}

/// # Safety
///
/// Called for a namespace that is being born, or when our operations are registered, for one that is
/// there.
unsafe extern "C" fn born(net: *mut bindings::net) -> c_int {
    let Some(net) = NonNull::new(net) else {
        return 0;
    };
    from_result(|| {
        locked(|registry| {
            registry.namespaces.reserve(1, GFP_KERNEL)?;
            registry.add(net, Switch::is_on)?;
            Ok(registry.namespaces.push(net, GFP_KERNEL).map(|()| 0)?)
        })
    })
}

/// # Safety
///
/// Called for a namespace that `born` accepted and that goes, or when our operations are
/// unregistered.
unsafe extern "C" fn dying(net: *mut bindings::net) {
    let Some(net) = NonNull::new(net) else {
        return;
    };
    locked(|registry| {
        registry.remove(net, Switch::is_on);
        registry.namespaces.retain(|other| *other != net);
    });
}

/// What the kernel calls when namespaces come and go.
struct PernetOperations(Opaque<bindings::pernet_operations>);

// SAFETY: nobody but the kernel touches them once they are made, under a lock of its own.
unsafe impl Sync for PernetOperations {}

static PERNET_OPERATIONS: PernetOperations = {
    let mut raw: bindings::pernet_operations = pin_init::zeroed();
    raw.init = Some(born);
    // Before the exit functions, so that the kernel's grace period between the two is ours as well.
    raw.pre_exit = Some(dying);
    PernetOperations(Opaque::new(raw))
};

/// While it lives, the module's hooks are registered as their switches say. Dropping it waits until
/// none of them runs any more.
pub(crate) struct Registration(());

impl Registration {
    /// Makes `tables` the module's hooks, in every namespace. EBUSY: it has some already.
    pub(crate) fn register(tables: &'static [&'static [Hook]]) -> Result<Self> {
        locked(|registry| {
            if registry.tables.is_some() {
                return Err(EBUSY);
            }
            registry.tables = Some(tables);
            Ok(())
        })?;
        // From here on dropping it leaves nothing behind, whatever comes.
        let raw = PERNET_OPERATIONS.0.get();
        // As a device's, which come after all others: a namespace that we know is complete then. (To
        // take a hook out asks for all of nfnetlink_queue's.)
        // SAFETY: static, and in no list, for there were no tables. Process context.
        to_result(unsafe { bindings::register_pernet_device(raw) })
            .inspect_err(|_| Self::clear())?;
        Ok(Self(()))
    }

    /// Once there is no namespace in the registry.
    fn clear() {
        locked(|registry| {
            registry.tables = None;
            registry.namespaces = KVec::new();
        });
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        // SAFETY: `register` registered them. Calls `dying` for each namespace, then waits for a
        // grace period: no hook of ours runs any more, nor a trace event's probe, which hooks call.
        unsafe { bindings::unregister_pernet_device(PERNET_OPERATIONS.0.get()) };
        Self::clear();
    }
}

#[kunit_tests(rustmasq_hook)]
mod tests {
    use super::*;

    // The kernel's own numbers, from include/uapi/linux/netfilter_ipv4.h and _ipv6.h.
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
            // That of IPv6 at LOCAL_IN, in nf_conntrack_proto.c.
            CONFIRM - 1,
            CONFIRM,
        ]));
    }

    #[test]
    fn neighbours_leave_no_gap() {
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
    fn points_are_netfilters() {
        assert_eq!(Point::PRE_ROUTING.number, 0);
        assert_eq!(Point::LOCAL_IN.number, 1);
        assert_eq!(Point::LOCAL_OUT.number, 3);
        assert_eq!(Point::POST_ROUTING.number, 4);
    }
}
