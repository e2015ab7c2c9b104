// SPDX-License-Identifier: GPL-2.0

//! Data that each network namespace has of its own.
//!
//! C headers: [`include/net/net_namespace.h`](srctree/include/net/net_namespace.h),
//! [`include/net/netns/generic.h`](srctree/include/net/netns/generic.h)

use super::{
    context::ProcessContext,
    namespace::Net,
    percpu::{
        CounterName,
        PerCpuCounters, //
    },
    rcu::ReadLocked, //
};
use crate::bindings;
use core::{
    marker::PhantomData,
    ptr::NonNull, //
};
use kernel::{
    error::{
        from_result,
        to_result, //
    },
    prelude::*,
    sync::{
        atomic::{
            AtomicFlag,
            Full,
            Release, //
        },
        rcu, //
    },
    task::might_sleep,
    types::Opaque, //
};

/// The data of one namespace, without its counters.
///
/// Its destructor does not run: [`exit`](Self::exit) has to release what it owns. It may still be read after that,
/// by the ends of the namespace's last flows.
pub(crate) trait NetData: Sized + Send + Sync + 'static {
    /// The counters that each namespace has.
    type Counter: CounterName;

    /// Returns the static that manages the data.
    fn pernet() -> &'static PerNet<Self>;

    /// Returns the data of a new namespace. Process context.
    fn new() -> Self;

    /// Called when the namespace begins to go; packets may still come. Must not sleep.
    fn pre_exit(&self);

    /// Called a grace period after [`pre_exit`](Self::pre_exit). When the module goes, packets may still come.
    fn exit(&self, context: &mut ProcessContext);
}

/// Callbacks for each namespace (`struct pernet_operations`), for statics.
pub(crate) struct Operations {
    raw: Opaque<bindings::pernet_operations>,
    registered: AtomicFlag,
}

// SAFETY: The kernel reads the structure and changes its list under a lock of its own; `registered` is atomic.
unsafe impl Sync for Operations {}

impl Operations {
    /// Returns callbacks that are not registered.
    pub(crate) const fn new() -> Self {
        Self {
            raw: Opaque::new(pin_init::zeroed()),
            registered: AtomicFlag::new(false),
        }
    }

    /// Has the callbacks called for each namespace, until the registration is dropped.
    ///
    /// Errors: EBUSY if they are registered already; whatever `init` returns. Process context.
    ///
    /// # Safety
    ///
    /// The callbacks must be fit to be called by the kernel for each namespace (`register_pernet_subsys`), as long as
    /// the registration exists.
    pub(crate) unsafe fn register(
        &'static self,
        operations: bindings::pernet_operations,
    ) -> Result<OperationsRegistration> {
        might_sleep();
        if self.registered.xchg(true, Full) {
            return Err(EBUSY);
        }
        // SAFETY: By `registered` nobody else uses the structure, which is static and stays in its place. The caller
        // vouches for the callbacks. Process context.
        to_result(unsafe {
            self.raw.get().write(operations);
            bindings::register_pernet_subsys(self.raw.get())
        })
        .inspect_err(|_| self.registered.store(false, Release))?;
        Ok(OperationsRegistration(self))
    }
}

