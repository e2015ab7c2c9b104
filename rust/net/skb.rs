// SPDX-License-Identifier: GPL-2.0

//! Packets, as a hook sees them.
//!
//! C header: [`include/linux/skbuff.h`](srctree/include/linux/skbuff.h)

use super::{
    address::{
        ipv4_from_be32,
        ipv4_to_be32,
        Family,
        Header,
        Ipv4,
        Ipv6, //
    },
    rcu::ReadLocked, //
};
use crate::bindings;
use core::{
    marker::PhantomData,
    net::Ipv4Addr,
    ptr::NonNull, //
};
use kernel::{
    prelude::*,
    transmute::FromBytes, //
};

/// A UDP header (RFC 768), and the first `N` bytes of the payload.
#[repr(C)]
struct UdpStart<const N: usize> {
    ports: [[u8; 2]; 2],
    /// The length of header and payload in bytes, in network order.
    length: [u8; 2],
    checksum: [u8; 2],
    payload: [u8; N],
}

// SAFETY: The structure consists of bytes.
unsafe impl<const N: usize> FromBytes for UdpStart<N> {}

/// Returns how far a sequence number of TCP is ahead of another one; a negative number if it is behind.
///
/// Numbers are compared by the sign of their difference (RFC 9293, section 3.4).
pub(crate) fn ahead_of(sequence: u32, other: u32) -> i32 {
    // CAST: The sign is the highest bit.
    sequence.wrapping_sub(other) as i32
}

/// The fields of a TCP header (RFC 9293, section 3.1).
#[derive(Clone, Copy)]
pub(crate) struct TcpHeader {
    /// The sequence number of the first byte of the payload, or of the SYN.
    pub(crate) sequence: u32,
    /// The connection begins in this direction.
    pub(crate) syn: bool,
    /// The length of the header in bytes.
    pub(crate) len: u32,
}

impl TcpHeader {
    /// The length of a header without options, in bytes.
    const SIZE: usize = 20;

    /// Parses a header, but for its options.
    fn parse(header: [u8; Self::SIZE]) -> Self {
        let [_, _, _, _, a, b, c, d, _, _, _, _, offset, flags, ..] = header;
        Self {
            sequence: u32::from_be_bytes([a, b, c, d]),
            syn: flags & 2 != 0,
            // The header tells its length in words of four bytes, by the highest four bits.
            len: u32::from(offset >> 4) * 4,
        }
    }
}

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

// SAFETY: A packet is borrowed from a hook, a target or a helper, all of which run in an RCU read-side section, and is not
// `Send`.
unsafe impl<F: Family> ReadLocked for Packet<'_, F> {}

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

impl<F: Family> Packet<'_, F> {
    /// Returns whether the packet is one of this protocol (`IPPROTO_*`), behind extension headers if there are any.
    pub(crate) fn is_of(&self, wanted: c_uint) -> bool {
        let mut protocol = self.header().protocol;
        if F::NFPROTO == Ipv6::NFPROTO && c_uint::from(protocol) != wanted {
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
            return found && c_uint::from(protocol) == wanted;
        }
        c_uint::from(protocol) == wanted
    }

    /// Returns the TCP header at the offset `transport`, or `None` if it is cut.
    pub(crate) fn tcp_header(&self, transport: c_uint) -> Option<TcpHeader> {
        self.bytes(transport).map(TcpHeader::parse)
    }

    /// Returns the length in bytes of the datagram's payload whose UDP header begins at the offset `transport`.
    ///
    /// This is the length that the header says (RFC 768). Returns `None` if the header is cut, or if it says less than
    /// its own length.
    pub(crate) fn udp_payload_len(&self, transport: c_uint) -> Option<u16> {
        let start = self.bytes::<UdpStart<0>>(transport)?;
        u16::from_be_bytes(start.length).checked_sub(size_of::<UdpStart<0>>() as u16)
    }

    /// Returns the first `N` bytes of the datagram's payload whose UDP header begins at the offset `transport`.
    ///
    /// Returns `None` if the payload is shorter, or cut.
    pub(crate) fn udp_payload_start<const N: usize>(&self, transport: c_uint) -> Option<[u8; N]> {
        let start = self.bytes::<UdpStart<N>>(transport)?;
        let whole = usize::from(u16::from_be_bytes(start.length)) >= size_of::<UdpStart<N>>();
        whole.then_some(start.payload)
    }

    /// Returns the bytes at `offset` from the packet's data, or `None` if the packet ends before.
    fn bytes<T: FromBytes>(&self, offset: c_uint) -> Option<T> {
        let mut buffer = core::mem::MaybeUninit::<T>::uninit();
        // SAFETY: The packet is valid by the type's invariant. The function checks offset and length
        // against the packet's length, and copies at most as many bytes to `buffer` as it has.
        let bytes = NonNull::new(unsafe {
            bindings::rustmasq_skb_header_pointer(
                self.as_raw(),
                c_int::try_from(offset).ok()?,
                size_of::<T>() as c_int,
                buffer.as_mut_ptr().cast(),
            )
        })?;
        // SAFETY: The function returned a pointer to that many bytes, either in the packet's linear part,
        // which nobody writes to by the invariant, or in `buffer`, which it has filled. Any bytes are a value
        // of the type.
        Some(unsafe { bytes.cast::<T>().read_unaligned() })
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
