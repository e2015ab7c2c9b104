// SPDX-License-Identifier: GPL-2.0

//! Work that is done later, in process context.
//!
//! C header: [`include/linux/workqueue.h`](srctree/include/linux/workqueue.h)

use super::context::ProcessContext;
use crate::bindings;
use core::marker::PhantomData;
use kernel::{
    prelude::*,
    sync::atomic::{
        Acquire,
        AtomicFlag,
        Full,
        Release, //
    },
    task::might_sleep,
    time::{
        msecs_to_jiffies,
        Msecs, //
    },
    types::Opaque, //
};

/// What is to be done.
pub(crate) trait Handler: 'static {
    /// Returns the static that does it.
    fn work() -> &'static Work<Self>
    where
        Self: Sized;

    /// Does the work. Returns after how long it is to be done again, if it is.
    fn run(context: &mut ProcessContext) -> Option<Msecs>;
}

/// Delayed work, for statics.
pub(crate) struct Work<H> {
    work: Opaque<bindings::delayed_work>,
    /// The work is initialised, and may be queued.
    ready: AtomicFlag,
    registered: AtomicFlag,
    handler: PhantomData<H>,
}

// SAFETY: The functions of workqueues that are called for the work do their own locking; the flags are atomic.
unsafe impl<H> Sync for Work<H> {}

impl<H: Handler> Work<H> {
    /// Returns work that cannot be queued yet.
    pub(crate) const fn new() -> Self {
        Self {
            work: Opaque::uninit(),
            ready: AtomicFlag::new(false),
            registered: AtomicFlag::new(false),
            handler: PhantomData,
        }
    }

    /// Lets the work be queued, until the registration is dropped.
    ///
    /// Errors: EBUSY if it is registered already. Process context.
    pub(crate) fn register(&'static self) -> Result<Registration<H>> {
        if self.registered.xchg(true, Full) {
            return Err(EBUSY);
        }
        // SAFETY: By `registered` nobody else initialises or queues the work, which is static and stays in its place.
        unsafe { bindings::rustmasq_init_delayed_work(self.work.get(), Some(Self::run)) };
        self.ready.store(true, Release);
        Ok(Registration(self))
    }

    /// Queues the work after a delay, which replaces an earlier one. Any context.
    pub(crate) fn queue(&self, delay: Msecs) {
        let cpu = bindings::wq_misc_consts_WORK_CPU_UNBOUND as c_int;
        if self.ready.load(Acquire) {
            // SAFETY: The queue is one of the kernel's own and always there. The work is initialised, and static; the
            // registration's `drop` waits for it. The function may be called in any context.
            unsafe {
                bindings::mod_delayed_work_on(
                    cpu,
                    bindings::system_dfl_wq,
                    self.work.get(),
                    msecs_to_jiffies(delay),
                )
            };
        }
    }

    /// Queues the work after a delay, unless it is queued already.
    fn queue_again(&self, delay: Msecs) {
        let cpu = bindings::wq_misc_consts_WORK_CPU_UNBOUND as c_int;
        // SAFETY: As in `queue`; the caller is the work itself, so it is initialised.
        unsafe {
            bindings::queue_delayed_work_on(
                cpu,
                bindings::system_dfl_wq,
                self.work.get(),
                msecs_to_jiffies(delay),
            )
        };
    }

    /// Does the work.
    ///
    /// # Safety
    ///
    /// Called by the workqueue with the work of `H`.
    unsafe extern "C" fn run(_work: *mut bindings::work_struct) {
        // SAFETY: A workqueue calls in process context, outside any atomic section, and this function enters none.
        let mut context = unsafe { ProcessContext::new() };
        if let Some(delay) = H::run(&mut context) {
            H::work().queue_again(delay);
        }
    }
}

/// The registration of work.
pub(crate) struct Registration<H: Handler>(&'static Work<H>);

impl<H: Handler> Drop for Registration<H> {
    /// Waits until the work does not run, and will not.
    fn drop(&mut self) {
        might_sleep();
        self.0.ready.store(false, Release);
        // SAFETY: The work is initialised. The function disables it while it waits, so that it cannot queue itself; whoever
        // could still queue it from outside is gone before this registration. Process context.
        unsafe { bindings::cancel_delayed_work_sync(self.0.work.get()) };
        self.0.registered.store(false, Release);
    }
}
