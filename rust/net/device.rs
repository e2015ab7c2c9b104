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
        ipv6_to_raw,
        AnyAddress,
        AnyFamily, //
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
    sync::rcu,
    types::Opaque, //
};

/// The extent to which a device has an address of its own for packets that leave by it.
///
/// For a device with several addresses, the highest counts.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Readiness {
    /// It has none and, unless there is another event, will have none.
    Absent,
    /// It has one, but an address of another device may be preferred to it.
    Deprecated,
    /// Duplicate address detection is in progress.
    Tentative,
    /// It has one.
    Ready,
}

/// An IPv4 address of a device (`struct in_ifaddr`).
pub(super) struct Ipv4Assigned {
    address: Ipv4Addr,
    flags: c_uint,
    scope: bindings::rt_scope_t,
}

impl Ipv4Assigned {
    /// Copies what is needed of C's structure.
    ///
    /// # Safety
    ///
    /// `ifa` must be valid.
    pub(super) unsafe fn from_raw(ifa: *const bindings::in_ifaddr) -> Self {
        // SAFETY: The caller guarantees a valid structure. The flags are read once; the rest does not change.
        unsafe {
            Self {
                address: ipv4_from_be32(bindings::rustmasq_in_ifaddr_local(ifa)),
                flags: bindings::rustmasq_in_ifaddr_flags(ifa),
                scope: bindings::rt_scope_t::from(bindings::rustmasq_in_ifaddr_scope(ifa)),
            }
        }
    }

    /// Returns the address.
    pub(super) fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// Returns to what extent `inet_select_addr` chooses the address for global destinations.
    fn readiness(&self) -> Readiness {
        let secondary = self.flags & bindings::IFA_F_SECONDARY != 0;
        if secondary || self.scope != bindings::rt_scope_t_RT_SCOPE_UNIVERSE {
            Readiness::Absent
        } else {
            Readiness::Ready
        }
    }
}

/// An IPv6 address of a device (`struct inet6_ifaddr`).
pub(super) struct Ipv6Assigned {
    address: Ipv6Addr,
    flags: c_uint,
}

impl Ipv6Assigned {
    /// Copies what is needed of C's structure.
    ///
    /// # Safety
    ///
    /// `ifa` must be valid.
    pub(super) unsafe fn from_raw(ifa: *const bindings::inet6_ifaddr) -> Self {
        // SAFETY: The caller guarantees a valid structure. The flags are read once. The bytes of an address
        // never change, so a reference to them is sound.
        unsafe {
            Self {
                address: ipv6_from_raw(&*bindings::rustmasq_inet6_ifaddr_addr(ifa)),
                flags: bindings::rustmasq_inet6_ifaddr_flags(ifa),
            }
        }
    }

    /// Returns the address.
    pub(super) fn address(&self) -> Ipv6Addr {
        self.address
    }

