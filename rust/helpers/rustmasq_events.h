/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The trace events of the flow watch, of the choice of ports and of the TFTP helper.
 * rust/netfilter/trace.rs fills in the structures below; the events copy them
 * and give them a text form.
 *
 * An end of a tuple is a struct sockaddr_in or sockaddr_in6 with its port, so
 * that one format serves both families. For ICMP the query identifier takes the
 * place of the client's port.
 */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM rustmasq

#ifndef RUSTMASQ_TRACE_TYPES
#define RUSTMASQ_TRACE_TYPES

#define RUSTMASQ_SOCKADDR_LEN 28 /* struct sockaddr_in6 */
#define RUSTMASQ_DEVICE_LEN 16 /* IFNAMSIZ */

/* The two ends of a tuple. */
struct rustmasq_ends {
	__u8 src[RUSTMASQ_SOCKADDR_LEN];
	__u8 dst[RUSTMASQ_SOCKADDR_LEN];
};

/* The place of an event. */
struct rustmasq_place {
	__u32 netns;	/* inode number of the namespace */
	__u8 hook;	/* enum nf_inet_hooks */
	char in[RUSTMASQ_DEVICE_LEN];
	char out[RUSTMASQ_DEVICE_LEN];
};

struct rustmasq_flow {
	struct rustmasq_place place;
	__u32 id;	/* as conntrack -L -o id shows it */
	__u32 status;	/* enum ip_conntrack_status */
	__u32 mark;
	__u8 protocol;
	__u8 moved;	/* RUSTMASQ_MOVED_* */
	__u8 icmp_type;
	__u8 icmp_code;
	struct rustmasq_ends original;
	struct rustmasq_ends reply;
	struct rustmasq_ends untranslated;	/* the reply tuple without NAT */
	__u16 zone_original;
	__u16 zone_reply;
	/* Where the flow comes from that has the source port, or 0.0.0.0:0. */
	__u8 taken_by[RUSTMASQ_SOCKADDR_LEN];
	__u8 source;	/* enum rustmasq_source */
};

#define RUSTMASQ_MOVED_SOURCE_ADDRESS 1
#define RUSTMASQ_MOVED_SOURCE_PORT 2
#define RUSTMASQ_MOVED_DESTINATION_ADDRESS 4
#define RUSTMASQ_MOVED_DESTINATION_PORT 8
#define RUSTMASQ_MOVED_SOURCE_PORT_ALONE 16
#define RUSTMASQ_MOVED_NOTHING 32

/* The source address that NAT gave a flow. */
enum rustmasq_source {
	RUSTMASQ_SOURCE_NONE,	/* NAT gave it none, or there is no output device */
	RUSTMASQ_SOURCE_OWN,	/* an address of the output device */
	RUSTMASQ_SOURCE_FOREIGN,	/* none of its addresses */
};

enum rustmasq_state {
	RUSTMASQ_STATE_NONE,	/* conntrack has not seen the packet */
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
	__u32 id;	/* of its flow, or 0 */
	__u32 len;	/* from the IP header on, in bytes */
	__u8 after;	/* 0: before conntrack, 1: after */
	__u8 state;	/* enum rustmasq_state */
	__u8 direction;	/* enum rustmasq_direction */
	__u8 protocol;
	struct rustmasq_ends ends;
};

#define RUSTMASQ_START_LEN 3

/* A datagram that the TFTP helper ignored. */
struct rustmasq_ignored {
	__u32 netns;	/* inode number of the namespace */
	__u32 id;	/* of its flow, as conntrack -L -o id shows it */
	__u16 len;	/* of the payload, in bytes */
	__u8 start[RUSTMASQ_START_LEN];	/* the payload's first bytes */
	__u8 start_len;	/* the number of them */
	struct rustmasq_ends original;
};

/* A packet whose flow got no port. */
struct rustmasq_refused {
	__u32 netns;	/* inode number of the namespace */
	__u32 id;	/* of its flow, as conntrack -L -o id shows it */
	__u8 protocol;
	struct rustmasq_ends original;
	__u8 outside[RUSTMASQ_SOCKADDR_LEN];	/* the address that it would have left with */
	__u16 first;	/* of the ports that are all taken */
	__u16 last;
};

