// SPDX-License-Identifier: GPL-2.0

//! Network namespaces, their devices, and the addresses that these lend.
//!
//! C header: [`include/linux/inetdevice.h`](srctree/include/linux/inetdevice.h)

use super::{
    address::{
        ipv4_from_be32,
        ipv4_to_be32,
        ipv6_from_raw,
        ipv6_to_raw, //
    },
    skb::Packet,
    AnyAddress,
    Family,
    Ipv4,
    Ipv6,
    ProcessContext, //
};
use crate::bindings;
use core::{
    net::{
        Ipv4Addr,
        Ipv6Addr, //
    },
    ptr, //
};
use kernel::{
    fmt,
    prelude::*,
    types::Opaque, //
};

/// A network namespace.
///
/// # Invariants
///
/// A valid `struct net`, whose devices and conntrack entries can be used for the time of the borrow.
#[repr(transparent)]
pub(crate) struct Net(Opaque<bindings::net>);

/// Names a namespace for good: no other one will ever have the same.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct NetId(u64);

impl NetId {
    /// A name that no namespace has to have, for tests of logic.
    #[cfg(CONFIG_KUNIT = "y")]
    pub(crate) const fn for_test(number: u64) -> Self {
        Self(number)
    }
}

impl Net {
    /// # Safety
    ///
    /// `net` must point to a namespace that fulfils the type's invariant for `'a`.
    pub(super) unsafe fn from_raw<'a>(net: *const bindings::net) -> &'a Self {
        // SAFETY: `Net` is a transparent wrapper, and the caller vouches for the pointer.
        unsafe { &*net.cast() }
    }

    pub(super) fn as_raw(&self) -> *mut bindings::net {
        self.0.get()
    }

    /// The namespace's own number.
    pub(crate) fn id(&self) -> NetId {
        // SAFETY: valid by the invariant; the cookie is set before anybody sees the namespace.
        NetId(unsafe { (*self.as_raw()).net_cookie })
    }

    /// The number of the namespace's inode: that of /proc/PID/ns/net and /run/netns/NAME.
    pub(crate) fn inode(&self) -> u32 {
        // SAFETY: valid by the invariant; the number is given at birth.
        unsafe { (*self.as_raw()).ns.inum }
    }

    /// Whether there is a hook at the point with the priority, one that no table of nftables and
    /// no other such user of hooks registered.
    pub(super) fn has_hook<F: Family>(
        &self,
        point: bindings::nf_inet_hooks,
        priority: c_int,
    ) -> bool {
        let _guard = kernel::sync::rcu::read_lock();
        // SAFETY: the namespace is valid by the invariant; writers publish such a pointer whole.
        let hooks = unsafe {
            let nf = &raw const (*self.as_raw()).nf;
            let table = if F::NFPROTO == Ipv4::NFPROTO {
                &raw const (*nf).hooks_ipv4
            } else {
                &raw const (*nf).hooks_ipv6
            };
            ptr::read_volatile(&raw const (*table)[point as usize])
        };
        if hooks.is_null() {
            return false;
        }
        // SAFETY: not null, thus valid until the end of the RCU read-side section that we are in.
        // Behind the hooks lie as many pointers to their operations. Who takes a hook out puts one
        // that is static into its place, and the operations stay for a grace period.
        unsafe {
            let count = usize::from(bindings::rustmasq_nf_hook_entries_count(hooks));
            let ops = bindings::rustmasq_nf_hook_entries_get_hook_ops(hooks);
            (0..count).any(|n| {
                // No reference: behind the fields that are read lies what RCU itself writes.
                let ops = ptr::read_volatile(ops.add(n));
                (*ops).priority == priority
                    && bindings::nf_hook_ops::hook_ops_type_raw(ops)
                        == bindings::nf_hook_ops_type_NF_HOOK_OP_UNDEFINED
            })
        }
    }

