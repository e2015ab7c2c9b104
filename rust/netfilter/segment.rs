// SPDX-License-Identifier: GPL-2.0

//! TCP segments, as a helper reads and rewrites them, and what it remembers of their connection.
//!
//! A rewritten text may be longer or shorter than the original one. Then all that follows in the stream has other sequence
//! numbers on one side of the NAT than on the other, and conntrack adjusts them in every packet, acknowledgements
//! and SACK included (`nf_ct_seq_adjust`). It knows of one place in each direction up to which the previous difference
//! holds.
//!
//! C headers: [`include/net/netfilter/nf_nat_helper.h`](srctree/include/net/netfilter/nf_nat_helper.h),
//! [`include/net/netfilter/nf_conntrack_seqadj.h`](srctree/include/net/netfilter/nf_conntrack_seqadj.h)

use super::{
    helper::HelperContext,
    tuple::Direction, //
};
use crate::{
    bindings,
    net::{
        context::BottomHalvesOff,
        skb::{
            ahead_of,
            TcpHeader, //
        },
        Family, //
    }, //
};
use core::ops::Range;
use kernel::{
    prelude::*,
    sync::GlobalGuard, //
};
use pin_init::Zeroable;

kernel::sync::global_lock! {
    // SAFETY: `init_lock` initialises it before the first helper is registered.
    unsafe(uninit) static MEMORIES: SpinLock<()> = ();
}

/// Initialises the lock that protects what helpers remember of connections.
///
/// # Safety
///
/// Must be called once, before a helper is registered.
pub(super) unsafe fn init_lock() {
    // SAFETY: The caller guarantees that this is the only call, and that the lock was not used before.
    unsafe { MEMORIES.init() };
}

/// A segment that a helper is called for, with what the helper remembers of its connection, `M`.
///
/// The memory is all zero at first. Nobody else sees it as long as the value exists: helpers look at one segment at a time.
///
/// # Invariants
///
/// The packet of `context` is a TCP segment of its flow and linear, and the payload begins at the offset `payload` from
/// the packet's data, within the packet.
pub(crate) struct Segment<'a, 'hook, F: Family, M> {
    context: &'a mut HelperContext<'hook, F>,
    /// The helper's memory of the connection.
    pub(crate) memory: &'a mut M,
    header: TcpHeader,
    payload: usize,
    // Fields are dropped in their order: softirqs must stay off until the lock is free.
    _lock: GlobalGuard<MEMORIES>,
    _no_softirq: BottomHalvesOff,
}

impl<'hook, F: Family> HelperContext<'hook, F> {
    /// Returns the packet as a segment.
    ///
    /// Returns `None` for a segment that says nothing to a helper: one that neither begins the connection nor has a
    /// payload, or that is cut; and where a packet arrives on the loopback device, for the helper has seen it leave.
    /// Errors: ENOMEM. Context: a helper's call.
    pub(crate) fn segment<M: Zeroable>(&mut self) -> Result<Option<Segment<'_, 'hook, F, M>>> {
        const {
            assert!(size_of::<M>() <= size_of::<[c_char; 32]>());
            assert!(align_of::<M>() <= align_of::<u64>());
        };
        let Some(header) = self.packet.tcp_header(self.transport) else {
            return Ok(None);
        };
        let payload = self.transport.saturating_add(header.len);
        if payload > self.packet.len() || payload == self.packet.len() && !header.syn {
            return Ok(None);
        }
        // SAFETY: The packet is valid by the context's invariant, and so is its device under the RCU read lock.
        if unsafe { bindings::rustmasq_nf_is_loopback_packet(self.packet.as_raw()) } {
            return Ok(None);
        }
        // SAFETY: The packet is valid and ours for the call by the context's invariant. The function does not sleep, and
        // leaves the packet as it was if it fails. Nothing borrows the packet's bytes: `self` is borrowed mutably.
        if unsafe { bindings::rustmasq_skb_linearize(self.packet.as_raw()) } != 0 {
            return Err(ENOMEM);
        }
        let no_softirq = BottomHalvesOff::new();
        let lock = MEMORIES.lock();
        // SAFETY: The entry is valid and has an extension for helpers by the context's invariant. So this is the
        // room of 32 bytes in it, which is aligned for any integer. Conntrack zeroed it and leaves it to the helper,
        // which has no functions for ctnetlink. A helper has one type of memory, and zero is a value of it. The
        // extension moves only if one is added to the entry, which no helper does. The lock keeps all others out.
        let memory =
            unsafe { &mut *bindings::rustmasq_nfct_help_data(self.conn.as_raw()).cast::<M>() };
        // INVARIANT: The packet was made linear, and the payload's place was compared with its length.
        Ok(Some(Segment {
            context: self,
            memory,
            header,
            // CAST: It widens.
            payload: payload as usize,
            _lock: lock,
            _no_softirq: no_softirq,
        }))
    }
}

