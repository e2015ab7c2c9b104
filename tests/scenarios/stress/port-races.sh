#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# CPUs: 2
#
# Two CPUs choose ports for the same destination at the same time, and no flow is lost: flows with one source port to
# one server, many flows for few ports, and two packets of one flow. MASQUERADE loses some of the first. The full effort
# is a million flows with each rule.
#
#     lan1                router                       server
#     eth0 ------------ lan1  wan0 ------------------ eth0
#     10.1.0.0/16             203.0.113.1/24          203.0.113.2/24
#     lan2
#     eth0 ------------ lan2
#     10.2.0.0/16
. "$(dirname "$0")/../../lib/lib.sh"

[[ -e /sys/devices/system/cpu/cpu1 ]] || skip_all "this needs two CPUs"
modprobe -a nf_conntrack nf_conntrack_netlink || bail "modules"
setup_ns lan1 lan2 router server
setup_link lan1 eth0 172.18.0.2/24 router lan1 172.18.0.1/24
setup_link lan2 eth0 172.19.0.2/24 router lan2 172.19.0.1/24
setup_link router wan0 203.0.113.1/24 server eth0 203.0.113.2/24
ip -n lan1 route add default via 172.18.0.1
ip -n lan2 route add default via 172.19.0.1
enable_forwarding router
ns_exec router ping -q -c 1 -W 5 203.0.113.2 > /dev/null || bail "ping the server"
for host in "lan1 172.18" "lan2 172.19"; do
	ns_exec "${host% *}" ping -q -c 1 -W 5 "${host#* }.0.1" > /dev/null || bail "ping the router from $host"
done
ns_exec server "$IPTABLES" -w -t raw -A PREROUTING -p udp -s 203.0.113.1 -j DROP || bail "the server's counter"

# Space for all flows within a short timeout.
limit=/proc/sys/net/netfilter/nf_conntrack_max buckets=/sys/module/nf_conntrack/parameters/hashsize
limit_before=$(< "$limit") buckets_before=$(< "$buckets")
trap 'echo "$limit_before" > $limit; echo "$buckets_before" > $buckets; cleanup' EXIT
echo 262144 > "$limit"
echo $((262144 / slow / slow)) > "$buckets"
flow_timeout() { ns_exec router sh -c "echo $1 > /proc/sys/net/netfilter/nf_conntrack_udp_timeout"; }

# count_arrived: prints how many packets arrived from the router's address.
count_arrived() { ns_exec server "$IPTABLES" -w -t raw -nvxL PREROUTING | awk '$3 == "DROP" { print $1 }'; }

# new_rule TARGET [OPTION...]: replaces the rule, and forgets all flows.
new_rule() {
	flush_rules
	add_rule -o wan0 -p udp -j "$@" || bail "rule with $*"
}

# race KIND PAIRS: sends pairs of packets, with races.py. Sets `arrived` to how many packets arrived, `lost` and `failed`
# to how many were dropped and found their tuple taken, and `merged` to how often conntrack merged two packets.
race() {
	local arrived_before lost_before failed_before merged_before
	arrived_before=$(count_arrived)
	lost_before=$(conntrack_statistic router drop chaintoolong) failed_before=$(conntrack_statistic router insert_failed)
	merged_before=$(conntrack_statistic router clash_resolve)
	"$tools/races.py" "$1" "$2" lan1,lan2 203.0.113.2 || not_ok "pairs of packets were sent"
	arrived=$(($(count_arrived) - arrived_before))
	lost=$(($(conntrack_statistic router drop chaintoolong) - lost_before))
	failed=$(($(conntrack_statistic router insert_failed) - failed_before))
	merged=$(($(conntrack_statistic router clash_resolve) - merged_before))
}

# check_race WHAT KIND PAIRS: checks that all packets arrive.
check_race() {
	race "$2" "$3"
	check_equal "$1: all packets arrive, none is dropped, no tuple was taken" "$((2 * $3)) 0 0" "$arrived $lost $failed"
	((!merged)) || echo "# $1: conntrack merged $merged packets of $3 pairs"
}

# count_ports_used: prints how many flows there are, and how many different ports they have.
count_ports_used() {
	tracked -p udp | sed -E 's/.* dport=([0-9]+) .*/\1/' | awk '!seen[$1]++ { ports++ } END { print NR, ports + 0 }'
}

# --- Flows with one source port to one server

# A hundredth of them is the least.
pairs=$(($(scaled 500000) * EFFORT / 100 / slow))
((pairs >= 5000 / slow)) || pairs=$((5000 / slow))
flow_timeout $((5 * slow))
if compared; then
	# It depends on the machine how often the two packets of a pair really meet.
	flows=0 all_failed=0
	for ((round = 0; round < 20 && all_failed == 0; round++)); do
		new_rule MASQUERADE
		race port 2000
		((flows += 4000, all_failed += failed))
	done
	echo "# MASQUERADE: of $flows flows, $all_failed are lost at insertion"
	check "MASQUERADE loses flows: insert_failed" test $all_failed -gt 0
fi
new_rule RUSTMASQ
check_race "default options, $((2 * pairs)) flows" port $pairs
new_rule RUSTMASQ --to-ports 1024-65535
check_race "--to-ports, $((2 * pairs)) flows" port $pairs

# --- Many flows for few ports

flow_timeout 600
count=$((4000 / slow))
for options in "" --random; do
	new_rule RUSTMASQ --to-ports 10000-$((10000 + count - 1)) $options
	check_race "$count flows for $count ports${options:+ $options}" server $((count / 2))
	check_equal "... have all of them" "$count $count" "$(count_ports_used)"
done

# --- Two packets of one flow

count=$(($(scaled 20000) / slow))
new_rule RUSTMASQ
check_race "two packets of one flow, which keeps its port" flow $count
check_equal "... are one flow" $count "$(count_ports_used | cut -d ' ' -f 1)"
if compared; then
	new_rule MASQUERADE --to-ports 30000-65000
	race flow $count
	echo "# MASQUERADE --to-ports: of $((2 * count)) packets, two a flow at the same time, $lost are lost, $merged merged"
fi
new_rule RUSTMASQ --to-ports 30000-65000
check_race "two packets of one flow, which gets another port" flow $count
check_equal "... are one flow" $count "$(count_ports_used | cut -d ' ' -f 1)"
if compared; then
	new_rule MASQUERADE --to-ports 61000-61999
	race flow-to-server 900
	echo "# MASQUERADE --to-ports: ... to a crowded server, $lost of 1800 are lost, $merged merged;" \
		"flows, and ports: $(count_ports_used)"
fi
new_rule RUSTMASQ --to-ports 61000-61999
check_race "two packets of one flow, to a crowded server" flow-to-server $((900 / slow))
check_equal "... are one flow with one port" "$((900 / slow)) $((900 / slow))" "$(count_ports_used)"

done_testing
