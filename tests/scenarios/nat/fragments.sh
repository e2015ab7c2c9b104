#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Kernels: plain
#
# All fragments of large datagrams and pings are masqueraded, in any order, and the answers come back, although only
# the first fragment has the ports. Without a rule no answer comes back. The network of setup_lan with IPv6:
#
#     lan                 router                     server
#     lan0 ------------ lan0  wan0 ---------------- eth0       MTU 1500
#     172.18.0.2       172.18.0.1   203.0.113.1      203.0.113.2
#     fd00:18::2       fd00:18::1   2001:db8:1::1    2001:db8:1::2
. "$(dirname "$0")/../../lib/lib.sh"
packets=$tools/packets.py

setup_lan
setup_lan_ipv6
declare -A server_of=([4]=203.0.113.2 [6]=2001:db8:1::2)
declare -A router_of=([4]=203.0.113.1 [6]=2001:db8:1::1)

# serve_udp_echo FAMILY PORT [OPTION...]: starts a server that returns each datagram.
serve_udp_echo() {
	local log=$scratch/echo-$1-$2
	ns_start server "$packets" echo "${server_of[$1]}" "${@:2}" > "$log"
	wait_until grep -q ready "$log" || bail "no echo server on port $2"
}

# echo_datagram FAMILY PORT [OPTION...]: sends a datagram to the echo server. Prints the address and port that the
# server saw, if the datagram came back unchanged.
echo_datagram() {
	ns_exec lan "$packets" send "${server_of[$1]}" "${@:2}"
}

# count_reassembled HOST FAMILY: prints how many packets the host has reassembled.
count_reassembled() {
	case $2 in
	4) ns_exec "$1" cat /proc/net/snmp | awk '/^Ip: [0-9]/ { print $16 }' ;;
	6) ns_exec "$1" cat /proc/net/snmp6 | awk '/^Ip6ReasmOKs/ { print $2 }' ;;
	esac
}

for family in 4 6; do
	serve_udp_echo $family 7
	# This one sends the fragments of its answers in the wrong order.
	serve_udp_echo $family 8 --reverse
done

# Without a rule. All run at the same time, because each waits for its time limit.
waiting=()
for family in 4 6; do
	echo_datagram $family 7 --size 8000 --patience 1 > "$scratch/no-rule-udp-$family" &
	waiting+=($!)
	ns_exec lan ping -$family -q -c 1 -W 1 -s 8000 "${server_of[$family]}" > "$scratch/no-rule-ping-$family" &
	waiting+=($!)
done
wait "${waiting[@]}"
for family in 4 6; do
	check_equal "IPv$family: without a rule a datagram gets no answer" "" "$(< "$scratch/no-rule-udp-$family")"
	check_match "IPv$family: without a rule ping gets no answer" \
		" 0 received" "$(< "$scratch/no-rule-ping-$family")"
done
ns_exec router conntrack -F 2> /dev/null

# NAT chooses the port for the packet that defragmentation has put together.
add_rule -p udp -j RUSTMASQ --to-ports 6000-6099 || bail "rule for UDP"
add_rule -j RUSTMASQ || bail "rule for the rest"
for protocol in '-p udp' ''; do
	# shellcheck disable=SC2086 # Words or none.
	add_rule6 $protocol -j RUSTMASQ \
		${protocol:+--to-ports 6000-6099} || bail "rule for IPv6"
done

# check_datagram WHAT FAMILY PORT [OPTION...]: checks that a datagram comes back unchanged, and that it was masqueraded
# and travelled in fragments both ways.
check_datagram() {
	local seen at_server at_client
	at_server=$(count_reassembled server "$2") at_client=$(count_reassembled lan "$2")
	seen=$(echo_datagram "${@:2}")
	check_equal "IPv$2, $1: the server saw the router's address" "${router_of[$2]}" "${seen% *}"
	check_port "IPv$2, $1: the server saw a port of the range" 6000 6099 "${seen#* }"
	check "IPv$2, $1: the server got fragments" test "$(count_reassembled server "$2")" -gt "$at_server"
	check "IPv$2, $1: the client got fragments" test "$(count_reassembled lan "$2")" -gt "$at_client"
}

for family in 4 6; do
	check_datagram "8 kB" $family 7 --size 8000
	check_datagram "60 kB" $family 7 --size 60000
	check_datagram "8 kB, the request's last fragment first" $family 7 --size 8000 --reverse
	check_datagram "8 kB, the answer's last fragment first" $family 8 --size 8000
	check_datagram "8 kB, last fragment first both ways" $family 8 --size 8000 --reverse
	check "IPv$family: a ping of 8 kB is answered" \
		ns_exec lan ping -$family -q -c 1 -W 5 -s 8000 "${server_of[$family]}"
done

done_testing
