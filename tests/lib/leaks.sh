# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0
#
# What is counted to see that a scenario leaves nothing behind, after lib.sh.
#
# Two kinds. What comes with a namespace or a flow must be gone with it: when the
# scenario's hosts have gone, there is no namespace, no entry, no expectation, and
# conntrack itself can be unloaded, which waits for each reference to an entry. And
# what was allocated for any purpose must not become more with each round: the objects
# of kmalloc's caches vary by a few, not by one a round; which 30 rounds are enough to show.

slab=/sys/kernel/slab

# count_objects CACHE: sets `count` to how many are in use. What the CPUs keep for later is given back first.
count_objects() {
	count=0
	[[ -e $slab/$1 ]] || return 0
	echo 1 > "$slab/$1/shrink"
	read -r count _ < "$slab/$1/objects"
}

# no_objects CACHE
no_objects() {
	local count
	count_objects "$1"
	((count == 0))
}

# namespaces_at_most COUNT: there are no more than so many. The kernel keeps those that have gone until others follow.
namespaces_at_most() {
	local count
	unshare --net true
	pause 0.2
	count_objects net_namespace
	((count <= $1 + 1))
}

# --- From one round to the next

declare -A least

# leak_baseline: in a quiet moment, when all that is to come has come once; how many there are at least.
leak_baseline() {
	local cache count
	least=()
	# The tools that are to look have modules of their own.
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

# caches_steady ROUNDS: of no kind there are more than before by one for every fourth round, and a few. Sets `growth`.
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

# check_leaks ROUNDS: as quiet as before. RCU frees late, so this may take a moment.
check_leaks() {
	local growth
	# Such a kernel keeps what was freed, to tell more about it; and it finds leaks by itself.
	if [[ -e /sys/kernel/debug/kmemleak ]]; then
		echo "# kmemleak looks for leaks when the guest ends"
	elif wait_until caches_steady "$1"; then
		ok "after $1 rounds there is not more in kmalloc's caches (grown: $growth)"
	else
		not_ok "after $1 rounds there is not more in kmalloc's caches" "grown: $growth"
	fi
}

# --- At the end

# list_stuck: processes that wait for something that cannot be interrupted.
list_stuck() {
	local file
	grep -lE '^State:.D' /proc/[0-9]*/status 2> /dev/null | while read -r file; do head -n 1 "$file"; done
}
nothing_stuck() { [[ ! $(list_stuck) ]]; }

module_unused_or_gone() { [[ ! -e /sys/module/rustmasq || $(< /sys/module/rustmasq/refcnt) == 0 ]]; }

# netfilter_modules: its modules.
netfilter_modules() { grep -oE '^(rustmasq|nfnetlink\w*|ip6?_tables|(x|xt|nf|nft|ipt|ip6t|iptable|ip6table)_\w+) ' /proc/modules; }

# unload_netfilter: unloads all of them, those that others build on later.
unload_netfilter() {
	local modules
	mapfile -t modules < <(netfilter_modules)
	rmmod "${modules[@]% }"
	[[ ! $(netfilter_modules) ]]
}

# check_nothing_left: the hosts go, and all that came with them.
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
