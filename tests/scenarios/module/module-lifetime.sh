#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Front ends: legacy nft
#
# The module comes with the first rule, stays while there is one, and leaves
# flows alone when it goes. A flow that no address can be found for is dropped,
# and that can be seen.
. "$(dirname "$0")/../../lib/lib.sh"

# The third column is the reference count.
users() { awk '$1 == "rustmasq" { print $3 }' /proc/modules; }

# both_fail WHAT: neither way gets the module out.
both_fail() {
	check_match "$1: rmmod says that it is in use" "in use" "$(rmmod rustmasq 2>&1)"
	check_fails "$1: modprobe -r fails" modprobe -r rustmasq
	check_fails "$1: modprobe -r fails again" modprobe -r rustmasq
	check "$1: it is still there" module_loaded
}

delete_rule() { ns_exec router "$IPTABLES" -w -t nat -D POSTROUTING "$@"; }

setup_lan
# Namespaces of earlier scenarios may still be on their way out, with their rules.
wait_until unload_module || bail "the module can be removed before the first rule"

# --- Rules hold the module

check "ip6tables' first rule" add_rule6 -j RUSTMASQ
check "... loads the module" module_loaded
ns_exec router "$IP6TABLES" -w -t nat -F
check "it can be removed when the rule is gone" unload_module

check "iptables' first rule" add_rule -p tcp -j RUSTMASQ --to-ports 50000-50999
check "... loads the module" module_loaded
check_equal "one rule is one user" 1 "$(users)"
both_fail "one rule"
add_rule -p udp -j RUSTMASQ --to-ports 51000-51999 || bail "a second rule"
check_equal "two rules are two users" 2 "$(users)"
both_fail "two rules"
check "the first rule goes" delete_rule -p tcp -j RUSTMASQ --to-ports 50000-50999
check_equal "one user is left" 1 "$(users)"
both_fail "one of two rules"
check "the second goes" delete_rule -p udp -j RUSTMASQ --to-ports 51000-51999
check_equal "no user is left" 0 "$(users)"
check "modprobe -r works" unload_module
check "... and once more it finds nothing to do" modprobe -r rustmasq

# A namespace takes its rules with it when it goes.
setup_ns passing
ns_exec passing "$IPTABLES" -w -t nat -A POSTROUTING -j RUSTMASQ || bail "a rule in another namespace"
check_fails "a rule in another namespace holds it too" rmmod rustmasq
ip netns del passing
hosts=(lan router server)
check "... until that namespace is gone" wait_until unload_module

# --- Flows go on without the module

# serve_echo PROTOCOL: repeats what it hears on port 7.
serve_echo() {
	ns_start server socat "$1-LISTEN:7,fork,reuseaddr" PIPE 2> "$scratch/echo-$1"
	wait_until listening server "$1" 7 || bail "no echo server for $1"
}

# carries PROTOCOL TEXT: the flow carries it there and back.
carries() {
	local answer=
	echo "$2" >&"${to_connection[$1]}"
	IFS= read -r -t 5 -u "${from_connection[$1]}" answer
	[[ $answer == "$2" ]]
}

# port PROTOCOL SOURCE-PORT: what the flow has outside, by conntrack.
port() {
	tracked -p "${1,,}" --orig-port-src "$2" |
		sed -nE 's/.* src=203.0.113.2 dst=203.0.113.1 sport=7 dport=([0-9]+) .*/\1/p'
}

# These two keep conntrack and NAT on, as any other rule might.
ns_exec router "$IPTABLES" -w -A FORWARD -m conntrack --ctstate NEW,ESTABLISHED -j ACCEPT || bail "rule with -m conntrack"
ns_exec router "$IPTABLES" -w -t nat -A PREROUTING -p tcp --dport 9999 -j DNAT --to-destination 203.0.113.2:7 ||
	bail "rule with DNAT"
add_rule -p tcp -j RUSTMASQ --to-ports 50000-50999 || bail "rule for TCP"
add_rule -p udp -j RUSTMASQ --to-ports 51000-51999 || bail "rule for UDP"

declare -A own=([TCP]=40001 [UDP]=40002) outside
for protocol in TCP UDP; do
	serve_echo $protocol
	open_connection $protocol lan "$protocol:203.0.113.2:7,sourceport=${own[$protocol]}"
	servers+=("$connection")
	check "$protocol: a flow begins" carries $protocol "hello"
	outside[$protocol]=$(port $protocol "${own[$protocol]}")
	check "$protocol: ... masqueraded" test "${outside[$protocol]}" -ge 50000
done
check_match "the rules counted one packet a flow" '^1 1 $' \
	"$(ns_exec router "$IPTABLES" -w -t nat -L POSTROUTING -n -v -x | awk '$3 == "RUSTMASQ" { printf "%s ", $1 }')"

ns_exec router "$IPTABLES" -w -t nat -F POSTROUTING
check "the module can be removed while flows live" unload_module
for protocol in TCP UDP; do
	check "$protocol: the flow goes on without module" carries $protocol "still there?"
	check_equal "$protocol: ... with the same port" "${outside[$protocol]}" "$(port $protocol "${own[$protocol]}")"
