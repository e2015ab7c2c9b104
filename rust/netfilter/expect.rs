// SPDX-License-Identifier: GPL-2.0

//! Expectations: flows that a helper announces, so that conntrack takes them for related.
//!
//! C header: [`include/net/netfilter/nf_conntrack_expect.h`](srctree/include/net/netfilter/nf_conntrack_expect.h)

use super::{
    conntrack::Entry,
    helper::Exchange,
    tuple::{
        Direction,
        Tuple, //
    },
    Family, //
};
use crate::bindings;
use core::ptr::{
    self,
    NonNull, //
};
use kernel::{
    error::to_result,
    prelude::*, //
};

/// An expectation, complete, and not registered yet.
///
/// # Invariants
///
/// A valid `struct nf_conntrack_expect` of which we own a reference, initialised, in no list, made for
/// `master`. That is an entry that conntrack has called a helper for: its extensions, which what is
/// registered reaches into, do not move any more.
pub(crate) struct Expectation<'exchange, F: Family> {
    expect: NonNull<bindings::nf_conntrack_expect>,
    master: &'exchange Entry<'exchange, F>,
}

impl<'exchange, F: Family> Expectation<'exchange, F> {
    /// Expects of the exchange's flow another one, whose first packet has `tuple`, but may come from
    /// any port. None: no memory.
    pub(crate) fn from_any_port(
        exchange: &'exchange Exchange<'exchange, F>,
        tuple: &Tuple,
    ) -> Option<Self> {
        let master = exchange.entry();
        // SAFETY: the entry is valid by its invariant.
        let expect = NonNull::new(unsafe { bindings::nf_ct_expect_alloc(master.as_raw()) })?;
        let tuple = tuple.as_raw();
        let class = bindings::NF_CT_EXPECT_CLASS_DEFAULT;
        // SAFETY: freshly made for this entry, by a helper that has the entry's packet, as the
        // function asks for. The addresses and the port are read during the call alone, the bytes of
        // the family's addresses; null stands for any port.
        unsafe {
            bindings::nf_ct_expect_init(
                expect.as_ptr(),
                class,
                F::NFPROTO,
                &tuple.src.u3,
                &tuple.dst.u3,
                tuple.dst.protonum,
                ptr::null(),
                &tuple.dst.u.all,
            )
        };
        // INVARIANT: made and initialised above, for an entry that a helper was called for.
        Some(Self { expect, master })
    }

    /// Makes NAT lead the expected flow, which goes in this direction of its master's, to where the
    /// master's packets in the other direction come from: address and port. For masters with NAT.
    /// Follows `nf_nat_follow_master`.
    pub(crate) fn follow_nat(self, direction: Direction) -> Self {
        let own = self.master.tuple(direction.opposite());
        let expect = self.expect.as_ptr();
        // SAFETY: valid and seen by nobody else yet, by the invariant. The function is NAT's own:
        // we use it while we are loaded, unregistering a helper removes its expectations, and NAT
        // destroys those that are left to the function before it goes.
        unsafe {
            (*expect).saved_proto = own.as_raw().src.u;
            (*expect).dir = direction.as_raw();
            (*expect).expectfn = Some(bindings::nf_nat_follow_master);
        }
        self
    }

    /// Registers it. One of the same master with the same tuple is replaced, as is the oldest where
    /// there are as many as the helper allows. EBUSY: it clashes with another flow's. EMFILE: there
    /// are too many.
    pub(crate) fn register(self) -> Result {
        // SAFETY: initialised and in no list, by the invariant; what is registered has a reference
        // of its own.
        to_result(unsafe { bindings::nf_ct_expect_related_report(self.expect.as_ptr(), 0, 0, 0) })
    }
}

impl<F: Family> Drop for Expectation<'_, F> {
    fn drop(&mut self) {
        // SAFETY: the reference is ours, by the invariant.
        unsafe { bindings::nf_ct_expect_put(self.expect.as_ptr()) };
    }
}
