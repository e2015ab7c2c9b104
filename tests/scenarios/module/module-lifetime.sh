#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Front ends: legacy nft
#
# The first rule loads the module, and it stays loaded while there is a rule. Flows go on after it was removed, but new
# ones are not masqueraded. A flow for which there is no usable address is dropped, counted and logged.
. "$(dirname "$0")/../../lib/lib.sh"

# user_count: prints the module's reference count, the third column.
user_count() { awk '$1 == "rustmasq" { print $3 }' /proc/modules; }

# check_in_use WHAT: checks that neither rmmod nor modprobe -r removes the module.
check_in_use() {
	check_match "$1: rmmod says that it is in use" "in use" "$(rmmod rustmasq 2>&1)"
	check_fails "$1: modprobe -r fails" modprobe -r rustmasq
	check_fails "$1: modprobe -r fails again" modprobe -r rustmasq
	check "$1: the module is still loaded" module_loaded
}

# delete_rule ARGUMENT...: deletes the rule from the chain POSTROUTING of the router's table nat.
delete_rule() { ns_exec router "$IPTABLES" -w -t nat -D POSTROUTING "$@"; }

setup_lan
# The kernel may still be removing namespaces of earlier scenarios, with their rules.
wait_until unload_module || bail "the module can be removed before the first rule"

# --- Rules hold references to the module

check "ip6tables adds the first rule" add_rule6 -j RUSTMASQ
check "ip6tables' first rule loads the module" module_loaded
ns_exec router "$IP6TABLES" -w -t nat -F
check "the module can be removed after the rule was deleted" unload_module

check "iptables adds the first rule" add_rule -p tcp -j RUSTMASQ --to-ports 50000-50999
check "iptables' first rule loads the module" module_loaded
check_equal "one rule is one user" 1 "$(user_count)"
check_in_use "one rule"
add_rule -p udp -j RUSTMASQ --to-ports 51000-51999 || bail "a second rule"
check_equal "two rules are two users" 2 "$(user_count)"
check_in_use "two rules"
check "the first rule is deleted" delete_rule -p tcp -j RUSTMASQ --to-ports 50000-50999
check_equal "one user is left" 1 "$(user_count)"
check_in_use "one of two rules"
check "the second rule is deleted" delete_rule -p udp -j RUSTMASQ --to-ports 51000-51999
check_equal "no user is left" 0 "$(user_count)"
check "modprobe -r removes the unused module" unload_module
check "modprobe -r succeeds when the module is not loaded" modprobe -r rustmasq

# The rules of a namespace are removed with it.
setup_ns passing
ns_exec passing "$IPTABLES" -w -t nat -A POSTROUTING -j RUSTMASQ || bail "a rule in another namespace"
check_fails "a rule in another namespace holds a reference to the module" rmmod rustmasq
ip netns del passing
hosts=(lan router server)
check "the module can be removed after that namespace was removed" wait_until unload_module

# --- Flows go on without the module

# serve_echo PROTOCOL: starts an echo server on port 7.
serve_echo() {
	ns_start server socat "$1-LISTEN:7,fork,reuseaddr" PIPE 2> "$scratch/echo-$1"
	wait_until listening server "$1" 7 || bail "no echo server for $1"
}

# is_echoed_by PROTOCOL TEXT: succeeds if the flow's client sends the text and receives it back.
is_echoed_by() {
	local answer=
	echo "$2" >&"${to_connection[$1]}"
	IFS= read -r -t 5 -u "${from_connection[$1]}" answer
	[[ $answer == "$2" ]]
}

# outside_port PROTOCOL SOURCE-PORT: prints the port that the flow has outside, from its conntrack entry.
outside_port() {
	tracked -p "${1,,}" --orig-port-src "$2" |
		sed -nE 's/.* src=203.0.113.2 dst=203.0.113.1 sport=7 dport=([0-9]+) .*/\1/p'
}

# These two rules keep conntrack and NAT on.
ns_exec router "$IPTABLES" -w -A FORWARD -m conntrack --ctstate NEW,ESTABLISHED -j ACCEPT || bail "rule with -m conntrack"
ns_exec router "$IPTABLES" -w -t nat -A PREROUTING -p tcp --dport 9999 -j DNAT --to-destination 203.0.113.2:7 ||
	bail "rule with DNAT"
add_rule -p tcp -j RUSTMASQ --to-ports 50000-50999 || bail "rule for TCP"
add_rule -p udp -j RUSTMASQ --to-ports 51000-51999 || bail "rule for UDP"

declare -A client_port=([TCP]=40001 [UDP]=40002) outside
for protocol in TCP UDP; do
	serve_echo $protocol
	open_connection $protocol lan "$protocol:203.0.113.2:7,sourceport=${client_port[$protocol]}"
	servers+=("$connection")
	check "$protocol: a flow works" is_echoed_by $protocol "hello"
	outside[$protocol]=$(outside_port $protocol "${client_port[$protocol]}")
	check "$protocol: the flow is masqueraded" test "${outside[$protocol]}" -ge 50000
done
check_match "the rules counted one packet for each flow" '^1 1 $' \
	"$(ns_exec router "$IPTABLES" -w -t nat -L POSTROUTING -n -v -x | awk '$3 == "RUSTMASQ" { printf "%s ", $1 }')"

ns_exec router "$IPTABLES" -w -t nat -F POSTROUTING
check "the module can be removed while flows exist" unload_module
for protocol in TCP UDP; do
	check "$protocol: the flow goes on without the module" is_echoed_by $protocol "still there?"
	check_equal "$protocol: the flow keeps its port without the module" \
		"${outside[$protocol]}" "$(outside_port $protocol "${client_port[$protocol]}")"