    /// Returns to what extent `ipv6_dev_get_saddr` chooses the address for global destinations.
    fn readiness(&self) -> Readiness {
        let has = |flag| self.flags & flag != 0;
        if self.address.is_unicast_link_local()
            || self.address.is_loopback()
            || self.address.is_multicast()
            || has(bindings::IFA_F_DADFAILED)
        {
            Readiness::Absent
        } else if has(bindings::IFA_F_TENTATIVE) {
            Readiness::Tentative
        } else if has(bindings::IFA_F_DEPRECATED) {
            Readiness::Deprecated
        } else {
            Readiness::Ready
        }
    }
}

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

    /// Returns C's pointer.
    pub(crate) fn as_raw(&self) -> *mut bindings::net_device {
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

    /// Returns whether the device is up (`netif_running`).
    pub(crate) fn is_running(&self) -> bool {
        // SAFETY: The device is valid by the type's invariant; its state is read once.
        unsafe { bindings::rustmasq_netif_running(self.as_raw()) }
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

    /// Returns whether the address is one of the device's. Any context.
    pub(crate) fn has_address(&self, address: AnyAddress) -> bool {
        match address {
            AnyAddress::V4(address) => self.any_ipv4(|own| own.address == address),
            AnyAddress::V6(address) => self.any_ipv6(|own| own.address == address),
        }
    }

    /// Returns whether the address is one of this host's, ready for use, in the VRF that the device is in, if it is in one.
    ///
    /// Follows `__ip_dev_find`, which finds addresses of all VRFs, and `ipv6_chk_addr_and_flags`: a tentative IPv6 address
    /// does not count. No device has an IPv6 address if the kernel runs with `ipv6.disable=1`. Any context.
    pub(crate) fn is_local_address(&self, address: AnyAddress) -> bool {
        let net = self.net().as_raw();
        match address {
            AnyAddress::V4(address) => {
                // SAFETY: The namespace is valid by its type's invariant. The function takes the RCU read lock itself. It
                // returns a pointer without a reference, which is only compared with null.
                let device = unsafe { bindings::__ip_dev_find(net, ipv4_to_be32(address), false) };
                !device.is_null()
            }
            AnyAddress::V6(address) => {
                let address = ipv6_to_raw(address);
                // SAFETY: Device and namespace are valid by their types' invariants, and `address` lives for the call. The
                // function takes the RCU read lock itself. It reads the namespace's table of addresses, which exists
                // unless IPv6 is disabled at boot; that is tested before.
                unsafe {
                    bindings::rustmasq_ipv6_mod_enabled()
                        && bindings::ipv6_chk_addr_and_flags(
                            net,
                            &address,
                            self.as_raw(),
                            true,
                            0,
                            bindings::IFA_F_TENTATIVE,
                        ) != 0
                }
            }
        }
    }

    /// Returns whether packets to `destination` would now leave by this device with an address of its own,
    /// while `address` is none of its own.
    ///
    /// Any context.
    pub(crate) fn would_replace(&self, address: AnyAddress, destination: AnyAddress) -> bool {
        if self.has_address(address) {
            return false;
        }
        let source = match (address, destination) {
            (AnyAddress::V4(_), AnyAddress::V4(to)) => {
                self.select_ipv4_source(to).map(AnyAddress::V4)
            }
            (AnyAddress::V6(_), AnyAddress::V6(to)) => {
                self.select_ipv6_source(to).map(AnyAddress::V6)
            }
            _ => None,
        };
        source.is_some_and(|source| self.has_address(source))
    }

    /// Returns to what extent the device has an address of its own in a family.
    ///
    /// Duplicate address detection does not begin before the device has had a carrier since it is up
    /// (`IF_READY`). Any context.
    pub(crate) fn readiness(&self, family: AnyFamily) -> Readiness {
        let readiness = match family {
            AnyFamily::V4 => self.ipv4_readiness(|_| true),
            AnyFamily::V6 => self.ipv6_readiness(|_| true),
        };
        if readiness == Readiness::Tentative && !self.begins_detection() {
            return Readiness::Absent;
        }
        readiness
    }

    /// Returns whether duplicate address detection begins for a new IPv6 address, as in `addrconf_dad_begin`.
    fn begins_detection(&self) -> bool {
        let _guard = rcu::read_lock();
        // SAFETY: The device is valid by the type's invariant, and the guard holds the RCU read lock.
        let idev = unsafe { bindings::rustmasq_in6_dev_get_rcu(self.as_raw()) };
        // SAFETY: The structure is not null, and freed after a grace period. Its flags are read once.
        !idev.is_null()
            && unsafe { bindings::rustmasq_inet6_dev_if_flags(idev) } & bindings::IF_READY != 0
    }

    /// Returns whether the IPv4 address is the first that packets would leave this device with.
    pub(super) fn is_first_ipv4(&self, new: &Ipv4Assigned) -> bool {
        new.readiness() == Readiness::Ready
            && self.ipv4_readiness(|own| own.address != new.address) != Readiness::Ready
    }

    /// Returns whether the IPv6 address is, or may become, the first that packets would leave this device with.
    pub(super) fn is_first_ipv6(&self, new: &Ipv6Assigned) -> bool {
        new.readiness() != Readiness::Absent
            && self.ipv6_readiness(|own| own.address != new.address) != Readiness::Ready
    }

    fn ipv4_readiness(&self, counts: impl Fn(&Ipv4Assigned) -> bool) -> Readiness {
        let mut best = Readiness::Absent;
        self.any_ipv4(|own| {
            if counts(own) {
                best = best.max(own.readiness());
            }
            false
        });
        best
    }

    fn ipv6_readiness(&self, counts: impl Fn(&Ipv6Assigned) -> bool) -> Readiness {
        let mut best = Readiness::Absent;
        self.any_ipv6(|own| {
            if counts(own) {
                best = best.max(own.readiness());
            }
            false
        });
        best
    }

    /// Returns whether the predicate returns true for one of the device's IPv4 addresses.
    fn any_ipv4(&self, mut predicate: impl FnMut(&Ipv4Assigned) -> bool) -> bool {
        let _guard = rcu::read_lock();
        // SAFETY: The device is valid by the type's invariant, and the guard holds the RCU read lock.
        let in_dev = unsafe { bindings::rustmasq_in_dev_get_rcu(self.as_raw()) };
        if in_dev.is_null() {
            return false;
        }
        // SAFETY: The structure is not null, and freed after a grace period.
        let mut ifa = unsafe { bindings::rustmasq_in_device_first_ifaddr(in_dev) };
        while !ifa.is_null() {
            // SAFETY: `ifa` is on the device's list, whose entries are freed after a grace period.
            if predicate(&unsafe { Ipv4Assigned::from_raw(ifa) }) {
                return true;
            }
            // SAFETY: `ifa` is still valid. An entry that was taken off the list meanwhile still leads back
            // to it.
            ifa = unsafe { bindings::rustmasq_in_ifaddr_next(ifa) };
        }
        false
    }

    /// Returns whether the predicate returns true for one of the device's IPv6 addresses.
    fn any_ipv6(&self, mut predicate: impl FnMut(&Ipv6Assigned) -> bool) -> bool {
        let _guard = rcu::read_lock();
        // SAFETY: The device is valid by the type's invariant, and the guard holds the RCU read lock.
        let idev = unsafe { bindings::rustmasq_in6_dev_get_rcu(self.as_raw()) };
        if idev.is_null() {
            return false;
        }
        // SAFETY: The structure is not null, and freed after a grace period.
        let mut ifa = unsafe { bindings::rustmasq_inet6_dev_first_ifaddr(idev) };
        while !ifa.is_null() {
            // SAFETY: `ifa` is on the device's list, whose entries are freed after a grace period.
            if predicate(&unsafe { Ipv6Assigned::from_raw(ifa) }) {
                return true;
            }
            // SAFETY: `ifa` is still valid, and holds a reference to the `inet6_dev` with the list's head. An
            // entry that was taken off the list meanwhile still leads back to it.
            ifa = unsafe { bindings::rustmasq_inet6_ifaddr_next(ifa) };
        }
        false
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

    fn ipv4(flags: c_uint, scope: bindings::rt_scope_t) -> Readiness {
        let address = Ipv4Addr::new(203, 0, 113, 1);
        let assigned = Ipv4Assigned {
            address,
            flags,
            scope,
        };
        assigned.readiness()
    }

    fn ipv6(first: u16, flags: c_uint) -> Readiness {
        let address = Ipv6Addr::new(first, 0, 0, 0, 0, 0, 0, 1);
        Ipv6Assigned { address, flags }.readiness()
    }

    #[test]
    fn only_primary_ipv4_addresses_of_global_scope_count() {
        use bindings::*;
        let permanent = IFA_F_PERMANENT;
        assert_eq!(
            ipv4(permanent, rt_scope_t_RT_SCOPE_UNIVERSE),
            Readiness::Ready
        );
        assert_eq!(
            ipv4(permanent | IFA_F_SECONDARY, rt_scope_t_RT_SCOPE_UNIVERSE),
            Readiness::Absent
        );
        for scope in [rt_scope_t_RT_SCOPE_LINK, rt_scope_t_RT_SCOPE_HOST] {
            assert_eq!(ipv4(permanent, scope), Readiness::Absent);
        }
    }

    #[test]
    fn ipv6_addresses_count_when_they_are_usable() {
        use bindings::*;
        assert_eq!(ipv6(0x2001, IFA_F_PERMANENT), Readiness::Ready);
        assert_eq!(ipv6(0xfd00, IFA_F_TEMPORARY), Readiness::Ready);
        assert_eq!(ipv6(0x2001, IFA_F_DEPRECATED), Readiness::Deprecated);
        assert_eq!(ipv6(0x2001, IFA_F_TENTATIVE), Readiness::Tentative);
        let optimistic = IFA_F_TENTATIVE | IFA_F_OPTIMISTIC;
        assert_eq!(ipv6(0x2001, optimistic), Readiness::Tentative);
        let duplicate = IFA_F_TENTATIVE | IFA_F_DADFAILED;
        assert_eq!(ipv6(0x2001, duplicate), Readiness::Absent);
        assert_eq!(ipv6(0xfe80, IFA_F_PERMANENT), Readiness::Absent);
        assert_eq!(ipv6(0, IFA_F_PERMANENT), Readiness::Absent);
    }

    #[test]
    fn readiness_has_an_order() {
        assert!(Readiness::Ready > Readiness::Tentative);
        assert!(Readiness::Tentative > Readiness::Deprecated);
        assert!(Readiness::Deprecated > Readiness::Absent);
    }

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
