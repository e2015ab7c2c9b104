#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Front ends: nft
#
# With --route-source a flow leaves with the address that its route names, if the router has that. Without the option,
# as with MASQUERADE, it leaves with one of the outgoing device's. Rules of policy routing, next-hop objects and VRFs
# count. When the address goes, so do its flows and mappings.
#
#     lan                 router                       server
#     lan0 ------------ lan0  wan0 ------------------ eth0
#     172.18.0.2/16   172.18.0.1   203.0.113.1      203.0.113.2/24    192.0.2.0/24 (all addresses)
#     fd00:18::2/64   fd00:18::1   2001:db8:1::1    2001:db8:1::2/64  2001:db8:80::/64
#                             hold0 198.51.100.N, 2001:db8:7::N: what routes name
. "$(dirname "$0")/../../lib/lib.sh"

setup_lan
setup_lan_ipv6
setup_device router hold0 - 'link add hold0 type dummy'
for n in {7..20}; do
	printf 'addr add 198.51.100.%s/32 dev hold0\naddr add 2001:db8:7::%s/128 dev hold0 nodad\n' "$n" "$n"
done | ip -n router -batch - || bail "addresses"
ip -n server -batch - <<-'END' || bail "the server's networks"
	route add local 192.0.2.0/24 dev lo
	route add local 2001:db8:80::/64 dev lo
	route add 198.51.100.0/24 via 203.0.113.1
	route add 2001:db8:7::/64 via 2001:db8:1::1
END
declare -A own=([4]=203.0.113.1 [6]=2001:db8:1::1) hop=([4]=203.0.113.2 [6]=2001:db8:1::2)
declare -A named=([4]=198.51.100. [6]=2001:db8:7::) target=([4]=192.0.2. [6]=2001:db8:80::)
for v in 4 6; do
	ip -n router route add default via "${hop[$v]}" src "${named[$v]}7" metric 10 || bail "a route"
	ip -n router route add default via "${hop[$v]}" metric 20 || bail "a route"
done

# One server for each rule: with MASQUERADE, with RUSTMASQ, and with the option.
for port in 61 62 63; do
	ns_start server "$tools/packets.py" who :: $port > "$scratch/who-$port"
	wait_until grep -q ready "$scratch/who-$port" || bail "no server"
done

# add_both_rules ARGUMENT...: adds a rule for each family.
add_both_rules() {
	add_rule ! -o lan0 "$@" || bail "a rule with $*"
	add_rule6 ! -o lan0 "$@" || bail "a rule with $*, IPv6"
}
# add_named_rules: adds the rules of the servers.
add_named_rules() {
	! compared || add_both_rules -p tcp --dport 61 -j MASQUERADE
	add_both_rules -p tcp --dport 62 -j RUSTMASQ
	add_both_rules -p tcp --dport 63 -j RUSTMASQ --route-source
}

# tcp_sources HOST ADDRESS PORT...: the host connects to the servers. Prints the sources that they saw, in one line.
tcp_sources() {
	# shellcheck disable=SC2016 # The inner shell expands it.
	ns_exec "$1" timeout $((patience * slow)) bash -c 'for port; do
		exec 3<> "/dev/tcp/$0/$port" && read -r line <&3 && echo "$line"
	done' "${@:2}" 2> /dev/null | xargs
}

# check_named WHAT FAMILY TARGET ADDRESS [HOST]: checks that a flow to this target leaves with the address by the
# option, and with the device's own without it.
check_named() {
	local host=${5:-lan} device=${own[$2]}
	if compared; then
		check_equal "$1 (without, MASQUERADE, with)" "$device $device $4" "$(tcp_sources "$host" "$3" 62 61 63)"
	else
		check_equal "$1 (without, with)" "$device $4" "$(tcp_sources "$host" "$3" 62 63)"
	fi
}

# send_named COUNT ADDRESS...: sends a datagram from each of COUNT ports of the LAN's host to each address.
send_named() { ns_exec lan "$tools/flows.py" "$@"; }
# left_with FAMILY DESTINATION [ARGUMENT...]: prints the addresses that the router's flows to it leave with, and how
# many.
left_with() {
	tracked -f "ipv$1" --orig-dst "$2" "${@:3}" | sed -nE "s/.*src=$2 dst=([^ ]+) .*/\1/p" | sort | uniq -c |
		awk '{ print $2, $1 }'
}
none_left_with() { [[ -z $(tracked -f "ipv$1" --reply-dst "$2") ]]; }
forget_flows() { ns_exec router sh -c 'conntrack -F -f ipv4; conntrack -F -f ipv6' 2> /dev/null; }
forget_rules() {
	flush_rules
	forget_flows
}

