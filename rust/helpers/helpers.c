// SPDX-License-Identifier: GPL-2.0
/*
 * Wrappers of inline functions and macros of the kernel that Rust calls, in
 * alphabetical order. They contain no logic, which belongs in Rust; a comment
 * explains each exception.
 */
#include <linux/bottom_half.h>
#include <linux/icmpv6.h>
#include <linux/inetdevice.h>
#include <linux/ipv6.h>
#include <linux/kmod.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/netdevice.h>
#include <linux/netfilter.h>
#include <linux/percpu.h>
#include <linux/proc_fs.h>
#include <linux/random.h>
#include <linux/ratelimit.h>
#include <linux/rculist.h>
#include <linux/rcupdate.h>
#include <linux/rtnetlink.h>
#include <linux/seq_file_net.h>
#include <linux/siphash.h>
#include <linux/skbuff.h>
#include <linux/workqueue.h>
#include <net/dst_metadata.h>
#include <net/icmp.h>
#include <net/if_inet6.h>
#include <net/inet_hashtables.h>
#include <net/inet_sock.h>
#include <net/ip6_fib.h>
#include <net/ip_fib.h>
#include <net/l3mdev.h>
#include <net/netfilter/nf_conntrack.h>
#include <net/netfilter/nf_conntrack_helper.h>
#include <net/netfilter/nf_conntrack_seqadj.h>
#include <net/netfilter/nf_conntrack_zones.h>
#include <net/netfilter/nf_nat.h>
#include <net/netlink.h>
#include <net/netns/generic.h>
#include <net/route.h>
#include <net/udp.h>

#include "nf_tables.h"
#include "parameters.h"
#include "rustmasq_events.h"

/*
 * With CONFIG_RUST_INLINE_HELPERS the kernel inlines its wrappers into Rust, and
 * Kbuild does the same with these. The file of the same name in the kernel explains
 * why that needs __always_inline.
 */
#if defined(CONFIG_RUST_INLINE_HELPERS) && !defined(__BINDGEN__)
#define __rustmasq_helper __always_inline
#else
#define __rustmasq_helper
#endif

/*
 * First, accessors of fields. Rust has no view of these structures: the kernel
 * crate's net_device and nf_hook_entries are opaque, and those of addresses
 * contain pointers to a net_device. Those that go to the first or next address
 * are for a loop under the RCU read lock.
 */
__rustmasq_helper int rustmasq_dev_ifindex(const struct net_device *dev)
{
	return READ_ONCE(dev->ifindex);
}

__rustmasq_helper const char *rustmasq_dev_name(const struct net_device *dev)
{
	return dev->name;
}

__rustmasq_helper unsigned short rustmasq_dst_family(const struct dst_entry *dst)
{
	return dst->ops->family;
}

__rustmasq_helper unsigned short rustmasq_dst_flags(const struct dst_entry *dst)
{
	return READ_ONCE(dst->flags);
}

__rustmasq_helper const struct in6_addr *
rustmasq_fib6_info_prefsrc_addr(const struct fib6_info *f6i)
{
	return &f6i->fib6_prefsrc.addr;
}

__rustmasq_helper int rustmasq_fib6_info_prefsrc_plen(const struct fib6_info *f6i)
{
	return READ_ONCE(f6i->fib6_prefsrc.plen);
}

__rustmasq_helper __be32 rustmasq_fib_info_prefsrc(const struct fib_info *fi)
{
	return fi->fib_prefsrc;
}

__rustmasq_helper struct fib_info *rustmasq_fib_result_fi(const struct fib_result *res)
{
	return res->fi;
}

__rustmasq_helper const struct in_ifaddr *
rustmasq_in_device_first_ifaddr(const struct in_device *in_dev)
{
	return rcu_dereference(in_dev->ifa_list);
}

__rustmasq_helper struct net_device *rustmasq_in_ifaddr_dev(const struct in_ifaddr *ifa)
{
	return ifa->ifa_dev->dev;
}

