#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Each allocation of the module fails once: while the module is loaded and unloaded, the watch is turned on,
# namespaces and rules are added and removed, packets pass, a destination is crowded, and a mapping is made. Then the
# operation fails as a whole, or a packet is dropped, or it passes without the part that needed memory. Nothing leaks.
# Packet data also moves wherever the kernel may move it. This needs fault injection, which only the debug kernel has.
. "$(dirname "$0")/../../lib/lib.sh"

if [[ ! -e /sys/kernel/debug/failslab/require-start || ! -e /sys/kernel/debug/fail_skb_realloc ]]; then
	skip_all "this kernel has no fault injection"
fi

# count_slab_objects CACHE: prints how many objects of the slab cache are in use.
count_slab_objects() {
	echo 1 > "/sys/kernel/slab/$1/shrink"
	awk -v cache="$1" '$1 == cache { print $2 }' /proc/slabinfo
}
no_slab_objects() { [[ $(count_slab_objects "$1") == 0 ]]; }
# The kernel frees the memory of the namespace that was removed last only when another one is removed.
no_namespace() { unshare --net true && pause 0.5 && (($(count_slab_objects net_namespace) <= 1)); }

wait_until unload_module || bail "the module can be removed before the test"
# The modules that rustmasq needs, so that only rustmasq is loaded later, and those that list targets and hooks.
modprobe -a nf_nat x_tables nfnetlink_hook nf_conntrack_netlink iptable_nat ip6table_nat nft_compat nf_log_syslog ||
	bail "modules that rustmasq needs"

# Another module that masquerades would remove flows before the worker does, which would need no memory then.
check "no other masquerading module is loaded" remove_other_masquerade

setup_ns other
run_tap "faults without a network" "$tools/faults.py" module rules

setup_lan
setup_lan_ipv6
run_tap "faults with packets" "$tools/faults.py" packets
flush_rules
check "the module can be unloaded after the faults" wait_until unload_module

run_tap "faults with pools of ports" "$tools/faults.py" pools
flush_rules
check "the module can be unloaded after the faults with pools" wait_until unload_module

run_tap "faults with mappings" "$tools/faults.py" mappings
flush_rules
check "the module can be unloaded after the faults with mappings" wait_until unload_module

run_tap "packet data that moves" "$tools/faults.py" pulls
flush_rules
check "the module can be unloaded after packet data moved" wait_until unload_module

stop_servers
remove_ns
for cache in nf_conntrack nf_conntrack_expect; do
	check "no object of $cache is left" wait_until no_slab_objects $cache
done
check "no namespace is left" wait_until no_namespace

done_testing
