#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# MASQUERADE and RUSTMASQ side by side: each case runs with both, in the network that
# tests/lib/compare.sh draws, and all that can be seen of it must be the same. That the
# comparison sees each property is shown by wrong rules. What is meant to differ
# comes last.
# shellcheck source-path=SCRIPTDIR source=../../lib/compare.sh
. "$(dirname "$0")/../../lib/compare.sh"

setup_two_clients
start_compare_peers

# --- Traffic

# exchange PROTOCOL PORT PORTS: of all protocols: client and server exchange a word. The
# server must see a port that matches PORTS.
exchange() {
	local me=lan@${client[$v]} it=server@${server[$v]}
	case $1 in
	udp)
		peers open "$it" udp 53
		peers send "$me" udp "$2" "${server[$v]}" 53 question
		peers hear "$it" udp 53
		must_come_from "${outside[$v]}" "$3" "udp from $2"
		peers answer "$it" udp 53 answer
		must_hear "$me" udp "$2" "udp answer" "${server[$v]} 53 answer" ;;
	icmp)
		peers open "$it" icmp 0
		peers send "$me" icmp "$2" "${server[$v]}" 0 question
		peers hear "$it" icmp 0
		must_come_from "${outside[$v]}" "$3" "icmp from $2"
		must_hear "$me" icmp "$2" "icmp answer" "${server[$v]} $2 question" ;;
	tcp | sctp)
		peers open "$it" "$1" 80
		peers connect "$me" "$1" "$2" "${server[$v]}" 80
		note_property client "IPv$v, $1: $said"
		peers accept "$it" "$1" 80
		must_come_from "${outside[$v]}" "$3" "$1 from $2"
		peers say "$it" "$1" 80 answer
		must_hear "$me" "$1" "$2" "$1 answer" answer
		peers until router established ;;
	esac
}

# all_protocols PORTS [IDENTIFIERS]: the server must see these; the second is for ICMPv6, if that is another matter.
all_protocols() {
	local protocol
	for v in 4 6; do
		for protocol in udp tcp sctp; do exchange $protocol 40000 "$1"; done
		if [[ $v == 4 ]]; then exchange icmp 40000 "$1"; else exchange icmp 40000 "${2-$1}"; fi
	done
}

# with_ports OPTIONS: a rule with --to-ports for each protocol; but MASQUERADE takes no identifiers of ICMPv6.
with_ports() {
	set_rules "-p udp -j TARGET $1" "-p tcp -j TARGET $1" "-p sctp -j TARGET $1" "4 -p icmp -j TARGET $1" "6 -j TARGET"
}

# --- One flow of each protocol and family

no_options() {
	set_rules "-o wan0 -j TARGET"
	all_protocols 40000
}

a_range() {
	mask=(6000-6999)
	with_ports "--to-ports 6000-6999"
	all_protocols '\[6000-6999\]#.' 40000
}

# The clients' own ports lie in the range: they are kept.
a_range_that_holds_the_port() {
	with_ports "--to-ports 39990-40010"
	all_protocols 40000
}

one_port() {
	with_ports "--to-ports 7000"
	all_protocols 7000 40000
}

random() {
	local protocol
	mask=(1024-65535)
	set_rules "-o wan0 -j TARGET --random"
	for v in 4 6; do
		for protocol in udp tcp sctp; do exchange $protocol 40000 '\[1024-65535\]#.'; done
	done
}

random_fully() {
	local protocol
	mask=(1024-65535)
	set_rules "-o wan0 -j TARGET --random-fully"
	for v in 4 6; do
		for protocol in udp tcp sctp; do exchange $protocol 40000 '\[1024-65535\]#.'; done
	done
}

random_identifiers() {
	mask=(0-65535)
	set_rules "-o wan0 -j TARGET --random"
	for v in 4 6; do exchange icmp 40000 '\[0-65535\]#.'; done
}

a_random_port_of_a_range() {
	mask=(6000-6999)
	with_ports "--to-ports 6000-6999 --random"
	all_protocols '\[6000-6999\]#.' 40000
}

# --- UDP: the life of a flow

