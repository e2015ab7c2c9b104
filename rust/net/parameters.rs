// SPDX-License-Identifier: GPL-2.0

//! Module parameters that sysfs shows, which the macro `module!` cannot make.

use crate::bindings;

/// Returns the module parameter `pools_max`. Any context.
pub(crate) fn pools_max() -> u32 {
    // SAFETY: The variable is always there. It is written before the module's init alone.
    unsafe { bindings::rustmasq_pools_max }
}

/// Returns the module parameter `masquerade_cone`, from 0 to 3. Any context.
pub(crate) fn masquerade_cone() -> u32 {
    // SAFETY: The variable is always there. It is written before the module's init alone.
    unsafe { bindings::rustmasq_masquerade_cone }
}

/// Returns the module parameter `mappings_max`. Any context.
pub(crate) fn mappings_max() -> u32 {
    // SAFETY: The variable is always there. It is written before the module's init alone.
    unsafe { bindings::rustmasq_mappings_max }
}

/// Returns the module parameter `mappings_refresh_inbound`. Any context.
pub(crate) fn inbound_refreshes_mappings() -> bool {
    // SAFETY: The variable is always there. It is written before the module's init alone.
    unsafe { bindings::rustmasq_mappings_refresh_inbound }
}

/// Returns the module parameter `masquerade`. Any context.
pub(crate) fn serves_masquerade() -> bool {
    // SAFETY: The variable is always there. It is written before the module's init alone.
    unsafe { bindings::rustmasq_serves_masquerade }
}
