// SPDX-License-Identifier: GPL-2.0

//! How often log lines that packets or users provoke are permitted.
//!
//! C headers: [`include/linux/net.h`](srctree/include/linux/net.h),
//! [`include/linux/ratelimit.h`](srctree/include/linux/ratelimit.h)

use crate::bindings;

/// Whether one more line about a packet is permitted, by the limit that the whole network shares
/// (`net.core.message_cost`).
pub(crate) fn packet_rate_permits() -> bool {
    // SAFETY: without preconditions; callable from any context.
    unsafe { bindings::net_ratelimit() != 0 }
}

/// Whether one more line about a rule is permitted: a limit of our own, so that a user who may add
/// rules cannot use up the network's.
pub(crate) fn rule_rate_permits() -> bool {
    // SAFETY: without preconditions; callable from any context.
    unsafe { bindings::rustmasq_rule_ratelimit() }
}
