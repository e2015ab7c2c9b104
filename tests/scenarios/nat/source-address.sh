#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Which address of several a flow leaves with: the one that is expected, and the
# one that the kernel's own MASQUERADE takes at the same moment. Home's network,
# where only wan0's addresses and the routes change, and the server takes the
# whole world for its neighbours, so that any address of the router is answered:
#
#     lan                 router                     server
#     lan0 ------------ lan0  wan0 ---------------- eth0
#     172.18.0.2/16    172.18.0.1   ?              many
#     fd00:18::2/64    fd00:18::1   ?, fe80::1     many, fe80::2
. "$(dirname "$0")/../../lib/lib.sh"

setup_ns lan router server
setup_link lan lan0 172.18.0.2/16 router lan0 172.18.0.1/16
setup_link router wan0 - server eth0 -
ip -n lan addr add fd00:18::2/64 dev lan0 nodad
ip -n router addr add fd00:18::1/64 dev lan0 nodad
ip -n router addr add fe80::1/64 dev wan0 nodad
ip -n server addr add fe80::2/64 dev eth0 nodad
ip -n lan route add default via 172.18.0.1
ip -n lan route add default via fd00:18::1
ip -n server route add default dev eth0
ip -n server route add default via fe80::1 dev eth0
# But for the LAN's host.
ip -n server route add unreachable fd00:18::2
for address in 203.0.113.2 1.2.3.4 1.2.3.5 1.1.1.1 10.0.0.2 192.0.2.9; do
	ip -n server addr add $address/32 dev eth0
done
for address in 2001:db8:1::2 2001:db8:2::2 2001:db8:3::9 fd00:2::9; do
	ip -n server addr add $address/128 dev eth0 nodad
done
enable_forwarding router
# One server for each target, and one that no rule is for.
for port in 61 62 63; do
	ns_start server "$tools/packets.py" who :: $port > "$scratch/who-$port"
	wait_until grep -q ready "$scratch/who-$port" || bail "no server"
done
for command in "$IPTABLES" "$IP6TABLES"; do
	ns_exec router "$command" -w -t nat -A POSTROUTING -o wan0 -p tcp --dport 61 -j MASQUERADE ||
		bail "rule with MASQUERADE"
	ns_exec router "$command" -w -t nat -A POSTROUTING -o wan0 -p tcp --dport 62 -j RUSTMASQ ||
		bail "rule with RUSTMASQ"
done

# sources_seen ADDRESS PORT...: what the servers there see as the source: PORT ADDRESS, a
# line each.
sources_seen() {
	# shellcheck disable=SC2016 # The inner shell expands it.
	ns_exec lan timeout $((patience * slow)) bash -c 'for port; do
		exec 3<> "/dev/tcp/$0/$port" && read -r line <&3 && echo "$port $line"
	done' "$@" 2> /dev/null
}

sources_seen_briefly() {
	local patience=1
	sources_seen "$@"
}

# leaves_from ADDRESS DESTINATION WHAT: with our target, and with MASQUERADE where they are compared.
leaves_from() {
	if compared; then
		check_equal "$3, so does MASQUERADE" "61 $1"$'\n'"62 $1" "$(sources_seen "$2" 61 62)"
	else
		check_equal "$3" "62 $1" "$(sources_seen "$2" 62)"
	fi
}

# addresses [ADDRESS [WORD...]]... : the addresses of wan0, one an argument; the
# whole world is next door.
addresses() {
	local address
	ip -n router -4 addr flush dev wan0
	ip -n router -6 addr flush dev wan0 scope global
	for address; do
		# shellcheck disable=SC2086 # An address and its words.
		ip -n router addr add $address dev wan0 || bail "address $address"
	done
	ip -n router route replace default dev wan0
	ip -n router route replace default via fe80::2 dev wan0
}

# --- IPv4

addresses 203.0.113.1/24
check_equal "without a rule no answer" "" "$(sources_seen_briefly 203.0.113.2 63)"
leaves_from 203.0.113.1 203.0.113.2 "one address"
leaves_from 203.0.113.1 192.0.2.9 "one address, the destination elsewhere"

addresses 203.0.113.1/24 203.0.113.9/24
leaves_from 203.0.113.1 203.0.113.2 "the primary address, not the secondary"
ns_exec router sh -c 'echo 1 > /proc/sys/net/ipv4/conf/wan0/promote_secondaries'
ip -n router addr del 203.0.113.1/24 dev wan0
leaves_from 203.0.113.9 203.0.113.2 "a secondary address that was promoted"

addresses 198.51.100.1/24 203.0.113.1/24
leaves_from 203.0.113.1 203.0.113.2 "the address whose subnet holds the destination"
leaves_from 198.51.100.1 192.0.2.9 "the first address, where no subnet holds the destination"
ip -n router route add 192.0.2.9 via 203.0.113.2
leaves_from 203.0.113.1 192.0.2.9 "the address whose subnet holds the next hop"
ip -n router route replace 192.0.2.9 via 203.0.113.2 src 198.51.100.1
leaves_from 203.0.113.1 192.0.2.9 "... whatever source the route prefers"
ip -n router route del 192.0.2.9
ip -n router route add 203.0.113.2 via inet6 fe80::2 dev wan0
leaves_from 203.0.113.1 203.0.113.2 "the address whose subnet holds the destination, the next hop being IPv6"
ip -n router route del 203.0.113.2

