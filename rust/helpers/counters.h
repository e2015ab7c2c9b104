/* SPDX-License-Identifier: GPL-2.0 */
#ifndef RUSTMASQ_COUNTERS
#define RUSTMASQ_COUNTERS

#include <linux/atomic.h>

/* The module parameter tftp_ignored. */
extern atomic_long_t rustmasq_tftp_ignored;

#endif /* RUSTMASQ_COUNTERS */
