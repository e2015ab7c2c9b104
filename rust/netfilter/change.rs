// SPDX-License-Identifier: GPL-2.0

//! Hearing of addresses that go and come and of devices that go down and up, and working on that
//! later.
//!
//! C headers: [`include/linux/inetdevice.h`](srctree/include/linux/inetdevice.h),
//! [`include/linux/netdevice.h`](srctree/include/linux/netdevice.h),
//! [`include/linux/workqueue.h`](srctree/include/linux/workqueue.h)

use super::{
    address::{
        ipv4_from_be32,
        ipv6_from_raw, //
    },
    net::{
        Device,
        NetId, //
    },
    AnyAddress,
    ProcessContext, //
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
    time::{
        msecs_to_jiffies,
        Msecs, //
    },
    types::Opaque, //
};

/// What happened, or was undone, where.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Change {
    /// The device with this index is down.
    DeviceDown { net: NetId, device: c_int },
    /// The device with this index has not got the address, its own one, not its peer's.
    AddressGone {
        net: NetId,
        device: c_int,
        address: AnyAddress,
    },
}

impl Change {
    fn address_gone(device: &Device, address: AnyAddress) -> Self {
        Change::AddressGone {
            net: device.net().id(),
            device: device.index(),
            address,
        }
    }

    /// The namespace in which it happened.
    pub(crate) fn net(&self) -> NetId {
        match *self {
            Change::DeviceDown { net, .. } | Change::AddressGone { net, .. } => net,
        }
    }
}

/// Who wants to hear of changes.
pub(crate) trait Handler: Send + Sync + 'static {
    /// Notes a change. It must not sleep; it is never called in softirq, for the kernel reports
    /// these changes under RTNL. Answers in how many milliseconds [`Self::work`] is to run; this
    /// replaces what an earlier answer said.
    fn note(&self, change: Change) -> Msecs;

    /// The opposite of a change, which may never have been noted: the device is up, the address
    /// has come. It must not sleep, nor wait for a lock that `note` takes: an IPv6 address may come
    /// in softirq, by a router's advertisement. Answers whether [`Self::work`] is to run at once.
    fn undone(&self, change: Change) -> bool;

    /// Works on what was noted; may sleep. Never called by two at once. Changes are announced
    /// before they are complete; [`complete`] waits for that.
    fn work(&self, context: &mut ProcessContext);
}

/// Waits until all changes that were noted are complete, and so is what packets did that did not
/// know of them.
pub(crate) fn complete(_context: &mut ProcessContext) {
    // An address may still be on its list: the change is complete when who made it gives RTNL back.
    // After that no packet can choose the address any more, and those that did are through when all
    // hooks that run now have ended.
    // SAFETY: process context without locks, by the type's invariant; RTNL is given back at once.
    unsafe {
        bindings::rtnl_lock();
        bindings::rtnl_unlock();
        bindings::synchronize_net();
    }
}

/// While it lives, `handler` hears of changes. Dropping it waits for all its calls to end.
///
/// # Invariants
///
/// The notifier blocks and the work are initialised; lists of the kernel's may reach into them,
/// which is why this is pinned.
#[pin_data(PinnedDrop)]
pub(crate) struct Listener<H: Handler> {
    #[pin]
    handler: H,
    #[pin]
    devices: Opaque<bindings::notifier_block>,
    #[pin]
    ipv4: Opaque<bindings::notifier_block>,
    #[pin]
    ipv6: Opaque<bindings::notifier_block>,
    #[pin]
    work: Opaque<bindings::delayed_work>,
    /// Set when it is about to go: unregistering plays every device's going down to its notifier,
    /// which is no change.
    leaving: AtomicFlag,
}

// SAFETY: `Handler` is `Send`, and the C side's structures are bound to no thread.
unsafe impl<H: Handler> Send for Listener<H> {}

// SAFETY: `Handler` is `Sync`, and the C side's structures are only touched by functions of the
// kernel's that lock them.
unsafe impl<H: Handler> Sync for Listener<H> {}

impl<H: Handler> Listener<H> {
    /// Registers a handler; process context.
    pub(crate) fn register(handler: impl PinInit<H>) -> Result<Pin<KBox<Self>>> {
        let block = |call| {
            Opaque::new(bindings::notifier_block {
                notifier_call: Some(call),
                ..pin_init::zeroed()
            })
        };
        let listener = KBox::pin_init(
            pin_init!(Self {
                handler <- handler,
                devices: block(Self::device_event),
                ipv4: block(Self::ipv4_event),
                ipv6: block(Self::ipv6_event),
                // SAFETY: the slot is where the work stays, and `run` is made for it.
                work <- Opaque::ffi_init(|slot| unsafe {
                    bindings::rustmasq_init_delayed_work(slot, Some(Self::run))
                }),
                leaving: AtomicFlag::new(false),
            }),
            GFP_KERNEL,
        )?;
        // SAFETY: the block is initialised and pinned, and `drop` unregisters it before it goes.
        to_result(unsafe { bindings::register_netdevice_notifier(listener.devices.get()) })?;
        // SAFETY: as above.
        to_result(unsafe { bindings::register_inetaddr_notifier(listener.ipv4.get()) })?;
        // SAFETY: as above.
        to_result(unsafe { bindings::register_inet6addr_notifier(listener.ipv6.get()) })?;
        Ok(listener)
    }