done
check_equal "a new flow is not masqueraded any more" "" "$(probe_briefly lan UDP 203.0.113.2 7 sourceport=40003)"

add_rule -p tcp -j RUSTMASQ --to-ports 52000-52999 || bail "rule for TCP after the reload"
add_rule -p udp -j RUSTMASQ --to-ports 52000-52999 || bail "rule for UDP after the reload"
check "new rules load the module again" module_loaded
for protocol in TCP UDP; do
	check "$protocol: the old flow goes on" carries $protocol "and now?"
	check_equal "$protocol: ... with its old port" "${outside[$protocol]}" "$(port $protocol "${own[$protocol]}")"
done
check_equal "a new flow is masqueraded again" x "$(probe lan UDP 203.0.113.2 7 sourceport=40004)"
check_port "... with a port of the new range" 52000 52999 "$(port UDP 40004)"
check_match "the new rule counted it alone" '^0 1 $' \
	"$(ns_exec router "$IPTABLES" -w -t nat -L POSTROUTING -n -v -x | awk '$3 == "RUSTMASQ" { printf "%s ", $1 }')"

# --- No address

stop_servers
flush_rules
ns_exec router "$IPTABLES" -w -t nat -F PREROUTING
add_rule -j RUSTMASQ || bail "rule for all"

complaints() { dmesg | grep -c 'rustmasq: no usable address for wan0: '; }

# begin_flows ADDRESS COUNT: begins that many flows with one packet each.
begun=2000
begin_flows() {
	local first=$begun
	begun=$((begun + $2))
	ns_exec lan bash -c "for ((port = $first; port < $begun; port++)); do echo x > /dev/udp/$1/\$port; done"
}

udp_entry() { tracked -p udp | grep -q "$1"; }
udp6_entry() { tracked -f ipv6 -p udp | grep -q "$1"; }

# source_is WHAT ADDRESS: a new flow to 203.0.113.2 gets this source.
source_is() {
	begin_flows 203.0.113.2 1
	check "$1" wait_until udp_entry "dport=$((begun - 1)) .*src=203.0.113.2 dst=$2 "
}

# dropped WHAT TO COUNT: that many new flows are dropped.
dropped() {
	local drops
	drops=$(conntrack_statistic router drop)
	begin_flows "$2" "$3"
	check "$1: each packet is dropped and counted" wait_until drops_are $((drops + $3))
	check_equal "$1: conntrack forgot the flow" 0 "$(tracked -p udp | grep -c "dport=$((begun - 1)) ")"
}
drops_are() { [[ $(conntrack_statistic router drop) == "$1" ]]; }

ip -n router addr del 203.0.113.1/24 dev wan0
ip -n router route add 203.0.113.0/24 dev wan0
source_is "wan0 has no address: the one of lan0 serves" 172.18.0.1

# An address for one link alone is none to leave with.
ip -n router addr del 172.18.0.1/16 dev lan0
ip -n router addr add 172.18.0.1/16 dev lan0 scope link
before=$(complaints)
dropped "no device has a usable address" 203.0.113.2 40
lines=$(($(complaints) - before))
check "... the log says so, though not for each ($lines lines for 40 packets)" test $lines -ge 1 -a $lines -le 20

ip -n router addr add 203.0.113.9/24 dev wan0
source_is "wan0 has an address again" 203.0.113.9
ip -n router addr del 203.0.113.9/24 dev wan0

# In a VRF, only its own devices count, the VRF's first.
ip -n router link add other type dummy
setup_device router other 198.51.100.1/24
ip -n router link add red type vrf table 10 || bail "a VRF"
ip -n router link set red up
ip -n router link set lan0 master red
ip -n router link set wan0 master red
ip -n router route replace 203.0.113.0/24 dev wan0 vrf red
dropped "VRF: a device outside has an address" 203.0.113.2 1
ip -n router addr add 192.0.2.7/32 dev red
source_is "VRF: its own address serves" 192.0.2.7

# IPv6 takes any address of the namespace, even the loopback device's: only
# where there is none at all, nothing is left to use. The router cannot be
# asked for its hardware address then.
ip -n router link set lan0 nomaster
ip -n router link set wan0 nomaster
for device in lo lan0 wan0 other red; do ip -n router -6 addr flush dev $device 2> /dev/null; done
add_rule6 -j RUSTMASQ || bail "rule for IPv6"
ip -n lan addr add fd00:18::2/64 dev lan0 nodad
ip -n lan route add default via fe80::1 dev lan0
ip -n lan neigh replace fe80::1 dev lan0 lladdr "$(ip -n router -br link show lan0 | awk '{ print $3 }')"
ip -n router route add 2001:db8::/64 dev wan0 || bail "IPv6 route"
dropped "IPv6: no address at all" 2001:db8::2 3
ip -n router addr add 2001:db8::1/64 dev wan0 nodad
begin_flows 2001:db8::2 1
check "IPv6: wan0 has an address" wait_until udp6_entry "dport=$((begun - 1)) .*src=2001:db8::2 dst=2001:db8::1 "

done_testing
