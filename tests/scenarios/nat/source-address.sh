#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Kernels: plain
#
# RUSTMASQ chooses the expected one of several addresses, and the same one as MASQUERADE. Without a rule, or without a
# usable address, no answer comes back. The network is like setup_lan's. Only the addresses of wan0 and the routes
# change. The server's default route is on-link, so that it answers any address of the router:
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
# The server must not reach the LAN's host.
ip -n server route add unreachable fd00:18::2
for address in 203.0.113.2 1.2.3.4 1.2.3.5 1.1.1.1 10.0.0.2 192.0.2.9; do
	ip -n server addr add $address/32 dev eth0
done
for address in 2001:db8:1::2 2001:db8:2::2 2001:db8:3::9 fd00:2::9; do
	ip -n server addr add $address/128 dev eth0 nodad
done
enable_forwarding router
# One server for each target, and one that no rule matches.
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

# sources_seen ADDRESS PORT...: connects to the servers. Prints a line "PORT ADDRESS" for each, with the source that it
# saw.
sources_seen() {
	# shellcheck disable=SC2016 # The inner shell expands it.
	ns_exec lan timeout $((patience * slow)) bash -c 'for port; do
		exec 3<> "/dev/tcp/$0/$port" && read -r line <&3 && echo "$port $line"
	done' "$@" 2> /dev/null
}

# sources_seen_briefly ...: does the same with little patience, where no answer is expected.
sources_seen_briefly() {
	local patience=1
	sources_seen "$@"
}

# check_source ADDRESS DESTINATION WHAT: checks that RUSTMASQ chooses the address for the destination, and that
# MASQUERADE does, where they are compared.
check_source() {
	if compared; then
		check_equal "$3 (RUSTMASQ and MASQUERADE)" "61 $1"$'\n'"62 $1" "$(sources_seen "$2" 61 62)"
	else
		check_equal "$3" "62 $1" "$(sources_seen "$2" 62)"
	fi
}