/// The registration of callbacks for each namespace.
pub(crate) struct OperationsRegistration(&'static Operations);

impl Drop for OperationsRegistration {
    fn drop(&mut self) {
        might_sleep();
        // SAFETY: `register` registered exactly this structure, and `self` is its only registration. Process context.
        unsafe { bindings::unregister_pernet_subsys(self.0.raw.get()) };
        self.0.registered.store(false, Release);
    }
}

/// The kernel's memory for one namespace.
struct Slot<T: NetData> {
    data: T,
    counters: PerCpuCounters<T::Counter>,
}

/// The data of all namespaces, for statics.
pub(crate) struct PerNet<T> {
    operations: Operations,
    /// The number under which a namespace has the data, or 0: not registered.
    id: Opaque<c_uint>,
    data: PhantomData<T>,
}

// SAFETY: The kernel writes `id` at registration alone; the operations and the data are `Sync`.
unsafe impl<T: NetData> Sync for PerNet<T> {}

impl<T: NetData> PerNet<T> {
    /// Returns a static that is not registered.
    pub(crate) const fn new() -> Self {
        Self {
            operations: Operations::new(),
            id: Opaque::new(0),
            data: PhantomData,
        }
    }

    /// Gives each namespace its data, until the registration is dropped.
    ///
    /// Errors: ENOMEM; EBUSY if they are registered already. Process context.
    pub(crate) fn register(&'static self) -> Result<Registration<T>> {
        let operations = bindings::pernet_operations {
            init: Some(Self::init),
            pre_exit: Some(Self::pre_exit),
            exit: Some(Self::exit),
            id: self.id.get(),
            size: size_of::<Slot<T>>(),
            ..pin_init::zeroed()
        };
        // SAFETY: The callbacks expect data of `size` bytes under `id`, which the kernel arranges. The module's other
        // registrations, whose callbacks read the data, are gone before this one.
        let registered = unsafe { self.operations.register(operations) }?;
        Ok(Registration {
            _operations: registered,
            data: PhantomData,
        })
    }

    /// Returns the namespace's data, or `None` if they are not registered. Any context.
    #[inline(always)]
    pub(crate) fn of<'a>(&self, net: &'a Net) -> Option<&'a T> {
        self.slot(net).map(|slot| &slot.data)
    }

    /// Does the same as [`of`](Self::of) in fewer instructions, under the RCU read lock.
    #[inline(always)]
    pub(crate) fn of_locked<'a>(&self, net: &'a Net, reader: &impl ReadLocked) -> Option<&'a T> {
        self.slot_locked(net, reader).map(|slot| &slot.data)
    }

    /// Adds a number to a counter of the namespace. Any context.
    ///
    /// Nothing is counted when the namespace has begun to go.
    #[inline(always)]
    pub(crate) fn add(
        &self,
        net: &Net,
        counter: T::Counter,
        number: u64,
        reader: &impl ReadLocked,
    ) {
        if let Some(slot) = self.slot_locked(net, reader) {
            slot.counters.add(counter, number, reader);
        }
    }

    /// Returns a counter of the namespace as it is now. Any context.
    pub(crate) fn counted(&self, net: &Net, counter: T::Counter) -> u64 {
        let guard = rcu::read_lock();
        self.slot(net)
            .map_or(0, |slot| slot.counters.sum(counter, &guard))
    }

    /// Returns what is kept for the namespace.
    #[inline(always)]
    fn slot<'a>(&self, net: &'a Net) -> Option<&'a Slot<T>> {
        // SAFETY: The number is written once, before the first namespace gets its data. The namespace is valid by its
        // type's invariant; under a number other than 0 it has data, which `init` wrote before the namespace became
        // visible, and which the kernel frees after its last flow and a grace period.
        unsafe {
            match self.id.get().read_volatile() {
                0 => None,
                id => Some(&*bindings::rustmasq_net_generic(net.as_raw(), id).cast::<Slot<T>>()),
            }
        }
    }

    /// Does the same under the RCU read lock.
    #[inline(always)]
    fn slot_locked<'a>(&self, net: &'a Net, _: &impl ReadLocked) -> Option<&'a Slot<T>> {
        // SAFETY: As in `slot`; the reader is evidence of the RCU read lock, which the function needs.
        unsafe {
            match self.id.get().read_volatile() {
                0 => None,
                id => Some(&*bindings::rustmasq_net_gen_ptr(net.as_raw(), id).cast::<Slot<T>>()),
            }
        }
    }

    /// Makes the data of a new namespace.
    ///
    /// # Safety
    ///
    /// Called by the kernel for the registered `T::pernet()`.
    unsafe extern "C" fn init(net: *mut bindings::net) -> c_int {
        from_result(|| {
            let slot = Slot {
                data: T::new(),
                counters: PerCpuCounters::new()?,
            };
            // SAFETY: The kernel has allocated `size` bytes under `id` for the namespace, aligned for any type, and
            // nobody reads them yet.
            unsafe { Self::place(net).write(slot) };
            Ok(0)
        })
    }

    /// # Safety
    ///
    /// Called by the kernel for the registered `T::pernet()`, after `init`.
    unsafe extern "C" fn pre_exit(net: *mut bindings::net) {
        // SAFETY: `init` wrote the data, which the kernel frees after `exit`.
        let slot = unsafe { Self::place(net).as_ref() };
        slot.data.pre_exit();
        slot.counters.close();
    }

    /// # Safety
    ///
    /// Called by the kernel for the registered `T::pernet()`, after `pre_exit`.
    unsafe extern "C" fn exit(net: *mut bindings::net) {
        // SAFETY: The kernel calls in process context, outside any atomic section, and this function enters none.
        let mut context = unsafe { ProcessContext::new() };
        // SAFETY: `init` wrote the data, which the kernel frees after this call.
        let slot = unsafe { Self::place(net).as_ref() };
        slot.data.exit(&mut context);
        // SAFETY: `pre_exit` closed the counters, and the kernel waits for a grace period between the two calls
        // (`ops_undo_list`).
        unsafe { slot.counters.free() };
    }

    /// Returns the place of the namespace's data.
    ///
    /// # Safety
    ///
    /// `T::pernet()` must be registered, and the namespace valid and have room for its data.
    unsafe fn place(net: *mut bindings::net) -> NonNull<Slot<T>> {
        // SAFETY: The caller guarantees it, so the pointer is not null.
        unsafe {
            let id = T::pernet().id.get().read_volatile();
            NonNull::new_unchecked(bindings::rustmasq_net_generic(net, id).cast())
        }
    }
}

/// The registration of the data of all namespaces.
pub(crate) struct Registration<T: NetData> {
    _operations: OperationsRegistration,
    data: PhantomData<T>,
}
