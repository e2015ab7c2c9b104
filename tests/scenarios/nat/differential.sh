#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Kernels: plain
# CPUs: 2
#
# RUSTMASQ does the same as MASQUERADE: each case runs with both, in the network that tests/lib/compare.sh draws, and
# all that can be observed must be equal. Wrong rules show that the comparison notices a difference in each property.
# The intended differences come last.
# shellcheck source-path=SCRIPTDIR source=../../lib/compare.sh
. "$(dirname "$0")/../../lib/compare.sh"

setup_two_clients
start_compare_peers

# --- Traffic

# exchange PROTOCOL PORT PORTS: client and server exchange a word from this source port or ICMP identifier. The server
# must see a port that matches PORTS.
exchange() {
	local client_at=lan@${client[$v]} server_at=server@${server[$v]}
	case $1 in
	udp)
		peers open "$server_at" udp 53
		peers send "$client_at" udp "$2" "${server[$v]}" 53 question
		peers hear "$server_at" udp 53
		must_come_from "${outside[$v]}" "$3" "udp from $2"
		peers answer "$server_at" udp 53 answer
		must_hear "$client_at" udp "$2" "udp answer" "${server[$v]} 53 answer" ;;
	icmp)
		peers open "$server_at" icmp 0
		peers send "$client_at" icmp "$2" "${server[$v]}" 0 question
		peers hear "$server_at" icmp 0
		must_come_from "${outside[$v]}" "$3" "icmp from $2"
		must_hear "$client_at" icmp "$2" "icmp answer" "${server[$v]} $2 question" ;;
	tcp | sctp)
		peers open "$server_at" "$1" 80
		peers connect "$client_at" "$1" "$2" "${server[$v]}" 80
		note_property client "IPv$v, $1: $said"
		peers accept "$server_at" "$1" 80
		must_come_from "${outside[$v]}" "$3" "$1 from $2"
		peers say "$server_at" "$1" 80 answer
		must_hear "$client_at" "$1" "$2" "$1 answer" answer
		peers until router established ;;
	esac
}

# exchange_all PORTS [IDENTIFIERS]: does an exchange of each protocol and family. The server must see ports that match
# PORTS, and ICMPv6 identifiers that match IDENTIFIERS if given.
exchange_all() {
	local protocol
	for v in 4 6; do
		for protocol in udp tcp sctp; do exchange $protocol 40000 "$1"; done
		if [[ $v == 4 ]]; then exchange icmp 40000 "$1"; else exchange icmp 40000 "${2-$1}"; fi
	done
}

# set_port_rules OPTIONS: sets a rule with --to-ports for each protocol. ICMPv6 gets a rule without: MASQUERADE does not
# support its identifiers.
set_port_rules() {
	set_rules "-p udp -j TARGET $1" "-p tcp -j TARGET $1" "-p sctp -j TARGET $1" "4 -p icmp -j TARGET $1" "6 -j TARGET"
}

# --- One flow of each protocol and family

no_options() {
	set_rules "-o wan0 -j TARGET"
	exchange_all 40000
}

a_range_of_ports() {
	mask=(6000-6999)
	set_port_rules "--to-ports 6000-6999"
	exchange_all '\[6000-6999\]#.' 40000
}

# The clients' source ports are in the range, and are kept.
a_range_that_includes_the_source_port() {
	set_port_rules "--to-ports 39990-40010"
	exchange_all 40000
}

a_single_port() {
	set_port_rules "--to-ports 7000"
	exchange_all 7000 40000
}

random_ports() {
	local protocol
	mask=(1024-65535)
	set_rules "-o wan0 -j TARGET --random"
	for v in 4 6; do
		for protocol in udp tcp sctp; do exchange $protocol 40000 '\[1024-65535\]#.'; done
	done
}

fully_random_ports() {
	local protocol
	mask=(1024-65535)
	set_rules "-o wan0 -j TARGET --random-fully"
	for v in 4 6; do
		for protocol in udp tcp sctp; do exchange $protocol 40000 '\[1024-65535\]#.'; done
	done
}

random_ICMP_identifiers() {
	mask=(0-65535)
	set_rules "-o wan0 -j TARGET --random"
	for v in 4 6; do exchange icmp 40000 '\[0-65535\]#.'; done
}