__rustmasq_helper __be32 rustmasq_in_ifaddr_local(const struct in_ifaddr *ifa)
{
	return ifa->ifa_local;
}

__rustmasq_helper u32 rustmasq_in_ifaddr_flags(const struct in_ifaddr *ifa)
{
	return READ_ONCE(ifa->ifa_flags);
}

__rustmasq_helper const struct in_ifaddr *rustmasq_in_ifaddr_next(const struct in_ifaddr *ifa)
{
	return rcu_dereference(ifa->ifa_next);
}

__rustmasq_helper u8 rustmasq_in_ifaddr_scope(const struct in_ifaddr *ifa)
{
	return ifa->ifa_scope;
}

__rustmasq_helper struct inet6_ifaddr *
rustmasq_inet6_dev_first_ifaddr(struct inet6_dev *idev)
{
	return list_first_or_null_rcu(&idev->addr_list, struct inet6_ifaddr, if_list);
}

__rustmasq_helper u32 rustmasq_inet6_dev_if_flags(const struct inet6_dev *idev)
{
	return READ_ONCE(idev->if_flags);
}

__rustmasq_helper const struct in6_addr *rustmasq_inet6_ifaddr_addr(const struct inet6_ifaddr *ifa)
{
	return &ifa->addr;
}

__rustmasq_helper struct net_device *rustmasq_inet6_ifaddr_dev(const struct inet6_ifaddr *ifa)
{
	return ifa->idev->dev;
}

__rustmasq_helper u32 rustmasq_inet6_ifaddr_flags(const struct inet6_ifaddr *ifa)
{
	return READ_ONCE(ifa->flags);
}

__rustmasq_helper struct inet6_ifaddr *rustmasq_inet6_ifaddr_next(struct inet6_ifaddr *ifa)
{
	return list_next_or_null_rcu(&ifa->idev->addr_list, &ifa->if_list,
				     struct inet6_ifaddr, if_list);
}

__rustmasq_helper u8 rustmasq_nf_ct_tcp_state(const struct nf_conn *ct)
{
	return READ_ONCE(ct->proto.tcp.state);
}

__rustmasq_helper u32 rustmasq_nf_ct_tcp_original_end(const struct nf_conn *ct)
{
	return READ_ONCE(ct->proto.tcp.seen[IP_CT_DIR_ORIGINAL].td_end);
}

/* What dir sent before this one of its sequence numbers is acknowledged. */
__rustmasq_helper u32 rustmasq_nf_ct_tcp_acknowledged(const struct nf_conn *ct, u8 dir)
{
	return READ_ONCE(ct->proto.tcp.seen[!dir].td_maxack);
}

__rustmasq_helper u16 rustmasq_nf_hook_entries_count(const struct nf_hook_entries *e)
{
	return e->num_hook_entries;
}

/* net_generic() for callers that hold the RCU read lock, which costs more than the rest. */
__rustmasq_helper void *rustmasq_net_gen_ptr(const struct net *net, unsigned int id)
{
	return rcu_dereference(net->gen)->ptr[id];
}

__rustmasq_helper const struct fib6_info *rustmasq_rt6_info_from(const struct rt6_info *rt)
{
	return rcu_dereference(rt->from);
}

__rustmasq_helper int rustmasq_skb_iif(const struct sk_buff *skb)
{
	return skb->skb_iif;
}

__rustmasq_helper u32 rustmasq_skb_mark(const struct sk_buff *skb)
{
	return skb->mark;
}

__rustmasq_helper int rustmasq_sock_bound_dev_if(const struct sock *sk)
{
	return READ_ONCE(sk->sk_bound_dev_if);
}

/* Then inline functions and macros. */

/* The namespace stays valid under RCU or RTNL: lockdep checks that one is held. */
__rustmasq_helper struct net *rustmasq_dev_net(const struct net_device *dev)
{
	RCU_LOCKDEP_WARN(!rcu_read_lock_any_held() && !lockdep_rtnl_is_held(),
			 "dev_net() without RCU or RTNL");
	return dev_net(dev);
}

