// SPDX-License-Identifier: GPL-2.0

//! Safe abstractions over netfilter, connection tracking, NAT and x_tables.
//!
//! With [`bindings`](crate::bindings) the only room of the module with `unsafe` in it. What stands
//! behind each unsafe block is one of these:
//!
//! - **hook context**: a value that is borrowed for `'hook` was handed to us by a netfilter hook.
//!   Hooks run inside an RCU read-side section, so what the packet, its route and its devices point
//!   to stays while the hook runs; no such value can outlive the call, its lifetime forbids it.
//! - **conntrack's own rule** for entries that are not confirmed: who handles the packet may change
//!   them ([`conntrack::NewFlow`]).
//! - **registration**: a [`Drop`] that unregisters, and statics that never move.
//!
//! No public item shows a raw pointer or a type of the bindings.

mod address;
pub(crate) mod change;
pub(crate) mod conntrack;
pub(crate) mod expect;
pub(crate) mod helper;
pub(crate) mod hook;
pub(crate) mod log;
pub(crate) mod nat;
pub(crate) mod net;
pub(crate) mod skb;
pub(crate) mod trace;
pub(crate) mod tuple;
pub(crate) mod xtables;

pub(crate) use address::{
    AnyAddress,
    Family,
    Ipv4,
    Ipv6, //
};

use crate::bindings;
use kernel::{
    prelude::*,
    types::NotThreadSafe, //
};

/// Evidence of process context, in which a function may sleep; lent to those that are called so.
///
/// Functions ask for it mutably: the closures that they call, under locks of theirs, cannot have it
/// as well. Of locks that the caller took itself it says nothing.
///
/// # Invariants
///
/// While it exists the thread that has it is in process context, with no lock of the kernel's held.
pub(crate) struct ProcessContext(NotThreadSafe);

impl ProcessContext {
    /// # Safety
    ///
    /// The caller must fulfil the type's invariant.
    const unsafe fn new() -> Self {
        // INVARIANT: the caller's duty.
        Self(NotThreadSafe)
    }
}

/// What becomes of a packet.
///
/// C header: [`include/uapi/linux/netfilter.h`](srctree/include/uapi/linux/netfilter.h)
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u32)]
pub(crate) enum Verdict {
    /// It ends here.
    Drop = bindings::NF_DROP,
    /// It goes on its way.
    Accept = bindings::NF_ACCEPT,
}

impl Verdict {
    const fn into_raw(self) -> c_uint {
        self as c_uint
    }

    /// Reads what a function of NAT answers: it accepts or drops, nothing else.
    const fn from_raw(raw: c_uint) -> Self {
        if raw == bindings::NF_ACCEPT {
            Verdict::Accept
        } else {
            Verdict::Drop
        }
    }
}
