// SPDX-License-Identifier: GPL-2.0

//! Network namespaces.
//!
//! C header: [`include/net/net_namespace.h`](srctree/include/net/net_namespace.h)

use super::{
    context::ProcessContext,
    device::Device, //
};
use crate::bindings;
use core::ptr;
use kernel::{
    prelude::*,
    sync::rcu,
    types::Opaque, //
};

/// A network namespace.
///
/// # Invariants
///
/// A valid `struct net`. Its devices and conntrack entries may be used for the duration of the borrow.
#[repr(transparent)]
pub(crate) struct Net(Opaque<bindings::net>);

/// A namespace's number, which is never used again (`net_cookie`).
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct NetId(u64);

impl NetId {
    /// Returns a number that need not belong to a namespace, for tests of logic.
    #[cfg(CONFIG_KUNIT = "y")]
    pub(crate) const fn for_test(number: u64) -> Self {
        Self(number)
    }
}

impl Net {
    /// Returns a number that tells the namespace from others, as long as it exists. It must be shown to nobody.
    #[inline(always)]
    pub(crate) fn tag(&self) -> u64 {
        // CAST: An address has 64 bits.
        core::ptr::from_ref(self).addr() as u64
    }

    /// Converts a pointer of C's to a borrow.
    ///
    /// # Safety
    ///
    /// `net` must fulfil the type's invariant for `'a`.
    pub(crate) unsafe fn from_raw<'a>(net: *const bindings::net) -> &'a Self {
        // SAFETY: `Net` is a transparent wrapper of `struct net`, and the caller guarantees that the
        // pointer is valid for `'a`.
        unsafe { &*net.cast() }
    }

    /// Returns C's pointer.
    pub(crate) fn as_raw(&self) -> *mut bindings::net {
        self.0.get()
    }

    /// Returns the namespace's number.
    pub(crate) fn id(&self) -> NetId {
        // SAFETY: The namespace is valid by the type's invariant. The cookie is written before the
        // namespace is visible to anyone, and never again.
        NetId(unsafe { (*self.as_raw()).net_cookie })
    }

    /// Returns the number of the namespace's inode, that of /proc/PID/ns/net and /run/netns/NAME.
    pub(crate) fn inode(&self) -> u32 {
        // SAFETY: The namespace is valid by the type's invariant. The number is written once, while
        // the namespace is set up.
        unsafe { (*self.as_raw()).ns.inum }
    }

    /// Returns whether the namespace has a device with this index and that device is up.
    ///
    /// Any context.
    pub(crate) fn is_up(&self, device: c_int) -> bool {
        self.with_device(device, Device::is_running)
            .unwrap_or(false)
    }

    /// Calls `f` with the namespace's device with this index.
    ///
    /// Returns `None` if there is no such device. Any context.
    pub(crate) fn with_device<T>(&self, device: c_int, f: impl FnOnce(&Device) -> T) -> Option<T> {
        let _guard = rcu::read_lock();
        // SAFETY: The namespace is valid by the type's invariant, and the guard holds the RCU read lock.
        let device = unsafe { bindings::dev_get_by_index_rcu(self.as_raw(), device) };
        if device.is_null() {
            return None;
        }
        // SAFETY: The device is not null. It was in the namespace under the RCU read lock, which the guard
        // holds until the call has ended.
        Some(f(unsafe { Device::from_raw(device) }))
    }

    /// Calls `f` with each device of the namespace, under the RCU read lock.
    ///
    /// Any context.
    pub(crate) fn for_each_device(&self, mut f: impl FnMut(&Device)) {
        let _guard = rcu::read_lock();
        let first = bindings::LOOPBACK_IFINDEX as c_int;
        // SAFETY: The namespace is valid by the type's invariant, and the guard holds the RCU read lock. The
        // loopback device is the first on the list, and is there until the namespace is removed.
        let mut device = unsafe { bindings::dev_get_by_index_rcu(self.as_raw(), first) };
        while !device.is_null() {
            // SAFETY: The device is not null. It was in the namespace under the RCU read lock, which the
            // guard holds until the loop has ended.
            f(unsafe { Device::from_raw(device) });
            // SAFETY: The device is still valid. One that is taken off the list still leads back to it until
            // a grace period has passed; only then may it be put on the list of another namespace.
            device = unsafe { bindings::rustmasq_next_net_device_rcu(device) };
        }
    }

    /// Finds the namespace with the lowest number above `last` among those that are `wanted`.
    ///
    /// Returns `None` at the end. A loop over this function visits every namespace without allocating
    /// and without holding a lock between two of them. It may or may not visit a namespace that is
    /// created meanwhile. Process context; sleeps.
    pub(crate) fn next_after(
        last: Option<NetId>,
        wanted: impl Fn(&Net) -> bool,
        context: &mut ProcessContext,
    ) -> Option<NetRef> {
        context.assert_may_sleep();
        let mut next: Option<NetRef> = None;
        // SAFETY: The semaphore is initialised at compile time, and `context` is evidence of process
        // context.
        unsafe { bindings::down_read(&raw mut bindings::net_rwsem) };
        let head = &raw mut bindings::net_namespace_list;
        // SAFETY: The head is static. The list does not change while we hold the semaphore, so `next`
        // points to the `list` field of a namespace or back to the head.
        let mut link = unsafe { (*head).next };
        while link != head {
            // SAFETY: `link` is not the head, so it is the `list` field of a namespace. A namespace
            // is taken off the list, by a writer of the semaphore, before it is torn down; the borrow
            // ends before we release the semaphore.
            let net = unsafe { Net::from_raw(kernel::container_of!(link, bindings::net, list)) };
            let id = net.id();
            if last < Some(id) && next.as_ref().is_none_or(|next| id < next.id()) && wanted(net) {
                // A namespace without references is being removed, together with its entries.
                next = NetRef::get(net).or(next);
            }
            // SAFETY: `link` is an entry of the list, which does not change as long as we hold the
            // semaphore, so `next` points to another entry or to the head.
            link = unsafe { (*link).next };
        }
        // SAFETY: This function took the semaphore for reading.
        unsafe { bindings::up_read(&raw mut bindings::net_rwsem) };
        next
    }
}

/// A counted reference to a namespace.
///
/// # Invariants
///
/// The pointer is to a valid namespace, and the value owns one reference to it.
pub(crate) struct NetRef(ptr::NonNull<bindings::net>);

impl NetRef {
    /// Takes a reference, unless nobody holds one any more (`maybe_get_net`).
    fn get(net: &Net) -> Option<Self> {
        // SAFETY: The namespace is valid by its type's invariant, also if it has no references left; the
        // function takes none then.
        let net = unsafe { bindings::rustmasq_maybe_get_net(net.as_raw()) };
        // INVARIANT: `maybe_get_net` returns null or has taken a reference, which is now ours.
        ptr::NonNull::new(net).map(Self)
    }
}

impl core::ops::Deref for NetRef {
    type Target = Net;

    fn deref(&self) -> &Net {
        // SAFETY: By the invariant `self` owns a reference. A namespace is torn down after its last
        // reference is gone, so it is valid and may be used as long as `self` is borrowed.
        unsafe { Net::from_raw(self.0.as_ptr()) }
    }
}

impl Drop for NetRef {
    fn drop(&mut self) {
        // SAFETY: By the invariant the reference is ours to give back; any context.
        unsafe { bindings::rustmasq_put_net(self.0.as_ptr()) };
    }
}
