/* SPDX-License-Identifier: GPL-2.0 */
#ifndef RUSTMASQ_PARAMETERS
#define RUSTMASQ_PARAMETERS

#include <linux/atomic.h>

/* The module parameter tftp_ignored. */
extern atomic_long_t rustmasq_tftp_ignored;

/* The module parameter pools_max, and the largest value that it can have. */
#define RUSTMASQ_POOLS_LIMIT 1024
extern unsigned int rustmasq_pools_max;

/* The module parameter masquerade. */
extern bool rustmasq_serves_masquerade;

/* The module parameter masquerade_cone, and the largest value that it can have. */
#define RUSTMASQ_CONE_LIMIT 3
extern unsigned int rustmasq_masquerade_cone;

/* The module parameter mappings_max, and the largest value that it can have. */
#define RUSTMASQ_MAPPINGS_LIMIT 16777216
extern unsigned int rustmasq_mappings_max;

/* The module parameter mappings_refresh_inbound. */
extern bool rustmasq_mappings_refresh_inbound;

#endif /* RUSTMASQ_PARAMETERS */
