// SPDX-License-Identifier: GPL-2.0
/* The module's version; the macro module! of Rust cannot set it. */
#include <linux/module.h>

MODULE_VERSION(RUSTMASQ_VERSION);