a_random_port_of_a_range() {
	mask=(6000-6999)
	set_port_rules "--to-ports 6000-6999 --random"
	exchange_all '\[6000-6999\]#.' 40000
}

# --- UDP: states of a flow

# pass_datagram FROM PORT TO TEXT PORTS [SIZE]: sends a datagram from an address of the LAN's host to port 53 of an
# address of the server. The server must see a port that matches PORTS, and the address $expected_source if set,
# otherwise the router's first one.
pass_datagram() {
	peers open "server@$3" udp 53
	peers send "lan@$1" udp "$2" "$3" 53 "$4" ${6:+"$6"}
	peers hear "server@$3" udp 53
	must_come_from "${expected_source:-${outside[$v]}}" "$5" "$4"
}

# pass_another_datagram TEXT [SIZE]: sends another datagram of the same flow, from the client's port 40000.
pass_another_datagram() {
	peers send "lan@${client[$v]}" udp 40000 "${server[$v]}" 53 "$@"
	peers hear "server@${server[$v]}" udp 53 "$patience"
	note_property delivered "IPv$v, $1: ${said##* }"
	must_match "$1" ".* $1" "$said"
}

an_unanswered_UDP_flow() {
	set_rules "-o wan0 -j TARGET"
	for v in 4 6; do
		pass_datagram "${client[$v]}" 40000 "${server[$v]}" one 40000
		pass_another_datagram two 100
	done
	must_show_flag UNREPLIED
}

# Conntrack takes a flow for a stream once it has lasted for two seconds.
a_long_UDP_flow() {
	local n
	set_rules "-o wan0 -j TARGET"
	for v in 4 6; do exchange udp 40000 40000; done
	for ((n = 0; n < 60; n++)); do
		peers until router assured 2 0.1
		[[ $said != yes ]] || break
		for v in 4 6; do
			peers send "lan@${client[$v]}" udp 40000 "${server[$v]}" 53 more
			peers hear "server@${server[$v]}" udp 53
		done
	done
	must_show_flag ASSURED
}

# A port that another client has already is replaced by one of its class: below 512, below 1024, or above.
source_ports_keep_their_class() {
	local class
	mask=(1-511 600-1023 1024-65535 100 700 40000)
	set_rules "-o wan0 -j TARGET"
	for class in "100 1 511" "700 600 1023" "40000 1024 65535"; do
		# shellcheck disable=SC2086 # words
		set -- $class
		for v in 4 6; do
			pass_datagram "${client[$v]}" "$1" "${server[$v]}" "first$1" "$1"
			pass_datagram "${second[$v]}" "$1" "${server[$v]}" "second$1" "\\[$2-$3\\]#."
		done
	done
}

# Each server sees the port once. A packet for which no port is free is dropped.
the_only_port_is_taken() {
	set_rules "-o wan0 -p udp -j TARGET --to-ports 7000"
	for v in 4 6; do
		pass_datagram "${client[$v]}" 40000 "${server[$v]}" first 7000
		pass_datagram "${second[$v]}" 40000 "${other[$v]}" elsewhere 7000
		# If it were not dropped, it would arrive before the next datagram.
		peers send "lan@${second[$v]}" udp 40001 "${server[$v]}" 53 lost
		pass_datagram "${client[$v]}" 40000 "${server[$v]}" next 7000
	done
	peers dropped router 2 "$patience"
	must_match "conntrack counts the drops" yes "$said"
}

# --- TCP: states of a connection

# connect_to_server PROTOCOL: connects the client's port 40000 to the server's port 80. Sets `client_at` and
# `server_at`.
connect_to_server() {
	client_at=lan@${client[$v]} server_at=server@${server[$v]}
	peers open "$server_at" "$1" 80
	peers connect "$client_at" "$1" 40000 "${server[$v]}" 80
	note_property client "IPv$v, $1: $said"
	peers accept "$server_at" "$1" 80
	must_come_from "${outside[$v]}" 40000 "$1"
}

