/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * The binary form of a RUSTMASQ rule, revision 0, as iptables sends it to the
 * kernel and reads it back. It is the same for IPv4 and IPv6.
 *
 * The kernel module and the iptables extension are both built from this header.
 */
#ifndef _XT_RUSTMASQ_H
#define _XT_RUSTMASQ_H

#include <linux/types.h>

/* The bits of xt_rustmasq_info.flags */

/* --to-ports: min_port and max_port are set. Without it both are 0. */
#define XT_RUSTMASQ_TO_PORTS		(1 << 0)
/* --random */
#define XT_RUSTMASQ_RANDOM		(1 << 1)
/* --random-fully; may be given together with --random. */
#define XT_RUSTMASQ_RANDOM_FULLY	(1 << 2)
/*
 * --when-full reject: a packet for which no port is free is answered. Without
 * it, or with --when-full drop, it is dropped silently.
 */
#define XT_RUSTMASQ_WHEN_FULL_REJECT	(1 << 3)
/* --full-cone */
#define XT_RUSTMASQ_FULL_CONE		(1 << 4)
/* --port-restricted-cone */
#define XT_RUSTMASQ_PORT_RESTRICTED_CONE	(1 << 5)
/* --address-restricted-cone */
#define XT_RUSTMASQ_ADDRESS_RESTRICTED_CONE	(1 << 6)
/* A rule has one of these at most. */
#define XT_RUSTMASQ_CONES		(XT_RUSTMASQ_FULL_CONE | \
					 XT_RUSTMASQ_ADDRESS_RESTRICTED_CONE | \
					 XT_RUSTMASQ_PORT_RESTRICTED_CONE)

/* All flags. The kernel refuses a rule with any other bit. */
#define XT_RUSTMASQ_FLAGS_ALL		(XT_RUSTMASQ_TO_PORTS | \
					 XT_RUSTMASQ_RANDOM | \
					 XT_RUSTMASQ_RANDOM_FULLY | \
					 XT_RUSTMASQ_WHEN_FULL_REJECT | \
					 XT_RUSTMASQ_CONES)

/**
 * struct xt_rustmasq_info - options of one rule
 * @flags:	XT_RUSTMASQ_*
 * @min_port:	first port of the range, or first query identifier for ICMP
 * @max_port:	last port or query identifier; with XT_RUSTMASQ_TO_PORTS,
 *		1 <= min_port <= max_port <= 65535 in host order
 * @reserved:	must be zero
 * @kernel_private: for the kernel only. It is neither copied to userspace nor
 *		compared: xt_target.usersize in the kernel and
 *		xtables_target.userspacesize in userspace are both the offset
 *		of this member.
 *
 * The size is 48 bytes, without holes. The layout is the same for 32-bit and
 * 64-bit programs.
 */
struct xt_rustmasq_info {
	__u32		flags;
	__be16		min_port;
	__be16		max_port;
	__u8		reserved[8];

	__aligned_u64	kernel_private[4];
};

#endif /* _XT_RUSTMASQ_H */