/*
 * Memory that each CPU has of its own goes by a number, as Rust has no type for
 * the address space of its pointers.
 */
__rustmasq_helper unsigned long rustmasq_alloc_percpu_u64(size_t count)
{
	return (unsigned long)__alloc_percpu(array_size(count, sizeof(u64)), sizeof(u64));
}

__rustmasq_helper bool rustmasq_cpu_possible(unsigned int cpu)
{
	return cpu_possible(cpu);
}

__rustmasq_helper const struct rt6_info *rustmasq_dst_rt6_info(const struct dst_entry *dst)
{
	return dst_rt6_info(dst);
}

__rustmasq_helper bool rustmasq_fib4_rules_early_flow_dissect(struct net *net, struct sk_buff *skb,
							      struct flowi4 *fl4,
							      struct flow_keys *flkeys)
{
	return fib4_rules_early_flow_dissect(net, skb, fl4, flkeys);
}

__rustmasq_helper int rustmasq_fib_lookup(struct net *net, struct flowi4 *flp,
					  struct fib_result *res, unsigned int flags)
{
	return fib_lookup(net, flp, res, flags);
}

__rustmasq_helper void rustmasq_free_percpu(unsigned long memory)
{
	free_percpu((void __percpu *)memory);
}

/*
 * A callback shim: the type of a helper's callback contains an enum, for which
 * Rust has no type, and kCFI compares the types of indirectly called functions.
 */
unsigned int rustmasq_help(struct sk_buff *skb, unsigned int transport,
			   struct nf_conn *ct, unsigned int info);

int rustmasq_help_shim(struct sk_buff *skb, unsigned int protoff,
		       struct nf_conn *ct, enum ip_conntrack_info ctinfo)
{
	return rustmasq_help(skb, protoff, ct, ctinfo);
}

/* A mutex that is initialised at compile time, for use before module init. */
static DEFINE_MUTEX(rustmasq_hooks_mutex);

__rustmasq_helper void rustmasq_hooks_lock(void)
{
	mutex_lock(&rustmasq_hooks_mutex);
}

__rustmasq_helper void rustmasq_hooks_unlock(void)
{
	mutex_unlock(&rustmasq_hooks_mutex);
}

__rustmasq_helper u32 rustmasq_get_random_u32_below(u32 ceil)
{
	return get_random_u32_below(ceil);
}

__rustmasq_helper u32 rustmasq_hsiphash(const void *data, size_t len, const hsiphash_key_t *key)
{
	return hsiphash(data, len, key);
}

__rustmasq_helper void rustmasq_icmp_send(struct sk_buff *skb, int type, int code, __be32 info)
{
	icmp_send(skb, type, code, info);
}

__rustmasq_helper void rustmasq_icmpv6_send(struct sk_buff *skb, u8 type, u8 code, u32 info)
{
	icmpv6_send(skb, type, code, info);
}

__rustmasq_helper struct inet6_dev *rustmasq_in6_dev_get_rcu(const struct net_device *dev)
{
	return __in6_dev_get(dev);
}

__rustmasq_helper struct in_device *rustmasq_in_dev_get_rcu(const struct net_device *dev)
{
	return __in_dev_get_rcu(dev);
}

__rustmasq_helper void rustmasq_inc_tftp_ignored(void)
{
	atomic_long_inc(&rustmasq_tftp_ignored);
}

__rustmasq_helper void rustmasq_init_delayed_work(struct delayed_work *work, work_func_t func)
{
	INIT_DELAYED_WORK(work, func);
}

__rustmasq_helper dscp_t rustmasq_ip4h_dscp(const struct sk_buff *skb)
{
	return ip4h_dscp(ip_hdr(skb));
}

__rustmasq_helper bool rustmasq_ipv6_mod_enabled(void)
{
	return ipv6_mod_enabled();
}