# `count` is how many flows should have reached the state so far.
a_TCP_connection_is_closed() {
	local client_at server_at count=0
	set_rules "-o wan0 -j TARGET"
	for v in 4 6; do
		connect_to_server tcp
		peers end "$client_at" tcp 40000
		must_hear "$server_at" tcp 80 "the client closes" closed
		# Otherwise one packet may acknowledge the client's FIN and carry the server's.
		peers until router close-wait
		peers end "$server_at" tcp 80
		must_hear "$client_at" tcp 40000 "the server closes" closed
		peers until router time-wait $((++count))
		must_match "conntrack's state is TIME_WAIT" yes "$said"
	done
}

a_TCP_connection_is_reset() {
	local client_at server_at count=0
	set_rules "-o wan0 -j TARGET"
	v=4
	connect_to_server tcp
	peers abort "$client_at" tcp 40000
	must_hear "$server_at" tcp 80 "the client resets" reset
	peers until router close $((++count))
	v=6
	connect_to_server tcp
	peers abort "$server_at" tcp 80
	must_hear "$client_at" tcp 40000 "the server resets" reset
	peers until router close $((++count))
	must_match "conntrack's state is CLOSE" yes "$said"
}

a_TCP_connection_is_refused() {
	set_rules "-o wan0 -j TARGET"
	for v in 4 6; do
		peers connect "lan@${client[$v]}" tcp 40000 "${server[$v]}" 81
		note_property client "IPv$v: $said"
		must_match "the client's connection is refused" refused "$said"
	done
}

# --- Errors, fragments, addresses, and flows that do not pass from the LAN to the server

ICMP_errors() {
	local -A error=([4]="ICMP 3 3" [6]="ICMP 1 4")
	mask=(6000-6999)
	set_rules "-o wan0 -p udp -j TARGET --to-ports 6000-6999"
	for v in 4 6; do
		peers send "lan@${client[$v]}" udp 40000 "${server[$v]}" 9 question
		must_hear "lan@${client[$v]}" udp 40000 "port unreachable" "${error[$v]} from ${server[$v]}"
	done
}

fragments() {
	set_rules "-o wan0 -p udp -j TARGET --to-ports 7000" "-o wan0 -j TARGET"
	for v in 4 6; do
		pass_datagram "${client[$v]}" 40000 "${server[$v]}" question 7000 5000
		peers answer "server@${server[$v]}" udp 53 answer 5000
		must_hear "lan@${client[$v]}" udp 40000 "a large answer" "${server[$v]} 53 answer 5000"
		peers open "server@${server[$v]}" icmp 0
		peers send "lan@${client[$v]}" icmp 77 "${server[$v]}" 0 ping 4000
		peers hear "server@${server[$v]}" icmp 0
		must_come_from "${outside[$v]}" 77 "a large ping"
		must_hear "lan@${client[$v]}" icmp 77 "its echo" "${server[$v]} 77 ping 4000"
	done
}

choice_of_the_address() {
	local expected_source
	set_rules "-o wan0 -j TARGET"
	v=4
	pass_datagram "${client[4]}" 40001 203.0.113.2 primary 40001
	expected_source=198.51.100.1
	pass_datagram "${client[4]}" 40002 198.51.100.2 subnet 40002
	pass_datagram "${client[4]}" 40003 192.0.2.9 next-hop 40003
	v=6 expected_source=2001:db8:1::1
	pass_datagram "${client[6]}" 40001 2001:db8:1::2 prefix 40001
	expected_source=2001:db8:2::1
	pass_datagram "${client[6]}" 40002 2001:db8:2::2 prefix2 40002
}

# The router sends from its outer address, and from its inner address.
flows_of_the_router_itself() {
	mask=(6000-6999)
	set_rules "-o wan0 -p udp --dport 53 -j TARGET --to-ports 6000-6999" "-o wan0 -j TARGET"
	for v in 4 6; do
		peers open "server@${server[$v]}" udp 53
		peers send "router@${outside[$v]}" udp 40000 "${server[$v]}" 53 question
		peers hear "server@${server[$v]}" udp 53
		must_come_from "${outside[$v]}" '\[6000-6999\]#.' question
		peers answer "server@${server[$v]}" udp 53 answer
		must_hear "router@${outside[$v]}" udp 40000 "the answer" "${server[$v]} 53 answer"
		peers open "server@${server[$v]}" tcp 80
		peers connect "router@${inside[$v]}" tcp 40000 "${server[$v]}" 80
		note_property client "IPv$v, tcp: $said"
		peers accept "server@${server[$v]}" tcp 80
		must_come_from "${outside[$v]}" 40000 "tcp from its inner address"
	done
}