add_named_rules
ns_exec router sh -c 'echo 600 > /proc/sys/net/netfilter/nf_conntrack_udp_timeout'
ns_exec lan sh -c 'echo 0 0 > /proc/sys/net/ipv4/ping_group_range'

for v in 4 6; do
	to=${target[$v]} by=${named[$v]} ip="ip -n router -$v"

	# --- Which address
	check_named "IPv$v: the default route names an address" $v "${to}80" "${by}7"
	check_named "IPv$v: ... for the router's own flows, too" $v "${to}80" "${by}7" router
	$ip route add "${to}81" via "${hop[$v]}"
	check_named "IPv$v: a more specific route names none" $v "${to}81" "${own[$v]}"
	$ip route add "${to}82" via "${hop[$v]}" src "${by}8"
	check_named "IPv$v: a more specific route names another one" $v "${to}82" "${by}8"
	check_named "IPv$v: a destination on the link" $v "${hop[$v]}" "${own[$v]}"
	$ip nexthop add id 1$v via "${hop[$v]}" dev wan0
	$ip route add "${to}83" nhid 1$v src "${by}9"
	check_named "IPv$v: a route by a next-hop object" $v "${to}83" "${by}9"

	# --- Policy routing: each table names another address.
	for n in {10..14}; do $ip route add default via "${hop[$v]}" src "${by}$n" table "1$n" || bail "table 1$n"; done
	$ip rule add to "${to}110" from "$([[ $v == 4 ]] && echo 172.18.0.0/16 || echo fd00:18::/64)" table 110
	check_named "IPv$v: a rule by the source" $v "${to}110" "${by}10"
	$ip rule add to "${to}111" iif lan0 table 111
	check_named "IPv$v: a rule by the input device" $v "${to}111" "${by}11"
	check_named "IPv$v: ... does not hold for the router's own flows" $v "${to}111" "${by}7" router
	$ip rule add to "${to}112" fwmark 12 table 112
	program=$IPTABLES
	((v == 4)) || program=$IP6TABLES
	ns_exec router "$program" -w -t mangle -A PREROUTING -d "${to}112" -j MARK --set-mark 12 || bail "MARK"
	check_named "IPv$v: a rule by the mark" $v "${to}112" "${by}12"
	$ip rule add to "${to}113" ipproto tcp dport 63 table 113
	check_named "IPv$v: a rule by the port" $v "${to}113" "${by}13"
	$ip rule add to "${to}114" uidrange 1000-1000 table 114
	check_named "IPv$v: a rule by the user does not hold for the LAN's flows" $v "${to}114" "${by}7"
	# shellcheck disable=SC2016 # The inner shell expands it.
	as_user=(setpriv --reuid 1000 --clear-groups timeout $((patience * slow)) bash -c
		'exec 3<> "/dev/tcp/$0/63" && read -r line <&3 && echo "$line"' "${to}114")
	check_equal "IPv$v: ... and does for the user's" "${by}14" "$(ns_exec router "${as_user[@]}")"

	# The route is looked up again for IPv4, and then with another mark. IPv6's routes know their addresses.
	$ip rule add to "${to}115" fwmark 15 table 115
	$ip route add default dev hold0 src "${by}15" table 115
	ns_exec router "$program" -w -t mangle -A FORWARD -d "${to}115" -j MARK --set-mark 15 || bail "MARK"
	check_named "IPv$v: the mark is changed after the packet was routed" $v "${to}115" \
		"$([[ $v == 4 ]] && echo "${own[4]}" || echo "${by}7")"
	ns_exec router "$program" -w -t mangle -F

	# --- An address that the router does not have: for IPv4 one that was local by a route alone, for IPv6 one that
	# a next-hop object's route names, which keeps it.
	if ((v == 4)); then
		ip -n router route add local 198.51.100.64/26 dev lo
		ip -n router route add "${to}84" via "${hop[4]}" src 198.51.100.65
		check_named "IPv4: an address that is local by a route" 4 "${to}84" 198.51.100.65
		ip -n router route del local 198.51.100.64/26 dev lo
		check_match "IPv4: the route still names it" 'src 198.51.100.65' "$(ip -n router route show "${to}84")"
	else
		ip -n router route add "${to}84" nhid 16 src "${by}16"
		check_named "IPv6: an address that a next-hop object's route names" 6 "${to}84" "${by}16"
		ip -n router addr del "${by}16"/128 dev hold0
		check_match "IPv6: the route still names it" "src ${by}16" "$(ip -n router -6 route show "${to}84")"
	fi
	check_named "IPv$v: the router does not have the named address any more" $v "${to}84" "${own[$v]}"
