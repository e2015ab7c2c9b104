// SPDX-License-Identifier: GPL-2.0

//! Verdicts.
//!
//! C header: [`include/uapi/linux/netfilter.h`](srctree/include/uapi/linux/netfilter.h)

use crate::bindings;
use kernel::prelude::*;

/// The verdict on a packet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u32)]
pub(crate) enum Verdict {
    /// The packet is freed.
    Drop = bindings::NF_DROP,
    /// The packet goes on.
    Accept = bindings::NF_ACCEPT,
}

impl Verdict {
    /// Returns C's number.
    pub(super) const fn into_raw(self) -> c_uint {
        self as c_uint
    }

    /// Converts the answer of a NAT function, which accepts or drops and nothing else.
    pub(super) const fn from_raw(raw: c_uint) -> Self {
        if raw == bindings::NF_ACCEPT {
            Verdict::Accept
        } else {
            Verdict::Drop
        }
    }
}
