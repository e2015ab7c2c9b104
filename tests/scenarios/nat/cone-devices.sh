#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Mappings belong to their device and their outside address. With two uplinks and a rule for each, an inside endpoint
# has a mapping at either, and strangers reach it by both. Several rules give endpoints ports of ranges of their own, by
# protocol and source. In a VRF, flows leave by mappings and come in by them, and the filtering of
# --address-restricted-cone holds.
#
#                                 wan0 ------------ eth0
#     lan                 router  203.0.113.1/24    203.0.113.2, .3    server
#     lan0 ------------ lan0      2001:db8:1::1/64  2001:db8:1::2, ::3
#     172.18.0.2, .3    172.18.0.1
#     fd00:18::2, ::3   fd00:18::1
#                                 wan1 ------------ eth1
#                                 198.51.100.1/24   198.51.100.2, .3
#                                 2001:db8:2::1/64  2001:db8:2::2, ::3
# shellcheck source-path=SCRIPTDIR source=../../lib/conversation.sh
. "$(dirname "$0")/../../lib/conversation.sh"

setup_lan
setup_lan_ipv6
setup_link router wan1 198.51.100.1/24 server eth1 198.51.100.2/24
ip -n lan -batch - <<-END
	addr add 172.18.0.3/16 dev lan0
	addr add fd00:18::3/64 dev lan0 nodad preferred_lft 0
END
ip -n router addr add 2001:db8:2::1/64 dev wan1 nodad
ip -n server -batch - <<-END
	addr add 203.0.113.3/24 dev eth0
	addr add 2001:db8:1::3/64 dev eth0 nodad preferred_lft 0
	addr add 198.51.100.3/24 dev eth1
	addr add 2001:db8:2::2/64 dev eth1 nodad
	addr add 2001:db8:2::3/64 dev eth1 nodad preferred_lft 0
END
# Networks of family 4 and 6, by uplink; and addresses as a port follows them.
declare -A net=([40]=203.0.113. [41]=198.51.100. [60]=2001:db8:1:: [61]=2001:db8:2::)
declare -A inside=([4]=172.18.0. [6]=fd00:18::) any=([4]=0.0.0.0 [6]=::)
# place IPV ADDRESS: prints the address as a port follows it.
place() { [[ $1 == 4 ]] && echo "$2" || echo "[$2]"; }

peers_start conversation.py
for v in 4 6; do
	for protocol in UDP TCP; do peers serve server $protocol "${any[$v]}" 7; done
	peers serve lan UDP "${any[$v]}" 4000
done

# set_rules_of_both RULE...: replaces the router's rules of both families.
set_rules_of_both() {
	for program in "$IPTABLES" "$IP6TABLES"; do
		printf '%s\n' '*nat' "${@/#/-A POSTROUTING }" COMMIT | ns_exec router "$program-restore" -w || bail "rules: $*"
	done
	end_conversations
}

# left_by PORT: prints the outside ends and devices of the mappings of the inside host's port, a line each.
left_by() {
	ns_exec router rustmasq mappings --json | python3 -I -S -c '
import json, sys
for mapping in map(json.loads, sys.stdin):
    if mapping["inside"] == sys.argv[1]:
        print(mapping["outside"], mapping["device"])' "$(place "$v" "${inside[$v]}2"):$1" | sort
}

# --- A stranger by another uplink

set_rules_of_both "-o wan0 -j RUSTMASQ --port-restricted-cone" "-o wan1 -j RUSTMASQ"
check_said "an inside endpoint has a mapping at the first uplink" "203.0.113.1:4000 hello" \
	ask lan UDP 203.0.113.2 7 :4000 hello
ip -n server route add 203.0.113.1/32 via 198.51.100.1
check_said "a stranger who comes by the second one does not reach it" silence \
	vain-ask server UDP 203.0.113.1 4000 198.51.100.3:7779 knock
check_equal "... and gets no mapping" "" "$(ns_exec router rustmasq mappings --json | grep 198.51.100.3)"
ip -n server route del 203.0.113.1/32

# --- Two uplinks

set_rules_of_both "-o wan0 -j RUSTMASQ --full-cone" "-o wan1 -j RUSTMASQ --full-cone"
for v in 4 6; do
	for n in 0 1; do
		check_said "IPv$v, uplink $n: an inside endpoint keeps its port" "$(place $v "${net[$v$n]}1"):4000 hello" \
			ask lan UDP "${net[$v$n]}2" 7 :4000 hello
	done
	for n in 0 1; do
		stranger=$(place $v "${net[$v$n]}3"):7777
		check_said "IPv$v, uplink $n: a stranger reaches it" "$stranger knock" \
			ask server UDP "${net[$v$n]}1" 4000 "$stranger" knock
	done
	check_equal "IPv$v: the endpoint has a mapping at each" \
		"$(for n in 0 1; do echo "$(place $v "${net[$v$n]}1"):4000 wan$n"; done | sort)" "$(left_by 4000)"
	# An address that goes takes its mappings with it, but not those of the other uplink, whose address is back at once.
	length=24 nodad=
	[[ $v == 4 ]] || length=64 nodad=nodad
	ip -n router -batch - <<-END
		addr del ${net[${v}0]}1/$length dev wan0
		addr add ${net[${v}0]}1/$length dev wan0 $nodad
		addr del ${net[${v}1]}1/$length dev wan1
	END
	left="$(place $v "${net[${v}0]}1"):4000 wan0"
	one_is_left() { [[ $(left_by 4000) == "$left" ]]; }
	wait_until one_is_left
	check_equal "IPv$v: without the second uplink's address it has that of the first" "$left" "$(left_by 4000)"
	check_said "... and a stranger reaches it by that" "$(place $v "${net[${v}0]}3"):7778 knock" \
		ask server UDP "${net[${v}0]}1" 4000 "$(place $v "${net[${v}0]}3"):7778" knock
