// SPDX-License-Identifier: GPL-2.0

//! Packets, as a hook sees them.
//!
//! C header: [`include/linux/skbuff.h`](srctree/include/linux/skbuff.h)

use super::{
    address::{
        ipv4_from_be32,
        ipv4_to_be32,
        Header, //
    },
    net::Net,
    tuple::Tuple,
    Family,
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

/// A packet of the family `F` that a hook lent us for `'hook`.
///
/// # Invariants
///
/// A valid `struct sk_buff` for `'hook`, which nobody else changes meanwhile, whose network header
/// is a complete and linear header of `F`.
pub(crate) struct Packet<'hook, F: Family> {
    skb: NonNull<bindings::sk_buff>,
    lent: PhantomData<(&'hook bindings::sk_buff, F)>,
}

impl<F: Family> Packet<'_, F> {
    /// # Safety
    ///
    /// `skb` must fulfil the type's invariants.
    pub(super) unsafe fn from_raw(skb: NonNull<bindings::sk_buff>) -> Self {
        // INVARIANT: the caller's duty.
        Self {
            skb,
            lent: PhantomData,
        }
    }

    pub(super) fn as_raw(&self) -> *mut bindings::sk_buff {
        self.skb.as_ptr()
    }
}

impl<F: Family> Packet<'_, F> {
    /// What the fixed part of the IP header says.
    pub(crate) fn header(&self) -> Header<F::Address> {
        // SAFETY: the packet is valid by the invariant, and its network header is a complete one of
        // `F`. Drivers need not align it (NET_IP_ALIGN), and need not here: it is an array of bytes.
        F::parse(&unsafe {
            bindings::rustmasq_skb_network_header(self.as_raw())
                .cast::<F::Header>()
                .read()
        })
    }

    /// The packet's length in bytes, from the IP header on.
    pub(crate) fn len(&self) -> u32 {
        // SAFETY: the packet is valid by the invariant.
        unsafe { (*self.as_raw()).len }
    }

    /// The packet's own tuple, as conntrack would make it (`nf_ct_get_tuplepr`). None: it has none;
    /// its transport header is missing or cut, or it is a later fragment.
    pub(crate) fn tuple(&self, net: &Net) -> Option<Tuple> {
        let mut raw = pin_init::zeroed();
        // SAFETY: the packet and the namespace are valid by their invariants; the offset is that of
        // a header of `F`. The function looks at the packet's length wherever it reads.
        unsafe {
            bindings::nf_ct_get_tuplepr(
                self.as_raw(),
                bindings::rustmasq_skb_network_offset(self.as_raw()) as c_uint,
                u16::from(F::NFPROTO),
                net.as_raw(),
                &mut raw,
            )
            // The function has zeroed the tuple and set its family.
            .then(|| Tuple::from_raw(&raw))
        }
    }
}

/// Where in a packet a UDP datagram's content lies.
#[derive(Clone, Copy)]
pub(super) struct Payload {
    /// From the packet's data on, in bytes.
    offset: c_int,
    /// In bytes.
    length: u16,
}

impl<F: Family> Packet<'_, F> {
    /// Whether the packet is one of UDP; extension headers of IPv6 are skipped.
    pub(super) fn is_udp(&self) -> bool {
        let mut protocol = self.header().protocol;
        if F::NFPROTO == Ipv6::NFPROTO && c_uint::from(protocol) != bindings::IPPROTO_UDP {
            let mut fragment = 0;
            // SAFETY: the packet is valid by the invariant; the function looks at its length. In a
            // hook the data begins with the network header.
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

    /// The content of a datagram whose UDP header (RFC 768) begins at `transport`, as long as that
    /// header says. None: header or content are cut.
    pub(super) fn udp_payload(&self, transport: c_uint) -> Option<Payload> {
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

    /// Calls `f` with the bytes of `payload`, one that is this packet's. None: they are more than
    /// `N`, or not there.
    pub(super) fn with_bytes<const N: usize, R>(
        &self,
        payload: Payload,
        f: impl FnOnce(&[u8]) -> R,
    ) -> Option<R> {
        let length = usize::from(payload.length);
        if length > N {
            return None;
        }
        let mut room = core::mem::MaybeUninit::<[u8; N]>::uninit();
        // SAFETY: the packet is valid by the invariant; the function looks at its length, and copies
        // at most `length` bytes to `room`, which is as large.
        let bytes = NonNull::new(unsafe {
            bindings::rustmasq_skb_header_pointer(
                self.as_raw(),
                payload.offset,
                c_int::from(payload.length),
                room.as_mut_ptr().cast(),
            )
        })?;
        // SAFETY: so many bytes of the packet, which nobody changes meanwhile, or of `room`.
        Some(f(unsafe {
            core::slice::from_raw_parts(bytes.as_ptr().cast::<u8>(), length)
        }))
    }

    /// Some bytes of the packet, from its data on. None: it ends before.
    fn bytes<const N: usize>(&self, offset: c_uint) -> Option<[u8; N]> {
        let payload = Payload {
            offset: c_int::try_from(offset).ok()?,
            length: u16::try_from(N).ok()?,
        };
        self.with_bytes::<N, _>(payload, |bytes| bytes.try_into().ok())?
    }
}

impl Packet<'_, Ipv4> {
    /// Where the packet goes next: its route's gateway, or its destination where there is none.
    pub(crate) fn next_hop(&self) -> Ipv4Addr {
        let destination = self.header().destination;
        // SAFETY: the packet is valid by the invariant. (What hangs on a bridged one can be the key
        // of a tunnel that it is to go through, and no route.)
        if !unsafe { bindings::rustmasq_skb_valid_dst(self.as_raw()) } {
            return destination;
        }
        // SAFETY: a route that hangs on an IPv4 packet is a `struct rtable` that lives at least as
        // long as the hook (a reference, or RCU's read side).
        let raw = unsafe {
            let route = bindings::rustmasq_skb_rtable(self.as_raw());
            bindings::rustmasq_rt_nexthop(route, ipv4_to_be32(destination))
        };
        ipv4_from_be32(raw)
    }
}

impl Packet<'_, Ipv6> {
    /// Where in the header the destination stands.
    pub(super) fn raw_destination(&self) -> *const bindings::in6_addr {
        const OFFSET: usize = 24;
        // SAFETY: the packet is valid by the invariant, and its network header is a whole one.
        unsafe {
            bindings::rustmasq_skb_network_header(self.as_raw())
                .add(OFFSET)
                .cast()
        }
    }
}
