// SPDX-License-Identifier: GPL-2.0

//! The kernel's coarse clocks.
//!
//! C headers: [`include/linux/jiffies.h`](srctree/include/linux/jiffies.h),
//! [`include/linux/timekeeping.h`](srctree/include/linux/timekeeping.h)

use crate::bindings;

/// Returns the time in ticks of the kernel (`jiffies`), of which a second has 100 to 1,000.
///
/// Any context.
pub(crate) fn ticks() -> u64 {
    // SAFETY: The variable is always there. The timer interrupt changes it meanwhile, so the read is volatile.
    unsafe { (&raw const bindings::jiffies).read_volatile() as u64 }
}

/// Returns the time in seconds since the kernel was booted (`ktime_get_seconds`).
///
/// Any context.
pub(crate) fn seconds() -> i64 {
    // SAFETY: The function takes no arguments and may be called in any context.
    unsafe { bindings::ktime_get_seconds() }
}