# pass_datagram FROM PORT TO TEXT PORTS [SIZE]: a datagram from an address of the LAN's host to port 53 of the server's.
pass_datagram() {
	peers open "server@$3" udp 53
	peers send "lan@$1" udp "$2" "$3" 53 "$4" ${6:+"$6"}
	peers hear "server@$3" udp 53
	must_come_from "${from:-${outside[$v]}}" "$5" "$4"
}

# again TEXT [SIZE]: another one of the same flow, from the client.
again() {
	peers send "lan@${client[$v]}" udp 40000 "${server[$v]}" 53 "$@"
	peers hear "server@${server[$v]}" udp 53 "$patience"
	note_property delivered "IPv$v, $1: ${said##* }"
	must_match "$1" ".* $1" "$said"
}

unanswered_UDP() {
	set_rules "-o wan0 -j TARGET"
	for v in 4 6; do
		pass_datagram "${client[$v]}" 40000 "${server[$v]}" one 40000
		again two 100
	done
	must_show_flag UNREPLIED
}

# Conntrack takes a flow for a stream if it lasts for two seconds and more.
long_UDP() {
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

# Ports below 512, those below 1024, and all others keep to their own kind, if another client was first.
port_classes() {
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

# The port can be had once for each server, and what finds none is dropped.
one_port_is_taken() {
	set_rules "-o wan0 -p udp -j TARGET --to-ports 7000"
	for v in 4 6; do
		pass_datagram "${client[$v]}" 40000 "${server[$v]}" first 7000
		pass_datagram "${second[$v]}" 40000 "${other[$v]}" elsewhere 7000
		# It would come before the other's next one.
		peers send "lan@${second[$v]}" udp 40001 "${server[$v]}" 53 lost
		pass_datagram "${client[$v]}" 40000 "${server[$v]}" next 7000
	done
	peers dropped router 2 "$patience"
	must_match "the drops are counted" yes "$said"
}

# --- TCP and SCTP

# connected PROTOCOL: from port 40000 to 80.
connected() {
	me=lan@${client[$v]} it=server@${server[$v]}
	peers open "$it" "$1" 80
	peers connect "$me" "$1" 40000 "${server[$v]}" 80
	note_property client "IPv$v, $1: $said"
	peers accept "$it" "$1" 80
	must_come_from "${outside[$v]}" 40000 "$1"
}

# count is how many flows should have come so far.
TCP_closes() {
	local me it count=0
	set_rules "-o wan0 -j TARGET"
	for v in 4 6; do
		connected tcp
		peers end "$me" tcp 40000
		must_hear "$it" tcp 80 "the client's end" closed
		# Else one packet may be acknowledgement and end at once.
		peers until router close-wait
		peers end "$it" tcp 80
		must_hear "$me" tcp 40000 "the server's end" closed
		peers until router time-wait $((++count))
		must_match "conntrack knows" yes "$said"
	done
}

TCP_is_reset() {
	local me it count=0
	set_rules "-o wan0 -j TARGET"
	v=4
	connected tcp
	peers abort "$me" tcp 40000
	must_hear "$it" tcp 80 "the client's reset" reset
	peers until router close $((++count))
	v=6
	connected tcp
	peers abort "$it" tcp 80
	must_hear "$me" tcp 40000 "the server's reset" reset
	peers until router close $((++count))
	must_match "conntrack knows" yes "$said"
}

TCP_is_refused() {
	set_rules "-o wan0 -j TARGET"
	for v in 4 6; do
		peers connect "lan@${client[$v]}" tcp 40000 "${server[$v]}" 81
		note_property client "IPv$v: $said"
		must_match "the client is told" refused "$said"
	done
}

# --- Errors, fragments, and where flows come from and go to

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

which_address() {
	local from
	set_rules "-o wan0 -j TARGET"
	v=4
	pass_datagram "${client[4]}" 40001 203.0.113.2 primary 40001
	from=198.51.100.1
	pass_datagram "${client[4]}" 40002 198.51.100.2 subnet 40002
	pass_datagram "${client[4]}" 40003 192.0.2.9 next-hop 40003
	v=6 from=2001:db8:1::1
	pass_datagram "${client[6]}" 40001 2001:db8:1::2 prefix 40001
	from=2001:db8:2::1
	pass_datagram "${client[6]}" 40002 2001:db8:2::2 prefix2 40002
}

# What the router says itself, and what it lets through with its own address already.
the_router_itself() {
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

# A host of the LAN asks another one by the router's outer address.
hairpin() {
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

# A flow that leaves conntrack's way, by nftables' flowtable.
offloaded() {
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
	must_match "both flows are" yes "$said"
	must_show_flag OFFLOAD
	look_at_conntrack
	ns_exec router nft delete table inet fast
}

check_same no_options a_range a_range_that_holds_the_port one_port \
	random random_fully random_identifiers a_random_port_of_a_range \
	unanswered_UDP long_UDP port_classes one_port_is_taken \
	TCP_closes TCP_is_reset TCP_is_refused \
	ICMP_errors fragments which_address the_router_itself hairpin offloaded

# --- What wrong rules would do: the comparison sees each of its properties

# One flow that is answered, and then goes on.
a_flow() {
	set_rules "4 -o wan0 -p udp -j TARGET"
	v=4
	exchange udp 40000 40000
	again more 100
}

check_same a_flow
if compared; then
	check_wrong_rule "source reply" a_flow "SNAT --to-source 203.0.113.9"
	check_wrong_rule "reply" ICMP_errors "RUSTMASQ --to-ports 8000-8999"
	check_wrong_rule "port reply" a_flow "RUSTMASQ --to-ports 7000"
	check_wrong_rule "counters" a_flow "RUSTMASQ -c 5 500"
	check_wrong_rule "delivered" a_flow router "$IPTABLES" mangle FORWARD -p udp --dport 53 \
		-m conntrack --ctstate ESTABLISHED -j DROP
	check_wrong_rule "client" a_flow lan "$IPTABLES" raw PREROUTING -p udp -j DROP
	check_wrong_rule "original" a_flow lan "$IPTABLES" nat POSTROUTING -p udp -j SNAT --to-source 172.18.0.3
	check_wrong_rule "flags events" a_flow router "$IPTABLES" raw PREROUTING -p udp --dport 53 -j CT --helper tftp
	check_wrong_rule "events" a_flow router "$IPTABLES" raw PREROUTING -p udp --dport 53 -j CT --ctevents new,destroy
	check_wrong_rule "counters statistics" one_port_is_taken router "$IPTABLES" filter FORWARD -p udp --sport 40001 -j DROP
fi

# --- What is meant to differ. Each has the field for itself: their notifiers forget each other's flows.

# flows_leaving_as PATTERN: how many of the router's flows leave with such an address.
flows_leaving_as() { tracked | grep -cE "dst=$1 [^=]*=[0-9]+ dport=[0-9]+ (\[[A-Z]+\] )?(mark|use)="; }
none_leaving_as() { [[ $(flows_leaving_as "$1") == 0 ]]; }

# send_udp_flows COUNT ADDRESS...: from the LAN's host; a packet to each from so many ports.
send_udp_flows() {
	local port address
	for address in "${@:2}"; do
		for ((port = 40000; port < 40000 + $1; port++)); do
			peers send lan@172.18.0.2 udp $port "$address" 9 x
		done
	done
}

# marker_is_flushed: a plain address goes, and its flow is forgotten soon.
marker_is_flushed() {
	local n
	ip -n router addr add 10.2.0.1/24 dev wan0
	send_udp_flows 1 10.2.0.2
	ip -n router addr del 10.2.0.1/24 dev wan0
	for n in {1..20}; do
		none_leaving_as 10.2.0.1 && return
		pause 0.05
	done
	return 1
}
# all_is_done TARGET: what went before this was worked off.
all_is_done() { check "$1: a plain address goes, its flow is forgotten" wait_until marker_is_flushed; }

# numbered add|del: a hundred addresses in one batch, and at a priority that lets no other work come between, which
# might keep up on a fast day.
numbered() {
	local n
	for n in {1..100}; do echo "addr $1 10.1.$n.1/24 dev wan0"; done > "$scratch/batch"
	ns_exec router chrt --fifo 50 taskset --cpu-list 0 ip -batch "$scratch/batch" || bail "a hundred addresses"
}

# addresses_go TARGET PATTERN: how many flows stay, when addresses go.
addresses_go() {
	ip -n router addr add 10.0.0.1 peer 10.0.0.2/32 dev wan0
	send_udp_flows 5 10.0.0.2
	check_equal "$1: 5 flows leave with a point-to-point address" 5 "$(flows_leaving_as 10.0.0.1)"
	ip -n router addr del 10.0.0.1 peer 10.0.0.2/32 dev wan0
	all_is_done "$1"
	check_match "$1: it goes; of the flows stay" "^($2)$" "$(flows_leaving_as 10.0.0.1)"

	send_udp_flows 5 10.9.0.2
	check_equal "$1: 5 flows leave with an address that lo lent" 5 "$(flows_leaving_as 192.0.2.1)"
	ip -n router addr del 192.0.2.1/32 dev lo
	all_is_done "$1"
	check_match "$1: it goes; of the flows stay" "^($2)$" "$(flows_leaving_as 192.0.2.1)"
	ip -n router addr add 192.0.2.1/32 dev lo

	numbered add
	send_udp_flows 2 10.1.{1..100}.2
	check_equal "$1: 200 flows leave with 100 addresses" 200 "$(flows_leaving_as '10\.1\.[0-9]+\.1')"
	numbered del
	all_is_done "$1"
	check_match "$1: all go at once; of the flows stay" "^($3)$" "$(flows_leaving_as '10\.1\.[0-9]+\.1')"
	ns_exec router conntrack -F 2> /dev/null
}

# no_address TARGET DROPS: no flow leaves with what is no source; so many drops are counted.
no_address() {
	peers anew router
	peers open server@203.0.113.2 udp 53
	peers send lan@172.18.0.2 udp 40000 203.0.113.2 53 question
	peers hear server@203.0.113.2 udp 53 0.5
	check_equal "$1: no usable address: nothing leaves" nothing "$said"
	peers look router
	check_equal "$1: ... and what conntrack counts is" "$2" "$said"
}

# check_rule_refused WHAT PATTERN COMMAND...: as check_fails; and the message matches.
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
# Packets need not arrive; flows end by the flush alone.
ip -n router link set wan0 arp off
ns_exec router sh -c 'echo 600 > /proc/sys/net/netfilter/nf_conntrack_udp_timeout'

modprobe -r xt_MASQUERADE nft_masq 2> /dev/null
check "MASQUERADE is not loaded" no_other_masquerade
add_rule -j RUSTMASQ || bail "rule"
addresses_go RUSTMASQ 0 0
flush_rules
check "RUSTMASQ is not loaded" rmmod rustmasq
add_rule -j MASQUERADE || bail "rule"
addresses_go MASQUERADE 5 '[1-9][0-9]*'

# --- Rules that make no sense

flush_rules
check "MASQUERADE: port 0 is accepted" add_rule -p udp -j MASQUERADE --to-ports 0
check_rule_refused "port 0 is refused" "to-ports" add_rule -p udp -j RUSTMASQ --to-ports 0
check "MASQUERADE: a port where the protocol is all but TCP is accepted" add_rule ! -p tcp -j MASQUERADE --to-ports 5
check_rule_refused "a port where the protocol is all but TCP is refused" "to-ports" add_rule ! -p tcp -j RUSTMASQ --to-ports 5
check_fails "MASQUERADE: identifiers of ICMPv6 are refused" add_rule6 -p ipv6-icmp -j MASQUERADE --to-ports 5
check "RUSTMASQ: identifiers of ICMPv6 are accepted" add_rule6 -p ipv6-icmp -j RUSTMASQ --to-ports 5

# --- No usable address: these have link scope

flush_rules
ip -n router -4 addr flush dev wan0
ip -n router addr del 192.0.2.1/32 dev lo
ip -n router addr flush dev lan0 scope global
ip -n router addr add 172.18.0.1/16 dev lan0 scope link
ip -n router route replace 203.0.113.0/24 dev wan0
mask=() target=MASQUERADE
set_rules "4 -o wan0 -j TARGET"
no_address MASQUERADE ""
target=RUSTMASQ
set_rules "4 -o wan0 -j TARGET"
no_address RUSTMASQ "statistics drop=1"

set_rules
modprobe -r xt_MASQUERADE nft_masq 2> /dev/null
check "MASQUERADE is unloaded" no_other_masquerade

done_testing
