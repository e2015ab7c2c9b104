/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * The binary form of a RUSTMASQ rule, revision 0: what iptables hands to the
 * kernel and what the kernel hands back. It is the same for IPv4 and IPv6.
 *
 * The kernel module and the userspace extension both take it from here.
 */
#ifndef _XT_RUSTMASQ_H
#define _XT_RUSTMASQ_H

#include <linux/types.h>

/* The bits of xt_rustmasq_info.flags. */

/* --to-ports: min_port and max_port are set. Without it both are 0. */
#define XT_RUSTMASQ_TO_PORTS		(1 << 0)
/* --random */
#define XT_RUSTMASQ_RANDOM		(1 << 1)
/* --random-fully; may be given together with --random. */
#define XT_RUSTMASQ_RANDOM_FULLY	(1 << 2)

/* All of them. A rule with any other bit is refused. */
#define XT_RUSTMASQ_FLAGS_ALL		(XT_RUSTMASQ_TO_PORTS | \
					 XT_RUSTMASQ_RANDOM | \
					 XT_RUSTMASQ_RANDOM_FULLY)

/**
 * struct xt_rustmasq_info - one rule's options
 * @flags:	XT_RUSTMASQ_*
 * @min_port:	first port of the range, or first query identifier for ICMP
 * @max_port:	last one; 1 <= min_port <= max_port <= 65535 in host order
 * @reserved:	must be zero
 * @kernel_private: the kernel's own. It is never copied to userspace and never
 *		compared: the kernel's usersize and userspace's userspacesize
 *		both are the offset of this member.
 *
 * 48 bytes, without holes, and laid out alike for 32-bit and 64-bit programs.
 */
struct xt_rustmasq_info {
	__u32		flags;
	__be16		min_port;
	__be16		max_port;
	__u8		reserved[8];

	__aligned_u64	kernel_private[4];
};

#endif /* _XT_RUSTMASQ_H */
