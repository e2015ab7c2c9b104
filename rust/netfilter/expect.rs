// SPDX-License-Identifier: GPL-2.0

//! Expectations: flows that a helper announces, so that conntrack relates them to their master.
//!
//! C header: [`include/net/netfilter/nf_conntrack_expect.h`](srctree/include/net/netfilter/nf_conntrack_expect.h)

use super::{
    conntrack::Conn,
    helper::HelperContext,
    tuple::Direction, //
};
use crate::{
    bindings,
    net::Family, //
};
use core::{
    marker::PhantomData,
    ptr::{
        self,
        NonNull, //
    }, //
};
use kernel::prelude::*;

/// A counted reference to an expectation.
///
/// # Invariants
///
/// A valid and initialised `struct nf_conntrack_expect`, of which the value owns one reference.
struct Reference(NonNull<bindings::nf_conntrack_expect>);

impl Drop for Reference {
    fn drop(&mut self) {
        // SAFETY: By the invariant the reference is ours to give back, and `self` is not used any more; any
        // context.
        unsafe { bindings::nf_ct_expect_put(self.0.as_ptr()) };
    }
}

/// An expectation that is complete but not registered.
///
/// # Invariants
///
/// The expectation is in no list, and was made for `master`. Conntrack is calling a helper for `master`. It does so after
/// it has added the entry's last extension, so the extensions, which a registered expectation points into, do not move
/// any more.
pub(crate) struct Expectation<'context, F: Family> {
    expect: Reference,
    master: PhantomData<&'context Conn<'context, F>>,
}

impl<'context, F: Family> Expectation<'context, F> {
    /// Makes an expectation of a flow whose first packet has the tuple of the context's flow in `direction`, except
    /// that its source port may be any.
    ///
    /// The context's flow is the master. Returns `None` if there is no memory. Context: a helper's call.
    pub(crate) fn from_any_port(
        context: &'context HelperContext<'context, F>,
        direction: Direction,
    ) -> Option<Self> {
        let master = context.conn();
        // SAFETY: The entry is valid by its type's invariant. The function only stores the pointer, which
        // `'context` keeps valid until the expectation is registered or given back. It does not sleep.
        let expect = NonNull::new(unsafe { bindings::nf_ct_expect_alloc(master.as_raw()) })?;
        let tuple = master.raw_tuple(direction);
        let class = bindings::NF_CT_EXPECT_CLASS_DEFAULT;
        // SAFETY: The expectation was allocated for this entry just now, and nobody else knows it. The
        // function may only be called for a packet that holds the entry, under the RCU read lock: `context`
        // is that of such a call. It copies as many bytes of the addresses as the family has, and the
        // destination port, during the call; null stands for any source port. The tuple is one of the entry's.
        unsafe {
            bindings::nf_ct_expect_init(
                expect.as_ptr(),
                class,
                F::NFPROTO,
                &raw const (*tuple).src.u3,
                &raw const (*tuple).dst.u3,
                (&raw const (*tuple).dst.protonum).read_volatile(),
                ptr::null(),
                &raw const (*tuple).dst.u.all,
            )
        };
        // INVARIANT: It is initialised, in no list, and made for the entry of a helper's call.
        Some(Self {
            expect: Reference(expect),
            master: PhantomData,
        })
    }

    /// Makes the expected flow go to another port, in host order.
    pub(crate) fn with_port(self, port: u16) -> Self {
        // SAFETY: By the invariant the expectation is valid, and in no list, so nobody else reads it.
        unsafe { (*self.expect.0.as_ptr()).tuple.dst.u.all = port.to_be() };
        self
    }

    /// Makes NAT translate the expected flow like its master, as a flow in the master's `direction`.
    ///
    /// NAT leads the flow's packets to the address that the master's packets of the other direction come from, and to
    /// the port `inside` there, in host order. Meant for masters with NAT. Follows `nf_nat_follow_master`.
    pub(crate) fn follow_nat(self, direction: Direction, inside: u16) -> Self {
        let expect = self.expect.0.as_ptr();
        // SAFETY: By the invariant the expectation is valid, and in no list, so nobody else reads it. The
        // function pointed to belongs to nf_nat, which stays loaded while this module is; unregistering a
        // helper removes its expectations (`nf_conntrack_helper_release`), and nf_nat removes those that
        // still name its function before it goes (`nf_ct_helper_expectfn_destroy`).
        unsafe {
            (*expect).saved_proto.all = inside.to_be();
            (*expect).dir = direction.as_raw();
            (*expect).expectfn = Some(bindings::nf_nat_follow_master);
        }
        self
    }

    /// Registers the expectation.
    ///
    /// It replaces one of the same master with the same tuple, and the oldest one where the master has as
    /// many as the helper allows. Errors: EBUSY if it clashes with an expectation of another flow, EMFILE
    /// if the namespace has too many; the expectation comes back with them.
    pub(crate) fn register(self) -> Result<Registered, (Error, Self)> {
        // SAFETY: By the invariant the expectation is initialised and in no list, and its master is valid
        // and has its extension for helpers where it will stay. Conntrack takes a reference of its own to
        // an expectation that it registers, and removes it before the master is freed.
        let error =
            unsafe { bindings::nf_ct_expect_related_report(self.expect.0.as_ptr(), 0, 0, 0) };
        if error == 0 {
            Ok(Registered(self.expect))
        } else {
            Err((Error::from_errno(error), self))
        }
    }
}

/// An expectation that was registered.
pub(crate) struct Registered(Reference);

impl Registered {
    /// Withdraws the expectation, unless the expected flow has begun.
    pub(crate) fn withdraw(self) {
        // SAFETY: The value owns a reference, so the expectation is valid. The function takes it out of the lists and
        // counts it off its master's, unless somebody else has, who does so before the master is freed.
        unsafe { bindings::nf_ct_unexpect_related((self.0).0.as_ptr()) };
    }
}
