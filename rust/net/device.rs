// SPDX-License-Identifier: GPL-2.0

//! Network devices, and the source addresses that they provide.
//!
//! C headers: [`include/linux/netdevice.h`](srctree/include/linux/netdevice.h),
//! [`include/linux/inetdevice.h`](srctree/include/linux/inetdevice.h),
//! [`include/net/addrconf.h`](srctree/include/net/addrconf.h)

use super::{
    address::{
        ipv4_from_be32,
        ipv4_to_be32,
        ipv6_from_raw,
        ipv6_to_raw, //
    },
    namespace::Net, //
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

/// A network device.
///
/// # Invariants
///
/// A valid `struct net_device`. For the duration of the borrow the thread holds the RCU read lock or
/// RTNL: devices move between namespaces and disappear only after an RCU grace period, under RTNL.
#[repr(transparent)]
pub(crate) struct Device(Opaque<bindings::net_device>);

impl Device {
    /// Converts a pointer of C's to a borrow.
    ///
    /// # Safety
    ///
    /// `device` must point to a valid `struct net_device`, and the caller must hold the RCU read lock
    /// or RTNL for `'a`.
    pub(crate) unsafe fn from_raw<'a>(device: *const bindings::net_device) -> &'a Self {
        // SAFETY: `Device` is a transparent wrapper of `struct net_device`, and the caller guarantees
        // that the pointer is valid for `'a`.
        unsafe { &*device.cast() }
    }

    fn as_raw(&self) -> *mut bindings::net_device {
        self.0.get()
    }

    /// Returns the namespace that the device is in now.
    pub(crate) fn net(&self) -> &Net {
        // SAFETY: By the invariant the device is valid and the thread holds the RCU read lock or RTNL
        // for the duration of the borrow (the helper checks that with lockdep). A namespace is freed
        // after its devices have left it, under RTNL, and an RCU grace period has passed.
        unsafe { Net::from_raw(bindings::rustmasq_dev_net(self.as_raw())) }
    }

    /// Returns whether this is the device of a VRF (`netif_is_l3_master`).
    ///
    /// Packets of a VRF's members pass the hooks a second time with the VRF's own device.
    pub(crate) fn is_l3_master(&self) -> bool {
        // SAFETY: The device is valid by the type's invariant; its flags are read once.
        unsafe { bindings::rustmasq_netif_is_l3_master(self.as_raw()) }
    }

    /// Returns the device's index in its namespace, 1 or more.
    pub(crate) fn index(&self) -> c_int {
        // SAFETY: The device is valid by the type's invariant; the helper reads the index once.
        unsafe { bindings::rustmasq_dev_ifindex(self.as_raw()) }
    }

    /// Returns the device's present name.
    pub(crate) fn name(&self) -> Name {
        // SAFETY: The device is valid by the type's invariant, and its name is an array of IFNAMSIZ
        // bytes. A concurrent rename may write to it, so the read is volatile; any mixture of old and
        // new bytes is a value of the array.
        Name(unsafe { ptr::read_volatile(bindings::rustmasq_dev_name(self.as_raw()).cast()) })
    }

    /// Selects the source address of a packet that leaves by this device for `next_hop`.
    ///
    /// Follows `inet_select_addr` (net/ipv4/devinet.c) with global scope: the first primary address
    /// whose subnet contains the next hop, else the device's first primary address, else an address
    /// of another device of the same VRF. Returns `None` if there is no such address. Any context.
    pub(crate) fn select_ipv4_source(&self, next_hop: Ipv4Addr) -> Option<Ipv4Addr> {
        let scope = bindings::rt_scope_t_RT_SCOPE_UNIVERSE as c_int;
        // SAFETY: The device is valid by the type's invariant. The function takes the RCU read lock
        // itself and accepts any address and scope.
        let raw =
            unsafe { bindings::inet_select_addr(self.as_raw(), ipv4_to_be32(next_hop), scope) };
        Some(ipv4_from_be32(raw)).filter(|address| !address.is_unspecified())
    }

    /// Selects the source address of a packet that leaves by this device for `destination`.
    ///
    /// Follows `ipv6_dev_get_saddr` (net/ipv6/addrconf.c; RFC 6724, section 5). Returns `None` if no
    /// address is usable. Any context.
    pub(crate) fn select_ipv6_source(&self, destination: Ipv6Addr) -> Option<Ipv6Addr> {
        let destination = ipv6_to_raw(destination);
        let mut source = pin_init::zeroed();
        // SAFETY: The device is valid by the type's invariant, and so is its namespace. The function
        // takes the RCU read lock itself. It reads one address and writes the other; both live for
        // the call.
        let result = unsafe {
            bindings::ipv6_dev_get_saddr(
                self.net().as_raw(),
                self.as_raw(),
                &destination,
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
    /// Returns all bytes of the name, padded with NUL.
    pub(crate) fn as_bytes(&self) -> &[u8; bindings::IFNAMSIZ as usize] {
        &self.0
    }
}

/// Writes the name up to its first NUL, with control characters escaped.
impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .iter()
            .take_while(|byte| **byte != 0)
            .try_for_each(|byte| write!(f, "{}", byte.escape_ascii()))
    }
}

#[kunit_tests(rustmasq_device)]
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
