// SPDX-License-Identifier: GPL-2.0

//! Hooks: functions that netfilter calls for each packet at a hook point.
//!
//! A hook is written as a [`HookHandler`] and put into a static table as a [`Hook`], with a [`Point`], a
//! [`Priority`] and a [`Switch`].
//!
//! C header: [`include/linux/netfilter.h`](srctree/include/linux/netfilter.h)

mod point;
mod registry;

pub(crate) use point::{
    Inbound,
    Outbound,
    Point,
    Priority, //
};
pub(crate) use registry::{
    Hook,
    Registration,
    Switch, //
};

use super::{
    conntrack::CtInfo,
    verdict::Verdict, //
};
use crate::{
    bindings,
    net::{
        device::Device,
        namespace::Net,
        skb::Packet,
        Family, //
    },
};
use core::ptr::NonNull;
use kernel::prelude::*;

/// The packet that a hook is called for, and the place where it is.
pub(crate) struct HookContext<'hook, F: Family> {
    packet: Packet<'hook, F>,
    state: &'hook bindings::nf_hook_state,
}

impl<'hook, F: Family> HookContext<'hook, F> {
    /// Returns the packet.
    pub(crate) fn packet(&self) -> &Packet<'hook, F> {
        &self.packet
    }

    /// Returns the namespace.
    pub(crate) fn net(&self) -> &'hook Net {
        // SAFETY: A hook's state names the namespace that the hook runs in. It outlives the call: the RCU
        // read lock is held for `'hook`. The registry unregisters the hook when a namespace is removed, and
        // the kernel waits for a grace period before it tears the namespace down.
        unsafe { Net::from_raw(self.state.net) }
    }

    /// Returns the input device, or `None` for a locally generated packet.
    pub(crate) fn input(&self) -> Option<&'hook Device> {
        Self::device(self.state.in_)
    }

    /// Returns the output device, or `None` before routing and for a packet for this host.
    pub(crate) fn output(&self) -> Option<&'hook Device> {
        Self::device(self.state.out)
    }

    fn device(raw: *mut bindings::net_device) -> Option<&'hook Device> {
        // SAFETY: The pointer comes from the hook's state and is not null, so it is a valid device. The RCU
        // read lock is held until the hook has ended, and `'hook` ends before.
        (!raw.is_null()).then(|| unsafe { Device::from_raw(raw) })
    }

    /// Returns the number of the hook point (`enum nf_inet_hooks`).
    pub(crate) fn point(&self) -> u8 {
        self.state.hook
    }

    /// Returns what conntrack has attached to the packet so far.
    pub(crate) fn conntrack(&self) -> CtInfo<'hook, F> {
        CtInfo::of_packet(&self.packet)
    }
}

/// The code of a hook.
pub(crate) trait HookHandler: 'static {
    /// Called for each packet.
    ///
    /// Returns the packet's verdict. Softirq or process context; must not sleep.
    fn handle<F: Family>(context: &HookContext<'_, F>) -> Verdict;
}

impl Hook {
    /// Returns a hook that calls `H` for packets of `F` at `point`, while `switch` is on.
    pub(crate) const fn new<F: Family, H: HookHandler, Side>(
        point: Point<Side>,
        priority: Priority<Side>,
        switch: &'static Switch,
    ) -> Self {
        // SAFETY: `nf_hook_ops` consists of integers and of pointers that may be null, so zero bytes are
        // a value of it.
        let mut ops: bindings::nf_hook_ops =
            unsafe { core::mem::MaybeUninit::zeroed().assume_init() };
        ops.hook = Some(callback::<F, H>);
        ops.pf = F::NFPROTO;
        ops.hooknum = point.as_raw();
        ops.priority = priority.as_raw();
        Self { ops, switch }
    }
}

/// Calls the handler `H` with borrows of C's pointers.
///
/// # Safety
///
/// Called by netfilter at a hook point of `F`, in an RCU read-side section: `state` and what it names are
/// valid for the call, and `skb` is a packet of `F` that nobody else writes to meanwhile.
unsafe extern "C" fn callback<F: Family, H: HookHandler>(
    _private: *mut c_void,
    skb: *mut bindings::sk_buff,
    state: *const bindings::nf_hook_state,
) -> c_uint {
    let Some(skb) = NonNull::new(skb) else {
        return Verdict::Drop.into_raw();
    };
    // SAFETY: The caller guarantees that packet and state are valid for the call. The network header is complete and linear:
    // for a received packet that was checked before the first hook (`ip_rcv_core`, `ip6_rcv_core`,
    // `br_validate_ipv4`, `br_validate_ipv6`); for a local one the kernel wrote or checked it
    // (`raw_send_hdrinc`, `rawv6_send_hdrinc`); for one that an NFQUEUE program wrote,
    // `nfqnl_validate_write` checked it.
    let context = unsafe {
        HookContext {
            packet: Packet::<F>::from_raw(skb),
            state: &*state,
        }
    };
    H::handle(&context).into_raw()
}
