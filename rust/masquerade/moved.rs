// SPDX-License-Identifier: GPL-2.0

//! The memory of inside endpoints whose port was not kept.
//!
//! An inside endpoint that got another port towards one destination gets the same port towards others, so that its
//! mapping does not depend on the destination (RFC 4787, REQ-1). The kernel finds such a mapping among its flows; to
//! ask it costs a look-up, so this table tells for which endpoints to ask.
//!
//! The table is small and forgets: an endpoint that another one overwrites is treated as one that has no mapping.

use core::num::NonZeroU16;
use kernel::sync::atomic::{
    Atomic,
    Relaxed, //
};

/// The binary logarithm of the number of slots.
const SLOT_BITS: u32 = 13;
const PORT_BITS: u32 = u16::BITS;

/// The endpoints, and the port that each of them got last.
pub(super) struct Moved {
    slots: [Atomic<u64>; 1 << SLOT_BITS],
}

impl Moved {
    /// Returns an empty table.
    pub(super) const fn new() -> Self {
        Self {
            slots: [const { Atomic::new(0) }; 1 << SLOT_BITS],
        }
    }

    /// Returns whether a port was noted for the endpoint. Any context.
    #[inline(always)]
    pub(super) fn has(&self, endpoint: u64) -> bool {
        (self.slot(endpoint).load(Relaxed) ^ endpoint) >> PORT_BITS == 0
    }

    /// Notes that the endpoint with this tag got the port, which is not its own. Any context.
    pub(super) fn note(&self, endpoint: u64, port: u16) {
        self.slot(endpoint).store(pack(endpoint, port), Relaxed);
    }

    /// Returns the port that was noted for the endpoint. Any context.
    pub(super) fn port_of(&self, endpoint: u64) -> Option<NonZeroU16> {
        let found = self.slot(endpoint).load(Relaxed);
        // CAST: The port is in the low bits.
        NonZeroU16::new(found as u16).filter(|port| pack(endpoint, port.get()) == found)
    }

    #[inline(always)]
    fn slot(&self, endpoint: u64) -> &Atomic<u64> {
        // CAST: The number of a slot.
        &self.slots[(endpoint >> (64 - SLOT_BITS)) as usize]
    }
}

/// Returns the content of a slot: the endpoint's tag, with the port in the place of its lowest bits.
fn pack(endpoint: u64, port: u16) -> u64 {
    endpoint >> PORT_BITS << PORT_BITS | u64::from(port)
}
