// SPDX-License-Identifier: GPL-2.0

//! Notifiers of devices and addresses that go down or come up, with deferred work.
//!
//! The kernel has no notifier for the end of an IPv6 address's duplicate address detection: NETDEV_UP comes
//! when the address is added (`ipv6_add_addr`), and `addrconf_dad_completed` tells netlink alone. So an
//! [`Arrival`] says that a device has an address or is about to get one, and the handler looks again until
//! [`Device::readiness`] is no longer tentative.
//!
//! C headers: [`include/linux/inetdevice.h`](srctree/include/linux/inetdevice.h),
//! [`include/linux/netdevice.h`](srctree/include/linux/netdevice.h),
//! [`include/linux/workqueue.h`](srctree/include/linux/workqueue.h)

use super::{
    address::{
        AnyAddress,
        AnyFamily, //
    },
    context::ProcessContext,
    device::{
        Device,
        Ipv4Assigned,
        Ipv6Assigned,
        Readiness, //
    },
    namespace::NetId,
    work::DelayedWork, //
};
use crate::bindings;
use kernel::{
    error::to_result,
    prelude::*,
    sync::atomic::{
        Acquire,
        AtomicFlag,
        Release, //
    },
    task::might_sleep,
    time::Msecs,
    types::Opaque, //
};

/// A device or an address that went down or came up.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Event {
    /// An event of a device.
    Device {
        /// The namespace that the device was in.
        net: NetId,
        /// The device's index.
        device: c_int,
    },
    /// An event of an address of a device.
    Address {
        /// The namespace that the device was in.
        net: NetId,
        /// The device's index.
        device: c_int,
        /// The device's own address, not its peer's.
        address: AnyAddress,
    },
}

impl Event {
    fn of_device(device: &Device) -> Self {
        Event::Device {
            net: device.net().id(),
            device: device.index(),
        }
    }

    fn of_address(device: &Device, address: AnyAddress) -> Self {
        Event::Address {
            net: device.net().id(),
            device: device.index(),
            address,
        }
    }

    /// Returns the namespace of the event.
    pub(crate) fn net(&self) -> NetId {
        match *self {
            Event::Device { net, .. } | Event::Address { net, .. } => net,
        }
    }
}

/// A device that has got, or is about to get, the first address of its own that packets may leave with.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Arrival {
    /// The namespace that the device is in.
    pub(crate) net: NetId,
    /// The device's index.
    pub(crate) device: c_int,
    /// The family of the address.
    pub(crate) family: AnyFamily,
}

impl Arrival {
    /// Returns the arrival of an address at a device.
    pub(crate) fn at(device: &Device, family: AnyFamily) -> Self {
        Self {
            net: device.net().id(),
            device: device.index(),
            family,
        }
    }
}

/// A receiver of events.
pub(crate) trait EventHandler: Send + Sync + 'static {
    /// Called when a device went down or an address was removed (`NETDEV_DOWN`).
    ///
    /// Returns the delay until [`work`](Self::work) shall run; it replaces an earlier one. Called under
    /// RTNL, never in softirq; must not sleep.
    fn on_down(&self, event: Event) -> Msecs;

    /// Called when a device came up or an address was added (`NETDEV_UP`).
    ///
    /// Returns whether [`work`](Self::work) shall run at once. Called in process context or, for an IPv6
    /// address that a router advertisement brought, in softirq; must not sleep, nor wait for a lock that
    /// [`on_down`](Self::on_down) takes.
    fn on_up(&self, event: Event) -> bool;

    /// Called when a device got the first address of its own, or will get it after duplicate address detection.
    ///
    /// Returns the delay until [`work`](Self::work) shall run, with the context and the conditions of
    /// [`on_up`](Self::on_up). It follows that call if there are both.
    fn on_arrival(&self, arrival: Arrival) -> Msecs;

    /// Called in process context after the delay, never by two threads at once.
    ///
    /// Returns the delay until it shall run again at the latest, if it shall. The kernel announces a change
    /// before it is complete; [`synchronize`] waits for that.
    fn work(&self, context: &mut ProcessContext) -> Option<Msecs>;
}

/// Waits until every change announced so far is complete, together with the packets that did not see it.
///
/// A notifier runs while the address is still on its device's list. The change is complete when its
/// author releases RTNL. From then on no packet can choose the address; those that did have left all
/// hooks after a grace period. Process context; sleeps.
pub(crate) fn synchronize(context: &mut ProcessContext) {
    context.assert_may_sleep();
    // SAFETY: `context` is evidence of process context. Its holder is `EventHandler::work`, which the
    // workqueue calls without locks, so RTNL can be taken. It is released at once.
    unsafe {
        bindings::rtnl_lock();
        bindings::rtnl_unlock();
        bindings::synchronize_net();
    }
}

