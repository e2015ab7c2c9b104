/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The flow watch's trace events, as the kernel's macros want them. What they
 * show is prepared by netfilter/trace.rs; here it is copied and given a form.
 *
 * Addresses are in the form of a struct sockaddr_in or sockaddr_in6, with
 * their port, so that one format serves both families. Of ICMP the query
 * identifier stands where the client's port would.
 */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM rustmasq

#ifndef RUSTMASQ_TRACE_TYPES
#define RUSTMASQ_TRACE_TYPES

#define RUSTMASQ_SOCKADDR_LEN 28 /* struct sockaddr_in6 */
#define RUSTMASQ_DEVICE_LEN 16 /* IFNAMSIZ */

/* A tuple's two ends. */
struct rustmasq_ends {
	__u8 src[RUSTMASQ_SOCKADDR_LEN];
	__u8 dst[RUSTMASQ_SOCKADDR_LEN];
};

/* Where something was seen. */
struct rustmasq_place {
	__u32 netns;	/* the namespace's inode number */
	__u8 hook;	/* enum nf_inet_hooks */
	char in[RUSTMASQ_DEVICE_LEN];
	char out[RUSTMASQ_DEVICE_LEN];
};

struct rustmasq_flow {
	struct rustmasq_place place;
	__u32 id;	/* as conntrack -L -o id has it */
	__u32 status;	/* enum ip_conntrack_status */
	__u32 mark;
	__u8 protocol;
	__u8 moved;	/* RUSTMASQ_MOVED_* */
	__u8 icmp_type;
	__u8 icmp_code;
	struct rustmasq_ends original;
	struct rustmasq_ends reply;
	struct rustmasq_ends plain;
};

#define RUSTMASQ_MOVED_SOURCE_ADDRESS 1
#define RUSTMASQ_MOVED_SOURCE_PORT 2
#define RUSTMASQ_MOVED_DESTINATION_ADDRESS 4
#define RUSTMASQ_MOVED_DESTINATION_PORT 8
#define RUSTMASQ_MOVED_SOURCE_PORT_ALONE 16
#define RUSTMASQ_MOVED_NOTHING 32

enum rustmasq_state {
	RUSTMASQ_STATE_NONE,	/* conntrack did not look at it, or not yet */
	RUSTMASQ_STATE_NEW,
	RUSTMASQ_STATE_ESTABLISHED,
	RUSTMASQ_STATE_RELATED,
	RUSTMASQ_STATE_INVALID,
	RUSTMASQ_STATE_UNTRACKED,
};

enum rustmasq_direction {
	RUSTMASQ_DIRECTION_NONE,
	RUSTMASQ_DIRECTION_ORIGINAL,
	RUSTMASQ_DIRECTION_REPLY,
};

struct rustmasq_packet {
	struct rustmasq_place place;
	__u32 id;	/* of its flow; 0: none */
	__u32 len;	/* from the IP header on, in bytes */
	__u8 after;	/* 0: before conntrack, 1: after */
	__u8 state;	/* enum rustmasq_state */
	__u8 direction;	/* enum rustmasq_direction */
	__u8 protocol;
	struct rustmasq_ends ends;
};

/* In Rust: an event's first reader came, its last one went. */
int rustmasq_flow_new_reg(void);
void rustmasq_flow_new_unreg(void);
int rustmasq_flow_confirm_reg(void);
void rustmasq_flow_confirm_unreg(void);
int rustmasq_packet_reg(void);
void rustmasq_packet_unreg(void);

#endif /* RUSTMASQ_TRACE_TYPES */

#if !defined(RUSTMASQ_TRACE_EVENTS) || defined(TRACE_HEADER_MULTI_READ)
#define RUSTMASQ_TRACE_EVENTS

#include <linux/tracepoint.h>

#define rustmasq_show_hook(hook)		\
	__print_symbolic(hook,			\
		{ 0, "PREROUTING" },		\
		{ 1, "INPUT" },			\
		{ 2, "FORWARD" },		\
		{ 3, "OUTPUT" },		\
		{ 4, "POSTROUTING" })

#define rustmasq_show_protocol(protocol)	\
	__print_symbolic(protocol,		\
		{ 1, "icmp" },			\
		{ 6, "tcp" },			\
		{ 17, "udp" },			\
		{ 47, "gre" },			\
		{ 58, "icmpv6" },		\
		{ 132, "sctp" })

