// SPDX-License-Identifier: GPL-2.0

//! Objects that are read under RCU.
//!
//! C header: [`include/linux/rcupdate.h`](srctree/include/linux/rcupdate.h)

use super::context::ProcessContext;
use crate::bindings;
use core::{
    marker::PhantomData,
    ptr, //
};
use kernel::{
    prelude::*,
    sync::{
        atomic::{
            Acquire,
            Atomic,
            Full, //
        },
        rcu, //
    },
    types::ForeignOwnable, //
};

/// Evidence that the RCU read lock is held.
///
/// # Safety
///
/// A value must exist only while the thread that has it holds the lock.
pub(crate) unsafe trait ReadLocked {}

// SAFETY: A guard holds the lock until it is dropped.
unsafe impl ReadLocked for rcu::Guard {}

/// A place for an object, or none, that is read under RCU.
///
/// # Invariants
///
/// The pointer is null or owns a pinned box, which is freed a grace period after the pointer was taken away.
pub(crate) struct RcuBox<T: Send + Sync + 'static> {
    pointer: Atomic<*mut c_void>,
    owns: PhantomData<Pin<KBox<T>>>,
}

// SAFETY: The object is `Send` and `Sync`, and the pointer to it is atomic.
unsafe impl<T: Send + Sync> Send for RcuBox<T> {}
// SAFETY: The object is `Send` and `Sync`, and the pointer to it is atomic.
unsafe impl<T: Send + Sync> Sync for RcuBox<T> {}

impl<T: Send + Sync> RcuBox<T> {
    /// Returns an empty place.
    pub(crate) const fn empty() -> Self {
        // INVARIANT: The pointer is null.
        Self {
            pointer: Atomic::new(ptr::null_mut()),
            owns: PhantomData,
        }
    }

    /// Returns whether there is no object now. Any context.
    #[inline(always)]
    pub(crate) fn is_empty(&self) -> bool {
        self.pointer.load(Acquire).is_null()
    }

    /// Returns the object, if there is one. Any context.
    #[inline(always)]
    pub(crate) fn get<'a>(&'a self, _: &'a impl ReadLocked) -> Option<Pin<&'a T>> {
        let pointer = self.pointer.load(Acquire);
        if pointer.is_null() {
            return None;
        }
        // SAFETY: The pointer is not null, so it owned a box a moment ago. The RCU read lock is held for
        // `'a`, and whoever takes the pointer away frees the box after a grace period. Nobody makes a mutable reference.
        Some(unsafe { <Pin<KBox<T>> as ForeignOwnable>::borrow(pointer) })
    }

    /// Calls `f` with the object, if there is one. Any context.
    #[inline(always)]
    pub(crate) fn with<R>(&self, f: impl FnOnce(&T) -> R) -> Option<R> {
        self.get(&rcu::read_lock())
            .map(|object| f(object.get_ref()))
    }

    /// Puts what `make` returns into the place, unless there is an object. Errors: those of `make`.
    pub(crate) fn fill(&self, make: impl FnOnce() -> Result<Pin<KBox<T>>>) -> Result {
        if self.is_empty() {
            // Another thread may have put an object there meanwhile.
            drop(self.publish(make()?));
        }
        Ok(())
    }

    /// Frees the object, if there is one, when nobody reads it any more. Process context; sleeps.
    pub(crate) fn free(&self, context: &mut ProcessContext) {
        if let Some(retired) = self.retract() {
            free_after_grace_period(core::iter::once(retired), context);
        }
    }

    /// Puts an object into the place if that is empty, else gives it back. Any context.
    pub(crate) fn publish(&self, object: Pin<KBox<T>>) -> Result<(), Pin<KBox<T>>> {
        let pointer = object.into_foreign();
        match self.pointer.cmpxchg(ptr::null_mut(), pointer, Full) {
            // INVARIANT: The place owns the box now.
            Ok(_) => Ok(()),
            // SAFETY: The pointer comes from `into_foreign`, and nobody else has seen it.
            Err(_) => Err(unsafe { ForeignOwnable::from_foreign(pointer) }),
        }
    }

    /// Takes the object out of the place, if there is one. Any context.
    ///
    /// It can be freed when a grace period has passed.
    pub(crate) fn retract(&self) -> Option<Retired<T>> {
        let pointer = self.pointer.xchg(ptr::null_mut(), Full);
        // INVARIANT: The box belonged to the place alone, and belongs to the result now.
        (!pointer.is_null()).then_some(Retired {
            pointer,
            owns: PhantomData,
        })
    }
}

impl<T: Send + Sync> Drop for RcuBox<T> {
    /// Frees the object at once: who drops the place has waited for its readers.
    fn drop(&mut self) {
        if let Some(retired) = self.retract() {
            // SAFETY: The box belongs to the value. A mutable reference to the place says that nobody reads it, and
            // readers borrow from the place (`get`).
            drop(unsafe { <Pin<KBox<T>> as ForeignOwnable>::from_foreign(retired.pointer) });
        }
    }
}

/// An object that was taken out of its place and may still be read.
///
/// # Invariants
///
/// The pointer owns a pinned box.
pub(crate) struct Retired<T: Send + Sync + 'static> {
    pointer: *mut c_void,
    owns: PhantomData<Pin<KBox<T>>>,
}

/// Frees objects after a grace period. Process context; sleeps.
pub(crate) fn free_after_grace_period<T: Send + Sync + 'static>(
    retired: impl Iterator<Item = Retired<T>>,
    context: &mut ProcessContext,
) {
    context.assert_may_sleep();
    // SAFETY: `context` is evidence of process context, outside of any RCU read-side section.
    unsafe { bindings::synchronize_rcu() };
    for object in retired {
        // SAFETY: The box belongs to the value. It was taken out of its place before the call, so no reader is left
        // after the grace period.
        drop(unsafe { <Pin<KBox<T>> as ForeignOwnable>::from_foreign(object.pointer) });
    }
}
