#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Kernels: plain
#
# For a flow that lost its source port, the flow watch names the flow that has it. For a flow in conntrack zones it
# tells them, and for a source address that NAT chose whether it is one of the output device's. For other flows it
# says none of this: those whose port a rule moved, that are in no zone, or that NAT leaves alone.
#
# The network is that of setup_lan with IPv6. The host lan has a second address of each family, ending in 3.
. "$(dirname "$0")/../../lib/lib.sh"
. "$(dirname "$0")/../../lib/events.sh"

setup_lan
setup_lan_ipv6
ip -n lan addr add 172.18.0.3/16 dev lan0
ip -n lan addr add fd00:18::3/64 dev lan0 nodad
ip -n router addr add 198.51.100.1/32 dev lo
serve server UDP 53
serve server TCP 80
serve server UDP6 54
serve server TCP6 81
add_rule -o wan0 -p udp --sport 41000 -j RUSTMASQ --to-ports 42000 || bail "a rule"
add_rule -o wan0 -p udp --sport 43000 -j SNAT --to-source 198.51.100.1 || bail "a rule"
add_rule -o wan0 -s 172.18.0.0/16 -j RUSTMASQ || bail "a rule"
add_rule6 -o wan0 -s fd00:18::/64 -j RUSTMASQ || bail "a rule"
ns_exec router "$IPTABLES" -w -t raw -A PREROUTING -p udp --sport 44000 -j CT --zone 5 || bail "a rule"
ns_exec router "$IPTABLES" -w -t raw -A PREROUTING -p udp --sport 45000 -s 172.18.0.3 -j CT --zone-orig 6 || bail "a rule"
record_events flow_confirm
ns_start router rustmasq watch > "$scratch/shown" 2> "$scratch/said"
wait_until grep -q watching "$scratch/said" || bail "the flow viewer: $(< "$scratch/said")"
ns_start router rustmasq watch --json > "$scratch/json" 2> "$scratch/json.said"
wait_until grep -q watching "$scratch/json.said" || bail "the flow viewer: $(< "$scratch/json.said")"

# send PROTOCOL ADDRESS PORT SOURCE: sends from the host lan, and waits for an answer.
send() { [[ $(probe lan "$1" "$2" "$3" "bind=$4") ]]; }

# check_event WHAT SOURCE FIELDS: checks the fields moved, zone, source and taken_by of the flow from there.
check_event() {
	local event
	event=$(events flow_confirm)
	event=$(grep -F " original=$2->" <<< "$event")
	check_equal "$1" "$3" "$(fields "$event" moved zone source taken_by)"
}

# check_shown WHAT SOURCE PATTERN: checks the line that the viewer shows of the flow from there.
check_shown() {
	wait_until grep -qF " $2->" "$scratch/shown"
	check_match "$1: the viewer's line" "$3" "$(grep -F " $2->" "$scratch/shown")"
}

# --- A port that is taken

nothing="zone=0/0 source=own taken_by=0.0.0.0:0"
# check_taken WHAT PROTOCOL ADDRESS PORT FIRST SECOND: sends two flows that want the same port.
check_taken() {
	check "$1: the first flow works" send "${@:2:3}" "$5"
	check "$1: the second flow works" send "${@:2:3}" "$6"
	check_event "$1: the first flow keeps its port" "$5" "moved=source-address $nothing"
	check_event "$1: the second flow lost it to the first" "$6" \
		"moved=source-address|source-port zone=0/0 source=own taken_by=$5"
	check_shown "$1" "$5" '  source-address$'
	check_shown "$1" "$6" "  !! source-address,source-port,taken-by=${5//[][]/.}$"
}
check_taken UDP UDP 203.0.113.2 53 172.18.0.2:40000 172.18.0.3:40000
check_taken TCP TCP 203.0.113.2 80 172.18.0.2:40001 172.18.0.3:40001
check_taken "UDP over IPv6" UDP6 '[2001:db8:1::2]' 54 '[fd00:18::2]:40000' '[fd00:18::3]:40000'
check_taken "TCP over IPv6" TCP6 '[2001:db8:1::2]' 81 '[fd00:18::2]:40001' '[fd00:18::3]:40001'

check "ICMP: the first flow works" ns_exec lan ping -q -c 1 -W 5 -I 172.18.0.2 -e 40002 203.0.113.2
check "ICMP: the second flow works" ns_exec lan ping -q -c 1 -W 5 -I 172.18.0.3 -e 40002 203.0.113.2
check_event "ICMP: the second flow lost its identifier to the first" 172.18.0.3:40002 \
	"moved=source-address|source-port zone=0/0 source=own taken_by=172.18.0.2:40002"