# A host of the LAN sends to another one through the router's outer address.
hairpin_NAT() {
	set_rules "4 PREROUTING -p udp --dport 8053 -j DNAT --to-destination 172.18.0.3:53" \
		"6 PREROUTING -p udp --dport 8053 -j DNAT --to-destination [fd00:18::3]:53" \
		"-o lan0 -j TARGET"
	for v in 4 6; do
		peers open "lan@${second[$v]}" udp 53
		peers send "lan@${client[$v]}" udp 40000 "${outside[$v]}" 8053 question
		peers hear "lan@${second[$v]}" udp 53
		must_come_from "${inside[$v]}" 40000 question
		peers answer "lan@${second[$v]}" udp 53 answer
		must_hear "lan@${client[$v]}" udp 40000 "the answer" "${outside[$v]} 8053 answer"
	done
}

# The packets of a flow in a flowtable bypass conntrack.
an_offloaded_flow() {
	local word
	set_rules "-o wan0 -p udp -j TARGET --to-ports 7000"
	ns_exec router nft -f - <<-END || bail "a flowtable"
		table inet fast {
			flowtable lanes { hook ingress priority 0; devices = { lan0, wan0 }; }
			chain forward {
				type filter hook forward priority 0;
				meta l4proto udp ct state established flow add @lanes
			}
		}
	END
	for v in 4 6; do
		for word in one two three; do
			pass_datagram "${client[$v]}" 40000 "${server[$v]}" $word 7000
			peers answer "server@${server[$v]}" udp 53 $word
			must_hear "lan@${client[$v]}" udp 40000 "$word comes back" "${server[$v]} 53 $word"
		done
	done
	peers until router offload 2
	must_match "both flows are offloaded" yes "$said"
	must_show_flag OFFLOAD
	look_at_conntrack
	ns_exec router nft delete table inet fast
}

cases=(no_options a_range_of_ports a_range_that_includes_the_source_port a_single_port
	random_ports fully_random_ports random_ICMP_identifiers a_random_port_of_a_range
	an_unanswered_UDP_flow a_long_UDP_flow source_ports_keep_their_class
	a_TCP_connection_is_closed a_TCP_connection_is_reset a_TCP_connection_is_refused
	ICMP_errors fragments choice_of_the_address flows_of_the_router_itself hairpin_NAT an_offloaded_flow)
check_same "${cases[@]}"

# RUSTMASQ refuses the flow; MASQUERADE lets it go on, and conntrack drops it at its confirmation.
except=statistics
check_same the_only_port_is_taken
except=
check_equal "the only port is taken: RUSTMASQ drops a flow before conntrack confirms it" \
	$'drop=2' "$(grep -v found <<< "${noted[RUSTMASQ the_only_port_is_taken statistics]}")"

# --- Wrong rules: the comparison notices a difference in each property

# A flow that is answered, and then goes on.
an_answered_UDP_flow() {
	set_rules "4 -o wan0 -p udp -j TARGET"
	v=4
	exchange udp 40000 40000
	pass_another_datagram more 100
}