/* In Rust: called when an event is enabled and disabled. */
int rustmasq_flow_new_reg(void);
void rustmasq_flow_new_unreg(void);
int rustmasq_flow_confirm_reg(void);
void rustmasq_flow_confirm_unreg(void);
int rustmasq_packet_reg(void);
void rustmasq_packet_unreg(void);

#endif /* RUSTMASQ_TRACE_TYPES */

#if !defined(RUSTMASQ_TRACE_EVENTS) || defined(TRACE_HEADER_MULTI_READ)
#define RUSTMASQ_TRACE_EVENTS

#include <linux/in.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_conntrack_common.h>
#include <linux/tracepoint.h>

/* The numbers behind the names, for programs that format events themselves. */
TRACE_DEFINE_ENUM(NF_INET_PRE_ROUTING);
TRACE_DEFINE_ENUM(NF_INET_LOCAL_IN);
TRACE_DEFINE_ENUM(NF_INET_FORWARD);
TRACE_DEFINE_ENUM(NF_INET_LOCAL_OUT);
TRACE_DEFINE_ENUM(NF_INET_POST_ROUTING);
TRACE_DEFINE_ENUM(IPPROTO_ICMP);
TRACE_DEFINE_ENUM(IPPROTO_TCP);
TRACE_DEFINE_ENUM(IPPROTO_UDP);
TRACE_DEFINE_ENUM(IPPROTO_GRE);
TRACE_DEFINE_ENUM(IPPROTO_SCTP);
TRACE_DEFINE_ENUM(IPS_EXPECTED);
TRACE_DEFINE_ENUM(IPS_SEEN_REPLY);
TRACE_DEFINE_ENUM(IPS_ASSURED);
TRACE_DEFINE_ENUM(IPS_CONFIRMED);
TRACE_DEFINE_ENUM(IPS_SRC_NAT);
TRACE_DEFINE_ENUM(IPS_DST_NAT);
TRACE_DEFINE_ENUM(IPS_SEQ_ADJUST);
TRACE_DEFINE_ENUM(IPS_SRC_NAT_DONE);
TRACE_DEFINE_ENUM(IPS_DST_NAT_DONE);
TRACE_DEFINE_ENUM(IPS_DYING);
TRACE_DEFINE_ENUM(IPS_FIXED_TIMEOUT);
TRACE_DEFINE_ENUM(IPS_TEMPLATE);
TRACE_DEFINE_ENUM(IPS_NAT_CLASH);
TRACE_DEFINE_ENUM(IPS_HELPER);
TRACE_DEFINE_ENUM(IPS_OFFLOAD);
TRACE_DEFINE_ENUM(IPS_HW_OFFLOAD);
TRACE_DEFINE_ENUM(RUSTMASQ_SOURCE_NONE);
TRACE_DEFINE_ENUM(RUSTMASQ_SOURCE_OWN);
TRACE_DEFINE_ENUM(RUSTMASQ_SOURCE_FOREIGN);
TRACE_DEFINE_ENUM(RUSTMASQ_STATE_NONE);
TRACE_DEFINE_ENUM(RUSTMASQ_STATE_NEW);
TRACE_DEFINE_ENUM(RUSTMASQ_STATE_ESTABLISHED);
TRACE_DEFINE_ENUM(RUSTMASQ_STATE_RELATED);
TRACE_DEFINE_ENUM(RUSTMASQ_STATE_INVALID);
TRACE_DEFINE_ENUM(RUSTMASQ_STATE_UNTRACKED);
TRACE_DEFINE_ENUM(RUSTMASQ_DIRECTION_NONE);
TRACE_DEFINE_ENUM(RUSTMASQ_DIRECTION_ORIGINAL);
TRACE_DEFINE_ENUM(RUSTMASQ_DIRECTION_REPLY);

#define rustmasq_show_hook(hook)				\
	__print_symbolic(hook,					\
		{ NF_INET_PRE_ROUTING, "PREROUTING" },		\
		{ NF_INET_LOCAL_IN, "INPUT" },			\
		{ NF_INET_FORWARD, "FORWARD" },			\
		{ NF_INET_LOCAL_OUT, "OUTPUT" },		\
		{ NF_INET_POST_ROUTING, "POSTROUTING" })

