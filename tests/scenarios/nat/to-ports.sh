#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Front ends: legacy nft
#
# --to-ports sets the range of ports of TCP, UDP and SCTP and of identifiers of ICMP and ICMPv6 echo requests, in both
# families (basic.sh has TCP and UDP over IPv4). An echo request that finds none free in the range gets no answer.
. "$(dirname "$0")/../../lib/lib.sh"

setup_lan
ns_exec lan ip addr add fd00:18::2/64 dev lan0 nodad
ns_exec router ip addr add fd00:18::1/64 dev lan0 nodad
ns_exec router ip addr add 2001:db8::1/64 dev wan0 nodad
ns_exec server ip addr add 2001:db8::2/64 dev eth0 nodad
ip -n lan route add default via fd00:18::1

# tcpdump prints the echo requests that the server receives, one a line, with their identifiers.
ns_exec server tcpdump -l -n -i eth0 'icmp[icmptype] == icmp-echo or (icmp6 and ip6[40] == 128)' \
	> "$scratch/echo" 2> "$scratch/tcpdump" &
servers+=($!)
wait_until grep -q listening "$scratch/tcpdump" || bail "tcpdump"

# add_range_rule FAMILY PROTOCOL ARGUMENT...: adds a rule for the protocol. The arguments follow "-j RUSTMASQ".
add_range_rule() {
	local program=$IPTABLES
	[[ $1 == IPv4 ]] || program=$IP6TABLES
	ns_exec router "$program" -w -t nat -A POSTROUTING -o wan0 -p "$2" -j RUSTMASQ "${@:3}" || bail "rule for $2"
}

# count_requests ADDRESS: prints how many echo requests from the address the server received.
count_requests() { grep -c " $1 > .* echo request," "$scratch/echo"; }
enough_requests() { (($(count_requests "$1") >= $2)); }

# check_echoes FAMILY PROTOCOL LAN ROUTER SERVER: checks the identifiers of three echo requests. The last three
# arguments are the hosts' addresses.
check_echoes() {
	local sent id ids=() before reply
	for sent in 7 1005 40000; do
		before=$(count_requests "$4")
		check "$1: echo request with identifier $sent is answered" ns_exec lan ping -c 1 -W 5 -e $sent "$5"
		wait_until enough_requests "$4" $((before + 1))
		id=$(grep " $4 > .* echo request," "$scratch/echo" | tail -n 1 | sed -nE 's/.* id ([0-9]+),.*/\1/p')
		check_port "$1: the server saw an identifier of the range instead of $sent" 1000 1010 "$id"
		reply=$(tracked -f "${1,,}" -p "$2" | grep -E "type=(8|128) code=0 id=$sent " |
			grep -oE 'src=[^ ]* dst=[^ ]* type=[0-9]+ code=0 id=[0-9]+' | tail -n 1)
		check_match "$1: conntrack's REPLY tuple has the identifier that replaced $sent" \
			"^src=$5 dst=$4 type=[0-9]+ code=0 id=$id$" "$reply"
		ids+=("$id")
	done
	check_equal "$1: the server saw three different identifiers" 3 "$(printf '%s\n' "${ids[@]}" | sort -u | wc -l)"
	check_equal "$1: no request arrived with the LAN host's address" 0 "$(count_requests "$3")"
}

# check_full_range FAMILY SERVER: checks that a range of two identifiers serves two flows, and not a third.
check_full_range() {
	check "$1: two identifiers: the first request is answered" ns_exec lan ping -c 1 -W 5 -e 1 "$2"
	check "$1: two identifiers: the second request is answered" ns_exec lan ping -c 1 -W 5 -e 2 "$2"
	check_fails "$1: two identifiers: the third request is not answered" ns_exec lan ping -c 1 -W 1 -e 3 "$2"
}

serve server SCTP 5000
serve server SCTP6 5001
serve server TCP6 5002
serve server UDP6 5003

# check_two_flows PROTOCOL PORT FAMILY ROUTER SERVER: checks the ports of two flows, one with a source port outside the
# range and one with a source port in it. PROTOCOL is socat's word.
check_two_flows() {
	local name=$1 protocol=${1,,} dport=$2 family=$3 router=$4 server=$5
	local source got target=$server
	protocol=${protocol%6}
	[[ $family == IPv4 ]] || target="[$server]"
	add_range_rule "$family" "$protocol" --to-ports 6000-6010
	for source in 40000 6005; do
		got=$(probe lan "$name" "$target" "$dport" "sourceport=$source")
		check_port "$name, source port $source: the server saw a port of the range" 6000 6010 "${got##*:}"
		check_match "$name, source port $source: conntrack's REPLY tuple has that port and the router's address" \
			"sport=$source dport=$dport .*src=$server dst=$router sport=$dport dport=${got##*:} " \
			"$(tracked -f "${family,,}" -p "$protocol" --orig-port-src "$source")"
	done
}

check_two_flows SCTP 5000 IPv4 203.0.113.1 203.0.113.2
check_two_flows SCTP6 5001 IPv6 2001:db8::1 2001:db8::2
check_two_flows TCP6 5002 IPv6 2001:db8::1 2001:db8::2
check_two_flows UDP6 5003 IPv6 2001:db8::1 2001:db8::2

add_range_rule IPv4 icmp --to-ports 1000-1010
check_echoes IPv4 icmp 172.18.0.2 203.0.113.1 203.0.113.2
flush_rules
add_range_rule IPv4 icmp --to-ports 1000-1001
check_full_range IPv4 203.0.113.2

add_range_rule IPv6 ipv6-icmp --to-ports 1000-1010
check_echoes IPv6 ipv6-icmp fd00:18::2 2001:db8::1 2001:db8::2
ns_exec router "$IP6TABLES" -w -t nat -F
ns_exec router conntrack -F -f ipv6 2> /dev/null
add_range_rule IPv6 ipv6-icmp --to-ports 1000-1001
check_full_range IPv6 2001:db8::2

done_testing
