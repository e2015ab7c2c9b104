// SPDX-License-Identifier: GPL-2.0

//! The end of flows whose source NAT was set up.
//!
//! Conntrack has one listener for events in a namespace, which is ctnetlink. But when it frees an entry whose source
//! NAT is settled, it calls NAT by `nf_nat_hook`, a pointer to a structure of functions, so that NAT forgets the flow.
//! This puts a copy of the structure in its place, with a function that tells our handler before it calls NAT's.
//!
//! C header: [`include/linux/netfilter.h`](srctree/include/linux/netfilter.h)

use super::{
    conntrack::{
        FlowKey,
        Zone, //
    },
    tuple::{
        self,
        FlowTags,
        Tuple, //
    }, //
};
use crate::{
    bindings,
    net::{
        namespace::Net,
        Ipv6,
        ProcessContext, //
    },
};
use core::{
    marker::PhantomData,
    ptr::{
        self,
        NonNull, //
    },
};
use kernel::{
    prelude::*,
    sync::atomic::{
        Acquire,
        Atomic,
        Full,
        Relaxed,
        Release, //
    },
    types::Opaque, //
};

/// A flow at its end.
///
/// # Invariants
///
/// A valid `struct nf_conn` for `'end` whose last reference is gone, with its tuples and extensions.
pub(crate) struct EndedFlow<'end> {
    ct: *mut bindings::nf_conn,
    borrow: PhantomData<&'end bindings::nf_conn>,
}

impl EndedFlow<'_> {
    /// Returns the flow's namespace.
    pub(crate) fn net(&self) -> &Net {
        // SAFETY: The entry is valid by the type's invariant. A namespace waits for the end of its last flow.
        unsafe { Net::from_raw(bindings::rustmasq_nf_ct_net(self.ct)) }
    }

    /// Returns the number that told the flow from all others as long as it lived.
    pub(crate) fn key(&self) -> FlowKey {
        // SAFETY: By the type's invariant the pointer is that of an entry, which is not null.
        FlowKey::of_raw(unsafe { NonNull::new_unchecked(self.ct) })
    }

    /// Returns the reply tuple.
    pub(crate) fn reply(&self) -> Tuple {
        // SAFETY: The entry is valid by the type's invariant, and conntrack zeroed the tuple before it filled it in.
        unsafe { Tuple::from_raw(&raw const (*self.ct).tuplehash[1].tuple) }
    }

    /// Returns the original tuple.
    pub(crate) fn original(&self) -> Tuple {
        // SAFETY: As in `reply`.
        unsafe { Tuple::from_raw(&raw const (*self.ct).tuplehash[0].tuple) }
    }

    /// Returns whether the flow was answered.
    pub(crate) fn is_answered(&self) -> bool {
        // SAFETY: The entry is valid by the type's invariant; its status is an integer.
        let status = unsafe { (&raw const (*self.ct).status).read_volatile() };
        // CAST: A bit of few.
        status & bindings::ip_conntrack_status_IPS_SEEN_REPLY as usize != 0
    }

    /// Returns numbers that tell the flow, and the endpoint that it came from, from others.
    pub(crate) fn tags(&self) -> FlowTags {
        let namespace = self.net().tag();
        // SAFETY: The entry is valid by the type's invariant, and conntrack zeroed the tuple before it filled it in.
        // IPv4's tags are the same for both families.
        unsafe { tuple::tags_of_raw::<Ipv6>(&raw const (*self.ct).tuplehash[0].tuple, namespace) }
    }

    /// Returns the flow's zone.
    pub(crate) fn zone(&self) -> Zone {
        // SAFETY: The entry is valid by the type's invariant.
        unsafe { Zone::of_raw(self.ct) }
    }
}

/// A handler of the ends of flows.
pub(crate) trait FlowEndHandler: 'static {
    /// Returns the static that calls the handler.
    fn flow_end() -> &'static FlowEnd<Self>
    where
        Self: Sized;

    /// Called for each flow at its end, under the RCU read lock. Softirq or process context; must not sleep.
    fn flow_ended(flow: &EndedFlow<'_>);
}

/// The ends of flows, for statics.
pub(crate) struct FlowEnd<H> {
    /// The copy of NAT's structure.
    hook: Opaque<bindings::nf_nat_hook>,
    /// NAT's own structure, or null: not registered.
    nat: Atomic<*mut bindings::nf_nat_hook>,
    handler: PhantomData<H>,
}

