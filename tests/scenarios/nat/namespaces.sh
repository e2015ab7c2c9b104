#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Front ends: legacy nft
#
# Rules and flows of a namespace do not affect another one, even one with the same addresses. A router without a rule
# does not translate. When a namespace is removed with rules and flows in use, nothing of it is left: the module can be
# unloaded. The two networks:
#
#     lan1                router1                    server1
#     lan0 ------------ lan0  wan0 ---------------- eth0
#     172.18.0.2       172.18.0.1   203.0.113.1      203.0.113.2
#
#     lan2                router2                    server2
#     lan0 ------------ lan0  wan0 ---------------- eth0
#     172.18.0.2       172.18.0.1   203.0.113.1      203.0.113.2
. "$(dirname "$0")/../../lib/lib.sh"

for n in 1 2; do
	setup_ns lan$n router$n server$n
	setup_link lan$n lan0 172.18.0.2/16 router$n lan0 172.18.0.1/16
	setup_link router$n wan0 203.0.113.1/24 server$n eth0 203.0.113.2/24
	ip -n lan$n route add default via 172.18.0.1
	enable_forwarding router$n
done

for n in 1 2; do serve server$n UDP 53; done

# add_rule_in HOST ARGUMENT...: appends a rule to the chain POSTROUTING of the host's table nat.
add_rule_in() {
	ns_exec "$1" "$IPTABLES" -w -t nat -A POSTROUTING "${@:2}" || bail "rule in $1"
}

# reference_count: prints the module's reference count.
reference_count() { cat /sys/module/rustmasq/refcnt; }

# probe_network NUMBER [PORT]: sends a datagram in the network. Prints the source that the server saw.
probe_network() {
	probe "lan$1" UDP 203.0.113.2 53 "sourceport=${2:-40000}"
}

# probe_network_briefly ...: does the same with little patience, where no answer is expected.
probe_network_briefly() {
	local patience=1
	probe_network "$@"
}

# --- Rules and flows of two namespaces

add_rule_in router1 -o wan0 -p udp -j RUSTMASQ --to-ports 6000-6009
seen=$(probe_network 1)
check_equal "the router with a rule translates the flow" 203.0.113.1 "${seen%:*}"
check_port "the router with a rule translates to a port of its range" 6000 6009 "${seen##*:}"
check_equal "the router without a rule does not translate the flow" "" "$(probe_network_briefly 2)"
check_fails "the router without a rule lists none" \
	grep RUSTMASQ <(ns_exec router2 "$IPTABLES" -w -t nat -S 2> /dev/null)
ns_exec router2 conntrack -F 2> /dev/null

add_rule_in router2 -o wan0 -p udp -j RUSTMASQ --to-ports 7000
check_equal "the second router translates the same flow by its own rule" 203.0.113.1:7000 "$(probe_network 2)"
check_equal "the second router has no free port for a second flow" "" "$(probe_network_briefly 2 40001)"
ns_exec router1 conntrack -F 2> /dev/null
seen=$(probe_network 1)
check_port "the first router still translates by its own rule" 6000 6009 "${seen##*:}"
check_match "the first router tracks its own flow" "sport=40000 .* dport=600[0-9] " \
	"$(ns_exec router1 conntrack -L -p udp --orig-port-src 40000 2> /dev/null)"
check_match "the second router tracks its own flow" "sport=40000 .* dport=7000 " \
	"$(ns_exec router2 conntrack -L -p udp --orig-port-src 40000 2> /dev/null)"

ns_exec router2 "$IPTABLES" -w -t nat -F
ns_exec router2 conntrack -F 2> /dev/null
check_equal "the second router does not translate after its rule was removed" "" "$(probe_network_briefly 2)"
ns_exec router1 conntrack -F 2> /dev/null
check_match "the first router still has its rule" "^203.0.113.1:600[0-9]$" "$(probe_network 1)"

# --- A namespace is removed while its rules and flows are in use

add_rule_in router2 -j RUSTMASQ
ns_exec router2 conntrack -F 2> /dev/null
# A range of ports would limit the number of flows.
ns_exec router1 "$IPTABLES" -w -t nat -F
before=$(reference_count)
add_rule_in router1 -j RUSTMASQ --random
ns_exec router1 "$IP6TABLES" -w -t nat -A POSTROUTING -j RUSTMASQ || bail "rule for IPv6"
check "the rules hold references to the module" test "$(reference_count)" -gt "$before"
check_fails "the module cannot be unloaded while it has rules" rmmod rustmasq

tracks_at_least() { [[ $(ns_exec router1 cat /proc/sys/net/netfilter/nf_conntrack_count) -ge $1 ]]; }
link_is_gone() { ! ip -n lan1 link show lan0; }

# hping3 starts a new flow with each packet.
ns_start lan1 hping3 --udp -q -p 53 -i u1000 203.0.113.2 > "$scratch/flood" 2>&1
check "the first router tracks many flows" wait_until tracks_at_least 100
ip netns del router1
hosts=(lan1 server1 lan2 router2 server2)
# The kernel removes a namespace's devices after its flows and rules.
check "the first router is removed while packets arrive" wait_until link_is_gone
check_match "the second router still translates" "^203.0.113.1:40000$" "$(probe_network 2)"

# use_namespace_once NAME: makes a namespace, adds rules, sends pings through lo, which conntrack tracks, and removes
# the namespace. Prints how many ICMP flows it had.
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
pids=()
for n in 1 2 3 4 5; do
	use_namespace_once short$n > "$scratch/short$n" 2>&1 &
	pids+=($!)
done
wait "${pids[@]}"
check_equal "five namespaces had flows and rules before they were removed" \
	"2 2 2 2 2" "$(cat "$scratch"/short? | xargs)"

ns_exec router2 "$IPTABLES" -w -t nat -F
check "no removed namespace holds a reference to the module" wait_until module_unused
check "the module can be unloaded" wait_until rmmod rustmasq
check_fails "the module is not loaded after that" grep -q '^rustmasq ' /proc/modules
ns_exec router2 conntrack -F 2> /dev/null
add_rule_in router2 -p udp -j RUSTMASQ --to-ports 7001
check_equal "the next rule loads the module again and translates" 203.0.113.1:7001 "$(probe_network 2)"

done_testing
