#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Front ends: legacy nft
#
# TCP, UDP and ping over IPv6 from a LAN leave with the router's address, and with a port of --to-ports where the rule
# has it, and their answers come back. Without a rule no answer comes back.
#
#     lan                 router                     server
#     lan0 ------------ lan0  wan0 ---------------- eth0
#     fd00:18::2/64    fd00:18::1   2001:db8:1::1    2001:db8:1::2/64
. "$(dirname "$0")/../../lib/lib.sh"

setup_ns lan router server
setup_link lan lan0 fd00:18::2/64 router lan0 fd00:18::1/64
setup_link router wan0 2001:db8:1::1/64 server eth0 2001:db8:1::2/64
ip -n lan route add default via fd00:18::1
enable_forwarding router
# The router's address as socat writes it.
outside='[2001:0db8:0001:0000:0000:0000:0000:0001]'

# probe6 PROTOCOL PORT [OPTION,...]: does what probe does, from lan to the server's IPv6 address.
probe6() {
	probe lan "$1" '[2001:db8:1::2]' "${@:2}"
}

serve server TCP6 80
serve server UDP6 53

# The server has no route back to the LAN.
check_equal "without a rule TCP gets no answer" "" "$(probe_briefly lan TCP6 '[2001:db8:1::2]' 80)"
check_equal "without a rule UDP gets no answer" "" "$(probe_briefly lan UDP6 '[2001:db8:1::2]' 53)"
check_fails "without a rule ping gets no answer" ns_exec lan ping -6 -c 1 -W 1 2001:db8:1::2

add_rule6 -s fd00:18::/64 -o wan0 -p tcp -j RUSTMASQ --to-ports 55666-55680 || bail "rule for TCP"
add_rule6 -s fd00:18::/64 -o wan0 -p udp -j RUSTMASQ --to-ports 55666-55680 || bail "rule for UDP"
add_rule6 -s fd00:18::/64 -o wan0 -j RUSTMASQ || bail "rule for the rest"

for protocol in TCP:80 UDP:53; do
	name=${protocol%:*} port=${protocol#*:}
	seen=$(probe6 "${name}6" "$port" sourceport=40000)
	check_equal "$name: the server saw the router's address" "$outside" "${seen%:*}"
	check_port "$name: the server saw a port of the range" 55666 55680 "${seen##*:}"
	entry=$(tracked -f ipv6 -p "${name,,}" --orig-port-src 40000)
	check_match "$name: conntrack's ORIGINAL tuple is the LAN host's" \
		"src=fd00:18::2 dst=2001:db8:1::2 sport=40000 dport=$port" "$entry"
	check_match "$name: conntrack's REPLY tuple is the router's" \
		"src=2001:db8:1::2 dst=2001:db8:1::1 sport=$port dport=${seen##*:} " "$entry"
done

check "ping is answered" ns_exec lan ping -6 -c 1 -W 5 2001:db8:1::2
check_match "ping: conntrack's REPLY tuple is the router's" \
	"src=2001:db8:1::2 dst=2001:db8:1::1 type=129" "$(tracked -f ipv6 -p icmpv6)"

# No rule matches the router's own packets.
check "the router itself reaches the server" ns_exec router ping -6 -c 1 -W 5 2001:db8:1::2

# A range of one port serves two flows only if their destinations differ. The clients' ports are given: two that
# are chosen at random may be the same, and belong to one flow.
flush_rules
add_rule6 -p udp -j RUSTMASQ --to-ports 6000 || bail "rule with one port"
serve server UDP6 54
check_equal "one port: the first flow gets it" "$outside:6000" "$(probe6 UDP6 53 sourceport=40011)"
check_equal "one port: a flow to another destination gets it, too" "$outside:6000" "$(probe6 UDP6 54 sourceport=40012)"
check_equal "one port: a second flow to the same destination gets no answer" "" \
	"$(probe_briefly lan UDP6 '[2001:db8:1::2]' 53 sourceport=40013)"

# NAT keeps a source port that is free, except with --random and --random-fully.
flush_rules
add_rule6 -p udp -j RUSTMASQ || bail "rule without ports"
check_equal "without --to-ports the source port is kept" "$outside:40001" "$(probe6 UDP6 53 sourceport=40001)"
for option in --random --random-fully; do
	flush_rules
	add_rule6 -p udp -j RUSTMASQ "$option" || bail "rule with $option"
	moved=0
	for source in 40010 40011 40012; do
		seen=$(probe6 UDP6 53 sourceport=$source)
		check_equal "$option: the server saw the router's address" "$outside" "${seen%:*}"
		[[ ${seen##*:} == "$source" ]] || moved=$((moved + 1))
	done
	# A random port may equal the source port by chance. All three do so in 1 of 10^14 runs.
	check "$option: at least one of three source ports changes" test $moved -gt 0
done

done_testing
