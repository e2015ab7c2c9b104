#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Front ends: legacy nft
#
# TCP, UDP and ping from a LAN leave with the router's address, and with a port of --to-ports where the rule has it, and
# their answers come back. Without a rule no answer comes back.
. "$(dirname "$0")/../../lib/lib.sh"

setup_lan
serve server TCP 80
serve server UDP 53

# The server has no route back to the LAN.
check_equal "without a rule TCP gets no answer" "" "$(probe_briefly lan TCP 203.0.113.2 80)"

add_rule -s 172.18.0.0/16 -o wan0 -p tcp -j RUSTMASQ --to-ports 55666-55680 || bail "rule for TCP"
add_rule -s 172.18.0.0/16 -o wan0 -p udp -j RUSTMASQ --to-ports 55666-55680 || bail "rule for UDP"
add_rule -s 172.18.0.0/16 -o wan0 -j RUSTMASQ || bail "rule for the rest"

for protocol in TCP:80 UDP:53; do
	name=${protocol%:*} port=${protocol#*:}
	seen=$(probe lan "$name" 203.0.113.2 "$port" sourceport=40000)
	check_equal "$name: the server saw the router's address" 203.0.113.1 "${seen%:*}"
	check_port "$name: the server saw a port of the range" 55666 55680 "${seen##*:}"
	entry=$(tracked -p "${name,,}" --orig-port-src 40000)
	check_match "$name: conntrack's ORIGINAL tuple is the LAN host's" \
		"src=172.18.0.2 dst=203.0.113.2 sport=40000 dport=$port" "$entry"
	check_match "$name: conntrack's REPLY tuple is the router's" \
		"src=203.0.113.2 dst=203.0.113.1 sport=$port dport=${seen##*:} " "$entry"
done

check "ping is answered" ns_exec lan ping -c 1 -W 5 203.0.113.2
check_match "ping: conntrack's REPLY tuple is the router's" \
	"src=203.0.113.2 dst=203.0.113.1 type=0" "$(tracked -p icmp)"

# No rule matches the router's own packets.
check "the router itself reaches the server" ns_exec router ping -c 1 -W 5 203.0.113.2

# A range of one port serves two flows only if their destinations differ. The clients' ports are given: two that
# are chosen at random may be the same, and belong to one flow.
flush_rules
add_rule -p udp -j RUSTMASQ --to-ports 6000 || bail "rule with one port"
serve server UDP 54
check_equal "one port: the first flow gets it" "203.0.113.1:6000" "$(probe lan UDP 203.0.113.2 53 sourceport=40011)"
check_equal "one port: a flow to another destination gets it, too" "203.0.113.1:6000" \
	"$(probe lan UDP 203.0.113.2 54 sourceport=40012)"
check_equal "one port: a second flow to the same destination gets no answer" "" \
	"$(probe_briefly lan UDP 203.0.113.2 53 sourceport=40013)"

# NAT keeps a source port that is free, except with --random and --random-fully.
flush_rules
add_rule -p udp -j RUSTMASQ || bail "rule without ports"
check_equal "without --to-ports the source port is kept" "203.0.113.1:40001" \
	"$(probe lan UDP 203.0.113.2 53 sourceport=40001)"
for option in --random --random-fully; do
	flush_rules
	add_rule -p udp -j RUSTMASQ "$option" || bail "rule with $option"
	moved=0
	for source in 40010 40011 40012; do
		seen=$(probe lan UDP 203.0.113.2 53 sourceport=$source)
		check_equal "$option: the server saw the router's address" 203.0.113.1 "${seen%:*}"
		[[ ${seen##*:} == "$source" ]] || moved=$((moved + 1))
	done
	# A random port may equal the source port by chance. All three do so in 1 of 10^14 runs.
	check "$option: at least one of three source ports changes" test $moved -gt 0
done

done_testing