__rustmasq_helper int rustmasq_l3mdev_master_ifindex_by_index(struct net *net, int ifindex)
{
	return l3mdev_master_ifindex_by_index(net, ifindex);
}

__rustmasq_helper void rustmasq_local_bh_disable(void)
{
	local_bh_disable();
}

__rustmasq_helper void rustmasq_local_bh_enable(void)
{
	local_bh_enable();
}

__rustmasq_helper struct net *rustmasq_maybe_get_net(struct net *net)
{
	return maybe_get_net(net);
}

__rustmasq_helper void *rustmasq_net_generic(const struct net *net, unsigned int id)
{
	return net_generic(net, id);
}

__rustmasq_helper struct net_device *
rustmasq_netdev_notifier_info_to_dev(const struct netdev_notifier_info *info)
{
	return netdev_notifier_info_to_dev(info);
}

__rustmasq_helper bool rustmasq_netif_is_l3_master(const struct net_device *dev)
{
	return netif_is_l3_master(dev);
}

__rustmasq_helper bool rustmasq_netif_running(const struct net_device *dev)
{
	return netif_running(dev);
}

__rustmasq_helper struct net_device *rustmasq_next_net_device_rcu(struct net_device *dev)
{
	return next_net_device_rcu(dev);
}

__rustmasq_helper void rustmasq_nf_conn_help_assign(struct nf_conn_help *help,
						    struct nf_conntrack_helper *helper)
{
	rcu_assign_pointer(help->helper, helper);
}

__rustmasq_helper struct nf_conn *rustmasq_nf_ct_get(const struct sk_buff *skb,
						     enum ip_conntrack_info *ctinfo)
{
	return nf_ct_get(skb, ctinfo);
}

__rustmasq_helper struct nf_conntrack_helper *rustmasq_nf_ct_helper(const struct nf_conn *ct)
{
	return rcu_dereference(nfct_help(ct)->helper);
}

__rustmasq_helper bool rustmasq_nf_ct_helper_get(struct nf_conntrack_helper *helper)
{
	return refcount_inc_not_zero(&helper->ct_refcnt);
}

__rustmasq_helper u16 rustmasq_nf_ct_l3num(const struct nf_conn *ct)
{
	return nf_ct_l3num(ct);
}

/* The field exists only with CONFIG_NF_CONNTRACK_MARK. */
__rustmasq_helper u32 rustmasq_nf_ct_mark(const struct nf_conn *ct)
{
#ifdef CONFIG_NF_CONNTRACK_MARK
	return READ_ONCE(ct->mark);
#else
	return 0;
#endif
}

__rustmasq_helper struct net *rustmasq_nf_ct_net(const struct nf_conn *ct)
{
	return nf_ct_net(ct);
}

__rustmasq_helper void rustmasq_nf_ct_put(struct nf_conn *ct)
{
	nf_ct_put(ct);
}

__rustmasq_helper void rustmasq_nf_ct_stat_inc_drop(struct net *net)
{
	NF_CT_STAT_INC_ATOMIC(net, drop);
}

__rustmasq_helper struct nf_conn *
rustmasq_nf_ct_tuplehash_to_ctrack(const struct nf_conntrack_tuple_hash *hash)
{
	return nf_ct_tuplehash_to_ctrack(hash);
}

__rustmasq_helper const struct nf_conntrack_zone *rustmasq_nf_ct_zone(const struct nf_conn *ct)
{
	return nf_ct_zone(ct);
}

__rustmasq_helper u16 rustmasq_nf_ct_zone_id(const struct nf_conntrack_zone *zone,
					     enum ip_conntrack_dir dir)
{
	return nf_ct_zone_id(zone, dir);
}

__rustmasq_helper struct nf_hook_ops **
rustmasq_nf_hook_entries_get_hook_ops(const struct nf_hook_entries *e)
{
	return nf_hook_entries_get_hook_ops(e);
}

