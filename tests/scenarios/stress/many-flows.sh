#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# CPUs: 2
#
# With many flows at once, each packet arrives masqueraded or is counted as dropped: UDP from the kernel's packet
# generator, one packet a flow, and TCP. None is dropped while conntrack's table has space; many are when it is full.
# The network is that of setup_lan. The full effort is a million UDP flows.
. "$(dirname "$0")/../../lib/lib.sh"

# The number of flows is proportional to the square of EFFORT: with a tenth of it, there are a hundredth of the flows.
udp=$(($(scaled 1000000) * EFFORT / 100)) tcp=$(($(scaled 100000) * EFFORT / 100))
((udp > 5000 / slow)) || udp=$((5000 / slow))
((tcp > 500 / slow)) || tcp=$((500 / slow))

modprobe -a nf_conntrack pktgen || bail "modules"
setup_lan
add_rule -o wan0 -p udp --dport 20000:20499 -j RUSTMASQ --to-ports 1024-65535 || bail "the rules"
add_rule -o wan0 -j RUSTMASQ || bail "the rules"

# --- Conntrack's table, which all namespaces share, with space for all flows within a short timeout

limit=/proc/sys/net/netfilter/nf_conntrack_max buckets=/sys/module/nf_conntrack/parameters/hashsize
limit_before=$(< "$limit") buckets_before=$(< "$buckets")
restore_limits() {
	echo "$limit_before" > "$limit"
	echo "$buckets_before" > "$buckets"
	cleanup
}
trap restore_limits EXIT
echo 262144 > "$limit"
echo $((262144 / slow / slow)) > "$buckets"
ns_exec router sh -c "echo $((5 * slow)) > /proc/sys/net/netfilter/nf_conntrack_udp_timeout"

# mac HOST DEVICE: prints the device's MAC address.
mac() { ip -n "$1" -br link show "$2" | awk '{ print $3 }'; }
# The neighbour is permanent, so that no first packet waits for its resolution and is lost.
ip -n router neigh replace 203.0.113.2 lladdr "$(mac server eth0)" dev wan0 nud permanent

# --- Counters

# The server's first rule counts packets from the router's address, the second the others. Both drop them before
# conntrack and the server's sockets.
ns_exec server "$IPTABLES-restore" -w <<-END || bail "the server's rules"
	*raw
	-A PREROUTING -p udp -s 203.0.113.1 -j DROP
	-A PREROUTING -p udp -j DROP
	COMMIT
END
# delivered: prints both counters.
delivered() { ns_exec server "$IPTABLES" -w -t raw -L PREROUTING -v -x -n | awk 'NR > 2 { print $1 }' | paste -sd ' '; }

# count_backlog_drops: prints how many packets were dropped because a CPU's backlog queue was full.
count_backlog_drops() {
	local sum=0 field
	while read -r -a field; do ((sum += 0x${field[1]})); done < /proc/net/softnet_stat
	echo $sum
}

# --- Sending

# pktgen FILE LINE...: writes commands to the packet generator.
pktgen() {
	local line
	for line in "${@:2}"; do
		ns_exec lan tee "/proc/net/pktgen/$1" <<< "$line" > /dev/null || bail "pktgen: $line"
	done
}

# generate_flows COUNT NET: sends UDP packets from addresses in 172.18.NET.0/24. Prints how many were sent. The numbers
# of addresses and ports have no common factor, so each packet is a flow of its own.
generate_flows() {
	pktgen lan0 "count $1" "src_min 172.18.$2.1" "src_max 172.18.$2.251"
	pktgen pgctrl start
	ns_exec lan sed -nE 's/.*OK: .* \(?([0-9]+) *\(.*/\1/p; s/^ *pkts-sofar: ([0-9]+) .*/\1/p' /proc/net/pktgen/lan0 | tail -n 1
}

pktgen kpktgend_0 "add_device lan0"
pktgen lan0 "dst_mac $(mac router lan0)" "dst 203.0.113.2" "pkt_size 60" "clone_skb 0" "delay 0" \
	"udp_src_min 5000" "udp_src_max 64999" "udp_dst_min 20000" "udp_dst_max 20997"

# flood WHAT COUNT NET: sends such flows, and checks that each packet is delivered or counted as dropped. Sets `arrived`
# and `dropped` to their numbers.
flood() {
	local sent before after lost_before lost
	before=$(delivered) lost_before=$(($(conntrack_statistic router drop chaintoolong) + $(count_backlog_drops)))
	sent=$(generate_flows "$2" "$3")
	after=$(delivered) lost=$(($(conntrack_statistic router drop chaintoolong) + $(count_backlog_drops) - lost_before))
	arrived=$((${after% *} - ${before% *}))
	dropped=$lost
	check_equal "$1: all packets were sent" "$2" "$sent"
	check_equal "$1: as many were delivered or counted as dropped" "$sent" "$((arrived + lost))"
	check_equal "$1: none arrived from an address of the LAN" "${before#* }" "${after#* }"
	echo "# $1: $sent sent, $arrived delivered, $lost dropped; $(ns_exec router cat /proc/sys/net/netfilter/nf_conntrack_count) flows tracked"
}

flood "nine tenths of $udp UDP flows" $((udp - udp / 10)) 1
check_equal "... none was dropped" 0 "$dropped"

# The table is empty at the start, so that the number of drops does not depend on how many of the earlier flows have
# expired: when the table is full, the kernel removes old flows (early drop) as long as it finds some in nearby buckets.
capacity=$((udp / 100))
((capacity < 2000)) || capacity=2000
ns_exec router conntrack -F 2> /dev/null
echo $capacity > "$limit"
flood "the other tenth, with conntrack's table full" $((udp / 10)) 3
check "... many are dropped" test "$dropped" -gt $((udp / 100))
check "... and some are delivered" test "$arrived" -gt 0
echo 262144 > "$limit"

# --- TCP: two clients at the same time

ns_start server "$tools/connections.py" serve 203.0.113.2 64 > "$scratch/served"
server_process=$!
wait_until grep -q ready "$scratch/served" || bail "no server"
before=$(conntrack_statistic router drop chaintoolong insert_failed)
for half in 1 2; do
	ns_exec lan "$tools/connections.py" open $((tcp / 2)) 203.0.113.2 64 > "$scratch/half$half" 2> "$scratch/errors$half" &
	clients[half]=$!
done
wait "${clients[@]}"
check_equal "$tcp TCP flows: each gets its answer" "$((tcp / 2)) $((tcp / 2))" "$(cat "$scratch"/half? | paste -sd ' ')"
cat "$scratch"/errors? | head -n 5
kill "$server_process" && wait "$server_process"
check_equal "... the server sees the router's address alone" "$((tcp / 2 * 2)) 203.0.113.1" "$(grep -v ready "$scratch/served")"
check_equal "... and nothing was dropped" "$before" "$(conntrack_statistic router drop chaintoolong insert_failed)"

# --- Unloading the module

pktgen kpktgend_0 rem_device_all
flush_rules
check "the module can be unloaded" wait_until modprobe -r rustmasq

done_testing
