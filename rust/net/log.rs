// SPDX-License-Identifier: GPL-2.0

//! Rate limits for log lines that packets or users can cause.
//!
//! C headers: [`include/linux/net.h`](srctree/include/linux/net.h),
//! [`include/linux/ratelimit.h`](srctree/include/linux/ratelimit.h)

use crate::bindings;

/// Returns whether one more line about a packet may be logged now.
///
/// The limit is the one that all network code shares (`net_ratelimit`, `net.core.message_cost`). Any
/// context.
pub(crate) fn packet_rate_permits() -> bool {
    // SAFETY: The function takes no pointers; it tries its own lock, with interrupts off, so any context
    // will do.
    unsafe { bindings::net_ratelimit() != 0 }
}

/// Returns whether one more line about a refused rule may be logged now.
///
/// The limit is the module's own: a user who may add rules cannot use up the network's. Any context.
pub(crate) fn rule_rate_permits() -> bool {
    // SAFETY: The helper's state is static and initialised at compile time; `__ratelimit` tries its lock,
    // with interrupts off, so any context will do.
    unsafe { bindings::rustmasq_rule_ratelimit() }
}