/* enum ip_conntrack_status, in numbers: readers outside know no names of C. */
#define rustmasq_show_status(status)		\
	__print_flags(status, "|",		\
		{ 0x0001, "EXPECTED" },		\
		{ 0x0002, "SEEN_REPLY" },	\
		{ 0x0004, "ASSURED" },		\
		{ 0x0008, "CONFIRMED" },	\
		{ 0x0010, "SRC_NAT" },		\
		{ 0x0020, "DST_NAT" },		\
		{ 0x0040, "SEQ_ADJUST" },	\
		{ 0x0080, "SRC_NAT_DONE" },	\
		{ 0x0100, "DST_NAT_DONE" },	\
		{ 0x0200, "DYING" },		\
		{ 0x0400, "FIXED_TIMEOUT" },	\
		{ 0x0800, "TEMPLATE" },		\
		{ 0x1000, "NAT_CLASH" },	\
		{ 0x2000, "HELPER" },		\
		{ 0x4000, "OFFLOAD" },		\
		{ 0x8000, "HW_OFFLOAD" })

#define rustmasq_show_moved(moved)		\
	__print_flags(moved, "|",		\
		{ 1, "source-address" },	\
		{ 2, "source-port" },		\
		{ 4, "destination-address" },	\
		{ 8, "destination-port" },	\
		{ 16, "source-port-alone" },	\
		{ 32, "nothing" })

TRACE_EVENT_FN(flow_new,

	TP_PROTO(const struct rustmasq_flow *flow),

	TP_ARGS(flow),

	TP_STRUCT__entry(
		__field(__u32, netns)
		__field(__u32, id)
		__field(__u32, status)
		__field(__u32, mark)
		__array(char, in, RUSTMASQ_DEVICE_LEN)
		__array(char, out, RUSTMASQ_DEVICE_LEN)
		__array(__u8, original_src, RUSTMASQ_SOCKADDR_LEN)
		__array(__u8, original_dst, RUSTMASQ_SOCKADDR_LEN)
		__field(__u8, hook)
		__field(__u8, protocol)
		__field(__u8, icmp_type)
		__field(__u8, icmp_code)
	),

	TP_fast_assign(
		__entry->netns = flow->place.netns;
		__entry->id = flow->id;
		__entry->status = flow->status;
		__entry->mark = flow->mark;
		__entry->hook = flow->place.hook;
		__entry->protocol = flow->protocol;
		__entry->icmp_type = flow->icmp_type;
		__entry->icmp_code = flow->icmp_code;
		memcpy(__entry->in, flow->place.in, RUSTMASQ_DEVICE_LEN);
		memcpy(__entry->out, flow->place.out, RUSTMASQ_DEVICE_LEN);
		memcpy(__entry->original_src, flow->original.src, RUSTMASQ_SOCKADDR_LEN);
		memcpy(__entry->original_dst, flow->original.dst, RUSTMASQ_SOCKADDR_LEN);
	),

	TP_printk("netns=%u id=%u proto=%s original=%pISpc->%pISpc in=%s out=%s hook=%s status=%s mark=0x%x icmp=%u/%u",
		  __entry->netns, __entry->id, rustmasq_show_protocol(__entry->protocol),
		  __entry->original_src, __entry->original_dst, __entry->in, __entry->out,
		  rustmasq_show_hook(__entry->hook), rustmasq_show_status(__entry->status),
		  __entry->mark, __entry->icmp_type, __entry->icmp_code),

	rustmasq_flow_new_reg, rustmasq_flow_new_unreg
);

