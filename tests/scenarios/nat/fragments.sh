#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Datagrams and pings that do not fit into one packet: only the first fragment
# shows the ports, yet all of them have to leave with the router's address and
# find their way back, in whatever order they come. Home's network, with IPv6
# beside:
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

# serve_udp_echo FAMILY PORT [OPTION...]
serve_udp_echo() {
	local log=$scratch/echo-$1-$2
	ns_start server "$packets" echo "${server_of[$1]}" "${@:2}" > "$log"
	wait_until grep -q ready "$log" || bail "no echo server on port $2"
}

# big FAMILY PORT [OPTION...]: the address and port that the server saw of a
# datagram that came back unharmed.
big() {
	ns_exec lan "$packets" send "${server_of[$1]}" "${@:2}"
}

# reassembled HOST FAMILY: how many packets it has put together of fragments.
reassembled() {
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

# Without the feature nothing comes back. All at once, for each takes its time.
waiting=()
for family in 4 6; do
	big $family 7 --size 8000 --patience 1 > "$scratch/vain-udp-$family" &
	waiting+=($!)
	ns_exec lan ping -$family -q -c 1 -W 1 -s 8000 "${server_of[$family]}" > "$scratch/vain-ping-$family" &
	waiting+=($!)
done
wait "${waiting[@]}"
for family in 4 6; do
	check_equal "IPv$family: without a rule no answer" "" "$(< "$scratch/vain-udp-$family")"
	check_match "IPv$family: without a rule ping gets no answer" \
		" 0 received" "$(< "$scratch/vain-ping-$family")"
done
ns_exec router conntrack -F 2> /dev/null

# The ports are chosen for the one fragment that shows them, and stand for all.
add_rule -p udp -j RUSTMASQ --to-ports 6000-6099 || bail "rule for UDP"
add_rule -j RUSTMASQ || bail "rule for the rest"
for protocol in '-p udp' ''; do
	# shellcheck disable=SC2086 # Words or none.
	add_rule6 $protocol -j RUSTMASQ \
		${protocol:+--to-ports 6000-6099} || bail "rule for IPv6"
done

# passes WHAT FAMILY PORT [OPTION...]
passes() {
	local seen there back
	there=$(reassembled server "$2") back=$(reassembled lan "$2")
	seen=$(big "${@:2}")
	check_equal "IPv$2, $1: the server saw the router's address" "${router_of[$2]}" "${seen% *}"
	check_port "IPv$2, $1: ... and a port of the range" 6000 6099 "${seen#* }"
	check "IPv$2, $1: the server got fragments" test "$(reassembled server "$2")" -gt "$there"
	check "IPv$2, $1: the client got fragments" test "$(reassembled lan "$2")" -gt "$back"
}

for family in 4 6; do
	passes "8 kB" $family 7 --size 8000
	passes "60 kB" $family 7 --size 60000
	passes "the question's last fragment first" $family 7 --size 8000 --reverse
	passes "the answer's last fragment first" $family 8 --size 8000
	passes "both reversed" $family 8 --size 8000 --reverse
	check "IPv$family: a ping of 8 kB is answered" \
		ns_exec lan ping -$family -q -c 1 -W 5 -s 8000 "${server_of[$family]}"
done

done_testing