check_same an_answered_UDP_flow
if compared; then
	check_wrong_rule "source reply" an_answered_UDP_flow "SNAT --to-source 203.0.113.9"
	check_wrong_rule "reply" ICMP_errors "RUSTMASQ --to-ports 8000-8999"
	check_wrong_rule "port reply" an_answered_UDP_flow "RUSTMASQ --to-ports 7000"
	check_wrong_rule "counters" an_answered_UDP_flow "RUSTMASQ -c 5 500"
	check_wrong_rule "delivered" an_answered_UDP_flow router "$IPTABLES" mangle FORWARD -p udp --dport 53 \
		-m conntrack --ctstate ESTABLISHED -j DROP
	check_wrong_rule "client" an_answered_UDP_flow lan "$IPTABLES" raw PREROUTING -p udp -j DROP
	check_wrong_rule "original" \
		an_answered_UDP_flow lan "$IPTABLES" nat POSTROUTING -p udp -j SNAT --to-source 172.18.0.3
	check_wrong_rule "flags events" \
		an_answered_UDP_flow router "$IPTABLES" raw PREROUTING -p udp --dport 53 -j CT --helper tftp
	check_wrong_rule "events" \
		an_answered_UDP_flow router "$IPTABLES" raw PREROUTING -p udp --dport 53 -j CT --ctevents new,destroy
	check_wrong_rule "counters statistics" \
		the_only_port_is_taken router "$IPTABLES" filter FORWARD -p udp --sport 40001 -j DROP
fi

# --- The module in the place of MASQUERADE: its rules are the same again

if compared; then
	set_rules
	remove_other_masquerade || bail "MASQUERADE is held"
	unload_module || bail "the module is held"
	modprobe rustmasq masquerade=1 || bail "the module"
	check_served_same "${cases[@]}"
	check "no rule was served by the kernel's own" no_other_masquerade
	set_rules
	unload_module || bail "the module is held"
	modprobe rustmasq || bail "the module"
fi

# --- Intended differences. Only one of the two modules is loaded at a time: the notifiers of each remove the flows of
# both.

# count_flows_leaving_as PATTERN: prints how many of the router's flows leave with an address that matches.
count_flows_leaving_as() { tracked | grep -cE "dst=$1 [^=]*=[0-9]+ dport=[0-9]+ (\[[A-Z]+\] )?(mark|use)="; }
no_flows_leaving_as() { [[ $(count_flows_leaving_as "$1") == 0 ]]; }

# send_udp_flows COUNT ADDRESS...: sends a packet from each of COUNT ports of the LAN's host to each address.
send_udp_flows() {
	local port address
	for address in "${@:2}"; do
		for ((port = 40000; port < 40000 + $1; port++)); do
			peers send lan@172.18.0.2 udp $port "$address" 9 x
		done
	done
}

# marker_is_flushed: adds an address, sends a flow from it, and removes the address. Succeeds if the flow is removed
# within a second.
marker_is_flushed() {
	local n
	ip -n router addr add 10.2.0.1/24 dev wan0
	send_udp_flows 1 10.2.0.2
	ip -n router addr del 10.2.0.1/24 dev wan0
	for n in {1..20}; do
		no_flows_leaving_as 10.2.0.1 && return
		pause 0.05
	done
	return 1
}
# flush_marker_flow TARGET: checks that a flow is removed with its address. Earlier changes were processed then.
flush_marker_flow() { check "$1: an ordinary address is removed, then its flow" wait_until marker_is_flushed; }

# change_100_addresses add|del: adds or removes a hundred addresses in one batch. The real-time priority keeps the
# notifier's worker from running in between: on a fast machine, it might process each change in time.
change_100_addresses() {
	local n
	for n in {1..100}; do echo "addr $1 10.1.$n.1/24 dev wan0"; done > "$scratch/batch"
	ns_exec router chrt --fifo 50 taskset --cpu-list 0 ip -batch "$scratch/batch" || bail "a hundred addresses"
}

# remove_addresses TARGET PATTERN BATCH-PATTERN: checks how many flows stay when their addresses are removed: one
# address, and a hundred at once.
remove_addresses() {
	ip -n router addr add 10.0.0.1 peer 10.0.0.2/32 dev wan0
	send_udp_flows 5 10.0.0.2
	check_equal "$1: 5 flows leave with a point-to-point address" 5 "$(count_flows_leaving_as 10.0.0.1)"
	ip -n router addr del 10.0.0.1 peer 10.0.0.2/32 dev wan0
	flush_marker_flow "$1"
	check_match "$1: the point-to-point address is removed; as many flows stay as expected" \
		"^($2)$" "$(count_flows_leaving_as 10.0.0.1)"

	send_udp_flows 5 10.9.0.2
	check_equal "$1: 5 flows leave with an address borrowed from lo" 5 "$(count_flows_leaving_as 192.0.2.1)"
	ip -n router addr del 192.0.2.1/32 dev lo
	flush_marker_flow "$1"
	check_match "$1: the borrowed address is removed; as many flows stay as expected" \
		"^($2)$" "$(count_flows_leaving_as 192.0.2.1)"
	ip -n router addr add 192.0.2.1/32 dev lo

	change_100_addresses add
	send_udp_flows 2 10.1.{1..100}.2
	check_equal "$1: 200 flows leave with 100 addresses" 200 "$(count_flows_leaving_as '10\.1\.[0-9]+\.1')"
	change_100_addresses del
	flush_marker_flow "$1"
	check_match "$1: the 100 addresses are removed at once; as many flows stay as expected" \
		"^($3)$" "$(count_flows_leaving_as '10\.1\.[0-9]+\.1')"
	ns_exec router conntrack -F 2> /dev/null
}

