#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Many flows at once: UDP by the kernel's packet generator, a flow a packet, with room
# in conntrack's table and without; and TCP. What was sent was delivered, or was counted
# as a drop. The network is setup_lan's, and a million flows is all of it.
. "$(dirname "$0")/../../lib/lib.sh"

# The time that it takes grows with the square: a tenth of the effort is a hundredth of the flows.
udp=$(($(scaled 1000000) * EFFORT / 100)) tcp=$(($(scaled 100000) * EFFORT / 100))
((udp > 5000 / slow)) || udp=$((5000 / slow))
((tcp > 500 / slow)) || tcp=$((500 / slow))

modprobe -a nf_conntrack pktgen || bail "modules"
setup_lan
add_rule -o wan0 -p udp --dport 20000:20499 -j RUSTMASQ --to-ports 1024-65535 || bail "the rules"
add_rule -o wan0 -j RUSTMASQ || bail "the rules"

# --- The table, which all namespaces share: room for what lives within the short life of a flow here

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

# Neighbours for good: no first packet waits for an answer and is lost.
mac() { ip -n "$1" -br link show "$2" | awk '{ print $3 }'; }
ip -n router neigh replace 203.0.113.2 lladdr "$(mac server eth0)" dev wan0 nud permanent

# --- What was counted

# The server's first rule sees what arrives with the router's address, the second what does not; both keep conntrack
# and the server itself out of it.
ns_exec server "$IPTABLES-restore" -w <<-END || bail "the server's rules"
	*raw
	-A PREROUTING -p udp -s 203.0.113.1 -j DROP
	-A PREROUTING -p udp -j DROP
	COMMIT
END
delivered() { ns_exec server "$IPTABLES" -w -t raw -L PREROUTING -v -x -n | awk 'NR > 2 { print $1 }' | paste -sd ' '; }

# backlogged: packets that a CPU had no room for.
backlogged() {
	local sum=0 field
	while read -r -a field; do ((sum += 0x${field[1]})); done < /proc/net/softnet_stat
	echo $sum
}

# --- Sending

# pktgen FILE LINE...
pktgen() {
	local line
	for line in "${@:2}"; do
		ns_exec lan tee "/proc/net/pktgen/$1" <<< "$line" > /dev/null || bail "pktgen: $line"
	done
}

# generate_flows COUNT FIRST-NET: UDP flows, each a packet from an address of 172.18.FIRST-NET.0/23 on. The numbers of addresses and
# ports have no common factor: no two packets are of one flow.
generate_flows() {
	pktgen lan0 "count $1" "src_min 172.18.$2.1" "src_max 172.18.$2.251"
	pktgen pgctrl start
	ns_exec lan sed -nE 's/.*OK: .* \(?([0-9]+) *\(.*/\1/p; s/^ *pkts-sofar: ([0-9]+) .*/\1/p' /proc/net/pktgen/lan0 | tail -n 1
}

pktgen kpktgend_0 "add_device lan0"
pktgen lan0 "dst_mac $(mac router lan0)" "dst 203.0.113.2" "pkt_size 60" "clone_skb 0" "delay 0" \
	"udp_src_min 5000" "udp_src_max 64999" "udp_dst_min 20000" "udp_dst_max 20997"

# flood WHAT COUNT NET
flood() {
	local sent before after lost_before lost
	before=$(delivered) lost_before=$(($(conntrack_statistic router drop chaintoolong) + $(backlogged)))
	sent=$(generate_flows "$2" "$3")
	after=$(delivered) lost=$(($(conntrack_statistic router drop chaintoolong) + $(backlogged) - lost_before))
	arrived=$((${after% *} - ${before% *}))
	dropped=$lost
	check_equal "$1: all were sent" "$2" "$sent"
	check_equal "$1: sent = delivered + counted drops" "$sent" "$((arrived + lost))"
	check_equal "$1: none left with the LAN's address" "${before#* }" "${after#* }"
	echo "# $1: $sent sent, $arrived delivered, $lost dropped; $(ns_exec router cat /proc/sys/net/netfilter/nf_conntrack_count) flows tracked"
}

flood "$udp flows of UDP" $((udp - udp / 10)) 1
check_equal "... none was dropped" 0 "$dropped"

# Begun with an empty table, so that what is dropped does not depend on how many of the flows before are over: the
# kernel drops the early ones of a full table as long as it finds some nearby.
room=$((udp / 100))
((room < 2000)) || room=2000
ns_exec router conntrack -F 2> /dev/null
echo $room > "$limit"
flood "a tenth of them with conntrack's table at its limit" $((udp / 10)) 3
check "... which drops many" test "$dropped" -gt $((udp / 100))
check "... and lets some through" test "$arrived" -gt 0
echo 262144 > "$limit"

# --- TCP: two clients at a time

ns_start server "$tools/connections.py" serve 203.0.113.2 64 > "$scratch/served"
server_process=$!
wait_until grep -q ready "$scratch/served" || bail "no server"
before=$(conntrack_statistic router drop chaintoolong insert_failed)
for half in 1 2; do
	ns_exec lan "$tools/connections.py" open $((tcp / 2)) 203.0.113.2 64 > "$scratch/half$half" 2> "$scratch/errors$half" &
	clients[half]=$!
done
wait "${clients[@]}"
check_equal "$tcp flows of TCP: each has its answer" "$((tcp / 2)) $((tcp / 2))" "$(cat "$scratch"/half? | paste -sd ' ')"
cat "$scratch"/errors? | head -n 5
kill "$server_process" && wait "$server_process"
check_equal "... the server saw the router" "$((tcp / 2 * 2)) 203.0.113.1" "$(grep -v ready "$scratch/served")"
check_equal "... and nothing was dropped" "$before" "$(conntrack_statistic router drop chaintoolong insert_failed)"

# --- Afterwards

pktgen kpktgend_0 rem_device_all
flush_rules
check "the module can be removed" wait_until modprobe -r rustmasq

done_testing