# set_addresses ["ADDRESS WORD..."]...: replaces the addresses of wan0. Each argument is an address with the words that
# follow it in `ip addr add`. Adds on-link default routes.
set_addresses() {
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

set_addresses 203.0.113.1/24
check_equal "without a rule no answer" "" "$(sources_seen_briefly 203.0.113.2 63)"
check_source 203.0.113.1 203.0.113.2 "one address"
check_source 203.0.113.1 192.0.2.9 "one address, a destination outside its subnet"

set_addresses 203.0.113.1/24 203.0.113.9/24
check_source 203.0.113.1 203.0.113.2 "the primary address, not the secondary one"
ns_exec router sh -c 'echo 1 > /proc/sys/net/ipv4/conf/wan0/promote_secondaries'
ip -n router addr del 203.0.113.1/24 dev wan0
check_source 203.0.113.9 203.0.113.2 "a secondary address that was promoted"

set_addresses 198.51.100.1/24 203.0.113.1/24
check_source 203.0.113.1 203.0.113.2 "the address whose subnet holds the destination"
check_source 198.51.100.1 192.0.2.9 "the first address, where no subnet holds the destination"
ip -n router route add 192.0.2.9 via 203.0.113.2
check_source 203.0.113.1 192.0.2.9 "the address whose subnet holds the next hop"
ip -n router route replace 192.0.2.9 via 203.0.113.2 src 198.51.100.1
check_source 203.0.113.1 192.0.2.9 "the address whose subnet holds the next hop, though the route prefers another source"
ip -n router route del 192.0.2.9
ip -n router route add 203.0.113.2 via inet6 fe80::2 dev wan0
check_source 203.0.113.1 203.0.113.2 "the address whose subnet holds the destination, with an IPv6 next hop"
ip -n router route del 203.0.113.2

# A flow leaves with the second address if the next hop or the destination is in that address's subnet.
set_addresses 203.0.113.1/24 1.2.3.56/24
ip -n router route replace default via 203.0.113.2
ip -n router route add 1.1.1.1 via 1.2.3.4
check_source 1.2.3.56 1.1.1.1 "a route through the second address's subnet"
check_source 1.2.3.56 1.2.3.5 "a destination in the second address's subnet"
check_source 203.0.113.1 192.0.2.9 "the first address for other destinations"
ip -n router route del 1.1.1.1

set_addresses '198.51.100.1/24 scope link' 203.0.113.1/24
check_source 203.0.113.1 192.0.2.9 "not an address of link scope"
set_addresses '198.51.100.1/24 scope host' 203.0.113.1/24
check_source 203.0.113.1 192.0.2.9 "not an address of host scope"
set_addresses '203.0.113.1/24 scope host'
check_source 172.18.0.1 203.0.113.2 "another device's address rather than one of host scope"

set_addresses 203.0.113.1/32
check_source 203.0.113.1 203.0.113.2 "an address without a subnet"
set_addresses 198.51.100.1/32 203.0.113.1/32
check_source 198.51.100.1 203.0.113.2 "the first of two without a subnet"
set_addresses '10.0.0.1 peer 10.0.0.2/32'
check_source 10.0.0.1 10.0.0.2 "a point-to-point address, to its peer"
check_source 10.0.0.1 192.0.2.9 "a point-to-point address, beyond its peer"
set_addresses 203.0.113.1/24 '10.0.0.1 peer 10.0.0.2/32'
check_source 10.0.0.1 10.0.0.2 "the point-to-point address, not the other one, to its peer"
check_source 203.0.113.1 192.0.2.9 "the other address, not the point-to-point one, to other destinations"

# A device without an address borrows one.
set_addresses
check_source 172.18.0.1 203.0.113.2 "unnumbered: another device's address"
ip -n router addr add 198.51.100.7/32 dev lo
check_source 198.51.100.7 203.0.113.2 "unnumbered: lo's address before others"

# --- IPv6: RFC 6724, section 5

ip -n router addr flush dev lo scope global
set_addresses '2001:db8:1::1/64 nodad' '2001:db8:2::1/64 nodad'
check_equal "IPv6: without a rule no answer" "" "$(sources_seen_briefly 2001:db8:1::2 63)"
check_source 2001:db8:1::1 2001:db8:1::2 "IPv6: the longest matching prefix"
check_source 2001:db8:2::1 2001:db8:2::2 "IPv6: the longest matching prefix is the other"
check_source 2001:db8:2::1 2001:db8:3::9 "IPv6: the longer of two partial matches"
ip -n router addr change 2001:db8:2::1/64 dev wan0 preferred_lft 0 valid_lft forever
check_source 2001:db8:1::1 2001:db8:2::2 "IPv6: not a deprecated address, though it matches better"
set_addresses '2001:db8:2::1/64 nodad preferred_lft 0'
check_source fd00:18::1 2001:db8:1::2 "IPv6: another device's address rather than a deprecated one"
ip -n router addr change fd00:18::1/64 dev lan0 preferred_lft 0 valid_lft forever
check_source 2001:db8:2::1 2001:db8:1::2 "IPv6: the device's own deprecated address, where all are deprecated"
ip -n router addr change fd00:18::1/64 dev lan0 preferred_lft forever valid_lft forever
set_addresses '2001:db8:1::1/64 nodad' 'fd00:2::1/64 nodad'
check_source fd00:2::1 fd00:2::9 "IPv6: a unique local address to a unique local one"
check_source 2001:db8:1::1 2001:db8:3::9 "IPv6: a global address to a global one"
set_addresses '2001:db8:1::1/128 nodad'
check_source 2001:db8:1::1 2001:db8:2::2 "IPv6: an address without a subnet"
set_addresses
check_source fd00:18::1 2001:db8:1::2 "IPv6: another device's address rather than a link-local one"

# --- VRF: a device without an address borrows one from the VRF device first, then from another member. lo is no member.

set_addresses
ip -n router addr add 198.51.100.7/32 dev lo
ip -n router link add red type vrf table 10 || bail "VRF"
ip -n router link set red up
for device in lan0 wan0; do ip -n router link set $device master red; done
ip -n router route replace default dev wan0 table 10
check_source 172.18.0.1 203.0.113.2 "VRF: the address of another member, not of lo"
ip -n router addr add 198.51.100.8/32 dev red
check_source 198.51.100.8 203.0.113.2 "VRF: the VRF device's address before another member's"
ip -n router addr add 203.0.113.1/24 dev wan0
check_source 203.0.113.1 203.0.113.2 "VRF: the device's own address before all others"
ip -n router link del red
ip -n router addr flush dev lo scope global

# Without a usable address, a flow must not leave with its LAN address.
set_addresses
ip -n router addr flush dev lan0 scope global
ip -n router addr add 172.18.0.1/16 dev lan0 scope link
check_equal "no usable address: the flow is dropped" "" "$(sources_seen_briefly 203.0.113.2 62)"
check_equal "no usable address: MASQUERADE drops it too" "" "$(sources_seen_briefly 203.0.113.2 61)"

# The modules with MASQUERADE must not stay loaded: their notifiers remove RUSTMASQ's flows, too.
flush_rules
ns_exec router "$IP6TABLES" -w -t nat -F
check "xt_MASQUERADE is unloaded" remove_other_masquerade

done_testing
