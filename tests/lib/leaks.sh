# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0
#
# Checks that a scenario leaves nothing behind. Needs lib.sh.
#
# Objects of two kinds are counted. Those that belong to a namespace or a flow must be gone with it: once the scenario's
# hosts are removed, there is no namespace, no entry and no expectation, and conntrack can be unloaded, which waits for
# each reference to an entry. All other allocations must not grow with the number of rounds: the counts of kmalloc's
# caches vary by a few objects, a leak adds one per round. 30 rounds are enough to tell these apart.

slab=/sys/kernel/slab

# count_objects CACHE: sets `count` to the number of objects in use, after the CPUs' free ones were given back.
count_objects() {
	count=0
	[[ -e $slab/$1 ]] || return 0
	echo 1 > "$slab/$1/shrink"
	read -r count _ < "$slab/$1/objects"
}

# no_objects CACHE: succeeds if no object of the cache is in use.
no_objects() {
	local count
	count_objects "$1"
	((count == 0))
}

# namespaces_at_most COUNT: succeeds if there are at most COUNT network namespaces besides one that the kernel keeps: it
# frees a namespace's memory only when another one goes.
namespaces_at_most() {
	local count
	unshare --net true
	pause 0.2
	count_objects net_namespace
	((count <= $1 + 1))
}

# --- From one round to the next

declare -A least

# leak_baseline: records the objects of each cache. Call it when nothing is under way and everything that is allocated
# once has been. Of four counts it keeps the lowest.
leak_baseline() {
	local cache count
	least=()
	# Loads the modules that the tools of the checks need.
	nft list hooks > /dev/null
	unshare --net true
	for _ in 1 2 3 4; do
		pause 0.2
		for cache in "$slab"/kmalloc-[0-9]* "$slab"/skbuff_head_cache; do
			cache=${cache##*/}
			count_objects "$cache"
			((count > ${least[$cache]:-count})) || least[$cache]=$count
		done
	done
}

# caches_steady ROUNDS: succeeds if no cache grew by more than ROUNDS/4 objects plus 20. Sets `growth` to the largest.
caches_steady() {
	local cache count most=0
	growth=none
	for cache in "${!least[@]}"; do
		count_objects "$cache"
		((count -= ${least[$cache]}, count > most)) || continue
		most=$count growth="$cache by $count"
	done
	((most <= $1 / 4 + 20))
}

# check_leaks ROUNDS: checks the caches against leak_baseline, with nothing under way. It waits, as RCU frees late.
check_leaks() {
	local growth
	# The debug kernel keeps freed objects, to report more about them, and finds leaks by itself.
	if [[ -e /sys/kernel/debug/kmemleak ]]; then
		echo "# kmemleak looks for leaks when the guest ends"
	elif wait_until caches_steady "$1"; then
		ok "after $1 rounds there is not more in kmalloc's caches (grown: $growth)"
	else
		not_ok "after $1 rounds there is not more in kmalloc's caches" "grown: $growth"
	fi
}

# --- At the end

# list_stuck: prints the names of processes in uninterruptible sleep.
list_stuck() {
	local file
	grep -lE '^State:.D' /proc/[0-9]*/status 2> /dev/null | while read -r file; do head -n 1 "$file"; done
}
nothing_stuck() { [[ ! $(list_stuck) ]]; }

module_unused_or_gone() { [[ ! -e /sys/module/rustmasq || $(< /sys/module/rustmasq/refcnt) == 0 ]]; }

# netfilter_modules: prints netfilter's modules that are loaded, ours among them.
netfilter_modules() { grep -oE '^(rustmasq|nfnetlink\w*|ip6?_tables|(x|xt|nf|nft|ipt|ip6t|iptable|ip6table)_\w+) ' /proc/modules; }

# unload_netfilter: unloads all of them. Some go only after others, so call it until it succeeds.
unload_netfilter() {
	local modules
	mapfile -t modules < <(netfilter_modules)
	rmmod "${modules[@]% }"
	[[ ! $(netfilter_modules) ]]
}

# check_nothing_left: removes the hosts and checks that everything that belonged to them is gone.
check_nothing_left() {
	stop_servers
	remove_ns
	check "no namespace is left" wait_until namespaces_at_most 0
	check "nobody uses the module" wait_until module_unused_or_gone
	check "no hook of ours is left" test "$(nft list hooks | grep -cF '[rustmasq]')" = 0
	wait_until unload_netfilter
	check_equal "conntrack can be unloaded" "" "$(netfilter_modules)"
	check "... with its entries" no_objects nf_conntrack
	check "... and expectations" no_objects nf_conntrack_expect
	check "nothing is stuck" wait_until nothing_stuck
}