    /// Whether some device of the namespace has the address, ready to be used. Follows
    /// `__ip_dev_find` and `ipv6_chk_addr`.
    pub(crate) fn is_local(&self, address: AnyAddress) -> bool {
        match address {
            AnyAddress::V4(address) => {
                // SAFETY: the namespace is valid by the invariant; the function takes RCU's read
                // lock itself. Without a reference the pointer is only compared with null.
                let device =
                    unsafe { bindings::__ip_dev_find(self.as_raw(), ipv4_to_be32(address), false) };
                !device.is_null()
            }
            AnyAddress::V6(address) => {
                let address = ipv6_to_raw(address);
                // SAFETY: as above; null stands for any device.
                unsafe { bindings::ipv6_chk_addr(self.as_raw(), &address, ptr::null(), 0) != 0 }
            }
        }
    }

    /// Whether the namespace has a device with this index, and it is up.
    pub(crate) fn is_up(&self, device: c_int) -> bool {
        let _guard = kernel::sync::rcu::read_lock();
        // SAFETY: the namespace is valid by the invariant, and we are in an RCU read-side section,
        // which keeps what comes back until its end.
        unsafe {
            let device = bindings::dev_get_by_index_rcu(self.as_raw(), device);
            !device.is_null() && bindings::rustmasq_netif_running(device)
        }
    }

    /// The namespace that comes next after `last` in the order of their names, among those that
    /// are `wanted`. None: there is none any more. May sleep. To visit all of them needs neither
    /// memory nor a lock that is held meanwhile; one that is born during a round may or may not be
    /// met.
    pub(crate) fn next(
        last: Option<NetId>,
        wanted: impl Fn(NetId) -> bool,
        _context: &mut ProcessContext,
    ) -> Option<NetRef> {
        let mut next: Option<NetRef> = None;
        // SAFETY: the semaphore is initialised at compile time; we are in process context.
        unsafe { bindings::down_read(&raw mut bindings::net_rwsem) };
        let head = &raw mut bindings::net_namespace_list;
        // SAFETY: the list does not change while we hold the semaphore, so each `next` leads to the
        // `list` of another namespace, or back to the head.
        let mut link = unsafe { (*head).next };
        while link != head {
            // SAFETY: not the head, thus in a namespace, which leaves the list before it goes.
            let net = unsafe { Net::from_raw(kernel::container_of!(link, bindings::net, list)) };
            let id = net.id();
            if last < Some(id) && next.as_ref().is_none_or(|next| id < next.id()) && wanted(id) {
                // One without references is on its way out, and its entries are, too.
                next = NetRef::get(net).or(next);
            }
            // SAFETY: as above.
            link = unsafe { (*link).next };
        }
        // SAFETY: we hold it.
        unsafe { bindings::up_read(&raw mut bindings::net_rwsem) };
        next
    }
}

/// A counted reference to a namespace.
///
/// # Invariants
///
/// A namespace of which we own a reference.
pub(crate) struct NetRef(ptr::NonNull<bindings::net>);

impl NetRef {
    /// None: nobody has a reference to the namespace any more.
    fn get(net: &Net) -> Option<Self> {
        // SAFETY: the namespace is valid by its invariant.
        let net = unsafe { bindings::rustmasq_maybe_get_net(net.as_raw()) };
        // INVARIANT: what comes back, if anything does, has one reference more, which is ours.
        ptr::NonNull::new(net).map(Self)
    }
}

impl core::ops::Deref for NetRef {
    type Target = Net;

    fn deref(&self) -> &Net {
        // SAFETY: our reference keeps the namespace, by the invariant.
        unsafe { Net::from_raw(self.0.as_ptr()) }
    }
}

impl Drop for NetRef {
    fn drop(&mut self) {
        // SAFETY: the reference is ours, by the invariant; callable from any context.
        unsafe { bindings::rustmasq_put_net(self.0.as_ptr()) };
    }
}

/// A network device.
///
/// # Invariants
///
/// A valid `struct net_device`, which stays so for the time of the borrow.
#[repr(transparent)]
pub(crate) struct Device(Opaque<bindings::net_device>);

impl Device {
    /// # Safety
    ///
    /// `device` must point to a valid `struct net_device` that stays valid for `'a`.
    pub(super) unsafe fn from_raw<'a>(device: *const bindings::net_device) -> &'a Self {
        // SAFETY: `Device` is a transparent wrapper, and the caller vouches for the pointer.
        unsafe { &*device.cast() }
    }

    fn as_raw(&self) -> *mut bindings::net_device {
        self.0.get()
    }

