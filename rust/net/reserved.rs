// SPDX-License-Identifier: GPL-2.0

//! The ports that an administrator has reserved (`net.ipv4.ip_local_reserved_ports`).
//!
//! C header: [`include/net/ip.h`](srctree/include/net/ip.h)

use super::namespace::Net;
use core::{
    marker::PhantomData,
    ptr::NonNull, //
};

/// The number of words of the bitmap of all ports.
const WORDS: usize = 1 << 16 >> 6;

/// The reserved ports of a namespace, as they are at the time of each call.
///
/// # Invariants
///
/// The pointer is to a bitmap of 65,536 bits, which exists for `'a`.
#[derive(Clone, Copy)]
pub(crate) struct ReservedPorts<'a> {
    words: NonNull<u64>,
    _net: PhantomData<&'a Net>,
}

impl Net {
    /// Returns the namespace's reserved ports, unless the kernel knows of none. Any context.
    pub(crate) fn reserved_ports(&self) -> Option<ReservedPorts<'_>> {
        // SAFETY: The namespace is valid by its type's invariant. The pointer is written while the namespace is set up
        // (`ipv4_sysctl_init_net`), and when it is removed, which a borrow that may use its devices precedes.
        let words = unsafe { (*self.as_raw()).ipv4.sysctl_local_reserved_ports };
        // INVARIANT: The bitmap has 65,536 bits (`ipv4_sysctl_init_net`) and is freed after the namespace's devices and
        // conntrack entries are gone (`ipv4_sysctl_exit_net`); the borrow of the namespace ends before.
        // CAST: A word of a bitmap has 64 bits here, as the layout is that of the architecture.
        NonNull::new(words.cast()).map(|words| ReservedPorts {
            words,
            _net: PhantomData,
        })
    }
}

impl ReservedPorts<'_> {
    /// Returns the ports from `64 * number` on, as bits; of too high a number none. Any context.
    pub(crate) fn word(self, number: u32) -> u64 {
        // CAST: A small number.
        let number = number as usize;
        if number >= WORDS {
            return 0;
        }
        // SAFETY: By the type's invariant the word exists. The sysctl copies whole words there at any time
        // (`proc_do_large_bitmap`), and the kernel reads them as here, without a lock (`inet_is_local_reserved_port`): a
        // volatile read of an aligned word gets it as it was before or as it is after, and any bits are valid.
        unsafe { self.words.add(number).read_volatile() }
    }

    /// Returns whether the port is reserved. Any context.
    pub(crate) fn contains(self, port: u16) -> bool {
        self.word(u32::from(port) / u64::BITS) >> (u32::from(port) % u64::BITS) & 1 != 0
    }
}
