#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# With --full-cone an inside endpoint keeps one outside port, whatever it talks to, and anybody outside may send to it. With
# --address-restricted-cone it keeps the port, and only addresses that it speaks to may; with --port-restricted-cone
# nobody else. Without an option, as with MASQUERADE, nobody may, and nothing holds the port for the endpoint. Other
# clients never get its port. Two inside hosts reach each other's mappings. Rules of DNAT come first.
#
#     lan                 router                     server
#     lan0 ------------ lan0  wan0 ---------------- eth0
#     172.18.0.2/16   172.18.0.1   203.0.113.1    203.0.113.2/24, .3, .4
#     172.18.0.3
#     fd00:18::2      fd00:18::1   2001:db8:1::1  2001:db8:1::2, ::3, ::4
. "$(dirname "$0")/../../lib/lib.sh"

setup_lan
setup_lan_ipv6
ip -n lan addr add 172.18.0.3/16 dev lan0
ip -n lan addr add fd00:18::3/64 dev lan0 nodad
for n in 3 4; do
	ip -n server addr add 203.0.113.$n/24 dev eth0
	ip -n server addr add 2001:db8:1::$n/64 dev eth0 nodad
done
declare -A router=([4]=203.0.113.1 [6]="2001:db8:1::1") outside=([4]=203.0.113. [6]="2001:db8:1::")
declare -A family=([4]="" [6]=6)

# addr IPV ADDRESS: prints the address as socat takes it.
addr() { [[ $1 == 4 ]] && echo "$2" || echo "[$2]"; }
# addr_pattern IPV ADDRESS: prints the address as a regular expression matches what socat takes.
addr_pattern() { [[ $1 == 4 ]] && echo "${2//./\\.}" || echo "\\[$2\\]"; }
# expand_address: replaces the long form of the router's address, as the servers print it, by the short one.
expand_address() { sed 's/2001:0db8:0001:0000:0000:0000:0000:0001/2001:db8:1::1/'; }
# client IPV NUMBER: prints the address of an inside host.
client() { [[ $1 == 4 ]] && echo "172.18.0.$2" || echo "fd00:18::$2"; }

# seen IPV CLIENT SERVER PORT: prints the port that a server on PORT of outside host SERVER sees, of a packet from port
# 4000 of the client.
seen() {
	local answer
	answer=$(probe lan "UDP${family[$1]}" "$(addr "$1" "${outside[$1]}$3")" "$4" \
		"bind=$(addr "$1" "$(client "$1" "$2")"),sourceport=4000,reuseaddr")
	echo "${answer##*:}"
}

# from_outside PROBE IPV PORT HOST: sends a line from port 7777 of an outside host, which nobody inside has spoken to, to
# the port of the router, and prints what a server inside answers: the source that it sees.
from_outside() {
	"$1" server "UDP${family[$2]}" "$(addr "$2" "${router[$2]}")" "$3" \
		"bind=$(addr "$2" "${outside[$2]}$4"),sourceport=7777,reuseaddr"
}

# check_reaches WHAT IPV HOST: checks that the outside host reaches port 4000 of the first client by its mapping.
check_reaches() {
	check_match "$1 reaches the first client, and is seen as it is" "$3.?:7777\$" "$(from_outside probe "$2" 4000 "$3")"
}
check_reaches_not() {
	check_equal "$1 does not reach the first client" "" "$(from_outside probe_briefly "$2" 4000 "$3")"
}

# Ports of IPv6's servers have another last digit.
serve server UDP 5000 203.0.113.2
serve server UDP 5001 203.0.113.2
serve server UDP 5002 203.0.113.3
serve server UDP6 5006 2001:db8:1::2
serve server UDP6 5007 2001:db8:1::2
serve server UDP6 5008 2001:db8:1::3
declare -A first=([4]=5000 [6]=5006)

# set_cone OPTION...: replaces the rules.
set_cone() {
	flush_rules
	ns_exec router "$IP6TABLES" -w -t nat -F
	add_rule -o wan0 -j RUSTMASQ "$@" || bail "a rule"
	add_rule6 -o wan0 -j RUSTMASQ "$@" || bail "a rule"
	ns_exec router conntrack -F 2> /dev/null
}

