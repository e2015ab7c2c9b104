// SPDX-License-Identifier: GPL-2.0
/*
 * One wrapper for each inline function of the kernel that Rust calls, in
 * alphabetical order, without logic: that is Rust's. An exception explains itself.
 */
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/netdevice.h>
#include <linux/skbuff.h>
#include <net/netfilter/nf_conntrack.h>
#include <net/route.h>

/* Not inline functions: the kernel crate's net_device is opaque. */
int rustmasq_dev_ifindex(const struct net_device *dev)
{
	return READ_ONCE(dev->ifindex);
}

const char *rustmasq_dev_name(const struct net_device *dev)
{
	return dev->name;
}

struct net *rustmasq_dev_net(const struct net_device *dev)
{
	return dev_net(dev);
}

struct iphdr *rustmasq_ip_hdr(const struct sk_buff *skb)
{
	return ip_hdr(skb);
}

struct ipv6hdr *rustmasq_ipv6_hdr(const struct sk_buff *skb)
{
	return ipv6_hdr(skb);
}

struct nf_conn *rustmasq_nf_ct_get(const struct sk_buff *skb,
				   enum ip_conntrack_info *ctinfo)
{
	return nf_ct_get(skb, ctinfo);
}

__be32 rustmasq_rt_nexthop(const struct rtable *rt, __be32 daddr)
{
	return rt_nexthop(rt, daddr);
}

struct rtable *rustmasq_skb_rtable(const struct sk_buff *skb)
{
	return skb_rtable(skb);
}