// SAFETY: The copy is written at registration alone, and the pointer is atomic.
unsafe impl<H> Sync for FlowEnd<H> {}

impl<H: FlowEndHandler> FlowEnd<H> {
    /// Returns a static that is not registered.
    pub(crate) const fn new() -> Self {
        Self {
            hook: Opaque::new(pin_init::zeroed()),
            nat: Atomic::new(ptr::null_mut()),
            handler: PhantomData,
        }
    }

    /// Prepares to call the handler, which [`listen`](Self::listen) begins, until the registration is dropped.
    ///
    /// Errors: ENOENT if there is no NAT, EBUSY if it is registered already. Process context.
    pub(crate) fn register(&'static self) -> Result<Registration<H>> {
        let nat = self.place().load(Acquire);
        if nat.is_null() {
            return Err(ENOENT);
        }
        if !self.nat.load(Acquire).is_null() {
            return Err(EBUSY);
        }
        // SAFETY: The module nf_nat publishes the structure, and is needed by this one, so it stays. It is constant.
        // Nobody reads the copy yet: `nat` is null.
        unsafe {
            self.hook.get().write(bindings::nf_nat_hook {
                remove_nat_bysrc: Some(Self::ended),
                ..ptr::read(nat)
            });
        }
        self.nat.store(nat, Release);
        Ok(Registration(self))
    }

    /// Begins to call the handler.
    ///
    /// Returns whether it is called from now on. It is not if somebody else has put a structure in NAT's place. Must not
    /// be called while the registration is being dropped. Any context.
    pub(crate) fn listen(&self) -> bool {
        let nat = self.nat.load(Acquire);
        if nat.is_null() {
            return false;
        }
        match self.place().cmpxchg(nat, self.hook.get(), Full) {
            Ok(_) => true,
            Err(other) => other == self.hook.get(),
        }
    }

    /// Stops calling the handler; calls that run go on. Any context.
    ///
    /// Returns false if somebody else has put a structure in the place meanwhile, which may call ours.
    pub(crate) fn stop(&self) -> bool {
        let nat = self.nat.load(Acquire);
        match self.place().cmpxchg(self.hook.get(), nat, Full) {
            Ok(_) => true,
            Err(other) => other == nat,
        }
    }

    /// Returns the place of the structure.
    fn place(&self) -> &'static Atomic<*mut bindings::nf_nat_hook> {
        // SAFETY: The pointer is a static of the kernel. Others write to it by single stores, and nobody makes a
        // mutable reference to it.
        unsafe { Atomic::from_ptr((&raw mut bindings::nf_nat_hook).cast()) }
    }

    /// Calls the handler, and NAT's own function.
    ///
    /// # Safety
    ///
    /// Called by conntrack, under the RCU read lock, for an entry whose last reference is gone.
    unsafe extern "C" fn ended(ct: *mut bindings::nf_conn) {
        // INVARIANT: Conntrack frees the entry after this call.
        H::flow_ended(&EndedFlow {
            ct,
            borrow: PhantomData,
        });
        let nat = H::flow_end().nat.load(Relaxed);
        // SAFETY: The pointer was written before this function could be called. The structure is nf_nat's, which
        // stays loaded, and its function takes an entry under the same conditions.
        unsafe {
            if let Some(remove) = (*nat).remove_nat_bysrc {
                remove(ct);
            }
        }
    }
}

/// The registration of a handler.
pub(crate) struct Registration<H: FlowEndHandler>(&'static FlowEnd<H>);

impl<H: FlowEndHandler> Drop for Registration<H> {
    /// Waits until no call runs.
    fn drop(&mut self) {
        // SAFETY: Module init and exit are process context, outside any atomic section.
        let mut context = unsafe { ProcessContext::new() };
        context.assert_may_sleep();
        // A module that hooked in after us has a copy of our function's address, which must not be called when it is gone.
        while !self.0.stop() {
            kernel::pr_warn_once!("waiting for another module to give nf_nat_hook back\n");
            kernel::time::delay::fsleep(kernel::time::Delta::from_millis(100));
        }
        // SAFETY: Process context, outside any RCU read-side section.
        unsafe { bindings::synchronize_rcu() };
        self.0.nat.store(ptr::null_mut(), Release);
    }
}