__rustmasq_helper bool rustmasq_nf_is_loopback_packet(const struct sk_buff *skb)
{
	return nf_is_loopback_packet(skb);
}

__rustmasq_helper void *rustmasq_nfct_help_data(const struct nf_conn *ct)
{
	return nfct_help_data(ct);
}

/* A macro for each function; null where there is none. */
__rustmasq_helper void rustmasq_nf_tables_get(struct rustmasq_nf_tables *api)
{
	api->register_expr = symbol_get(nft_register_expr);
	api->unregister_expr = symbol_get(nft_unregister_expr);
	api->parse_register_load = symbol_get(nft_parse_register_load);
	api->dump_register = symbol_get(nft_dump_register);
	api->chain_validate_dependency = symbol_get(nft_chain_validate_dependency);
	api->chain_validate_hooks = symbol_get(nft_chain_validate_hooks);
}

__rustmasq_helper struct nf_conn_nat *rustmasq_nfct_nat(const struct nf_conn *ct)
{
	return nfct_nat(ct);
}

__rustmasq_helper struct nf_conn_seqadj *rustmasq_nfct_seqadj(const struct nf_conn *ct)
{
	return nfct_seqadj(ct);
}

__rustmasq_helper bool rustmasq_nfct_seqadj_ext_add(struct nf_conn *ct)
{
	return nfct_seqadj_ext_add(ct);
}

__rustmasq_helper u64 rustmasq_per_cpu_u64(unsigned long memory, size_t index, unsigned int cpu)
{
	return READ_ONCE(*per_cpu_ptr((u64 __percpu *)memory + index, cpu));
}

__rustmasq_helper const char *rustmasq_module_name(const struct module *module)
{
	return module->name;
}

__rustmasq_helper u32 rustmasq_nla_get_be32(const struct nlattr *nla)
{
	return be32_to_cpu(nla_get_be32(nla));
}

__rustmasq_helper int rustmasq_nla_put_be32(struct sk_buff *skb, int attrtype, u32 value)
{
	return nla_put_be32(skb, attrtype, cpu_to_be32(value));
}

__rustmasq_helper int rustmasq_nft_chain_validate_dependency(const struct rustmasq_nf_tables *api,
							     const struct nft_chain *chain,
							     enum nft_chain_types type)
{
	return api->chain_validate_dependency(chain, type);
}

__rustmasq_helper int rustmasq_nft_chain_validate_hooks(const struct rustmasq_nf_tables *api,
							const struct nft_chain *chain,
							unsigned int hook_flags)
{
	return api->chain_validate_hooks(chain, hook_flags);
}

__rustmasq_helper int rustmasq_nft_dump_register(const struct rustmasq_nf_tables *api,
						 struct sk_buff *skb, unsigned int attr,
						 unsigned int reg)
{
	return api->dump_register(skb, attr, reg);
}

__rustmasq_helper int rustmasq_nft_parse_register_load(const struct rustmasq_nf_tables *api,
						       const struct nft_ctx *ctx,
						       const struct nlattr *attr, u8 *sreg, u32 len)
{
	return api->parse_register_load(ctx, attr, sreg, len);
}

__rustmasq_helper u16 rustmasq_nft_reg_load_be16(const struct nft_regs *regs, u8 reg)
{
	return be16_to_cpu(nft_reg_load_be16(&regs->data[reg]));
}

__rustmasq_helper int rustmasq_nft_register_expr(const struct rustmasq_nf_tables *api,
						 struct nft_expr_type *type)
{
	return api->register_expr(type);
}

__rustmasq_helper void rustmasq_nft_set_verdict(struct nft_regs *regs, u32 code)
{
	regs->verdict.code = code;
}

__rustmasq_helper void rustmasq_nft_unregister_expr(const struct rustmasq_nf_tables *api,
						    struct nft_expr_type *type)
{
	api->unregister_expr(type);
}

__rustmasq_helper bool rustmasq_port_refused_enabled(void)
{
	return trace_port_refused_enabled();
}