impl<'hook, F: Family, M> Segment<'_, 'hook, F, M> {
    /// Returns the context of the helper's call.
    pub(crate) fn context(&self) -> &HelperContext<'hook, F> {
        self.context
    }

    /// Returns the header's fields, as the sender of the segment wrote them.
    pub(crate) fn header(&self) -> TcpHeader {
        self.header
    }

    /// Returns the payload, together with the memory.
    pub(crate) fn payload_and_memory(&mut self) -> (&[u8], &mut M) {
        let skb = self.context.packet.as_raw();
        // SAFETY: By the invariant the packet is linear, so that its data are as long as its length says, and the
        // payload's offset is not beyond it. Nobody writes to the linear part during a hook but `rewrite`, which
        // borrows `self` mutably.
        let payload = unsafe {
            let len = ((*skb).len as usize).saturating_sub(self.payload);
            core::slice::from_raw_parts((*skb).data.add(self.payload), len)
        };
        (payload, self.memory)
    }

    /// Returns whether a text can be replaced by one of another length: the entry has room for differences of sequence
    /// numbers.
    pub(crate) fn can_change_length(&self) -> bool {
        // SAFETY: The entry is valid by the context's invariant.
        unsafe { !bindings::rustmasq_nfct_seqadj(self.context.conn.as_raw()).is_null() }
    }

    /// Returns whether the receiver of a direction has acknowledged all before a sequence number of its sender.
    pub(crate) fn is_acknowledged(&self, direction: Direction, end: u32) -> bool {
        // SAFETY: The entry is valid and of TCP by the context's invariant; any number is a value. CAST: 0 or 1.
        let acknowledged = unsafe {
            bindings::rustmasq_nf_ct_tcp_acknowledged(self.context.conn.as_raw(), direction as u8)
        };
        ahead_of(acknowledged, end) >= 0
    }

    /// Begins to remember the connection anew, if the segment begins another one in place of one that was reset: conntrack
    /// keeps the entry for that.
    ///
    /// Sequence numbers are not adjusted any more, and the memory is as at first.
    pub(crate) fn begin_again(&mut self)
    where
        M: Zeroable,
    {
        let ct = self.context.conn.as_raw();
        *self.memory = pin_init::zeroed();
        // SAFETY: The entry is valid by the context's invariant, and the function returns null or an extension of it, which
        // does not move any more. Conntrack reads and writes it under the entry's lock, for which softirqs are off.
        unsafe {
            let adjustments = bindings::rustmasq_nfct_seqadj(ct);
            if !adjustments.is_null() {
                bindings::spin_lock(&raw mut (*ct).lock);
                adjustments.write(pin_init::zeroed());
                bindings::spin_unlock(&raw mut (*ct).lock);
            }
        }
    }

    /// Replaces a part of the payload, and corrects lengths and checksums.
    ///
    /// `again` says that an earlier segment with the same bytes was rewritten in the same way. If it was not, and the text
    /// has another length than the part, the sequence numbers of what follows the part are adjusted from now on.
    ///
    /// Errors: EINVAL if the payload has no such part, or if the length would change and
    /// [cannot](Self::can_change_length); ENOMEM. Follows `nf_nat_mangle_tcp_packet`, which however adjusts what follows the
    /// beginning of the segment: a retransmission may begin between.
    pub(crate) fn rewrite(&mut self, part: Range<usize>, text: &[u8], again: bool) -> Result {
        let payload_len = self.payload_and_memory().0.len();
        let part_len = part.end.checked_sub(part.start).ok_or(EINVAL)?;
        if part.end > payload_len {
            return Err(EINVAL);
        }
        let same_length = part_len == text.len();
        if !same_length && !self.can_change_length() {
            return Err(EINVAL);
        }
        let (skb, ct) = (self.context.packet.as_raw(), self.context.conn.as_raw());
        // CAST: All are at most a packet's length.
        let (start, len, text_len) = (part.start as u32, part_len as u32, text.len() as u32);
        // SAFETY: The packet is ours for the call, and the entry is valid and the packet's. The part lies within the
        // payload of the segment whose header begins at the offset `transport` of its data, and in a hook the data
        // begins with the network header. The function makes the packet writable and enlarges it if necessary; it leaves
        // it alone if it fails. It does not sleep.
        let done = unsafe {
            bindings::__nf_nat_mangle_tcp_packet(
                skb,
                ct,
                self.context.info,
                self.context.transport,
                start,
                len,
                text.as_ptr().cast(),
                text_len,
                false,
            )
        };
        if !done {
            return Err(ENOMEM);
        }
        if !same_length && !again {
            let position = self.header.sequence.wrapping_add(start);
            // CAST: Both are at most a packet's length.
            let difference = text_len as i32 - len as i32;
            // SAFETY: The entry is valid, and has the extension that was looked for above. The function takes the
            // entry's own lock, which nobody takes before ours.
            unsafe {
                bindings::nf_ct_seqadj_set(ct, self.context.info, position.to_be(), difference)
            };
        }
        Ok(())
    }
}
