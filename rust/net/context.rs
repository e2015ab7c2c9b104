// SPDX-License-Identifier: GPL-2.0

//! Evidence of the context that code runs in.

use crate::bindings;
use kernel::{
    task::might_sleep,
    types::NotThreadSafe, //
};

/// Evidence that the thread is in process context and may sleep, as far as the maker of the value knows.
///
/// A function that sleeps takes `&mut ProcessContext`. A hook has none to pass, so it cannot call such
/// a function. The borrow is mutable, so a closure that the function calls under a lock of its own
/// cannot use the same evidence. Locks that the holder takes itself are not covered;
/// [`assert_may_sleep`](Self::assert_may_sleep) finds those on a kernel with
/// `CONFIG_DEBUG_ATOMIC_SLEEP`.
///
/// # Invariants
///
/// The thread that owns the value was in process context, outside any atomic section, when the value
/// was made, and the code that made it enters none while the value exists.
pub(crate) struct ProcessContext(NotThreadSafe);

impl ProcessContext {
    /// Makes the evidence.
    ///
    /// # Safety
    ///
    /// The caller must be in process context, outside any atomic section, and must stay so until the
    /// value is dropped.
    pub(crate) const unsafe fn new() -> Self {
        // INVARIANT: The caller guarantees the context.
        Self(NotThreadSafe)
    }

    /// Complains in the kernel's log if the thread must not sleep here (`might_sleep`).
    #[track_caller]
    pub(crate) fn assert_may_sleep(&mut self) {
        might_sleep();
    }
}

/// Evidence that no softirq runs on this CPU until the value is dropped (`local_bh_disable`).
///
/// A lock that a hook takes must be taken with it elsewhere: a hook may run in a softirq, which would wait for the
/// code that it interrupted. In a softirq, and where softirqs are off already, this is a look at the count alone. So the
/// values of a thread must be dropped in the reverse order.
pub(crate) struct BottomHalvesOff {
    /// Softirqs were on before.
    were_on: bool,
    _thread: NotThreadSafe,
}

impl BottomHalvesOff {
    /// Turns softirqs off on this CPU. Any context but hard interrupts; may be nested.
    #[inline(always)]
    pub(crate) fn new() -> Self {
        // SAFETY: The function reads the count of this thread or CPU. If it is not 0, whoever has raised it lowers it
        // again after this value is dropped: the values of a thread are nested.
        let were_on = unsafe { bindings::rustmasq_softirq_count() } == 0;
        if were_on {
            // SAFETY: The function takes no arguments; `drop` turns softirqs on again, on the same CPU.
            unsafe { bindings::rustmasq_local_bh_disable() };
        }
        Self {
            were_on,
            _thread: NotThreadSafe,
        }
    }
}

impl Drop for BottomHalvesOff {
    #[inline(always)]
    fn drop(&mut self) {
        if self.were_on {
            // SAFETY: `new` turned softirqs off, on this thread, for the value is not `Send`.
            unsafe { bindings::rustmasq_local_bh_enable() };
        }
    }
}