# The holder may be a flow towards the router: its original tuple is the reply tuple that the second would have.
check "the holder comes from outside: its flow is sent" \
	ns_exec server socat -u - UDP:203.0.113.1:40003,sourceport=55 <<< x
check "the holder comes from outside: the second flow is sent" ns_exec lan socat -u - UDP:203.0.113.2:55,bind=172.18.0.2:40003 <<< x
check_event "the holder comes from outside: it is named" 172.18.0.2:40003 \
	"moved=source-address|source-port zone=0/0 source=own taken_by=203.0.113.2:55"

# --- A port that is not taken

check "a rule moves the port: the flow works" send UDP 203.0.113.2 53 172.18.0.2:41000
check_event "a rule moves the port: nobody had it" 172.18.0.2:41000 "moved=source-address|source-port $nothing"
check_shown "a rule moves the port" 172.18.0.2:41000 '  source-address,source-port$'
check "nothing is translated: the flow is sent" ns_exec router socat -u - UDP:203.0.113.2:53,sourceport=46000 <<< x
check_event "nothing is translated: nothing is said" 203.0.113.1:46000 "moved=nothing zone=0/0 source=- taken_by=0.0.0.0:0"
check_shown "nothing is translated" 203.0.113.1:46000 '  nothing$'

# --- A source address that the output device does not have

check "SNAT to another device's address: the flow is sent" \
	ns_exec lan socat -u - UDP:203.0.113.2:53,bind=172.18.0.2:43000 <<< x
check_event "SNAT to another device's address: it is foreign" 172.18.0.2:43000 \
	"moved=source-address zone=0/0 source=foreign taken_by=0.0.0.0:0"
check_shown "SNAT to another device's address" 172.18.0.2:43000 '  ! source-address,foreign-source$'

# --- Conntrack zones

check "a zone of both directions: the flow is sent" ns_exec lan socat -u - UDP:203.0.113.2:53,bind=172.18.0.2:44000 <<< x
check_event "a zone of both directions" 172.18.0.2:44000 "moved=source-address zone=5/5 source=own taken_by=0.0.0.0:0"
check_shown "a zone of both directions" 172.18.0.2:44000 '^[0-9:.]+ +router zone 5 +udp '
check "a taken port in the zone: the flow is sent" ns_exec lan socat -u - UDP:203.0.113.2:53,bind=172.18.0.3:44000 <<< x
check_event "a taken port in the zone: its holder is named" 172.18.0.3:44000 \
	"moved=source-address|source-port zone=5/5 source=own taken_by=172.18.0.2:44000"
check "a zone of one direction: the holder's flow works" send UDP 203.0.113.2 53 172.18.0.2:45000
check "a zone of one direction: the flow is sent" ns_exec lan socat -u - UDP:203.0.113.2:53,bind=172.18.0.3:45000 <<< x
check_event "a zone of one direction: the holder is in the other's" 172.18.0.3:45000 \
	"moved=source-address|source-port zone=6/0 source=own taken_by=172.18.0.2:45000"
check_shown "a zone of one direction" 172.18.0.3:45000 '^[0-9:.]+ +router zone 6/0 +udp '

# --- JSON

# json_has SOURCE-ADDRESS SOURCE-PORT: prints the last three fields of the flow's object.
json_has() {
	grep -F "\"proto\": \"udp\", \"original\": {\"source\": {\"address\": \"$1\", \"port\": $2}" "$scratch/json" |
		sed -E 's/.*, ("zone": .*)\}$/\1/'
}
wait_until json_has 172.18.0.3 45000 || bail "--json does not show the last flow"
check_equal "--json has zones and holder" \
	'"zone": {"original": 6, "reply": 0}, "source": "own", "taken_by": {"address": "172.18.0.2", "port": 45000}' \
	"$(json_has 172.18.0.3 45000)"
check_equal "--json tells that there are none" \
	'"zone": {"original": 0, "reply": 0}, "source": null, "taken_by": null' "$(json_has 203.0.113.1 46000)"
check_equal "--json has a foreign source" \
	'"zone": {"original": 0, "reply": 0}, "source": "foreign", "taken_by": null' "$(json_has 172.18.0.2 43000)"

done_testing