    /// Hears of a change or, by the event, of its opposite.
    fn hear(&self, event: c_ulong, change: impl FnOnce() -> Change) {
        const DOWN: c_ulong = bindings::netdev_cmd_NETDEV_DOWN as c_ulong;
        const UP: c_ulong = bindings::netdev_cmd_NETDEV_UP as c_ulong;

        let delay = match event {
            DOWN | UP if self.leaving.load(Acquire) => None,
            DOWN => Some(self.handler.note(change())),
            UP => self.handler.undone(change()).then_some(0),
            _ => None,
        };
        if let Some(delay) = delay {
            self.queue(delay);
        }
    }

    fn queue(&self, delay: Msecs) {
        let cpu = bindings::wq_misc_consts_WORK_CPU_UNBOUND as c_int;
        let delay = msecs_to_jiffies(delay);
        // SAFETY: the queue is one of the kernel's own, which is always there; the work is
        // initialised, by the invariant, and `drop` waits for it. Callable from any context.
        unsafe {
            bindings::mod_delayed_work_on(cpu, bindings::system_dfl_wq, self.work.get(), delay)
        };
    }

    /// # Safety
    ///
    /// Called by the devices' chain for our block `devices`, with a `netdev_notifier_info`.
    unsafe extern "C" fn device_event(
        block: *mut bindings::notifier_block,
        event: c_ulong,
        info: *mut c_void,
    ) -> c_int {
        // SAFETY: by the contract, the block is the field of a `Listener` that `drop` keeps until
        // no call runs any more; the device is valid for the call.
        let (listener, device) = unsafe {
            (
                &*kernel::container_of!(Opaque::cast_from(block), Self, devices),
                Device::from_raw(bindings::rustmasq_netdev_notifier_info_to_dev(info.cast())),
            )
        };
        listener.hear(event, || Change::DeviceDown {
            net: device.net().id(),
            device: device.index(),
        });
        bindings::NOTIFY_DONE as c_int
    }

    /// # Safety
    ///
    /// Called by the IPv4 addresses' chain for our block `ipv4`, with an `in_ifaddr`.
    unsafe extern "C" fn ipv4_event(
        block: *mut bindings::notifier_block,
        event: c_ulong,
        ifa: *mut c_void,
    ) -> c_int {
        // SAFETY: by the contract, as for devices; the address and its device are valid for the
        // call.
        let (listener, device, address) = unsafe {
            (
                &*kernel::container_of!(Opaque::cast_from(block), Self, ipv4),
                Device::from_raw(bindings::rustmasq_in_ifaddr_dev(ifa.cast())),
                bindings::rustmasq_in_ifaddr_local(ifa.cast()),
            )
        };
        let address = AnyAddress::V4(ipv4_from_be32(address));
        listener.hear(event, || Change::address_gone(device, address));
        bindings::NOTIFY_DONE as c_int
    }

    /// # Safety
    ///
    /// Called by the IPv6 addresses' chain for our block `ipv6`, with an `inet6_ifaddr`; atomic.
    unsafe extern "C" fn ipv6_event(
        block: *mut bindings::notifier_block,
        event: c_ulong,
        ifa: *mut c_void,
    ) -> c_int {
        // SAFETY: by the contract, as for IPv4.
        let (listener, device, address) = unsafe {
            (
                &*kernel::container_of!(Opaque::cast_from(block), Self, ipv6),
                Device::from_raw(bindings::rustmasq_inet6_ifaddr_dev(ifa.cast())),
                ipv6_from_raw(&*bindings::rustmasq_inet6_ifaddr_addr(ifa.cast())),
            )
        };
        let address = AnyAddress::V6(address);
        listener.hear(event, || Change::address_gone(device, address));
        bindings::NOTIFY_DONE as c_int
    }

    /// # Safety
    ///
    /// Called by the workqueue for our `work`.
    unsafe extern "C" fn run(work: *mut bindings::work_struct) {
        // SAFETY: by the contract, the work is that of a `Listener`, and `drop` waits for this call.
        let listener = unsafe {
            let work = kernel::container_of!(work, bindings::delayed_work, work);
            &*kernel::container_of!(Opaque::cast_from(work), Self, work)
        };
        // SAFETY: process context, and we hold nothing.
        let mut context = unsafe { ProcessContext::new() };
        listener.handler.work(&mut context);
    }
}

#[pinned_drop]
impl<H: Handler> PinnedDrop for Listener<H> {
    fn drop(self: Pin<&mut Self>) {
        self.leaving.store(true, Release);
        // SAFETY: each of these waits until no call of ours runs; a block that was never registered
        // is answered with an error and left alone. Process context, without RTNL.
        unsafe {
            bindings::unregister_inet6addr_notifier(self.ipv6.get());
            bindings::unregister_inetaddr_notifier(self.ipv4.get());
            bindings::unregister_netdevice_notifier(self.devices.get());
        }
        // SAFETY: the work is initialised, and nothing queues it any more.
        unsafe { bindings::cancel_delayed_work_sync(self.work.get()) };
    }
}
