/* SPDX-License-Identifier: GPL-2.0 */
/* The input of bindgen, which build.rs runs. */
#include <stdio.h>
#include <getopt.h>
#include <xtables.h>
#include <linux/netfilter_ipv4/ip_tables.h>
#include <linux/netfilter_ipv6/ip6_tables.h>

#include "../uapi/xt_RUSTMASQ.h"
