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

/// C's delayed work.
///
/// `kernel::workqueue` has no `mod_delayed_work`, which replaces a delay, and no `disable_delayed_work_sync`, which a
/// `drop` needs; its work items own a reference to their data instead, which would keep the data until the work has run,
/// past the module's exit.
#[repr(transparent)]
pub(super) struct DelayedWork(Opaque<bindings::delayed_work>);

// SAFETY: The functions of workqueues that are called for the work do their own locking.
unsafe impl Sync for DelayedWork {}

impl DelayedWork {
    /// Returns work that is not initialised.
    pub(super) const fn uninit() -> Self {
        Self(Opaque::uninit())
    }

    /// Initialises the work.
    ///
    /// # Safety
    ///
    /// Nobody else may use the work, which must stay in its place; `function` must be fit to be called with it.
    pub(super) unsafe fn init(&self, function: unsafe extern "C" fn(*mut bindings::work_struct)) {
        // SAFETY: The caller guarantees it.
        unsafe { bindings::rustmasq_init_delayed_work(self.0.get(), Some(function)) };
    }

    /// Queues the work after a delay, which replaces an earlier one. Any context.
    ///
    /// # Safety
    ///
    /// The work must be initialised, and be disabled before its memory goes.
    pub(super) unsafe fn queue(&self, delay: Msecs) {
        let cpu = bindings::wq_misc_consts_WORK_CPU_UNBOUND as c_int;
        let delay = msecs_to_jiffies(delay);
        // SAFETY: The queue is one of the kernel's own and always there. The caller vouches for the work. The function
        // may be called in any context.
        unsafe { bindings::mod_delayed_work_on(cpu, bindings::system_dfl_wq, self.0.get(), delay) };
    }

    /// Queues the work after a delay, unless it is queued already. Any context.
    ///
    /// # Safety
    ///
    /// As of [`queue`](Self::queue).
    pub(super) unsafe fn queue_again(&self, delay: Msecs) {
        let cpu = bindings::wq_misc_consts_WORK_CPU_UNBOUND as c_int;
        let delay = msecs_to_jiffies(delay);
        // SAFETY: As in `queue`.
        unsafe {
            bindings::queue_delayed_work_on(cpu, bindings::system_dfl_wq, self.0.get(), delay)
        };
    }

    /// Waits until the work does not run, and will not, whoever queues it from now on. Process context; sleeps.
    ///
    /// # Safety
    ///
    /// The work must be initialised.
    pub(super) unsafe fn disable(&self) {
        // SAFETY: The caller guarantees it.
        unsafe { bindings::disable_delayed_work_sync(self.0.get()) };
    }
}

/// A thing to do.
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
    work: DelayedWork,
    /// The work is initialised, and may be queued.
    ready: AtomicFlag,
    registered: AtomicFlag,
    handler: PhantomData<fn() -> H>,
}

impl<H: Handler> Work<H> {
    /// Returns work that cannot be queued yet.
    pub(crate) const fn new() -> Self {
        Self {
            work: DelayedWork::uninit(),
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
        // SAFETY: By `registered` nobody else initialises or queues the work, which is static and stays in its place;
        // `run` is for the work of `H`.
        unsafe { self.work.init(Self::run) };
        self.ready.store(true, Release);
        Ok(Registration(self))
    }

    /// Queues the work after a delay, which replaces an earlier one. Any context.
    pub(crate) fn queue(&self, delay: Msecs) {
        if self.ready.load(Acquire) {
            // SAFETY: The work is initialised, and static; the registration's `drop` disables it.
            unsafe { self.work.queue(delay) };
        }
    }

    /// Queues the work after a delay, unless it is queued. Any context.
    pub(crate) fn queue_unless_queued(&self, delay: Msecs) {
        if self.ready.load(Acquire) {
            // SAFETY: The work is initialised, and static; the registration's `drop` disables it.
            unsafe { self.work.queue_again(delay) };
        }
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
            // SAFETY: The work runs, so it is initialised; the registration's `drop` disables it.
            unsafe { H::work().work.queue_again(delay) };
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
        // SAFETY: The work is initialised.
        unsafe { self.0.work.disable() };
        self.0.registered.store(false, Release);
    }
}
