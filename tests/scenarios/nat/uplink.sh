#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# When the default route moves to a second uplink, masqueraded flows end, and new flows get the new uplink's address: a
# flow cannot change its address, and the new uplink's provider would drop packets with the old one. MASQUERADE does the
# same. With SNAT, the flow goes on with the old address through the new uplink.
#
#                                 wan0 ------------ eth0
#     lan                 router  203.0.113.1/24    203.0.113.2     server
#     lan0 ------------ lan0      2001:db8:1::1/64  2001:db8:1::2   lo
#     172.18.0.2       172.18.0.1                                   192.0.2.80/32
#     fd00:18::2       fd00:18::1 wan1 ------------ eth1            2001:db8:80::1/128
#                                 198.51.100.1/24   198.51.100.2
#                                 2001:db8:2::1/64  2001:db8:2::2
. "$(dirname "$0")/../../lib/lib.sh"

setup_ns lan router server
# Sockets of connections that were cut keep their namespace, and with it its nftables rules, for minutes.
trap 'ns_exec server nft flush ruleset; cleanup' EXIT
setup_link lan lan0 172.18.0.2/16 router lan0 172.18.0.1/16
setup_link router wan0 203.0.113.1/24 server eth0 203.0.113.2/24
setup_link router wan1 198.51.100.1/24 server eth1 198.51.100.2/24
ip -n lan addr add fd00:18::2/64 dev lan0 nodad
ip -n router addr add fd00:18::1/64 dev lan0 nodad
for n in 0 1; do
	ip -n router addr add 2001:db8:$((n + 1))::1/64 dev wan$n nodad
	ip -n server addr add 2001:db8:$((n + 1))::2/64 dev eth$n nodad
done
ip -n server addr add 192.0.2.80/32 dev lo
ip -n server addr add 2001:db8:80::1/128 dev lo nodad
ip -n lan route add default via 172.18.0.1
ip -n lan route add default via fd00:18::1
enable_forwarding router

declare -A service=([4]=192.0.2.80 [6]='[2001:db8:80::1]')
declare -A old=([4]=203.0.113.1 [6]='[2001:0db8:0001:0000:0000:0000:0000:0001]')
declare -A new=([4]=198.51.100.1 [6]='[2001:0db8:0002:0000:0000:0000:0000:0001]')
declare -A old_short=([4]=203.0.113.1 [6]=2001:db8:1::1)

# The server counts the packets that arrive through the new uplink, by their source.
ns_exec server nft -f - << 'COUNTERS' || bail "counters"
table inet seen {
	counter old4 {}
	counter old6 {}
	counter new4 {}
	counter new6 {}
	chain first {
		type filter hook prerouting priority raw;
		iifname != "eth1" return
		ip saddr 203.0.113.1 counter name old4
		ip6 saddr 2001:db8:1::1 counter name old6
		ip saddr 198.51.100.1 counter name new4
		ip6 saddr 2001:db8:2::1 counter name new6
	}
}
COUNTERS

# count_at_new_uplink NAME: prints how many packets this counter has counted.
count_at_new_uplink() {
	ns_exec server nft list counter inet seen "$1" | grep -o 'packets [0-9]*' | cut -d ' ' -f 2
}

# use_uplink NUMBER: moves the router's default routes to this uplink.
use_uplink() {
	ip -n router route replace default via "${next_hop[$1]}" || bail "default route"
	ip -n router route replace default via 2001:db8:$(($1 + 1))::2 || bail "default route, IPv6"
}
next_hop=(203.0.113.2 198.51.100.2)

