#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Front ends: legacy nft
#
# --to-ports for all it can be given for, in both families: the ports of TCP,
# UDP and SCTP, and the identifiers of ICMP and ICMPv6 echo requests.
. "$(dirname "$0")/../../lib/lib.sh"

setup_lan
ns_exec lan ip addr add fd00:18::2/64 dev lan0 nodad
ns_exec router ip addr add fd00:18::1/64 dev lan0 nodad
ns_exec router ip addr add 2001:db8::1/64 dev wan0 nodad
ns_exec server ip addr add 2001:db8::2/64 dev eth0 nodad
ip -n lan route add default via fd00:18::1

# The echo requests that the server gets, one a line, with their identifiers.
ns_exec server tcpdump -l -n -i eth0 'icmp[icmptype] == icmp-echo or (icmp6 and ip6[40] == 128)' \
	> "$scratch/echo" 2> "$scratch/tcpdump" &
servers+=($!)
wait_until grep -q listening "$scratch/tcpdump" || bail "tcpdump"

# add_range_rule FAMILY PROTOCOL ARGUMENT...
add_range_rule() {
	local program=$IPTABLES
	[[ $1 == IPv4 ]] || program=$IP6TABLES
	ns_exec router "$program" -w -t nat -A POSTROUTING -o wan0 -p "$2" -j RUSTMASQ "${@:3}" || bail "rule for $2"
}

# requests ADDRESS: how many echo requests from there the server got.
requests() { grep -c " $1 > .* echo request," "$scratch/echo"; }
more_requests() { (($(requests "$1") >= $2)); }

# echoes FAMILY PROTOCOL LAN ROUTER SERVER
echoes() {
	local sent id ids=() before reply
	for sent in 7 1005 40000; do
		before=$(requests "$4")
		check "$1: echo request with identifier $sent is answered" ns_exec lan ping -c 1 -W 5 -e $sent "$5"
		wait_until more_requests "$4" $((before + 1))
		id=$(grep " $4 > .* echo request," "$scratch/echo" | tail -n 1 | sed -nE 's/.* id ([0-9]+),.*/\1/p')
		check_port "$1: ... and had one of the range when the server saw it" 1000 1010 "$id"
		reply=$(tracked -f "${1,,}" -p "$2" | grep -E "type=(8|128) code=0 id=$sent " |
			grep -oE 'src=[^ ]* dst=[^ ]* type=[0-9]+ code=0 id=[0-9]+' | tail -n 1)
		check_match "$1: ... conntrack's REPLY tuple has it" "^src=$5 dst=$4 type=[0-9]+ code=0 id=$id$" "$reply"
		ids+=("$id")
	done
	check_equal "$1: the three have three identifiers" 3 "$(printf '%s\n' "${ids[@]}" | sort -u | wc -l)"
	check_equal "$1: no request came with a LAN address" 0 "$(requests "$3")"
}

# full_echoes FAMILY SERVER: a range of two identifiers.
full_echoes() {
	check "$1: two identifiers: the first request is answered" ns_exec lan ping -c 1 -W 5 -e 1 "$2"
	check "$1: two identifiers: the second is" ns_exec lan ping -c 1 -W 5 -e 2 "$2"
	check_fails "$1: two identifiers: the third finds none free" ns_exec lan ping -c 1 -W 1 -e 3 "$2"
}

serve server SCTP 5000
serve server SCTP6 5001
serve server TCP6 5002
serve server UDP6 5003

# check_two_flows PROTOCOL PORT FAMILY ROUTER SERVER, the protocol as socat names it. One
# flow's own port is outside the range, the other's in it.
check_two_flows() {
	local name=$1 protocol=${1,,} dport=$2 family=$3 router=$4 server=$5
	local source got target=$server
	protocol=${protocol%6}
	[[ $family == IPv4 ]] || target="[$server]"
	add_range_rule "$family" "$protocol" --to-ports 6000-6010
	for source in 40000 6005; do
		got=$(probe lan "$name" "$target" "$dport" "sourceport=$source")
		check_port "$name, source port $source: the server saw one of the range" 6000 6010 "${got##*:}"
		check_match "$name: ... conntrack's REPLY tuple has it, and the router's address" \
			"sport=$source dport=$dport .*src=$server dst=$router sport=$dport dport=${got##*:} " \
			"$(tracked -f "${family,,}" -p "$protocol" --orig-port-src "$source")"
	done
}

check_two_flows SCTP 5000 IPv4 203.0.113.1 203.0.113.2
check_two_flows SCTP6 5001 IPv6 2001:db8::1 2001:db8::2
check_two_flows TCP6 5002 IPv6 2001:db8::1 2001:db8::2
check_two_flows UDP6 5003 IPv6 2001:db8::1 2001:db8::2

add_range_rule IPv4 icmp --to-ports 1000-1010
echoes IPv4 icmp 172.18.0.2 203.0.113.1 203.0.113.2
flush_rules
add_range_rule IPv4 icmp --to-ports 1000-1001
full_echoes IPv4 203.0.113.2

add_range_rule IPv6 ipv6-icmp --to-ports 1000-1010
echoes IPv6 ipv6-icmp fd00:18::2 2001:db8::1 2001:db8::2
ns_exec router "$IP6TABLES" -w -t nat -F
ns_exec router conntrack -F -f ipv6 2> /dev/null
add_range_rule IPv6 ipv6-icmp --to-ports 1000-1001
full_echoes IPv6 2001:db8::2

done_testing