/* IPPROTO_ICMPV6 is a macro, and needs no TRACE_DEFINE_ENUM. */
#define rustmasq_show_protocol(protocol)			\
	__print_symbolic(protocol,				\
		{ IPPROTO_ICMP, "icmp" },			\
		{ IPPROTO_TCP, "tcp" },				\
		{ IPPROTO_UDP, "udp" },				\
		{ IPPROTO_GRE, "gre" },				\
		{ IPPROTO_ICMPV6, "icmpv6" },			\
		{ IPPROTO_SCTP, "sctp" })

#define rustmasq_show_status(status)				\
	__print_flags(status, "|",				\
		{ IPS_EXPECTED, "EXPECTED" },			\
		{ IPS_SEEN_REPLY, "SEEN_REPLY" },		\
		{ IPS_ASSURED, "ASSURED" },			\
		{ IPS_CONFIRMED, "CONFIRMED" },			\
		{ IPS_SRC_NAT, "SRC_NAT" },			\
		{ IPS_DST_NAT, "DST_NAT" },			\
		{ IPS_SEQ_ADJUST, "SEQ_ADJUST" },		\
		{ IPS_SRC_NAT_DONE, "SRC_NAT_DONE" },		\
		{ IPS_DST_NAT_DONE, "DST_NAT_DONE" },		\
		{ IPS_DYING, "DYING" },				\
		{ IPS_FIXED_TIMEOUT, "FIXED_TIMEOUT" },		\
		{ IPS_TEMPLATE, "TEMPLATE" },			\
		{ IPS_NAT_CLASH, "NAT_CLASH" },			\
		{ IPS_HELPER, "HELPER" },			\
		{ IPS_OFFLOAD, "OFFLOAD" },			\
		{ IPS_HW_OFFLOAD, "HW_OFFLOAD" })

#define rustmasq_show_moved(moved)						\
	__print_flags(moved, "|",						\
		{ RUSTMASQ_MOVED_SOURCE_ADDRESS, "source-address" },		\
		{ RUSTMASQ_MOVED_SOURCE_PORT, "source-port" },			\
		{ RUSTMASQ_MOVED_DESTINATION_ADDRESS, "destination-address" },	\
		{ RUSTMASQ_MOVED_DESTINATION_PORT, "destination-port" },	\
		{ RUSTMASQ_MOVED_SOURCE_PORT_ALONE, "source-port-alone" },	\
		{ RUSTMASQ_MOVED_NOTHING, "nothing" })

#define rustmasq_show_source(source)				\
	__print_symbolic(source,				\
		{ RUSTMASQ_SOURCE_NONE, "-" },			\
		{ RUSTMASQ_SOURCE_OWN, "own" },			\
		{ RUSTMASQ_SOURCE_FOREIGN, "foreign" })

#define rustmasq_show_state(state)				\
	__print_symbolic(state,					\
		{ RUSTMASQ_STATE_NONE, "none" },		\
		{ RUSTMASQ_STATE_NEW, "new" },			\
		{ RUSTMASQ_STATE_ESTABLISHED, "established" },	\
		{ RUSTMASQ_STATE_RELATED, "related" },		\
		{ RUSTMASQ_STATE_INVALID, "invalid" },		\
		{ RUSTMASQ_STATE_UNTRACKED, "untracked" })

#define rustmasq_show_direction(direction)			\
	__print_symbolic(direction,				\
		{ RUSTMASQ_DIRECTION_NONE, "-" },		\
		{ RUSTMASQ_DIRECTION_ORIGINAL, "original" },	\
		{ RUSTMASQ_DIRECTION_REPLY, "reply" })

/*
 * The fields that several events share. They are no event class: the events of a class
 * have all of their fields in common. Each event pads itself, without holes.
 */
#define RUSTMASQ_PLACE_FIELDS			\
	__field(__u32, netns)			\
	__array(char, in, RUSTMASQ_DEVICE_LEN)	\
	__array(char, out, RUSTMASQ_DEVICE_LEN)	\
	__field(__u8, hook)			\
	__field(__u8, protocol)

