// SPDX-License-Identifier: GPL-2.0

//! Functions that NAT calls for a new flow for which no rule has set NAT up.
//!
//! NAT calls the chains of all tables that translate, by their priorities, until one of them has set the flow up. These
//! functions come after all chains. An established flow never reaches them.
//!
//! C header: [`include/net/netfilter/nf_nat.h`](srctree/include/net/netfilter/nf_nat.h)

use super::{
    conntrack::IncomingFlow,
    verdict::Verdict, //
};
use crate::{
    bindings,
    net::{
        device::Device,
        namespace::Net,
        skb::Packet,
        Family,
        Ipv4,
        Ipv6,
        ProcessContext, //
    },
};
use core::{
    marker::PhantomData,
    ptr::NonNull, //
};
use kernel::{
    error::to_result,
    prelude::*, //
};

/// The first packet of a flow, as it comes in.
pub(crate) struct IncomingContext<'hook, F: Family> {
    /// The flow, if the destination NAT of that is still to be set up.
    pub(crate) flow: Option<IncomingFlow<'hook, F>>,
    /// The input device.
    pub(crate) input: &'hook Device,
}

/// Functions of NAT.
pub(crate) trait NatFunctions: 'static {
    /// Called for the first packet of a flow as it comes in, if no rule has set up destination NAT.
    ///
    /// Returns the packet's verdict. Softirq or process context; must not sleep.
    fn incoming<F: Family>(context: IncomingContext<'_, F>) -> Verdict;
}

/// A table of functions, for statics: NAT keeps pointers to its entries.
pub(crate) struct Functions<N> {
    entries: [bindings::nf_hook_ops; 2],
    functions: PhantomData<fn() -> N>,
}

// SAFETY: Nobody writes to the entries.
unsafe impl<N> Sync for Functions<N> {}

impl<N: NatFunctions> Functions<N> {
    /// Returns the table for `N`.
    pub(crate) const fn new() -> Self {
        let pre = bindings::nf_inet_hooks_NF_INET_PRE_ROUTING;
        Self {
            entries: [
                entry::<Ipv4>(pre, incoming::<Ipv4, N>),
                entry::<Ipv6>(pre, incoming::<Ipv6, N>),
            ],
            functions: PhantomData,
        }
    }

    /// Has NAT call the functions in a namespace, until [`remove_from`](Self::remove_from).
    ///
    /// Must not be called twice in between. Errors: ENOMEM, or E2BIG if there are too many hooks. Process context; sleeps.
    pub(crate) fn add_to(&'static self, net: &Net, context: &mut ProcessContext) -> Result {
        context.assert_may_sleep();
        for (number, entry) in self.entries.iter().enumerate() {
            // SAFETY: The namespace is valid by its type's invariant, and the entry is static. Process context.
            let added = to_result(unsafe {
                if entry.pf == Ipv4::NFPROTO {
                    bindings::nf_nat_ipv4_register_fn(net.as_raw(), entry)
                } else {
                    bindings::nf_nat_ipv6_register_fn(net.as_raw(), entry)
                }
            });
            if let Err(error) = added {
                self.remove_first(number, net);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Has NAT call the functions in the namespace no more. Calls may run for a grace period.
    ///
    /// [`add_to`](Self::add_to) must have added them. Process context; sleeps.
    pub(crate) fn remove_from(&'static self, net: &Net, context: &mut ProcessContext) {
        context.assert_may_sleep();
        self.remove_first(self.entries.len(), net);
    }

    /// Removes the first entries, as many as `count` says.
    fn remove_first(&'static self, count: usize, net: &Net) {
        for entry in self.entries.iter().take(count) {
            // SAFETY: The namespace is valid by its type's invariant, and the entry was registered there: the caller says
            // so. Process context.
            unsafe {
                if entry.pf == Ipv4::NFPROTO {
                    bindings::nf_nat_ipv4_unregister_fn(net.as_raw(), entry);
                } else {
                    bindings::nf_nat_ipv6_unregister_fn(net.as_raw(), entry);
                }
            }
        }
    }
}

/// A function as C calls it.
type RawFunction = unsafe extern "C" fn(
    *mut c_void,
    *mut bindings::sk_buff,
    *const bindings::nf_hook_state,
) -> c_uint;

/// Returns an entry that comes after all chains.
const fn entry<F: Family>(
    point: bindings::nf_inet_hooks,
    function: RawFunction,
) -> bindings::nf_hook_ops {
    // SAFETY: `nf_hook_ops` consists of integers and of pointers that may be null, so zero bytes are a value of it.
    let mut ops: bindings::nf_hook_ops = unsafe { core::mem::MaybeUninit::zeroed().assume_init() };
    ops.hook = Some(function);
    ops.pf = F::NFPROTO;
    ops.hooknum = point;
    ops.priority = c_int::MAX;
    ops
}

/// Calls [`NatFunctions::incoming`] with borrows of C's pointers.
///
/// # Safety
///
/// Called by NAT at PRE_ROUTING, in an RCU read-side section, for a packet of `F` and its hook's state.
unsafe extern "C" fn incoming<F: Family, N: NatFunctions>(
    _private: *mut c_void,
    skb: *mut bindings::sk_buff,
    state: *const bindings::nf_hook_state,
) -> c_uint {
    let Some(skb) = NonNull::new(skb) else {
        return Verdict::Drop.into_raw();
    };
    // SAFETY: The caller guarantees that packet and state are valid for the call. Its network header is complete and
    // linear: that was checked when the packet was received (`ip_rcv_core`, `ip6_rcv_core`, `br_validate_ipv4`,
    // `br_validate_ipv6`). This is the only place that asks for the flow, once for a call. PRE_ROUTING has an input
    // device.
    let context = unsafe {
        IncomingContext {
            flow: IncomingFlow::of_packet(&Packet::<F>::from_raw(skb)),
            input: Device::from_raw((*state).in_),
        }
    };
    N::incoming(context).into_raw()
}
