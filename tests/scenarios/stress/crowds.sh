#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Many destinations are crowded one after the other, more than the module keeps pools for: still each gets all ports of
# the range. Their pools go when the flows are gone. A namespace may go while its pools are full, and so may the module,
# while the flows end. Nothing of them is left. tests/lib/ports.sh draws the network. The full effort is 10,000
# destinations and 100 rounds.
# shellcheck source-path=SCRIPTDIR source=../../lib/ports.sh
. "$(dirname "$0")/../../lib/ports.sh"
# shellcheck source-path=SCRIPTDIR source=../../lib/leaks.sh
. "$(dirname "$0")/../../lib/leaks.sh"

echo "# seed $SEED, $EFFORT % of the rounds"
RANDOM=$SEED

limit=/proc/sys/net/netfilter/nf_conntrack_max
modprobe nf_conntrack || bail "conntrack"
limit_before=$(< $limit)
# Conntrack has been unloaded at the end.
trap '[[ ! -e $limit ]] || echo "$limit_before" > $limit; cleanup' EXIT
echo 262144 > $limit

# crowd GROUPS FIRST LAST: the clients FIRST to LAST send to so many groups of 50 servers, one group after the other.
crowd() {
	local group targets
	for ((group = 1; group <= $1; group++)); do
		targets=("10.9.$group.1-50")
		send_crowd "$2" "$3"
	done
}

# most_pools_denied: succeeds if there are no more pools than allowed, and at least as many were denied.
most_pools_denied() {
	ns_exec router cat /proc/net/rustmasq | awk -v most=$pools_max '{ counted[$1] = $2 }
		END { exit counted["pools"] > most || counted["pools_denied"] < most }'
}

# --- Many destinations

groups=$(($(scaled 200) / slow))
count=$((50 * groups))
# So few that most of those that ask get none.
pools_max=8
wait_until unload_module || bail "the module can be removed before the test"
modprobe rustmasq pools_max=$pools_max || bail "the module with pools_max=$pools_max"
setup_crowd
# With --random a client does not have one port everywhere, which would be free at the next destination, too.
crowd_rule RUSTMASQ --to-ports 6000-6003 --random
before=$(losses)
crowd $groups 1 4
check_equal "$count destinations have four flows each, with all four ports" "$((4 * count)) $count" \
	"$(crowd_flows | awk '!seen[$2 " " $3]++ { flows[$2]++; all++ }
		END { for (server in flows) full += flows[server] == 4; print all + 0, full + 0 }')"
check_equal "... and none is dropped" "$before" "$(losses)"
check "... although most of the crowded ones had no pool" most_pools_denied
crowd $groups 5 5
check_equal "a fifth client is refused by each of them" "$((4 * count)) $((${before% *} + count))" \
	"$(crowd_flows | wc -l) $(losses | cut -d ' ' -f 1)"
forget_all
crowd 1 6 9
check_equal "once all flows are gone, four others get through" 200 "$(crowd_flows | wc -l)"
# In `make soak` there is time to see it.
if ((EFFORT == 100)); then
	forget_all
	check "pools go when nobody has a port of them" timeout 300 bash -c "until
		ip netns exec router grep -qx 'pools 0' /proc/net/rustmasq; do sleep 1; done"
fi
remove_ns
check "the module can be unloaded" wait_until unload_module

# --- Namespaces and the module go while pools are full

crowded_router() {
	setup_crowd
	crowd_rule RUSTMASQ --to-ports 6000-6003
	crowd 1 1 5
	[[ $(crowd_flows | wc -l) == 200 ]]
}

the_namespace_goes() { remove_ns; }

the_module_goes_and_flows_end() {
	local ending
	forget_all &
	ending=$!
	host_table router -t nat -F
	wait_until rmmod rustmasq || return
	wait $ending
	remove_ns
}

flows_end_and_the_namespace_goes() {
	local ending
	forget_all &
	ending=$!
	remove_ns
	wait $ending
	:
}

ways=(the_namespace_goes the_module_goes_and_flows_end flows_end_and_the_namespace_goes)

# run_rounds_of_crowds COUNT: runs so many rounds. Prints which of them failed.
run_rounds_of_crowds() {
	local n way
	for ((n = 0; n < $1; n++)); do
		way=${ways[n % 3]}
		crowded_router || echo "round $n: not all flows got through"
		$way || echo "round $n: ${way//_/ }"
	done
}

rounds=$(scaled 100)
check_equal "the first rounds" "" "$(run_rounds_of_crowds 3)"
hosts=()
wait_until namespaces_at_most 0 || not_ok "the first namespaces are gone"
leak_baseline
check_equal "$rounds times, the namespace or the module went with full pools" "" "$(run_rounds_of_crowds "$rounds")"
check "the namespaces are gone" wait_until namespaces_at_most 0
check_leaks "$rounds"
check_nothing_left

done_testing
