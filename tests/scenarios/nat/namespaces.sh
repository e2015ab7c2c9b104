#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Front ends: legacy nft
#
# Two households that know nothing of each other, with the same addresses:
#
#     lan1                router1                    server1
#     lan0 ------------ lan0  wan0 ---------------- eth0
#     172.18.0.2       172.18.0.1   203.0.113.1      203.0.113.2
#
#     lan2                router2                    server2
#     lan0 ------------ lan0  wan0 ---------------- eth0
#     172.18.0.2       172.18.0.1   203.0.113.1      203.0.113.2
#
# Then one of the routers, and others, go from one moment to the next, with rules
# and flows, and leave nothing behind.
. "$(dirname "$0")/../../lib/lib.sh"

for n in 1 2; do
	setup_ns lan$n router$n server$n
	setup_link lan$n lan0 172.18.0.2/16 router$n lan0 172.18.0.1/16
	setup_link router$n wan0 203.0.113.1/24 server$n eth0 203.0.113.2/24
	ip -n lan$n route add default via 172.18.0.1
	enable_forwarding router$n
done

for n in 1 2; do serve server$n UDP 53; done

# rule_in HOST ARGUMENT...
rule_in() {
	ns_exec "$1" "$IPTABLES" -w -t nat -A POSTROUTING "${@:2}" || bail "rule in $1"
}

# references: how many hold our module.
references() { cat /sys/module/rustmasq/refcnt; }

# probe_network NUMBER [PORT]: what its server saw.
probe_network() {
	probe "lan$1" UDP 203.0.113.2 53 "sourceport=${2:-40000}"
}

# probe_network_briefly ...: as probe_network, where no answer is expected.
probe_network_briefly() {
	local patience=1
	probe_network "$@"
}

# --- Apart from each other

rule_in router1 -o wan0 -p udp -j RUSTMASQ --to-ports 6000-6009
seen=$(probe_network 1)
check_equal "the router with a rule translates" 203.0.113.1 "${seen%:*}"
check_port "... to a port of its range" 6000 6009 "${seen##*:}"
check_equal "the router without a rule does not" "" "$(probe_network_briefly 2)"
check_fails "... and shows none" grep RUSTMASQ <(ns_exec router2 "$IPTABLES" -w -t nat -S 2> /dev/null)
ns_exec router2 conntrack -F 2> /dev/null

rule_in router2 -o wan0 -p udp -j RUSTMASQ --to-ports 7000
check_equal "the same flow at the other router, now with its own rule" 203.0.113.1:7000 "$(probe_network 2)"
check_equal "... where the one port of the range is taken then" "" "$(probe_network_briefly 2 40001)"
ns_exec router1 conntrack -F 2> /dev/null
seen=$(probe_network 1)
check_port "the first router does not mind" 6000 6009 "${seen##*:}"
check_match "the first router tracks its own flow" "sport=40000 .* dport=600[0-9] " \
	"$(ns_exec router1 conntrack -L -p udp --orig-port-src 40000 2> /dev/null)"
check_match "the other router tracks its own" "sport=40000 .* dport=7000 " \
	"$(ns_exec router2 conntrack -L -p udp --orig-port-src 40000 2> /dev/null)"

ns_exec router2 "$IPTABLES" -w -t nat -F
ns_exec router2 conntrack -F 2> /dev/null
check_equal "the other router's rule is gone" "" "$(probe_network_briefly 2)"
ns_exec router1 conntrack -F 2> /dev/null
check_match "... the first router's is not" "^203.0.113.1:600[0-9]$" "$(probe_network 1)"

# --- Gone in the middle

rule_in router2 -j RUSTMASQ
ns_exec router2 conntrack -F 2> /dev/null
# A range would bound the number of flows.
ns_exec router1 "$IPTABLES" -w -t nat -F
without=$(references)
rule_in router1 -j RUSTMASQ --random
ns_exec router1 "$IP6TABLES" -w -t nat -A POSTROUTING -j RUSTMASQ || bail "rule for IPv6"
check "rules hold the module" test "$(references)" -gt "$without"
check_fails "the module cannot be unloaded from under its rules" rmmod rustmasq

tracks_at_least() { [[ $(ns_exec router1 cat /proc/sys/net/netfilter/nf_conntrack_count) -ge $1 ]]; }
cable_is_gone() { ! ip -n lan1 link show lan0; }

# A new flow with each packet.
ns_start lan1 hping3 --udp -q -p 53 -i u1000 203.0.113.2 > "$scratch/flood" 2>&1
check "flows come to live in the first router" wait_until tracks_at_least 100
ip netns del router1
hosts=(lan1 server1 lan2 router2 server2)
# The devices of a namespace go when its flows and rules have gone.
check "the first router goes in the middle of it" wait_until cable_is_gone
check_match "the other router lives on" "^203.0.113.1:40000$" "$(probe_network 2)"

# Born, used, and gone at once. A flow through lo is a flow.
use_namespace_once() {
	ip netns add "$1"
	ip -n "$1" link set lo up
	ip -n "$1" addr add 10.0.0.1/32 dev lo
	ip -n "$1" addr add fd00:1::1/128 dev lo nodad
	ns_exec "$1" "$IPTABLES" -w -t nat -A POSTROUTING -p icmp -j RUSTMASQ
	ns_exec "$1" "$IP6TABLES" -w -t nat -A POSTROUTING -j RUSTMASQ
	ns_exec "$1" ping -q -c 1 -W 5 10.0.0.1 > /dev/null
	ns_exec "$1" ping -q -c 1 -W 5 fd00:1::1 > /dev/null
	ns_exec "$1" conntrack -L 2> /dev/null | grep -c icmp
	ip netns del "$1"
}
births=()
for n in 1 2 3 4 5; do
	use_namespace_once short$n > "$scratch/born$n" 2>&1 &
	births+=($!)
done
wait "${births[@]}"
check_equal "five more came with flows and rules, and went" "2 2 2 2 2" "$(cat "$scratch"/born? | xargs)"

ns_exec router2 "$IPTABLES" -w -t nat -F
check "no rule of theirs holds the module" wait_until module_unused
check "the module can be unloaded" wait_until rmmod rustmasq
check_fails "... and is" grep -q '^rustmasq ' /proc/modules
ns_exec router2 conntrack -F 2> /dev/null
rule_in router2 -p udp -j RUSTMASQ --to-ports 7001
check_equal "... and comes again with the next rule" 203.0.113.1:7001 "$(probe_network 2)"

done_testing