done

# --- Saved rules

for program in "$IPTABLES" "$IP6TABLES"; do
	rules=$(ns_exec router "$program-save" -t nat)
	check_equal "$program-save: one rule has the option" 1 \
		"$(grep -c -- '--dport 63 -j RUSTMASQ --route-source$' <<< "$rules")"
	ns_exec router "$program" -w -t nat -F
	check "$program-restore: the rules are restored" ns_exec router "$program-restore" -w <<< "$rules"
	check_equal "$program-restore: they are the same" "$(grep -v '^[#:]' <<< "$rules")" \
		"$(ns_exec router "$program-save" -t nat | grep -v '^[#:]')"
done
for v in 4 6; do
	check_named "IPv$v: after restoring" $v "${target[$v]}80" "${named[$v]}7"
done

# --- VRF

ip -n router link add red type vrf table 10 || bail "VRF"
ip -n router link set red up
for device in lan0 wan0; do ip -n router link set $device master red; done
ip -n router -batch - <<-END || bail "addresses of IPv6, which the devices have lost"
	addr replace fd00:18::1/64 dev lan0 nodad
	addr replace 2001:db8:1::1/64 dev wan0 nodad
	addr add 198.51.100.200/32 dev red
	addr add 2001:db8:7::200/128 dev red nodad
END
# bound_to_vrf FAMILY PORT: a socket of the router that is bound to the VRF sends. Prints the source that it leaves with.
bound_to_vrf() {
	forget_flows
	if (($1 == 4)); then
		set -- 4 "$2" TCP:"${target[4]}80"
	else
		set -- 6 "$2" "TCP6:[${target[6]}80]"
	fi
	ns_exec router socat -t 1 - "$3:$2,so-bindtodevice=red" < /dev/null > /dev/null 2>&1
	left_with "$1" "${target[$1]}80" -p tcp --orig-port-dst "$2"
}
for v in 4 6; do
	ip -n router route add default via "${hop[$v]}" dev wan0 src "${named[$v]}200" table 10 ||
		bail "the VRF's route"
	check_named "VRF, IPv$v: the VRF's route names an address" $v "${target[$v]}80" "${named[$v]}200"
	check_equal "VRF, IPv$v: the router's own flow, without the option" "${own[$v]} 1" "$(bound_to_vrf $v 62)"
	check_equal "VRF, IPv$v: the router's own flow, with it" "${named[$v]}200 1" "$(bound_to_vrf $v 63)"
done
ip -n router link del red
ip -n router -batch - <<-END || bail "addresses and routes without the VRF"
	addr replace fd00:18::1/64 dev lan0 nodad
	addr replace 2001:db8:1::1/64 dev wan0 nodad
	route replace default via 203.0.113.2 src 198.51.100.7 metric 10
	route replace default via 203.0.113.2 metric 20
	route replace default via 2001:db8:1::2 src 2001:db8:7::7 metric 10
	route replace default via 2001:db8:1::2 metric 20
	route replace 192.0.2.81 via 203.0.113.2
	route replace 2001:db8:80::81 via 2001:db8:1::2
END

# --- Other protocols and options. MASQUERADE's modules, whose notifiers remove flows, too, are not loaded from here on.

forget_rules
check "no other masquerading module is loaded" remove_other_masquerade
add_both_rules -p udp --dport 1001 -j RUSTMASQ --route-source --to-ports 5000-5099 --random
add_both_rules -j RUSTMASQ --route-source
for v in 4 6; do
	for protocol in udp icmp; do
		send_named --protocol $protocol 3 "${target[$v]}80"
		check_equal "IPv$v: $protocol" "${named[$v]}7 3" "$(left_with $v "${target[$v]}80")"
		forget_flows
	done
	send_named --to-port 1001 20 "${target[$v]}80"
	check_equal "IPv$v: with random ports of a range, the address" "${named[$v]}7 20" \
		"$(left_with $v "${target[$v]}80")"
	check_equal "IPv$v: ... and the ports" 20 \
		"$(tracked -f ipv$v --orig-dst "${target[$v]}80" | grep -cE 'sport=1001 dport=50[0-9][0-9] ')"
	forget_flows
done

# --- The address goes

