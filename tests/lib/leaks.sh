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

# objects CACHE: sets `count` to how many are in use. What the CPUs keep for later is given back first.
objects() {
	count=0
	[[ -e $slab/$1 ]] || return 0
	echo 1 > "$slab/$1/shrink"
	read -r count _ < "$slab/$1/objects"
}

# none CACHE
none() {
	local count
	objects "$1"
	((count == 0))
}

# namespaces COUNT: there are no more than so many. The kernel keeps those that have gone until others follow.
namespaces() {
	local count
	unshare --net true
	nap 0.2
	objects net_namespace
	((count <= $1 + 1))
}

# --- From one round to the next

declare -A least

# leaks_before: in a quiet moment, when all that is to come has come once; how many there are at least.
leaks_before() {
	local cache count
	least=()
	# The tools that are to look have modules of their own.
	nft list hooks > /dev/null
	unshare --net true
	for _ in 1 2 3 4; do
		nap 0.2
		for cache in "$slab"/kmalloc-[0-9]* "$slab"/skbuff_head_cache; do
			cache=${cache##*/}
			objects "$cache"
			((count > ${least[$cache]:-count})) || least[$cache]=$count
		done
	done
}

# steady ROUNDS: of no kind there are more than before by one for every fourth round, and a few. Sets `growth`.
steady() {
	local cache count most=0
	growth=none
	for cache in "${!least[@]}"; do
		objects "$cache"
		((count -= ${least[$cache]}, count > most)) || continue
		most=$count growth="$cache by $count"
	done
	((most <= $1 / 4 + 20))
}

# leaks_after ROUNDS: as quiet as before. RCU frees late, so this may take a moment.
leaks_after() {
	local growth
	# Such a kernel keeps what was freed, to tell more about it; and it finds leaks by itself.
	if [[ -e /sys/kernel/debug/kmemleak ]]; then
		echo "# kmemleak looks for leaks when the guest ends"
	elif wait_until steady "$1"; then
		ok "after $1 rounds there is not more in kmalloc's caches (grown: $growth)"
	else
		not_ok "after $1 rounds there is not more in kmalloc's caches" "grown: $growth"
	fi
}

# --- At the end

# stuck: processes that wait for something that cannot be interrupted.
stuck() {
	local file
	grep -lE '^State:.D' /proc/[0-9]*/status 2> /dev/null | while read -r file; do head -n 1 "$file"; done
}
flowing() { [[ ! $(stuck) ]]; }

unused() { [[ ! -e /sys/module/rustmasq || $(< /sys/module/rustmasq/refcnt) == 0 ]]; }

# netfilter: its modules.
netfilter() { grep -oE '^(rustmasq|nfnetlink\w*|ip6?_tables|(x|xt|nf|nft|ipt|ip6t|iptable|ip6table)_\w+) ' /proc/modules; }

# netfilter_out: unloads all of them, those that others build on later.
netfilter_out() {
	local modules
	mapfile -t modules < <(netfilter)
	rmmod "${modules[@]% }"
	[[ ! $(netfilter) ]]
}

# leave_nothing: the hosts go, and all that came with them.
leave_nothing() {
	stop_servers
	hosts_off
	check "no namespace is left" wait_until namespaces 0
	check "nobody uses the module" wait_until unused
	check "no hook of ours is left" test "$(nft list hooks | grep -cF '[rustmasq]')" = 0
	wait_until netfilter_out
	check_equal "conntrack can be unloaded" "" "$(netfilter)"
	check "... with its entries" none nf_conntrack
	check "... and expectations" none nf_conntrack_expect
	check "nothing is stuck" wait_until flowing
}