# The servers answer from the service's address through either uplink.
for family in 4 6; do
	suffix=${family#4}
	address=${service[$family]#[}
	serve server "UDP$suffix" 5$family "${address%]}"
	# This one echoes until the connection ends.
	ns_start server socat "TCP$suffix-LISTEN:7$family,fork,reuseaddr" EXEC:cat 2> "$scratch/tcp$family"
	wait_until listening server TCP 7$family || bail "no TCP server"
	serve server "TCP$suffix" 8$family
done

port=40000

# probe_udp FAMILY: sends a datagram from lan, of the flow with source port $port. Prints the source that the server
# saw.
probe_udp() {
	probe lan "UDP${1#4}" "${service[$1]}" 5"$1" "sourceport=$port"
}

# open_tcp FAMILY: opens a TCP connection that stays open, for send_line and receive_line.
open_tcp() {
	coproc tcp {
		ns_enter lan socat -t 1 - "TCP${1#4}:${service[$1]}:7$1,sourceport=$port,reuseaddr" 2>&1
	}
	# shellcheck disable=SC2154 # coproc sets it.
	tcp_client=$tcp_PID
}
send_line() { printf '%s\n' "$1" >&"${tcp[1]}"; }
receive_line() {
	local line=''
	IFS= read -r -t $((patience * slow)) -u "${tcp[0]}" line
	printf '%s' "$line"
}

# flow_tuples FAMILY PROTOCOL: prints the router's conntrack entry of the flow with source port $port.
flow_tuples() {
	tracked -f "ipv$1" -p "$2" --orig-port-src $port
}

# RUSTMASQ comes first, without MASQUERADE's modules: their notifiers would end flows, too.
check "xt_MASQUERADE is not loaded" remove_other_masquerade
for target in RUSTMASQ $(compared && echo MASQUERADE); do
	for device in wan0 wan1; do
		add_rule -o $device -j "$target" || bail "rule with $target"
		ns_exec router "$IP6TABLES" -w -t nat -A POSTROUTING -o $device -j "$target" || bail "rule with $target, IPv6"
	done
	for family in 4 6; do
		what="$target, IPv$family"
		use_uplink 0
		port=$((port + 10))
		ns_exec server nft reset counters > /dev/null
		check_equal "$what, UDP: the flow leaves with the old uplink's address" \
			"${old[$family]}:$port" "$(probe_udp $family)"
		open_tcp $family
		send_line one
		check_equal "$what, TCP: the connection works" one "$(receive_line)"
		check_match "$what, TCP: the connection leaves with the old uplink's address" \
			" dst=${old_short[$family]} " "$(flow_tuples $family tcp)"

		use_uplink 1
		patience=1
		check_equal "$what, UDP: once the route has moved, the flow's next packet is dropped" \
			"" "$(probe_udp $family)"
		patience=5
		check_equal "$what, UDP: the flow is removed, too" "" "$(flow_tuples $family udp)"
		check_equal "$what, UDP: the next flow leaves with the new uplink's address" \
			"${new[$family]}:$port" "$(probe_udp $family)"
		send_line two
		check_match "$what, TCP: the connection is reset" "reset by peer" "$(receive_line)"
		# If the connection was not reset, it still exists.
		kill "$tcp_client" 2> /dev/null
		wait "$tcp_client"
		seen=$(probe lan "TCP${family#4}" "${service[$family]}" 8$family)
		check_equal "$what, TCP: a new connection leaves with the new uplink's address" \
			"${new[$family]}" "${seen%:*}"
		check_equal "$what: no packet left through the new uplink with the old one's address" \
			0 "$(count_at_new_uplink old$family)"
		check "$what: packets left through the new uplink with its own address" \
			test "$(count_at_new_uplink new$family)" -gt 0
	done
	flush_rules
	ns_exec router "$IP6TABLES" -w -t nat -F
done

# SNAT does not end flows when the device changes. This also shows that the counter counts.
use_uplink 0
add_rule -j SNAT --to-source 203.0.113.1 || bail "rule with SNAT"
port=40100
check_equal "SNAT: the flow leaves with the old uplink's address" "203.0.113.1:40100" "$(probe_udp 4)"
use_uplink 1
check_equal "SNAT: the flow goes on with the old address through the new uplink" "203.0.113.1:40100" "$(probe_udp 4)"
check "SNAT: the new uplink's counter counts packets with the old address" test "$(count_at_new_uplink old4)" -gt 0
flush_rules
check "xt_MASQUERADE is unloaded" remove_other_masquerade

done_testing
