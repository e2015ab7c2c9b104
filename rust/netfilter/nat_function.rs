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
        pernet::{
            Operations,
            OperationsRegistration, //
        },
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
    prelude::*,
    sync::atomic::{
        Atomic,
        Full,
        Release, //
    },
    time::{
        delay::fsleep,
        Delta, //
    },
    types::Opaque, //
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
    /// Returns the static with the functions.
    fn functions() -> &'static Functions<Self>
    where
        Self: Sized;

    /// Called for the first packet of a flow as it comes in, if no rule has set up destination NAT.
    ///
    /// Returns the packet's verdict. Softirq or process context; must not sleep.
    fn incoming<F: Family>(context: IncomingContext<'_, F>) -> Verdict;
}

/// A table of functions, for statics: NAT keeps pointers to its entries.
pub(crate) struct Functions<N> {
    entries: [bindings::nf_hook_ops; 2],
    operations: Operations,
    /// The number under which a namespace has its stage, or 0: not registered.
    id: Opaque<c_uint>,
    functions: PhantomData<fn() -> N>,
}

/// The stage of the functions in a namespace: NAT does not call them, they are being added, it calls them.
type Stage = Atomic<u32>;
/// The stage of a new namespace, whose memory is zeroed.
const ABSENT: u32 = 0;
const CHANGING: u32 = 1;
const PRESENT: u32 = 2;

// SAFETY: Nobody writes to the entries. The kernel writes `id` at registration alone; the operations are `Sync`.
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
            operations: Operations::new(),
            id: Opaque::new(0),
            functions: PhantomData,
        }
    }

    /// Lets the functions be added to namespaces, until the registration is dropped.
    ///
    /// The data that the functions read must be registered before, as by
    /// [`PerNet::register`](crate::net::pernet::PerNet::register): the kernel lets a namespace's parts go in the reverse
    /// order. Errors: ENOMEM; EBUSY if they are registered already. Process context.
    pub(crate) fn register(&'static self) -> Result<Registration<N>> {
        let operations = bindings::pernet_operations {
            exit: Some(Self::exit),
            id: self.id.get(),
            size: size_of::<Stage>(),
            ..pin_init::zeroed()
        };
        // SAFETY: The callback expects a stage under `id`, which the kernel arranges: zeroed memory of that size.
        let registered = unsafe { self.operations.register(operations) }?;
        Ok(Registration {
            operations: Some(registered),
            functions: PhantomData,
        })
    }

    /// Returns the namespace's stage.
    fn stage<'a>(&self, net: &'a Net) -> Option<&'a Stage> {
        // SAFETY: The number is written once, at registration. The namespace is valid by its type's invariant; under a
        // number other than 0 it has a stage, which the kernel frees after its last flow and a grace period.
        unsafe {
            match self.id.get().read_volatile() {
                0 => None,
                id => Some(&*bindings::rustmasq_net_generic(net.as_raw(), id).cast::<Stage>()),
            }
        }
    }

    /// Has NAT call the functions in a namespace until that goes, or the registration. Does nothing if it calls them.
    ///
    /// Errors: ENOENT if they are not registered; ENOMEM, or E2BIG if there are too many hooks. Process context; sleeps.
    pub(crate) fn add_to(&'static self, net: &Net, context: &mut ProcessContext) -> Result {
        context.assert_may_sleep();
        let stage = self.stage(net).ok_or(ENOENT)?;
        loop {
            match stage.cmpxchg(ABSENT, CHANGING, Full) {
                Ok(_) => break,
                Err(PRESENT) => return Ok(()),
                // Another thread is adding them.
                Err(_) => fsleep(Delta::from_millis(1)),
            }
        }
        let added = self.add_all(net);
        let reached = if added.is_ok() { PRESENT } else { ABSENT };
        stage.store(reached, Release);
        added
    }

    /// Adds all entries, or none.
    fn add_all(&'static self, net: &Net) -> Result {
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

    /// Has NAT call the functions no more in a namespace that goes, or at the end of the registration. Calls may run for
    /// a grace period.
    ///
    /// # Safety
    ///
    /// Called by the kernel for each namespace, for the registered `N::functions()`.
    unsafe extern "C" fn exit(net: *mut bindings::net) {
        // SAFETY: The kernel calls with a namespace that is valid for the call.
        let net = unsafe { Net::from_raw(net) };
        let functions = N::functions();
        // Nobody adds a rule to a namespace that goes, and a rule keeps the module.
        let stage = functions.stage(net);
        if stage.is_some_and(|stage| stage.xchg(ABSENT, Full) == PRESENT) {
            functions.remove_first(functions.entries.len(), net);
        }
    }

    /// Removes the first entries, as many as `count` says, which have been added.
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

/// The registration of functions.
pub(crate) struct Registration<N: NatFunctions> {
    operations: Option<OperationsRegistration>,
    functions: PhantomData<N>,
}

impl<N: NatFunctions> Drop for Registration<N> {
    /// Removes the functions from all namespaces, and waits until no call runs.
    fn drop(&mut self) {
        drop(self.operations.take());
        // SAFETY: Process context, outside any RCU read-side section: the operations have slept.
        unsafe { bindings::synchronize_rcu() };
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