/// A registration of an [`EventHandler`], which receives events until this is dropped.
///
/// Dropping waits for all of the handler's calls to end.
///
/// # Invariants
///
/// The notifier blocks and the work are initialised. C's lists may point to them, so the structure is
/// pinned.
#[pin_data(PinnedDrop)]
pub(crate) struct Notifier<H: EventHandler> {
    #[pin]
    handler: H,
    #[pin]
    devices: Opaque<bindings::notifier_block>,
    #[pin]
    ipv4: Opaque<bindings::notifier_block>,
    #[pin]
    ipv6: Opaque<bindings::notifier_block>,
    #[pin]
    work: DelayedWork,
    /// Set before unregistering, which reports each device to its notifier as down. Those reports are
    /// no events.
    unregistering: AtomicFlag,
}

// SAFETY: `EventHandler` is `Send`, and C's notifier blocks and delayed work are not bound to a thread.
unsafe impl<H: EventHandler> Send for Notifier<H> {}

// SAFETY: `EventHandler` is `Sync`. Only C functions that do their own locking touch the notifier blocks
// and the work.
unsafe impl<H: EventHandler> Sync for Notifier<H> {}

impl<H: EventHandler> Notifier<H> {
    /// Registers a handler for the events of all namespaces.
    ///
    /// Errors: ENOMEM; a notifier chain refuses only a block that it has already (EEXIST). Process
    /// context, without RTNL.
    pub(crate) fn register(handler: impl PinInit<H>) -> Result<Pin<KBox<Self>>> {
        might_sleep();
        let block = |call| {
            Opaque::new(bindings::notifier_block {
                notifier_call: Some(call),
                ..pin_init::zeroed()
            })
        };
        let notifier = KBox::pin_init(
            pin_init!(Self {
                handler <- handler,
                devices: block(Self::device_event),
                ipv4: block(Self::ipv4_event),
                ipv6: block(Self::ipv6_event),
                work: DelayedWork::uninit(),
                unregistering: AtomicFlag::new(false),
            }),
            GFP_KERNEL,
        )?;
        // INVARIANT: The work is initialised before anybody else sees the notifier.
        // SAFETY: Nobody else uses the work yet, which is pinned, and `run_work` expects to be called with the work of a
        // `Notifier`.
        unsafe { notifier.work.init(Self::run_work) };
        // SAFETY: The block is initialised and pinned, and `drop` takes it off the chain before the memory
        // is freed, also if a later registration fails. The function takes RTNL, which module init does
        // not hold.
        to_result(unsafe { bindings::register_netdevice_notifier(notifier.devices.get()) })?;
        // SAFETY: The block is initialised and pinned, and `drop` takes it off the chain before the memory
        // is freed. The function takes the chain's semaphore: process context.
        to_result(unsafe { bindings::register_inetaddr_notifier(notifier.ipv4.get()) })?;
        // SAFETY: The block is initialised and pinned, and `drop` takes it off the chain before the memory
        // is freed. The function takes the chain's spinlock, so any context will do.
        to_result(unsafe { bindings::register_inet6addr_notifier(notifier.ipv6.get()) })?;
        Ok(notifier)
    }

    /// Passes an event to the handler and queues the work that it asks for.
    ///
    /// `arrival` returns what arrives at the device if the event is one of an address that comes, or of a
    /// device that comes up or changes.
    fn dispatch(
        &self,
        kind: c_ulong,
        event: impl FnOnce() -> Event,
        arrival: impl FnOnce() -> Option<Arrival>,
    ) {
        const DOWN: c_ulong = bindings::netdev_cmd_NETDEV_DOWN as c_ulong;
        const UP: c_ulong = bindings::netdev_cmd_NETDEV_UP as c_ulong;
        // As of a link that gets its carrier, which begins duplicate address detection.
        const CHANGE: c_ulong = bindings::netdev_cmd_NETDEV_CHANGE as c_ulong;

        let arrive = || Some(self.handler.on_arrival(arrival()?));
        let delay = match kind {
            DOWN | UP | CHANGE if self.unregistering.load(Acquire) => None,
            DOWN => Some(self.handler.on_down(event())),
            UP => {
                let at_once = self.handler.on_up(event());
                let delay = arrive();
                if at_once {
                    Some(0)
                } else {
                    delay
                }
            }
            CHANGE => arrive(),
            _ => None,
        };
        if let Some(delay) = delay {
            // SAFETY: The work is initialised by the invariant, and `drop` cancels it before the memory is freed.
            unsafe { self.work.queue(delay) };
        }
    }

    /// Receives the events of devices.
    ///
    /// # Safety
    ///
    /// Called by the chain of devices, under RTNL, with the block `devices` of a registered `Notifier`
    /// and a `netdev_notifier_info`.
    unsafe extern "C" fn device_event(
        block: *mut bindings::notifier_block,
        kind: c_ulong,
        info: *mut c_void,
    ) -> c_int {
        // SAFETY: The block is the field `devices` of a `Notifier`, whose `drop` waits for this call
        // before the memory is freed. The device of `info` is valid, and RTNL is held for the call
        // (`call_netdevice_notifiers_info` asserts that).
        let (notifier, device) = unsafe {
            (
                &*kernel::container_of!(Opaque::cast_from(block), Self, devices),
                Device::from_raw(bindings::rustmasq_netdev_notifier_info_to_dev(info.cast())),
            )
        };
        // IPv6 addresses that a device without carrier has, or that it kept while it was down, begin their
        // duplicate address detection. IPv6's own notifier was called before this one.
        let arrival = || {
            (device.readiness(AnyFamily::V6) == Readiness::Tentative)
                .then(|| Arrival::at(device, AnyFamily::V6))
        };
        notifier.dispatch(kind, || Event::of_device(device), arrival);
        bindings::NOTIFY_DONE as c_int
    }