TRACE_EVENT_FN(flow_confirm,

	TP_PROTO(const struct rustmasq_flow *flow),

	TP_ARGS(flow),

	TP_STRUCT__entry(
		__field(__u32, netns)
		__field(__u32, id)
		__field(__u32, status)
		__field(__u32, mark)
		__array(char, in, RUSTMASQ_DEVICE_LEN)
		__array(char, out, RUSTMASQ_DEVICE_LEN)
		__array(__u8, original_src, RUSTMASQ_SOCKADDR_LEN)
		__array(__u8, original_dst, RUSTMASQ_SOCKADDR_LEN)
		__array(__u8, reply_src, RUSTMASQ_SOCKADDR_LEN)
		__array(__u8, reply_dst, RUSTMASQ_SOCKADDR_LEN)
		__array(__u8, plain_src, RUSTMASQ_SOCKADDR_LEN)
		__array(__u8, plain_dst, RUSTMASQ_SOCKADDR_LEN)
		__field(__u8, hook)
		__field(__u8, protocol)
		__field(__u8, icmp_type)
		__field(__u8, icmp_code)
		__field(__u8, moved)
		__array(__u8, reserved, 3)
	),

	TP_fast_assign(
		__entry->netns = flow->place.netns;
		__entry->id = flow->id;
		__entry->status = flow->status;
		__entry->mark = flow->mark;
		__entry->hook = flow->place.hook;
		__entry->protocol = flow->protocol;
		__entry->icmp_type = flow->icmp_type;
		__entry->icmp_code = flow->icmp_code;
		__entry->moved = flow->moved;
		memset(__entry->reserved, 0, sizeof(__entry->reserved));
		memcpy(__entry->in, flow->place.in, RUSTMASQ_DEVICE_LEN);
		memcpy(__entry->out, flow->place.out, RUSTMASQ_DEVICE_LEN);
		memcpy(__entry->original_src, flow->original.src, RUSTMASQ_SOCKADDR_LEN);
		memcpy(__entry->original_dst, flow->original.dst, RUSTMASQ_SOCKADDR_LEN);
		memcpy(__entry->reply_src, flow->reply.src, RUSTMASQ_SOCKADDR_LEN);
		memcpy(__entry->reply_dst, flow->reply.dst, RUSTMASQ_SOCKADDR_LEN);
		memcpy(__entry->plain_src, flow->plain.src, RUSTMASQ_SOCKADDR_LEN);
		memcpy(__entry->plain_dst, flow->plain.dst, RUSTMASQ_SOCKADDR_LEN);
	),

	TP_printk("netns=%u id=%u proto=%s original=%pISpc->%pISpc reply=%pISpc->%pISpc plain=%pISpc->%pISpc moved=%s in=%s out=%s hook=%s status=%s mark=0x%x icmp=%u/%u",
		  __entry->netns, __entry->id, rustmasq_show_protocol(__entry->protocol),
		  __entry->original_src, __entry->original_dst, __entry->reply_src, __entry->reply_dst,
		  __entry->plain_src, __entry->plain_dst, rustmasq_show_moved(__entry->moved),
		  __entry->in, __entry->out, rustmasq_show_hook(__entry->hook),
		  rustmasq_show_status(__entry->status),
		  __entry->mark, __entry->icmp_type, __entry->icmp_code),

	rustmasq_flow_confirm_reg, rustmasq_flow_confirm_unreg
);

TRACE_EVENT_FN(packet,

	TP_PROTO(const struct rustmasq_packet *packet),

	TP_ARGS(packet),

	TP_STRUCT__entry(
		__field(__u32, netns)
		__field(__u32, id)
		__field(__u32, len)
		__array(char, in, RUSTMASQ_DEVICE_LEN)
		__array(char, out, RUSTMASQ_DEVICE_LEN)
		__array(__u8, src, RUSTMASQ_SOCKADDR_LEN)
		__array(__u8, dst, RUSTMASQ_SOCKADDR_LEN)
		__field(__u8, hook)
		__field(__u8, after)
		__field(__u8, protocol)
		__field(__u8, state)
		__field(__u8, direction)
		__array(__u8, reserved, 3)
	),

	TP_fast_assign(
		__entry->netns = packet->place.netns;
		__entry->id = packet->id;
		__entry->len = packet->len;
		__entry->hook = packet->place.hook;
		__entry->after = packet->after;
		__entry->protocol = packet->protocol;
		__entry->state = packet->state;
		__entry->direction = packet->direction;
		memset(__entry->reserved, 0, sizeof(__entry->reserved));
		memcpy(__entry->in, packet->place.in, RUSTMASQ_DEVICE_LEN);
		memcpy(__entry->out, packet->place.out, RUSTMASQ_DEVICE_LEN);
		memcpy(__entry->src, packet->ends.src, RUSTMASQ_SOCKADDR_LEN);
		memcpy(__entry->dst, packet->ends.dst, RUSTMASQ_SOCKADDR_LEN);
	),

	TP_printk("netns=%u when=%s proto=%s tuple=%pISpc->%pISpc len=%u state=%s dir=%s id=%u in=%s out=%s hook=%s",
		  __entry->netns,
		  __print_symbolic(__entry->after, { 0, "before" }, { 1, "after" }),
		  rustmasq_show_protocol(__entry->protocol), __entry->src, __entry->dst, __entry->len,
		  __print_symbolic(__entry->state, { 0, "none" }, { 1, "new" },
				   { 2, "established" }, { 3, "related" }, { 4, "invalid" },
				   { 5, "untracked" }),
		  __print_symbolic(__entry->direction, { 0, "-" }, { 1, "original" }, { 2, "reply" }),
		  __entry->id, __entry->in, __entry->out, rustmasq_show_hook(__entry->hook)),

	rustmasq_packet_reg, rustmasq_packet_unreg
);

#endif /* RUSTMASQ_TRACE_EVENTS */

#undef TRACE_INCLUDE_PATH
#define TRACE_INCLUDE_PATH .
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE rustmasq_events
#include <trace/define_trace.h>
