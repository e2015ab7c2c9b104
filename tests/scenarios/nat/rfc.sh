#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Kernels: plain
#
# MASQUERADE, RUSTMASQ and RUSTMASQ --full-cone meet those requirements of RFC 4787 (UDP), 5382 (TCP) and 5508 (ICMP)
# that tests/rfc says. Its program makes all packets of the hosts inside (172.18.0.2 and more) and outside (203.0.113.2,
# .3 and .4), which have no addresses here. Here what takes minutes is left out; `make scorecard` tests it, too.
#
#     lan                 router                      server
#     lan0 ------------ lan0  wan0 ----------------- eth0
#                     172.18.0.1  203.0.113.1, .9
. "$(dirname "$0")/../../lib/lib.sh"

# The hosts make no packets of their own.
echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6
setup_ns lan router server
setup_link lan lan0 - router lan0 172.18.0.1/16
setup_link server eth0 - router wan0 203.0.113.1/24
ip -n router addr add 203.0.113.9/24 dev wan0
enable_forwarding router
inside=$(ip -n lan -o link show lan0 | sed 's/.*ether \([^ ]*\).*/\1/')
outside=$(ip -n server -o link show eth0 | sed 's/.*ether \([^ ]*\).*/\1/')
{
	for n in {2..77}; do echo "neigh add 172.18.0.$n lladdr $inside dev lan0 nud permanent"; done
	for n in 2 3 4; do echo "neigh add 203.0.113.$n lladdr $outside dev wan0 nud permanent"; done
} | ip -n router -batch - || bail "neighbours"
# No error is dropped because there were many. The test of that limit turns it on.
ns_exec router sh -c 'echo 0 > /proc/sys/net/ipv4/icmp_ratelimit; echo 0 > /proc/sys/net/ipv4/icmp_ratemask'
# The kernel's helpers are there, but no rule asks for them.
modprobe -a nf_conntrack_tftp nf_nat_tftp nf_conntrack_ftp || bail "the kernel's helpers"

# shellcheck disable=SC2086 # words
run_tap "the scorecard" "$checkout/tests/rfc/check" ${REQUIREMENTS:-}

done_testing
