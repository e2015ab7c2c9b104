/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * The binary form of a RUSTMASQ rule, revisions 0 and 1, as iptables sends it
 * to the kernel and reads it back. It is the same for IPv4 and IPv6.
 *
 * The kernel module and the iptables extension are both built from this header.
 */
#ifndef _XT_RUSTMASQ_H
#define _XT_RUSTMASQ_H

#include <linux/types.h>

/* The bits of xt_rustmasq_info.flags and xt_rustmasq_info_v1.flags */

/*
 * --to-ports: min_port and max_port are set. Without it both are 0. Revision 0
 * alone has it: revision 1 counts the ranges.
 */
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

/* --psid; revision 1, as all that follow. */
#define XT_RUSTMASQ_PSID		(1 << 7)
/*
 * --except-reserved: ports that net.ipv4.ip_local_reserved_ports of the network
 * namespace lists are not chosen.
 */
#define XT_RUSTMASQ_EXCEPT_RESERVED	(1 << 8)
/* --route-source: the source address is the one that the route names. */
#define XT_RUSTMASQ_ROUTE_SOURCE	(1 << 9)
/*
 * --keep-own: a flow whose source is an address of the outgoing device keeps
 * it, and its port if that is free.
 */
#define XT_RUSTMASQ_KEEP_OWN		(1 << 10)

/* All flags of revision 0. The kernel refuses a rule with any other bit. */
#define XT_RUSTMASQ_FLAGS_ALL		(XT_RUSTMASQ_TO_PORTS | \
					 XT_RUSTMASQ_RANDOM | \
					 XT_RUSTMASQ_RANDOM_FULLY | \
					 XT_RUSTMASQ_WHEN_FULL_REJECT | \
					 XT_RUSTMASQ_CONES)
/* The same of revision 1. */
#define XT_RUSTMASQ_FLAGS_ALL_V1	(XT_RUSTMASQ_RANDOM | \
					 XT_RUSTMASQ_RANDOM_FULLY | \
					 XT_RUSTMASQ_WHEN_FULL_REJECT | \
					 XT_RUSTMASQ_CONES | \
					 XT_RUSTMASQ_PSID | \
					 XT_RUSTMASQ_EXCEPT_RESERVED | \
					 XT_RUSTMASQ_ROUTE_SOURCE | \
					 XT_RUSTMASQ_KEEP_OWN)

/**
 * struct xt_rustmasq_info - options of one rule, revision 0
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

/* The most ranges of --to-ports, and of --except-ports. */
#define XT_RUSTMASQ_RANGES_MAX		15

/**
 * struct xt_rustmasq_ports - a range of ports or query identifiers
 * @first:	first port, at least 1
 * @last:	last port, at least the first in host order
 */
struct xt_rustmasq_ports {
	__be16		first;
	__be16		last;
};

/**
 * struct xt_rustmasq_info_v1 - options of one rule, revision 1
 * @flags:	XT_RUSTMASQ_*, without XT_RUSTMASQ_TO_PORTS
 * @max_flows_per_host: --max-flows-per-host, or 0 for any number
 * @psid:	port set identifier (RFC 7597), less than 2^psid_length in host
 *		order; this and the two that follow are 0 without
 *		XT_RUSTMASQ_PSID
 * @psid_offset: bits of a port before those of the identifier
 * @psid_length: bits of the identifier; psid_offset + psid_length <= 16
 * @to_ports_count: ranges in @to_ports, or 0; must be 0 with XT_RUSTMASQ_PSID
 * @except_ports_count: ranges in @except_ports, or 0
 * @reserved:	must be zero
 * @to_ports:	--to-ports
 * @except_ports: --except-ports: these are never chosen
 * @kernel_private: as in struct xt_rustmasq_info
 *
 * The ranges of a list ascend, with a port at least between two of them. The
 * rest of the array is 0. A rule whose exceptions leave no port is refused.
 *
 * The size is 168 bytes, without holes. The layout is the same for 32-bit and
 * 64-bit programs.
 */
struct xt_rustmasq_info_v1 {
	__u32		flags;
	__u32		max_flows_per_host;
	__be16		psid;
	__u8		psid_offset;
	__u8		psid_length;
	__u8		to_ports_count;
	__u8		except_ports_count;
	__u8		reserved[2];
	struct xt_rustmasq_ports to_ports[XT_RUSTMASQ_RANGES_MAX];
	struct xt_rustmasq_ports except_ports[XT_RUSTMASQ_RANGES_MAX];

	__aligned_u64	kernel_private[4];
};

#endif /* _XT_RUSTMASQ_H */