# The classic experiment: the second address serves what its neighbour routes.
addresses 203.0.113.1/24 1.2.3.56/24
ip -n router route replace default via 203.0.113.2
ip -n router route add 1.1.1.1 via 1.2.3.4
leaves_from 1.2.3.56 1.1.1.1 "a route through the second address's subnet"
leaves_from 1.2.3.56 1.2.3.5 "that subnet itself"
leaves_from 203.0.113.1 192.0.2.9 "all else from the first address"
ip -n router route del 1.1.1.1

addresses '198.51.100.1/24 scope link' 203.0.113.1/24
leaves_from 203.0.113.1 192.0.2.9 "not an address of link scope"
addresses '198.51.100.1/24 scope host' 203.0.113.1/24
leaves_from 203.0.113.1 192.0.2.9 "not an address of host scope"
addresses '203.0.113.1/24 scope host'
leaves_from 172.18.0.1 203.0.113.2 "another device's address rather than one of host scope"

addresses 203.0.113.1/32
leaves_from 203.0.113.1 203.0.113.2 "an address without a subnet"
addresses 198.51.100.1/32 203.0.113.1/32
leaves_from 198.51.100.1 203.0.113.2 "the first of two without a subnet"
addresses '10.0.0.1 peer 10.0.0.2/32'
leaves_from 10.0.0.1 10.0.0.2 "a point-to-point address, to its peer"
leaves_from 10.0.0.1 192.0.2.9 "a point-to-point address, beyond its peer"
addresses 203.0.113.1/24 '10.0.0.1 peer 10.0.0.2/32'
leaves_from 10.0.0.1 10.0.0.2 "the point-to-point address of two, to its peer"
leaves_from 203.0.113.1 192.0.2.9 "the other address of these two, elsewhere"

# A device without an address borrows one.
addresses
leaves_from 172.18.0.1 203.0.113.2 "unnumbered: another device's address"
ip -n router addr add 198.51.100.7/32 dev lo
leaves_from 198.51.100.7 203.0.113.2 "unnumbered: lo's address before others"

# --- IPv6: RFC 6724, section 5

ip -n router addr flush dev lo scope global
addresses '2001:db8:1::1/64 nodad' '2001:db8:2::1/64 nodad'
check_equal "IPv6: without a rule no answer" "" "$(sources_seen_briefly 2001:db8:1::2 63)"
leaves_from 2001:db8:1::1 2001:db8:1::2 "IPv6: the longest matching prefix"
leaves_from 2001:db8:2::1 2001:db8:2::2 "IPv6: the longest matching prefix is the other"
leaves_from 2001:db8:2::1 2001:db8:3::9 "IPv6: the longer of two partial matches"
ip -n router addr change 2001:db8:2::1/64 dev wan0 preferred_lft 0 valid_lft forever
leaves_from 2001:db8:1::1 2001:db8:2::2 "IPv6: not a deprecated address, though it matches better"
addresses '2001:db8:2::1/64 nodad preferred_lft 0'
leaves_from fd00:18::1 2001:db8:1::2 "IPv6: another device's address rather than a deprecated one"
ip -n router addr change fd00:18::1/64 dev lan0 preferred_lft 0 valid_lft forever
leaves_from 2001:db8:2::1 2001:db8:1::2 "IPv6: the device's own deprecated address, where all are deprecated"
ip -n router addr change fd00:18::1/64 dev lan0 preferred_lft forever valid_lft forever
addresses '2001:db8:1::1/64 nodad' 'fd00:2::1/64 nodad'
leaves_from fd00:2::1 fd00:2::9 "IPv6: a unique local address to its like"
leaves_from 2001:db8:1::1 2001:db8:3::9 "IPv6: a global address to its like"
addresses '2001:db8:1::1/128 nodad'
leaves_from 2001:db8:1::1 2001:db8:2::2 "IPv6: an address without a subnet"
addresses
leaves_from fd00:18::1 2001:db8:1::2 "IPv6: another device's address rather than a link-local one"

# --- VRF: only its members lend, and the VRF's own device first. lo is no member.

addresses
ip -n router addr add 198.51.100.7/32 dev lo
ip -n router link add red type vrf table 10 || bail "VRF"
ip -n router link set red up
for device in lan0 wan0; do ip -n router link set $device master red; done
ip -n router route replace default dev wan0 table 10
leaves_from 172.18.0.1 203.0.113.2 "VRF: the address of another member, not of a stranger"
ip -n router addr add 198.51.100.8/32 dev red
leaves_from 198.51.100.8 203.0.113.2 "VRF: the VRF device's own address first"
ip -n router addr add 203.0.113.1/24 dev wan0
leaves_from 203.0.113.1 203.0.113.2 "VRF: the device's own address before all"
ip -n router link del red
ip -n router addr flush dev lo scope global

# No address is no reason to leave with the LAN's.
addresses
ip -n router addr flush dev lan0 scope global
ip -n router addr add 172.18.0.1/16 dev lan0 scope link
check_equal "no usable address: the flow is dropped" "" "$(sources_seen_briefly 203.0.113.2 62)"
check_equal "no usable address: MASQUERADE drops it too" "" "$(sources_seen_briefly 203.0.113.2 61)"

# Nothing of MASQUERADE's stays behind: its notifiers forget flows of ours too.
flush_rules
ns_exec router "$IP6TABLES" -w -t nat -F
modprobe -r xt_MASQUERADE nft_masq 2> /dev/null
check "xt_MASQUERADE is unloaded" no_other_masquerade

done_testing
