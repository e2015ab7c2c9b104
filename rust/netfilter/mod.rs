// SPDX-License-Identifier: GPL-2.0

//! Safe abstractions over netfilter, connection tracking, NAT and x_tables.
//!
//! With [`bindings`](crate::bindings) the only room of the module with `unsafe` in it. No public
//! item shows a raw pointer or a type of the bindings. Behind each of the 120 unsafe blocks stands
//! one obligation of this table, which counts them by file:
//!
//! |   | obligation                        | blocks                                             |
//! |---|-----------------------------------|----------------------------------------------------|
//! | A | what C calls us with is valid     | change 4, conntrack 1, helper 5, hook 1, xtables 8 |
//! | B | what is lent stays for the call   | conntrack 7, helper 1, hook 2, net 12, skb 9       |
//! | C | RCU where we are not called in it | net 3                                              |
//! | D | an entry before confirmation      | conntrack 1, helper 1, nat 3                       |
//! | E | an entry in conntrack's table     | conntrack 3                                        |
//! | F | references                        | expect 5, helper 1, net 3, xtables 2               |
//! | G | registration                      | change 7, helper 3, hook 5, xtables 2              |
//! | H | locks and lists                   | hook 3, net 5                                      |
//! | I | process context                   | change 2, conntrack 1                              |
//! | J | layout; any bytes are a value     | address 5, hook 1, nat 2, tuple 4, xtables 2       |
//! | K | memory that C gets for a call     | log 2, trace 4, tuple 1                            |
//!
//! What guarantees it:
//!
//! - **A** A callback has the type of the field it is put into, as bindgen read it. It makes of C's
//!   pointers what the next lines speak of, once, and for the call. What holds the callback's own
//!   data takes it out of C's lists, and waits, before it goes ([`change::Listener`]).
//! - **B** Hooks, targets and helpers are called in an RCU read-side section. A packet refers to
//!   its entry, an entry to its namespace; routes, devices and namespaces stay until the section
//!   ends. The lifetime `'hook` is the callback's to choose, so that nothing outlives the call
//!   (tests/borrows), and nothing lent is `Send`. What others may write meanwhile is read once,
//!   volatile; to the linear part of a packet nobody writes, it is ours for the call.
//! - **C** A guard is held until the last use.
//! - **D** Who handles an unconfirmed entry's packet is alone with the entry
//!   ([`conntrack::NewFlow`]). Where a clone of the packet breaks that, in C as here, what adds to
//!   the entry has looked at its confirmed bit again.
//! - **E** The bucket's lock is held, as it is by who confirms, until the entry is complete; from
//!   then on tuples and extensions stay ([`conntrack::Tracked`]).
//! - **F** Who owns a reference gives it back when dropped. Conntrack's copy of a helper is given
//!   up after a grace period in which nobody can find it any more. A rule's reference to
//!   conntrack's hooks is taken last in `check`, when nothing can fail any more, and given back by
//!   `destroy`.
//! - **G** What is registered is complete, and static or pinned. For a static, a flag refuses a
//!   second time. Dropping the registration is the only way to unregister, and waits for calls that
//!   run.
//! - **H** Each lock is taken by one function, which lends what it guards to a closure or keeps it.
//! - **I** A [`ProcessContext`] is lent to the work of [`change::Handler`] alone.
//! - **J** bindgen reads the very tree that is built against; rustc checks sizes and offsets.
//!   Unions are of integers, and zeroed before they are written. There are two families, [`Family`]
//!   is sealed. x_tables compares a rule's size, and aligns it; the rest is asserted at build.
//! - **K** It is initialised, and C keeps no pointer to it. Trace events copy it field by field
//!   into entries without holes.
//!
//! Of the seven `unsafe impl`s six are of `Send` and `Sync`, for what the kernel locks or nobody
//! writes to, and one is of `FromBytes`, for integers without padding.
//!
//! What types do not forbid, as little as those of the kernel crate:
//!
//! - To forget a registration ([`core::mem::forget`]), although what is static ends with the
//!   module.
//! - To sleep in a hook by means of the kernel crate, or by registering something: walks ask for a
//!   [`ProcessContext`], registering does not, for a module's init has none to show.

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
