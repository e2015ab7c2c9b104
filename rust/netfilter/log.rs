// SPDX-License-Identifier: GPL-2.0

//! Log lines that packets or users can provoke.
//!
//! C header: [`include/linux/net.h`](srctree/include/linux/net.h)

use crate::bindings;

/// Whether the network's shared limit (`net.core.message_cost`) permits one more line.
pub(crate) fn rate_permits() -> bool {
    // SAFETY: without preconditions; callable from any context.
    unsafe { bindings::net_ratelimit() != 0 }
}