done

# --- A device that is up again at once. It would lose its address of IPv6

ip -n router -batch - <<-END
	link set wan0 down
	link set wan0 up
	addr add 198.51.100.1/24 dev wan1
END
check_said "IPv4: the endpoint has a mapping at the second uplink again" "198.51.100.1:4000 hello" \
	ask lan UDP 198.51.100.2 7 :4000 hello
ip -n router addr del 198.51.100.1/24 dev wan1
has_one_of_ipv4() { [[ $(v=4 left_by 4000) == "203.0.113.1:4000 wan0" ]]; }
wait_until has_one_of_ipv4
check_said "IPv4: a device that was down for a moment keeps its mappings" "203.0.113.3:7778 knock" \
	ask server UDP 203.0.113.1 4000 203.0.113.3:7778 knock
ip -n router addr add 2001:db8:1::1/64 dev wan0 nodad

# --- Ranges of ports

for v in 4 6; do
	program=$IPTABLES
	[[ $v == 4 ]] || program=$IP6TABLES
	printf '%s\n' "*nat" \
		"-A POSTROUTING -o wan0 -p udp --dport 9 -j RUSTMASQ --port-restricted-cone --to-ports 9000-9009" \
		"-A POSTROUTING -o wan0 -p udp -s ${inside[$v]}2 -j RUSTMASQ --full-cone --to-ports 6000-6009" \
		"-A POSTROUTING -o wan0 -p udp -j RUSTMASQ --full-cone --to-ports 7000-7009" \
		"-A POSTROUTING -o wan0 -p tcp -j RUSTMASQ --full-cone --to-ports 8000-8009" COMMIT |
		ns_exec router "$program-restore" -w || bail "rules with ranges"
	stranger=$(place $v "${net[${v}0]}3"):7777
	for line in "UDP 2 6000" "UDP 3 7000" "TCP 2 8000"; do
		read -r protocol host range <<< "$line"
		what="IPv$v, $protocol, host $host"
		source=$(place $v "${inside[$v]}$host"):4020
		peers ask lan "$protocol" "${net[${v}0]}2" 7 "$source" hello
		port=${said% hello}
		port=${port##*:}
		check_port "$what: its port is one of its rule's range" "$range" $((range + 9)) "$port"
		# By the rule for port 9 it can have no port of the mapping's. The filtering stays that of the other rule.
		[[ $protocol != UDP ]] || peers vain-ask lan UDP "${net[${v}0]}2" 9 "$source" hello
		peers serve lan "$protocol" "${inside[$v]}$host" 4020
		check_said "$what: a stranger reaches it by that" "$stranger knock" \
			ask server "$protocol" "${net[${v}0]}1" "$port" "$stranger" knock
	done
done

# --- A rule of the user leads a flow to another host than the mapping does, by a device without a rule: it keeps its
# source

set_rules_of_both "-o wan0 -j RUSTMASQ --full-cone"
ip -n router addr add 198.51.100.1/24 dev wan1
ip -n server route add 172.18.0.0/16 via 198.51.100.1
ns_exec router "$IPTABLES" -w -t nat -A PREROUTING -i lan0 -p udp --dport 4050 -j DNAT --to-destination 198.51.100.2:7 ||
	bail "a rule of DNAT"
check_said "an inside endpoint has a mapping" "203.0.113.1:4050 hello" ask lan UDP 203.0.113.2 7 172.18.0.3:4050 hello
check_said "a flow to the mapping's port that DNAT leads elsewhere keeps its source" "172.18.0.2:4051 hello" \
	ask lan UDP 203.0.113.1 4050 172.18.0.2:4051 hello

# --- A VRF with the inside and the outside device

set_rules_of_both "-o wan0 -j RUSTMASQ --address-restricted-cone"
ip -n router link add red type vrf table 10 || bail "VRF"
ip -n router -batch - <<-END || bail "the VRF's devices"
	link set red up
	link set lan0 master red
	link set wan0 master red
	addr replace fd00:18::1/64 dev lan0 nodad
	addr replace 2001:db8:1::1/64 dev wan0 nodad
END
for v in 4 6; do
	peers serve lan UDP "${any[$v]}" 4030
	server=$(place $v "${net[${v}0]}2") stranger=$(place $v "${net[${v}0]}3")
	check_said "IPv$v, VRF: an inside endpoint keeps its port" "$(place $v "${net[${v}0]}1"):4030 hello" \
		ask lan UDP "${net[${v}0]}2" 7 :4030 hello
	check_said "IPv$v, VRF: another port of the server reaches it" "$server:7777 knock" \
		ask server UDP "${net[${v}0]}1" 4030 "$server:7777" knock
	peers vain-ask server UDP "${net[${v}0]}1" 4030 "$stranger:7777" knock
	check_match "IPv$v, VRF: a stranger does not" "^(silence|ICMP)" "$said"

	ns_start router socat -u "UDP$v-RECV:404$v,so-bindtodevice=red" - > "$scratch/vrf" 2>&1
	wait_until listening router UDP 404$v || bail "a socket of the VRF"
	peers ask lan UDP "${net[${v}0]}2" 7 :404$v hello
	check_match "IPv$v, VRF: a flow from a port on which the VRF has a socket gets a port" ":[0-9]+ hello\$" "$said"
	check_fails "IPv$v, VRF: ... another one" test "$said" == "$(place $v "${net[${v}0]}1"):404$v hello"
done

done_testing