# send_without_address TARGET STATISTICS: checks that a packet is not sent if no address can be its source, and what
# conntrack counts then.
send_without_address() {
	peers anew router
	peers open server@203.0.113.2 udp 53
	peers send lan@172.18.0.2 udp 40000 203.0.113.2 53 question
	peers hear server@203.0.113.2 udp 53 0.5
	check_equal "$1: no usable address: no packet reaches the server" nothing "$said"
	peers look router
	check_equal "$1: no usable address: conntrack counts the packet as expected" "$2" "$said"
}

# check_rule_refused WHAT PATTERN COMMAND...: passes if the command fails with a message that matches.
check_rule_refused() {
	local output
	if output=$("${@:3}" 2>&1); then
		not_ok "RUSTMASQ: $1" "it was accepted"
		return
	fi
	check_match "RUSTMASQ: $1" "$2" "$output"
}

set_rules
ip -n router link add wan1 type dummy
ip -n router link set wan1 up
ip -n router addr add 192.0.2.1/32 dev lo
ip -n router route add 10.9.0.0/16 dev wan1
# Packets need not arrive, so that no neighbour is asked for. Flows must not time out before the flush.
ip -n router link set wan0 arp off
ns_exec router sh -c 'echo 600 > /proc/sys/net/netfilter/nf_conntrack_udp_timeout'

check "MASQUERADE is not loaded" remove_other_masquerade
add_rule -j RUSTMASQ || bail "rule"
remove_addresses RUSTMASQ 0 0
flush_rules
check "RUSTMASQ is not loaded" rmmod rustmasq
add_rule -j MASQUERADE || bail "rule"
remove_addresses MASQUERADE 5 '[1-9][0-9]*'

# --- Rules that one of the two refuses

flush_rules
check "MASQUERADE: port 0 is accepted" add_rule -p udp -j MASQUERADE --to-ports 0
check_rule_refused "port 0 is refused" "to-ports" add_rule -p udp -j RUSTMASQ --to-ports 0
check "MASQUERADE: a port is accepted with \"! -p tcp\"" add_rule ! -p tcp -j MASQUERADE --to-ports 5
check_rule_refused "a port is refused with \"! -p tcp\"" "to-ports" add_rule ! -p tcp -j RUSTMASQ --to-ports 5
check_fails "MASQUERADE: ICMPv6 identifiers are refused" add_rule6 -p ipv6-icmp -j MASQUERADE --to-ports 5
check "RUSTMASQ: ICMPv6 identifiers are accepted" add_rule6 -p ipv6-icmp -j RUSTMASQ --to-ports 5

# --- No usable address: the only ones have link scope

flush_rules
ip -n router -4 addr flush dev wan0
ip -n router addr del 192.0.2.1/32 dev lo
ip -n router addr flush dev lan0 scope global
ip -n router addr add 172.18.0.1/16 dev lan0 scope link
ip -n router route replace 203.0.113.0/24 dev wan0
mask=() target=MASQUERADE
set_rules "4 -o wan0 -j TARGET"
send_without_address MASQUERADE ""
target=RUSTMASQ
set_rules "4 -o wan0 -j TARGET"
send_without_address RUSTMASQ "statistics drop=1"

set_rules
check "MASQUERADE is unloaded" remove_other_masquerade

done_testing