    /// Receives the events of IPv4 addresses.
    ///
    /// # Safety
    ///
    /// Called by the chain of IPv4 addresses, under RTNL, with the block `ipv4` of a registered
    /// `Notifier` and an `in_ifaddr`.
    unsafe extern "C" fn ipv4_event(
        block: *mut bindings::notifier_block,
        kind: c_ulong,
        ifa: *mut c_void,
    ) -> c_int {
        // SAFETY: The block is the field `ipv4` of a `Notifier`, whose `drop` waits for this call before
        // the memory is freed. RTNL is held for the call (net/ipv4/devinet.c asserts that), so neither
        // the address nor its device goes away.
        let (notifier, device, address) = unsafe {
            (
                &*kernel::container_of!(Opaque::cast_from(block), Self, ipv4),
                Device::from_raw(bindings::rustmasq_in_ifaddr_dev(ifa.cast())),
                Ipv4Assigned::from_raw(ifa.cast()),
            )
        };
        let event = || Event::of_address(device, AnyAddress::V4(address.address()));
        let arrival = || {
            device
                .is_first_ipv4(&address)
                .then(|| Arrival::at(device, AnyFamily::V4))
        };
        notifier.dispatch(kind, event, arrival);
        bindings::NOTIFY_DONE as c_int
    }

    /// Receives the events of IPv6 addresses.
    ///
    /// # Safety
    ///
    /// Called by the chain of IPv6 addresses, which is atomic and holds the RCU read lock, with the
    /// block `ipv6` of a registered `Notifier` and an `inet6_ifaddr`.
    unsafe extern "C" fn ipv6_event(
        block: *mut bindings::notifier_block,
        kind: c_ulong,
        ifa: *mut c_void,
    ) -> c_int {
        // SAFETY: The block is the field `ipv6` of a `Notifier`, whose `drop` waits for this call before
        // the memory is freed. The caller holds a reference to the address, which holds one to its
        // `inet6_dev`, which holds one to the device; the chain holds the RCU read lock.
        let (notifier, device, address) = unsafe {
            (
                &*kernel::container_of!(Opaque::cast_from(block), Self, ipv6),
                Device::from_raw(bindings::rustmasq_inet6_ifaddr_dev(ifa.cast())),
                Ipv6Assigned::from_raw(ifa.cast()),
            )
        };
        let event = || Event::of_address(device, AnyAddress::V6(address.address()));
        let arrival = || {
            device
                .is_first_ipv6(&address)
                .then(|| Arrival::at(device, AnyFamily::V6))
        };
        notifier.dispatch(kind, event, arrival);
        bindings::NOTIFY_DONE as c_int
    }

    /// Runs the handler's work.
    ///
    /// # Safety
    ///
    /// Called by the workqueue with the field `work` of a `Notifier`.
    unsafe extern "C" fn run_work(work: *mut bindings::work_struct) {
        // SAFETY: The work is the field `work` of a `Notifier`, and `drop` waits for this call before
        // the memory is freed.
        let notifier = unsafe {
            let work = kernel::container_of!(work, bindings::delayed_work, work);
            // CAST: `DelayedWork` is a transparent wrapper of C's structure.
            &*kernel::container_of!(work.cast::<DelayedWork>(), Self, work)
        };
        // SAFETY: A workqueue calls in process context, outside any atomic section, and this function
        // enters none.
        let mut context = unsafe { ProcessContext::new() };
        if let Some(delay) = notifier.handler.work(&mut context) {
            // SAFETY: The work is initialised by the invariant, and `drop` cancels it before the memory is freed.
            unsafe { notifier.work.queue_again(delay) };
        }
    }
}

#[pinned_drop]
impl<H: EventHandler> PinnedDrop for Notifier<H> {
    fn drop(self: Pin<&mut Self>) {
        might_sleep();
        self.unregistering.store(true, Release);
        // SAFETY: Each block is initialised. The functions wait until no call of ours runs, and return
        // ENOENT for a block that is on no chain, after a registration that failed. Module init and exit
        // are process context and do not hold RTNL, which the last function takes.
        unsafe {
            bindings::unregister_inet6addr_notifier(self.ipv6.get());
            bindings::unregister_inetaddr_notifier(self.ipv4.get());
            bindings::unregister_netdevice_notifier(self.devices.get());
        }
        // SAFETY: The work is initialised, and nothing else queues it any more: no chain calls us. Process context.
        unsafe { self.work.disable() };
    }
}