#define RUSTMASQ_ASSIGN_PLACE(from)					\
	do {								\
		__entry->netns = (from)->place.netns;			\
		__entry->hook = (from)->place.hook;			\
		__entry->protocol = (from)->protocol;			\
		memcpy(__entry->in, (from)->place.in, RUSTMASQ_DEVICE_LEN); \
		memcpy(__entry->out, (from)->place.out, RUSTMASQ_DEVICE_LEN); \
	} while (0)

#define RUSTMASQ_ENDS_FIELDS(name)				\
	__array(__u8, name##_src, RUSTMASQ_SOCKADDR_LEN)	\
	__array(__u8, name##_dst, RUSTMASQ_SOCKADDR_LEN)

#define RUSTMASQ_ASSIGN_ENDS(name, from)					\
	do {									\
		memcpy(__entry->name##_src, (from)->src, RUSTMASQ_SOCKADDR_LEN); \
		memcpy(__entry->name##_dst, (from)->dst, RUSTMASQ_SOCKADDR_LEN); \
	} while (0)

#define RUSTMASQ_FLOW_FIELDS		\
	RUSTMASQ_PLACE_FIELDS		\
	__field(__u8, icmp_type)	\
	__field(__u8, icmp_code)	\
	__field(__u32, id)		\
	__field(__u32, status)		\
	__field(__u32, mark)		\
	RUSTMASQ_ENDS_FIELDS(original)

#define RUSTMASQ_ASSIGN_FLOW(flow)					\
	do {								\
		RUSTMASQ_ASSIGN_PLACE(flow);				\
		__entry->icmp_type = (flow)->icmp_type;			\
		__entry->icmp_code = (flow)->icmp_code;			\
		__entry->id = (flow)->id;				\
		__entry->status = (flow)->status;			\
		__entry->mark = (flow)->mark;				\
		RUSTMASQ_ASSIGN_ENDS(original, &(flow)->original);	\
	} while (0)

TRACE_EVENT_FN(flow_new,

	TP_PROTO(const struct rustmasq_flow *flow),

	TP_ARGS(flow),

	TP_STRUCT__entry(
		RUSTMASQ_FLOW_FIELDS
	),

	TP_fast_assign(
		RUSTMASQ_ASSIGN_FLOW(flow);
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
		RUSTMASQ_FLOW_FIELDS
		RUSTMASQ_ENDS_FIELDS(reply)
		RUSTMASQ_ENDS_FIELDS(untranslated)
		__field(__u16, zone_original)
		__field(__u16, zone_reply)
		__array(__u8, taken_by, RUSTMASQ_SOCKADDR_LEN)
		__field(__u8, moved)
		__field(__u8, source)
		__array(__u8, reserved, 2)
	),

	TP_fast_assign(
		RUSTMASQ_ASSIGN_FLOW(flow);
		RUSTMASQ_ASSIGN_ENDS(reply, &flow->reply);
		RUSTMASQ_ASSIGN_ENDS(untranslated, &flow->untranslated);
		__entry->zone_original = flow->zone_original;
		__entry->zone_reply = flow->zone_reply;
		memcpy(__entry->taken_by, flow->taken_by, RUSTMASQ_SOCKADDR_LEN);
		__entry->moved = flow->moved;
		__entry->source = flow->source;
		memset(__entry->reserved, 0, sizeof(__entry->reserved));
	),

	TP_printk("netns=%u id=%u proto=%s original=%pISpc->%pISpc reply=%pISpc->%pISpc untranslated=%pISpc->%pISpc moved=%s in=%s out=%s hook=%s status=%s mark=0x%x icmp=%u/%u zone=%u/%u source=%s taken_by=%pISpc",
		  __entry->netns, __entry->id, rustmasq_show_protocol(__entry->protocol),
		  __entry->original_src, __entry->original_dst,
		  __entry->reply_src, __entry->reply_dst,
		  __entry->untranslated_src, __entry->untranslated_dst,
		  rustmasq_show_moved(__entry->moved),
		  __entry->in, __entry->out, rustmasq_show_hook(__entry->hook),
		  rustmasq_show_status(__entry->status),
		  __entry->mark, __entry->icmp_type, __entry->icmp_code,
		  __entry->zone_original, __entry->zone_reply,
		  rustmasq_show_source(__entry->source), __entry->taken_by),

	rustmasq_flow_confirm_reg, rustmasq_flow_confirm_unreg
);

TRACE_EVENT_FN(packet,

	TP_PROTO(const struct rustmasq_packet *packet),

	TP_ARGS(packet),

	TP_STRUCT__entry(
		RUSTMASQ_PLACE_FIELDS
		__field(__u8, after)
		__field(__u8, state)
		__field(__u32, id)
		__field(__u32, len)
		RUSTMASQ_ENDS_FIELDS(tuple)
		__field(__u8, direction)
		__array(__u8, reserved, 3)
	),

	TP_fast_assign(
		RUSTMASQ_ASSIGN_PLACE(packet);
		__entry->after = packet->after;
		__entry->state = packet->state;
		__entry->id = packet->id;
		__entry->len = packet->len;
		RUSTMASQ_ASSIGN_ENDS(tuple, &packet->ends);
		__entry->direction = packet->direction;
		memset(__entry->reserved, 0, sizeof(__entry->reserved));
	),

	TP_printk("netns=%u when=%s proto=%s tuple=%pISpc->%pISpc len=%u state=%s dir=%s id=%u in=%s out=%s hook=%s",
		  __entry->netns,
		  __print_symbolic(__entry->after, { 0, "before" }, { 1, "after" }),
		  rustmasq_show_protocol(__entry->protocol), __entry->tuple_src, __entry->tuple_dst,
		  __entry->len, rustmasq_show_state(__entry->state),
		  rustmasq_show_direction(__entry->direction),
		  __entry->id, __entry->in, __entry->out, rustmasq_show_hook(__entry->hook)),

	rustmasq_packet_reg, rustmasq_packet_unreg
);

TRACE_EVENT(tftp_ignored,

	TP_PROTO(const struct rustmasq_ignored *ignored),

	TP_ARGS(ignored),

	TP_STRUCT__entry(
		__field(__u32, netns)
		__field(__u32, id)
		RUSTMASQ_ENDS_FIELDS(original)
		__field(__u16, len)
		__field(__u8, start_len)
		__array(__u8, start, RUSTMASQ_START_LEN)
		__array(__u8, reserved, 2)
	),

	TP_fast_assign(
		__entry->netns = ignored->netns;
		__entry->id = ignored->id;
		RUSTMASQ_ASSIGN_ENDS(original, &ignored->original);
		__entry->len = ignored->len;
		__entry->start_len = ignored->start_len;
		memcpy(__entry->start, ignored->start, RUSTMASQ_START_LEN);
		memset(__entry->reserved, 0, sizeof(__entry->reserved));
	),

	TP_printk("netns=%u id=%u original=%pISpc->%pISpc len=%u start=%s",
		  __entry->netns, __entry->id, __entry->original_src, __entry->original_dst,
		  __entry->len, __print_hex_str(__entry->start, __entry->start_len))
);

TRACE_EVENT(port_refused,

	TP_PROTO(const struct rustmasq_refused *refused),

	TP_ARGS(refused),

	TP_STRUCT__entry(
		__field(__u32, netns)
		__field(__u32, id)
		RUSTMASQ_ENDS_FIELDS(original)
		__array(__u8, outside, RUSTMASQ_SOCKADDR_LEN)
		__field(__u16, first)
		__field(__u16, last)
		__field(__u8, protocol)
		__array(__u8, reserved, 3)
	),

	TP_fast_assign(
		__entry->netns = refused->netns;
		__entry->id = refused->id;
		RUSTMASQ_ASSIGN_ENDS(original, &refused->original);
		memcpy(__entry->outside, refused->outside, RUSTMASQ_SOCKADDR_LEN);
		__entry->first = refused->first;
		__entry->last = refused->last;
		__entry->protocol = refused->protocol;
		memset(__entry->reserved, 0, sizeof(__entry->reserved));
	),

	TP_printk("netns=%u id=%u proto=%s original=%pISpc->%pISpc outside=%pISc range=%u-%u",
		  __entry->netns, __entry->id, rustmasq_show_protocol(__entry->protocol),
		  __entry->original_src, __entry->original_dst, __entry->outside,
		  __entry->first, __entry->last)
);

#endif /* RUSTMASQ_TRACE_EVENTS */

#undef TRACE_INCLUDE_PATH
#define TRACE_INCLUDE_PATH .
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE rustmasq_events
#include <trace/define_trace.h>
