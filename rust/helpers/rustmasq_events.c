// SPDX-License-Identifier: GPL-2.0
/*
 * The definition of the trace events, which only C's macros can make: an
 * exception to the rule for this folder. For each there is then a function
 * rust_do_trace_NAME that fires it.
 */
#include <linux/types.h>

#define CREATE_TRACE_POINTS
#define CREATE_RUST_TRACE_POINTS
#include "rustmasq_events.h"