options=("" --port-restricted-cone --address-restricted-cone --full-cone)
# The debug kernel sees the others in cone-devices.
((slow == 1)) || options=("" --full-cone)
for v in 4 6; do
	for option in "${options[@]}"; do
		what="IPv$v, ${option:-no option}"
		port=${first[$v]}
		# shellcheck disable=SC2086 # no word if it is empty
		set_cone $option
		check_equal "$what: the first client keeps its port" 4000 "$(seen $v 2 2 "$port")"
		check_equal "$what: ... to another port of the server" 4000 "$(seen $v 2 2 $((port + 1)))"
		check_equal "$what: ... and to another address" 4000 "$(seen $v 2 3 $((port + 2)))"
		other=$(seen $v 3 2 "$port")
		check_match "$what: another client with the same port gets another one" '^[0-9]+$' "$other"
		check_fails "$what: ... another one" test "$other" == 4000
		if [[ $option ]]; then
			check_equal "$what: ... and has that everywhere" "$other" "$(seen $v 3 3 $((port + 2)))"
		fi
		serve lan "UDP${family[$v]}" 4000 "$(client $v 2)"
		case $option in
			--full-cone)
				check_reaches "$what: a stranger" $v 4
				ns_exec router conntrack -F 2> /dev/null
				check_reaches "$what: ... also without a flow of the client's" $v 4
				;;
			--address*)
				check_reaches_not "$what: a stranger" $v 4
				check_reaches "$what: another port of a host that was spoken to" $v 3
				ns_exec router conntrack -F 2> /dev/null
				check_reaches_not "$what: without a flow of the client's it" $v 3
				;;
			*)
				check_reaches_not "$what: a stranger" $v 4
				check_reaches_not "$what: another port of a host that was spoken to" $v 3
				;;
		esac
		stop_last 1
	done
done

# --- With --full-cone

set_cone --full-cone
list_mappings() { ns_exec router cat /proc/net/rustmasq_mappings; }

for v in 4 6; do
	what="IPv$v, --full-cone"
	port=${first[$v]}
	[[ $(seen $v 2 2 "$port") == 4000 ]] || bail "a mapping"
	other=$(seen $v 3 2 "$port")
	check_match "$what: the mapping is listed" \
		"^protocol=17 inside=$(client $v 2) port=4000 outside=${router[$v]} outside_port=4000 zone=0 device=[0-9]+ cone=full flows=[1-9] inbound=[0-9]+ " \
		"$(list_mappings | grep "inside=$(client $v 2) ")"

	check_match "$what: rustmasq lists it" \
		"^udp +$(addr_pattern $v "$(client $v 2)"):4000 +$(addr_pattern $v "${router[$v]}"):4000 +wan0 +full +[0-9]+ +[0-9]+ +[0-9]+ s +[0-9]+ s\$" \
		"$(ns_exec router rustmasq mappings | grep -F "$(addr $v "$(client $v 2)"):4000 ")"
	check_equal "$what: ... also as JSON" "wan0 full" "$(ns_exec router rustmasq mappings --json | python3 -I -S -c '
import json, sys
for line in sys.stdin:
    mapping = json.loads(line)
    if mapping["inside"] == sys.argv[1]:
        print(mapping["device"], mapping["cone"])' "$(addr $v "$(client $v 2)"):4000")"

	# Hairpinning: each inside host asks the other's mapping.
	serve lan "UDP${family[$v]}" 4000 "$(client $v 3)"
	check_equal "$what: an inside host reaches another's mapping, and is seen with its own" \
		"$(addr $v "${router[$v]}"):4100" \
		"$(probe lan "UDP${family[$v]}" "$(addr $v "${router[$v]}")" "$other" \
			"bind=$(addr $v "$(client $v 2)"),sourceport=4100,reuseaddr" | expand_address)"

	# Rules of the user come first.
	program=$IPTABLES
	[[ $v == 4 ]] || program=$IP6TABLES
	ns_exec router "$program" -w -t nat -A PREROUTING -i wan0 -p udp --dport "$other" -j DNAT \
		--to-destination "$(addr $v "$(client $v 2)"):4242" || bail "a rule of DNAT"
	serve lan "UDP${family[$v]}" 4242 "$(client $v 2)"
	check_match "$what: DNAT comes first" ':7777$' "$(from_outside probe $v "$other" 4)"
	check_match "$what: ... and leads to where it says" "sport=4242 dport=7777" "$(tracked -f "ipv$v" -p udp --orig-port-src 7777)"
	ns_exec router "$program" -w -t nat -F PREROUTING
	stop_last 2
done

# TCP from outside, and echo requests.
serve server TCP 5010 203.0.113.2
check_equal "TCP: the client keeps its port" 203.0.113.1:4000 \
	"$(probe lan TCP 203.0.113.2 5010 bind=172.18.0.2,sourceport=4000,reuseaddr)"
serve lan TCP 4000 172.18.0.2
check_equal "TCP: a stranger connects to the mapping" 203.0.113.3:7777 \
	"$(probe server TCP 203.0.113.1 4000 bind=203.0.113.3,sourceport=7777,reuseaddr)"

# The address goes, and its mappings with it.
ip -n router addr add 203.0.113.9/24 dev wan0
ip -n router addr del 203.0.113.1/24 dev wan0
has_none() { ! list_mappings | grep -q outside=203.0.113.1; }
check "mappings go with their address" wait_until has_none

# Rules that are gone leave the mappings; the module goes with them.
flush_rules
ns_exec router "$IP6TABLES" -w -t nat -F
check "the module can be unloaded with mappings" wait_until unload_module

done_testing