    /// The namespace that the device lies in.
    pub(crate) fn net(&self) -> &Net {
        // SAFETY: the device is valid by the invariant, and lies in a namespace that outlives it.
        unsafe { Net::from_raw(bindings::rustmasq_dev_net(self.as_raw())) }
    }

    /// Whether packets pass it, on their way in or out, after or before a device of its own: that of
    /// a VRF (`netif_is_l3_master`).
    pub(crate) fn is_l3_master(&self) -> bool {
        // SAFETY: the device is valid by the invariant.
        unsafe { bindings::rustmasq_netif_is_l3_master(self.as_raw()) }
    }

    /// The device's index in its namespace, 1 or more.
    pub(crate) fn index(&self) -> c_int {
        // SAFETY: the device is valid by the invariant.
        unsafe { bindings::rustmasq_dev_ifindex(self.as_raw()) }
    }

    /// The device's name at this moment, for people.
    pub(crate) fn name(&self) -> Name {
        // SAFETY: the device is valid by the invariant; its name is an array of IFNAMSIZ bytes. A
        // rename may write at the same time: the bytes are read volatile, and any mixture of old
        // and new ones is a valid array of them.
        Name(unsafe { ptr::read_volatile(bindings::rustmasq_dev_name(self.as_raw()).cast()) })
    }

    /// The address that a packet to `next_hop` gets when it leaves by this device, by the kernel's
    /// own rules (`inet_select_addr` in `net/ipv4/devinet.c`): the first primary address whose
    /// subnet holds the next hop, else the device's first primary address, else one of another
    /// device of its VRF. None: there is no address of global scope.
    pub(crate) fn select_ipv4_source(&self, next_hop: Ipv4Addr) -> Option<Ipv4Addr> {
        let scope = bindings::rt_scope_t_RT_SCOPE_UNIVERSE as c_int;
        // SAFETY: the device is valid by the invariant; the function takes RCU's read lock itself
        // and accepts any address and scope.
        let raw =
            unsafe { bindings::inet_select_addr(self.as_raw(), ipv4_to_be32(next_hop), scope) };
        Some(ipv4_from_be32(raw)).filter(|address| !address.is_unspecified())
    }

    /// The address that a packet gets when it leaves by this device, by the kernel's own rules
    /// (`ipv6_dev_get_saddr` in `net/ipv6/addrconf.c`; RFC 6724, section 5): its destination decides.
    /// None: there is no usable address.
    pub(crate) fn select_ipv6_source(&self, packet: &Packet<'_, Ipv6>) -> Option<Ipv6Addr> {
        let mut source = pin_init::zeroed();
        // SAFETY: the device and its namespace are valid by their invariants. The function takes
        // RCU's read lock itself, reads one address, in the packet's header, as C does, and writes
        // the other.
        let result = unsafe {
            bindings::ipv6_dev_get_saddr(
                self.net().as_raw(),
                self.as_raw(),
                packet.raw_destination(),
                0,
                &mut source,
            )
        };
        (result >= 0).then(|| ipv6_from_raw(&source))
    }
}

/// A device's name.
pub(crate) struct Name([u8; bindings::IFNAMSIZ as usize]);

impl Name {
    /// The name's bytes, with NUL at the end.
    pub(super) fn as_raw(&self) -> &[u8; bindings::IFNAMSIZ as usize] {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .iter()
            .take_while(|byte| **byte != 0)
            .try_for_each(|byte| write!(f, "{}", byte.escape_ascii()))
    }
}

#[kunit_tests(rustmasq_net)]
mod tests {
    use super::*;
    use kernel::str::CString;

    fn name(text: &[u8]) -> Name {
        let mut bytes = [0; bindings::IFNAMSIZ as usize];
        bytes[..text.len()].copy_from_slice(text);
        Name(bytes)
    }

    #[test]
    fn names_end_at_the_first_nul() -> Result {
        let text = CString::try_from_fmt(kernel::prelude::fmt!("{}", name(b"wan0\0old")))?;
        assert_eq!(text.to_bytes(), b"wan0");
        Ok(())
    }

    #[test]
    fn names_without_nul_and_control_characters() -> Result {
        let text = CString::try_from_fmt(kernel::prelude::fmt!("{}", name(b"0123456789abcde\n")))?;
        assert_eq!(text.to_bytes(), b"0123456789abcde\\n");
        Ok(())
    }
}
