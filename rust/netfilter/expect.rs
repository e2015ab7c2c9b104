// SPDX-License-Identifier: GPL-2.0

//! Expectations: flows that a helper announces, so that conntrack takes them for related.
//!
//! C header: [`include/net/netfilter/nf_conntrack_expect.h`](srctree/include/net/netfilter/nf_conntrack_expect.h)

use super::{
    conntrack::Entry,
    tuple::{
        Direction,
        Tuple, //
    },
    Family, //
};
use crate::bindings;
use core::{
    marker::PhantomData,
    ptr::{
        self,
        NonNull, //
    }, //
};
use kernel::{
    error::to_result,
    prelude::*, //
};

/// An expectation, complete, and not registered yet.
///
/// # Invariants
///
/// A valid `struct nf_conntrack_expect` of which we own a reference, initialised, in no list, whose
/// master is valid for `'master`.
pub(crate) struct Expectation<'master, F: Family> {
    expect: NonNull<bindings::nf_conntrack_expect>,
    master: PhantomData<(&'master bindings::nf_conn, F)>,
}

impl<'master, F: Family> Expectation<'master, F> {
    /// Expects of `master` one flow whose first packet has `tuple`, but may come from any port.
    /// None: no memory. In a helper.
    pub(crate) fn from_any_port(master: &'master Entry<'_, F>, tuple: &Tuple) -> Option<Self> {
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
        // INVARIANT: made and initialised above; the master is borrowed for `'master`.
        Some(Self {
            expect,
            master: PhantomData,
        })
    }

    /// Makes NAT lead the expected flow to where the flow `master` comes from: address and port.
    /// `direction` is the one of `master`'s that the expected flow has. For masters with NAT.
    /// Follows `nf_nat_follow_master`.
    pub(crate) fn follow_nat(self, master: &'master Entry<'_, F>, direction: Direction) -> Self {
        let own = master.tuple(direction.opposite());
        let expect = self.expect.as_ptr();
        // SAFETY: valid and seen by nobody else yet, by the invariant. The function is NAT's own,
        // which we keep loaded by using it.
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
