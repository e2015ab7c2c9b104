// SPDX-License-Identifier: GPL-2.0
/*
 * The definition of the trace events, which only macros of C can make. For each
 * event it also defines rust_do_trace_NAME(), which emits it.
 */
#include <linux/types.h>

#define CREATE_TRACE_POINTS
#define CREATE_RUST_TRACE_POINTS
#include "rustmasq_events.h"