done
check_equal "without the module, a new flow gets no answer" "" "$(probe_briefly lan UDP 203.0.113.2 7 sourceport=40003)"

add_rule -p tcp -j RUSTMASQ --to-ports 52000-52999 || bail "rule for TCP after the reload"
add_rule -p udp -j RUSTMASQ --to-ports 52000-52999 || bail "rule for UDP after the reload"
check "new rules load the module again" module_loaded
for protocol in TCP UDP; do
	check "$protocol: the old flow goes on after the module was loaded again" is_echoed_by $protocol "and now?"
	check_equal "$protocol: the old flow keeps its port after the module was loaded again" \
		"${outside[$protocol]}" "$(outside_port $protocol "${client_port[$protocol]}")"
done
check_equal "a new flow gets an answer again" x "$(probe lan UDP 203.0.113.2 7 sourceport=40004)"
check_port "the new flow has a port of the new rule's range" 52000 52999 "$(outside_port UDP 40004)"
check_match "the new rules counted only the new flow" '^0 1 $' \
	"$(ns_exec router "$IPTABLES" -w -t nat -L POSTROUTING -n -v -x | awk '$3 == "RUSTMASQ" { printf "%s ", $1 }')"

# --- No usable address

stop_servers
flush_rules
ns_exec router "$IPTABLES" -w -t nat -F PREROUTING
add_rule -j RUSTMASQ || bail "rule for all"

# count_warnings: prints how many lines about a missing address the kernel has logged.
count_warnings() { dmesg | grep -c 'rustmasq: no usable address for wan0: '; }

# begin_flows ADDRESS COUNT: begins COUNT flows with one packet each, to a new port of the address each.
next_port=2000
begin_flows() {
	local first=$next_port
	next_port=$((next_port + $2))
	ns_exec lan bash -c "for ((port = $first; port < $next_port; port++)); do echo x > /dev/udp/$1/\$port; done"
}

has_udp_entry() { tracked -p udp | grep -q "$1"; }
has_udp6_entry() { tracked -f ipv6 -p udp | grep -q "$1"; }

# check_new_source WHAT ADDRESS: checks that a new flow to 203.0.113.2 leaves with the address.
check_new_source() {
	begin_flows 203.0.113.2 1
	check "$1" wait_until has_udp_entry "dport=$((next_port - 1)) .*src=203.0.113.2 dst=$2 "
}

# check_dropped WHAT ADDRESS COUNT: checks that COUNT new flows to the address are dropped.
check_dropped() {
	local drops
	drops=$(conntrack_statistic router drop)
	begin_flows "$2" "$3"
	check "$1: each packet is dropped and counted" wait_until drops_are $((drops + $3))
	check_equal "$1: conntrack has no entry of the flow" 0 "$(tracked -p udp | grep -c "dport=$((next_port - 1)) ")"
}
drops_are() { [[ $(conntrack_statistic router drop) == "$1" ]]; }

ip -n router addr del 203.0.113.1/24 dev wan0
ip -n router route add 203.0.113.0/24 dev wan0
check_new_source "wan0 has no address: the flow leaves with the address of lan0" 172.18.0.1

# An address with link scope cannot be the source of a flow to another network.
ip -n router addr del 172.18.0.1/16 dev lan0
ip -n router addr add 172.18.0.1/16 dev lan0 scope link
before=$(count_warnings)
check_dropped "no device has a usable address" 203.0.113.2 40
lines=$(($(count_warnings) - before))
check "no device has a usable address: the log says so in fewer lines than packets ($lines lines for 40 packets)" \
	test $lines -ge 1 -a $lines -le 20

ip -n router addr add 203.0.113.9/24 dev wan0
check_new_source "wan0 has an address again: the flow leaves with it" 203.0.113.9
ip -n router addr del 203.0.113.9/24 dev wan0

# In a VRF, only its members and the VRF device can provide an address, the VRF device first.
ip -n router link add other type dummy
setup_device router other 198.51.100.1/24
ip -n router link add red type vrf table 10 || bail "a VRF"
ip -n router link set red up
ip -n router link set lan0 master red
ip -n router link set wan0 master red
ip -n router route replace 203.0.113.0/24 dev wan0 vrf red
check_dropped "VRF: only a device outside the VRF has an address" 203.0.113.2 1
ip -n router addr add 192.0.2.7/32 dev red
check_new_source "VRF: the flow leaves with the VRF device's address" 192.0.2.7

# In IPv6, any address of the namespace is usable, even the loopback device's. So all are removed. The router then
# cannot answer neighbour solicitations, so the LAN's host gets a neighbour entry.
ip -n router link set lan0 nomaster
ip -n router link set wan0 nomaster
for device in lo lan0 wan0 other red; do ip -n router -6 addr flush dev $device 2> /dev/null; done
add_rule6 -j RUSTMASQ || bail "rule for IPv6"
ip -n lan addr add fd00:18::2/64 dev lan0 nodad
ip -n lan route add default via fe80::1 dev lan0
ip -n lan neigh replace fe80::1 dev lan0 lladdr "$(ip -n router -br link show lan0 | awk '{ print $3 }')"
ip -n router route add 2001:db8::/64 dev wan0 || bail "IPv6 route"
check_dropped "IPv6: the router has no address" 2001:db8::2 3
ip -n router addr add 2001:db8::1/64 dev wan0 nodad
begin_flows 2001:db8::2 1
check "IPv6: wan0 has an address: the flow leaves with it" \
	wait_until has_udp6_entry "dport=$((next_port - 1)) .*src=2001:db8::2 dst=2001:db8::1 "

done_testing