/* A macro that gives null without CONFIG_PROC_FS. */
__rustmasq_helper struct proc_dir_entry *
rustmasq_proc_create_net(const char *name, umode_t mode, struct proc_dir_entry *parent,
			 const struct seq_operations *operations)
{
	return proc_create_net(name, mode, parent, operations, sizeof(struct seq_net_private));
}

__rustmasq_helper void rustmasq_put_net(struct net *net)
{
	put_net(net);
}

__rustmasq_helper __be32 rustmasq_rt_nexthop(const struct rtable *rt, __be32 daddr)
{
	return rt_nexthop(rt, daddr);
}

/* A macro without CONFIG_PROC_FS. */
__rustmasq_helper void rustmasq_remove_proc_entry(const char *name, struct proc_dir_entry *parent)
{
	remove_proc_entry(name, parent);
}

__rustmasq_helper int rustmasq_request_module(const char *name)
{
	return request_module("%s", name);
}

/* A macro initialises the state. */
__rustmasq_helper bool rustmasq_rule_ratelimit(void)
{
	static DEFINE_RATELIMIT_STATE(state, DEFAULT_RATELIMIT_INTERVAL,
				      DEFAULT_RATELIMIT_BURST);

	return __ratelimit(&state);
}

__rustmasq_helper struct net *rustmasq_seq_file_net(struct seq_file *seq)
{
	return seq_file_net(seq);
}

__rustmasq_helper const struct dst_entry *rustmasq_skb_dst(const struct sk_buff *skb)
{
	return skb_dst(skb);
}

__rustmasq_helper void *rustmasq_skb_header_pointer(const struct sk_buff *skb, int offset, int len,
						    void *buffer)
{
	return skb_header_pointer(skb, offset, len, buffer);
}

__rustmasq_helper int rustmasq_skb_linearize(struct sk_buff *skb)
{
	return skb_linearize(skb);
}

__rustmasq_helper unsigned char *rustmasq_skb_network_header(const struct sk_buff *skb)
{
	return skb_network_header(skb);
}

__rustmasq_helper int rustmasq_skb_network_offset(const struct sk_buff *skb)
{
	return skb_network_offset(skb);
}

__rustmasq_helper struct rtable *rustmasq_skb_rtable(const struct sk_buff *skb)
{
	return skb_rtable(skb);
}

__rustmasq_helper struct sock *rustmasq_skb_to_full_sk(const struct sk_buff *skb)
{
	return skb_to_full_sk(skb);
}

__rustmasq_helper bool rustmasq_skb_valid_dst(const struct sk_buff *skb)
{
	return skb_valid_dst(skb);
}

__rustmasq_helper kuid_t rustmasq_sock_net_uid(const struct net *net, const struct sock *sk)
{
	return sock_net_uid(net, sk);
}

__rustmasq_helper unsigned long rustmasq_softirq_count(void)
{
	return softirq_count();
}

__rustmasq_helper bool rustmasq_tftp_ignored_enabled(void)
{
	return trace_tftp_ignored_enabled();
}

/* A macro without CONFIG_MODULE_UNLOAD. */
__rustmasq_helper void rustmasq_symbol_put_addr(void *addr)
{
	symbol_put_addr(addr);
}

__rustmasq_helper bool rustmasq_tcp_port_is_unbound(const struct net *net, u16 port)
{
	const struct inet_hashinfo *info = net->ipv4.tcp_death_row.hashinfo;

	return hlist_empty(&info->bhash[inet_bhashfn(net, port, info->bhash_size)].chain);
}

__rustmasq_helper void rustmasq_this_cpu_add_u64(unsigned long memory, size_t index, u64 number)
{
	this_cpu_add(*((u64 __percpu *)memory + index), number);
}

__rustmasq_helper int rustmasq_udp_port_users(const struct net *net, u16 port)
{
	return READ_ONCE(udp_hashslot(net->ipv4.udp_table, net, port)->count);
}
