#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Front ends: legacy
#
# No flow of another host gets a port on which the router has a socket: a server of the router stays reachable for the one
# that the flow goes to. With MASQUERADE, the flow's host gets what is meant for the server (port shadowing).
. "$(dirname "$0")/../../lib/lib.sh"

setup_lan
setup_lan_ipv6
serve router UDP 1405
serve router UDP6 1406
serve router TCP 1407
serve router TCP6 1408
serve server UDP 5000
serve server UDP6 5006
serve server TCP 5007
serve server TCP6 5008
declare -A server=([UDP]=203.0.113.2 [UDP6]="[2001:db8:1::2]" [TCP]=203.0.113.2 [TCP6]="[2001:db8:1::2]")
declare -A service=([UDP]=1405 [UDP6]=1406 [TCP]=1407 [TCP6]=1408) port=([UDP]=5000 [UDP6]=5006 [TCP]=5007 [TCP6]=5008)

# new_rules_of_both TARGET OPTION...: replaces the rules.
new_rules_of_both() {
	flush_rules
	ns_exec router "$IP6TABLES" -w -t nat -F
	add_rule -o wan0 -j "$@" || bail "a rule"
	add_rule6 -o wan0 -j "$@" || bail "a rule"
	ns_exec router conntrack -F 2> /dev/null
}

# port_given PROTOCOL: an inside client sends from the port of the router's service, and prints the port that it gets.
port_given() {
	local seen
	seen=$(probe lan "$1" "${server[$1]}" "${port[$1]}" "sourceport=${service[$1]},reuseaddr")
	echo "${seen##*:}"
}

# ask_service PROBE: an inside client sends from the port of the router's UDP service to port 5009 of the server. Then the
# server asks the router's service from there. Prints the answer.
ask_service() {
	ns_exec lan socat -u - UDP:203.0.113.2:5009,sourceport=1405,reuseaddr <<< x
	"$1" server UDP 203.0.113.1 1405 sourceport=5009,reuseaddr
}

if compared; then
	new_rules_of_both MASQUERADE
	check_equal "MASQUERADE gives a client the port of the router's service" 1405 "$(port_given UDP)"
	check_equal "... and the service does not hear who the client has spoken to" "" "$(ask_service probe_briefly)"
fi
for options in "" "--random-fully" "--full-cone" "--port-restricted-cone"; do
	# shellcheck disable=SC2086 # words
	new_rules_of_both RUSTMASQ $options
	for protocol in UDP UDP6 TCP TCP6; do
		what="RUSTMASQ $options, $protocol"
		got=$(port_given $protocol)
		check_match "$what: a client gets a port" '^[0-9]+$' "$got"
		check_fails "$what: ... not that of the router's service" test "$got" == "${service[$protocol]}"
	done
	check_equal "RUSTMASQ $options: the service hears who the client has spoken to" 203.0.113.2:5009 "$(ask_service probe)"
done
new_rules_of_both RUSTMASQ --full-cone
check_equal "a port that no socket has is kept" 203.0.113.1:1500 "$(probe lan UDP 203.0.113.2 5000 sourceport=1500,reuseaddr)"
serve router UDP 1500
check_equal "a mapping that is older than a socket stays" 203.0.113.1:1500 \
	"$(probe lan UDP 203.0.113.2 5000 sourceport=1500,reuseaddr)"
ns_exec router conntrack -F 2> /dev/null
check_match "... but the socket comes first for who comes from outside" ':7777$' \
	"$(probe server UDP 203.0.113.1 1500 sourceport=7777,reuseaddr)"
check_equal "... and no flow is translated" "" "$(tracked -p udp --orig-port-src 7777 | grep 172.18.0.2)"

# The router's own flows from its own sockets keep their ports.
new_rules_of_both RUSTMASQ
check_equal "a flow of the router's own socket keeps its port" 203.0.113.1:1600 \
	"$(probe router UDP 203.0.113.2 5000 sourceport=1600,reuseaddr)"

# So do those by a VRF, which come to POSTROUTING with its device.
ip -n router link add red type vrf table 10 || bail "VRF"
ip -n router link set red up
ip -n router link set wan0 master red
ip -n router addr replace 2001:db8:1::1/64 dev wan0 nodad
check_equal "a flow by a VRF keeps its port, too" 203.0.113.1:1601 \
	"$(probe router UDP 203.0.113.2 5000 sourceport=1601,so-bindtodevice=red)"
check_match "... for IPv6 as well" ':1602$' \
	"$(probe router UDP6 '[2001:db8:1::2]' 5006 sourceport=1602,so-bindtodevice=red)"

done_testing