for v in 4 6; do
	send_named 5 "${target[$v]}80" "${target[$v]}81"
	check_equal "IPv$v: 5 flows leave with the named address" "${named[$v]}7 5" "$(left_with $v "${target[$v]}80")"
	ip -n router addr del "${named[$v]}7/$((v == 4 ? 32 : 128))" dev hold0
	check "IPv$v: the address goes: its flows are removed" wait_until none_left_with $v "${named[$v]}7"
	check_equal "IPv$v: ... others stay" "${own[$v]} 5" "$(left_with $v "${target[$v]}81")"
	send_named 5 "${target[$v]}80"
	check_equal "IPv$v: ... and the next ones leave with the device's own" "${own[$v]} 5" \
		"$(left_with $v "${target[$v]}80")"
	ip -n router addr add "${named[$v]}7/$((v == 4 ? 32 : 128))" dev hold0
	ip -n router -$v route replace default via "${hop[$v]}" src "${named[$v]}7" metric 10
done

# --- Mappings: one for each outside address

stop_servers
forget_rules
add_both_rules -j RUSTMASQ --route-source --full-cone
mapped_at() { ns_exec router grep -c " outside=$1 outside_port=$2 " /proc/net/rustmasq_mappings; }
not_mapped_at() { [[ $(mapped_at "$@") == 0 ]]; }
for v in 4 6; do
	send_named --first-port 4000 1 "${target[$v]}80" "${target[$v]}81"
	check_equal "IPv$v: a mapping with the named address" 1 "$(mapped_at "${named[$v]}7" 4000)"
	check_equal "IPv$v: ... and one with the device's own, for other destinations" 1 "$(mapped_at "${own[$v]}" 4000)"
done
serve lan UDP 4000 172.18.0.2
check_match "IPv4: a stranger reaches the inside host by the named address" ':[0-9]+$' \
	"$(probe server UDP "${named[4]}7" 4000)"
stop_servers
serve lan UDP6 4000 fd00:18::2
check_match "IPv6: a stranger reaches the inside host by the named address" ':[0-9]+$' \
	"$(probe server UDP6 "[${named[6]}7]" 4000)"
for v in 4 6; do
	ip -n router addr del "${named[$v]}7/$((v == 4 ? 32 : 128))" dev hold0
	check "IPv$v: the address goes: its mapping is removed" wait_until not_mapped_at "${named[$v]}7" 4000
	check_equal "IPv$v: ... the other one stays" 1 "$(mapped_at "${own[$v]}" 4000)"
done

# --- A device's first address does not replace an address that a route has named. It replaces a borrowed one.

forget_rules
setup_device router ppp0 - 'link add ppp0 type dummy'
ip -n router -batch - <<-END || bail "addresses and routes for ppp0"
	addr add 2001:db8:9:9::9/128 dev hold0 nodad
	route add 10.9.0.0/16 dev ppp0 src 198.51.100.18
	route add 2001:db8:9::/64 dev ppp0 src 2001:db8:7::18
END
add_both_rules -p udp --dport 62 -j RUSTMASQ
add_both_rules -j RUSTMASQ --route-source --full-cone
declare -A unnumbered=([4]=10.9.0.9 [6]=2001:db8:9::9) first=([4]=203.0.113.65/26 [6]=2001:db8:65::1/64)
declare -A borrowed=([4]=172.18.0.1 [6]=2001:db8:9:9::9)
none_borrowed_now() { none_left_with "$1" "${borrowed[$1]}"; }
for v in 4 6; do
	to=${unnumbered[$v]}
	send_named --to-port 63 5 "$to"
	check_equal "IPv$v: a device without an address: the named one" "${named[$v]}18 5" "$(left_with $v "$to")"
	send_named --to-port 62 5 "$to"
	check_equal "IPv$v: ... without the option a borrowed one" "${borrowed[$v]} 5" \
		"$(left_with $v "$to" -p udp --orig-port-dst 62)"
	ip -n router addr add "${first[$v]}" dev ppp0
	check "IPv$v: the device's first address: borrowed ones are replaced" wait_until none_borrowed_now $v
	check_equal "IPv$v: ... and the named one stays" "${named[$v]}18 5" "$(left_with $v "$to")"
	check_equal "IPv$v: ... with its mappings" 5 \
		"$(ns_exec router grep -c " outside=${named[$v]}18 " /proc/net/rustmasq_mappings)"
done

forget_rules
check "no other masquerading module was loaded meanwhile" no_other_masquerade
done_testing
