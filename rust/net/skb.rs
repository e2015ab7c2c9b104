// SPDX-License-Identifier: GPL-2.0

//! Packets, as a hook sees them.
//!
//! C header: [`include/linux/skbuff.h`](srctree/include/linux/skbuff.h)

use super::address::{
    ipv4_from_be32,
    ipv4_to_be32,
    Family,
    Header,
    Ipv4,
    Ipv6, //
};
use crate::bindings;
use core::{
    marker::PhantomData,
    net::Ipv4Addr,
    ptr::NonNull, //
};
use kernel::prelude::*;

/// A packet of the family `F`, borrowed from a hook for `'hook`.
///
/// # Invariants
///
/// A valid `struct sk_buff` for `'hook`. Nobody else writes to its linear part meanwhile. Its network
/// header is a complete and linear header of `F`.
pub(crate) struct Packet<'hook, F: Family> {
    skb: NonNull<bindings::sk_buff>,
    borrow: PhantomData<(&'hook bindings::sk_buff, F)>,
}

impl<F: Family> Packet<'_, F> {
    /// Converts a pointer of C's to a borrow.
    ///
    /// # Safety
    ///
    /// `skb` must fulfil the type's invariants for the lifetime that the caller chooses.
    pub(crate) unsafe fn from_raw(skb: NonNull<bindings::sk_buff>) -> Self {
        // INVARIANT: The caller guarantees it.
        Self {
            skb,
            borrow: PhantomData,
        }
    }

    /// Returns C's pointer.
    pub(crate) fn as_raw(&self) -> *mut bindings::sk_buff {
        self.skb.as_ptr()
    }
}

impl<F: Family> Packet<'_, F> {
    /// Returns the fields of the IP header's fixed part.
    pub(crate) fn header(&self) -> Header<F::Address> {
        // SAFETY: By the invariant the network header is complete and linear, and `F::Header` is a byte
        // array of its size. An array of bytes needs no alignment, and drivers guarantee none
        // (NET_IP_ALIGN).
        F::parse(&unsafe {
            bindings::rustmasq_skb_network_header(self.as_raw())
                .cast::<F::Header>()
                .read()
        })
    }

    /// Returns the packet's length in bytes, from the IP header on.
    pub(crate) fn len(&self) -> u32 {
        // SAFETY: The packet is valid by the type's invariant. Its length belongs to this `struct sk_buff`,
        // not to data that clones share, so nobody else writes to it.
        unsafe { (*self.as_raw()).len }
    }

    /// Returns the offset of the network header from the packet's data, in bytes.
    pub(crate) fn network_offset(&self) -> c_int {
        // SAFETY: The packet is valid by the type's invariant; this subtracts two of its fields.
        unsafe { bindings::rustmasq_skb_network_offset(self.as_raw()) }
    }
}

/// The position of a UDP datagram's payload in a packet.
#[derive(Clone, Copy)]
pub(crate) struct Payload {
    /// The offset from the packet's data, in bytes.
    offset: c_int,
    /// The length in bytes.
    length: u16,
}

impl<F: Family> Packet<'_, F> {
    /// Returns whether the packet is a UDP packet, behind extension headers if there are any.
    pub(crate) fn is_udp(&self) -> bool {
        let mut protocol = self.header().protocol;
        if F::NFPROTO == Ipv6::NFPROTO && c_uint::from(protocol) != bindings::IPPROTO_UDP {
            let mut fragment = 0;
            // SAFETY: The packet is valid by the type's invariant, and the function checks the packet's
            // length wherever it reads. In a hook the data begins with the network header, so the
            // headers to skip begin behind the fixed part.
            let found = unsafe {
                bindings::ipv6_skip_exthdr(
                    self.as_raw(),
                    size_of::<F::Header>() as c_int,
                    &mut protocol,
                    &mut fragment,
                ) >= 0
            };
            return found && c_uint::from(protocol) == bindings::IPPROTO_UDP;
        }
        c_uint::from(protocol) == bindings::IPPROTO_UDP
    }

    /// Returns the payload of the datagram whose UDP header begins at the offset `transport`.
    ///
    /// The payload is as long as the header's length field says (RFC 768). Returns `None` if the header
    /// or the payload is cut.
    pub(crate) fn udp_payload(&self, transport: c_uint) -> Option<Payload> {
        const HEADER: u16 = 8;
        let length = self.bytes::<2>(transport.checked_add(4)?)?;
        let length = u16::from_be_bytes(length).checked_sub(HEADER)?;
        let offset = transport.checked_add(c_uint::from(HEADER))?;
        if offset.checked_add(c_uint::from(length))? > self.len() {
            return None;
        }
        Some(Payload {
            offset: c_int::try_from(offset).ok()?,
            length,
        })
    }

    /// Calls `f` with the bytes of `payload`, which must be a payload of this packet.
    ///
    /// Returns `None` if they are more than `N` or not in the packet; `f` is not called then.
    pub(crate) fn with_bytes<const N: usize, R>(
        &self,
        payload: Payload,
        f: impl FnOnce(&[u8]) -> R,
    ) -> Option<R> {
        let length = usize::from(payload.length);
        if length > N {
            return None;
        }
        let mut buffer = core::mem::MaybeUninit::<[u8; N]>::uninit();
        // SAFETY: The packet is valid by the type's invariant. The function checks offset and length
        // against the packet's length, and copies at most `length` bytes to `buffer`, which has `N`.
        let bytes = NonNull::new(unsafe {
            bindings::rustmasq_skb_header_pointer(
                self.as_raw(),
                payload.offset,
                c_int::from(payload.length),
                buffer.as_mut_ptr().cast(),
            )
        })?;
        // SAFETY: The function returned a pointer to `length` bytes, either in the packet's linear
        // part, which nobody writes to by the invariant, or in `buffer`, which it has filled.
        Some(f(unsafe {
            core::slice::from_raw_parts(bytes.as_ptr().cast::<u8>(), length)
        }))
    }

    /// Returns `N` bytes at `offset` from the packet's data, or `None` if the packet ends before.
    fn bytes<const N: usize>(&self, offset: c_uint) -> Option<[u8; N]> {
        let payload = Payload {
            offset: c_int::try_from(offset).ok()?,
            length: u16::try_from(N).ok()?,
        };
        self.with_bytes::<N, _>(payload, |bytes| bytes.try_into().ok())?
    }
}

impl Packet<'_, Ipv4> {
    /// Returns the packet's next hop: its route's gateway, or its destination if there is none.
    ///
    /// Follows `rt_nexthop`.
    pub(crate) fn next_hop(&self) -> Ipv4Addr {
        let destination = self.header().destination;
        // SAFETY: The packet is valid by the type's invariant, and a hook holds the RCU read lock, which
        // the function needs for a destination entry without a reference. On a bridge that may be the
        // metadata of a tunnel instead of a route.
        if !unsafe { bindings::rustmasq_skb_valid_dst(self.as_raw()) } {
            return destination;
        }
        // SAFETY: A destination entry of an IPv4 packet that is not metadata is a `struct rtable` (so is
        // br_netfilter's fake one) or begins with one (`struct xfrm_dst`). A program that turns an IPv6
        // packet into an IPv4 one drops the entry (`bpf_skb_change_proto`). The packet holds a reference
        // to it, or the RCU read lock of the hook keeps it.
        let raw = unsafe {
            let route = bindings::rustmasq_skb_rtable(self.as_raw());
            bindings::rustmasq_rt_nexthop(route, ipv4_to_be32(destination))
        };
        ipv4_from_be32(raw)
    }
}
