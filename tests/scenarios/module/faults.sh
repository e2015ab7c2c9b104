#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Each allocation of ours fails once: as the module comes and goes, as the watch is
# turned on, as namespaces and rules come and go, and as packets pass. Then there is
# an error and nothing half-done, or a packet is dropped, or it passes without what
# there was no memory for; and nothing leaks. Also, packets' data moves whenever it may.
# Needs a kernel that fails on demand, that is the debug kernel.
. "$(dirname "$0")/../../lib/lib.sh"

if [[ ! -e /sys/kernel/debug/failslab/require-start || ! -e /sys/kernel/debug/fail_skb_realloc ]]; then
	skip_all "this kernel cannot fail on demand"
fi

# in_use CACHE: how many objects of a slab cache are.
in_use() {
	echo 1 > "/sys/kernel/slab/$1/shrink"
	awk -v cache="$1" '$1 == cache { print $2 }' /proc/slabinfo
}
none_in_use() { [[ $(in_use "$1") == 0 ]]; }
# The last one that went keeps its memory until another one goes.
no_namespace() { unshare --net true && pause 0.5 && (($(in_use net_namespace) <= 1)); }

wait_until unload_module || bail "the module can be removed before the test"
# What the module builds on, so that only itself is loaded; and who lists targets and hooks.
modprobe -a nf_nat x_tables nfnetlink_hook nf_conntrack_netlink iptable_nat ip6table_nat nft_compat nf_log_syslog ||
	bail "modules to build on"

setup_ns other
run_tap "faults without a network" "$tools/faults.py" module rules

setup_lan
setup_lan_ipv6
run_tap "faults of packets" "$tools/faults.py" packets
flush_rules
check "the module can be unloaded after all that" wait_until unload_module

run_tap "data that moves" "$tools/faults.py" pulls
flush_rules
check "the module can be unloaded after that, too" wait_until unload_module

stop_servers
remove_ns
for cache in nf_conntrack nf_conntrack_expect; do
	check "nothing of $cache is left" wait_until none_in_use $cache
done
check "no namespace is left" wait_until no_namespace

done_testing
