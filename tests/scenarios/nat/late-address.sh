#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Kernels: plain
#
# When a device gets its first address, the flows that left by it with another device's address are removed, so that
# their next packet leaves with the right one. All other flows stay. MASQUERADE leaves them as they are.
#
#     lan                 router                     server
#     lan0 ------------ lan0  wan0 ---------------- eth0
#     172.18.0.2/16    172.18.0.1   none at first   192.0.2.9/32
#     fd00:18::2/64    fd00:18::1   none at first   2001:db8:80::9/128
#                             wan1 203.0.113.65/26, 2001:db8:65::1/64: its own addresses
#                             ppp0: unnumbered on purpose
. "$(dirname "$0")/../../lib/lib.sh"

setup_ns lan router server
setup_link lan lan0 172.18.0.2/16 router lan0 172.18.0.1/16
setup_link router wan0 - server eth0 192.0.2.9/32
setup_device router wan1 203.0.113.65/26 'link add wan1 type dummy'
setup_device router ppp0 - 'link add ppp0 type dummy'
ip -n lan addr add fd00:18::2/64 dev lan0 nodad
ip -n router addr add fd00:18::1/64 dev lan0 nodad
ip -n router addr add 2001:db8:65::1/64 dev wan1 nodad
ip -n server addr add 2001:db8:80::9/128 dev eth0 nodad
ip -n lan route add default via 172.18.0.1
ip -n lan route add default via fd00:18::1
ip -n router route add default dev wan0
ip -n router -6 route add default dev wan0
ip -n router route add 10.9.0.0/16 dev ppp0
ip -n router -6 route add 2001:db8:9::/64 dev ppp0
ip -n server route add default dev eth0
ip -n server -6 route add default dev eth0
enable_forwarding router

# send_lan_flows COUNT ADDRESS...: sends a packet from each of COUNT ports of the LAN's host to each address.
send_lan_flows() { ns_exec lan "$tools/flows.py" "$@"; }
# sources DESTINATION: prints the addresses that the router's flows to it leave with, and how many flows, one a line.
sources() {
	local family=ipv4
	[[ $1 != *:* ]] || family=ipv6
	tracked -f $family --orig-dst "$1" | sed -nE "s/.*src=$1 dst=([^ ]+) .*/\1/p" | sort | uniq -c | awk '{ print $2, $1 }'
}
no_flows_to() { [[ -z $(sources "$1") ]]; }
milliseconds() { echo $((${EPOCHREALTIME/[.,]/} / 1000)); }
tentative() { [[ -n $(ip -n router -o -6 addr show dev "${1:-wan0}" tentative scope global) ]]; }
usable() { ! tentative "$@"; }

# check_replaced WHAT DESTINATION ADDRESS: checks that the 5 flows to the destination, which leave with an old address,
# are removed soon, and leave with ADDRESS then.
check_replaced() {
	local begin
	begin=$(milliseconds)
	check "$1: the flows are removed" wait_until no_flows_to "$2"
	# A second on an idle host; a busy one needs longer, so this is told and not checked.
	echo "# $1: after $(($(milliseconds) - begin)) ms"
	send_lan_flows 5 "$2"
	check_equal "$1: the next packets leave with the device's own" "$3 5" "$(sources "$2")"
}

# settle: waits until everything that happened before has been processed: a device gets its first address after it, and
# its flow is removed.
settle() {
	setup_device router mark0 - 'link add mark0 type dummy'
	ip -n router route add 10.99.0.0/16 dev mark0
	send_lan_flows 1 10.99.0.9
	[[ $(sources 10.99.0.9) == *' 1' ]] || not_ok "marker flow"
	ip -n router addr add 198.18.0.1/24 dev mark0
	wait_until no_flows_to 10.99.0.9 || not_ok "marker flow is removed"
	ip -n router link del mark0
}

# add_rules TARGET: adds a rule for each family.
add_rules() {
	add_rule ! -o lan0 -j "$1" || bail "rule with $1"
	add_rule6 ! -o lan0 -j "$1" || bail "rule with $1, IPv6"
}
flush_flows() { ns_exec router sh -c 'conntrack -F -f ipv4; conntrack -F -f ipv6' 2> /dev/null; }
# forget_addresses: removes the addresses of wan0, and what that removed with them.
forget_addresses() {
	ip -n router -4 addr flush dev wan0
	ip -n router -6 addr flush dev wan0 scope global
	ip -n router route replace default dev wan0
	ip -n router -6 route replace default dev wan0
	flush_flows
}

# --- MASQUERADE, while the module is not loaded: it would remove MASQUERADE's flows, too

if compared; then
	check "the module is not loaded" unload_module
	add_rules MASQUERADE
	send_lan_flows 5 192.0.2.9
	send_lan_flows 5 2001:db8:80::9
	check_equal "MASQUERADE: another device's address" "172.18.0.1 5" "$(sources 192.0.2.9)"
	check_equal "MASQUERADE, IPv6: another device's address" "2001:db8:65::1 5" "$(sources 2001:db8:80::9)"
	ip -n router addr add 203.0.113.1/26 dev wan0
	ip -n router addr add 2001:db8:1::1/64 dev wan0 nodad
	pause 1.5
	send_lan_flows 5 192.0.2.9
	send_lan_flows 5 2001:db8:80::9
	check_equal "MASQUERADE: the flows keep it" "172.18.0.1 5" "$(sources 192.0.2.9)"
	check_equal "MASQUERADE, IPv6: the flows keep it" "2001:db8:65::1 5" "$(sources 2001:db8:80::9)"
	flush_rules
	forget_addresses
fi
check "no other masquerading module is loaded" remove_other_masquerade
add_rules RUSTMASQ
# Flows must not time out.
ns_exec router sh -c 'echo 600 > /proc/sys/net/netfilter/nf_conntrack_udp_timeout'

# --- IPv4

send_lan_flows 5 192.0.2.9 10.9.0.9 203.0.113.99
check_equal "a device without an address: another device's" "172.18.0.1 5" "$(sources 192.0.2.9)"
check_equal "an unnumbered device: another device's address" "172.18.0.1 5" "$(sources 10.9.0.9)"
check_equal "a device with an address: its own" "203.0.113.65 5" "$(sources 203.0.113.99)"
ip -n router addr add 198.51.100.7/32 dev wan0 scope link
ip -n router addr add 198.51.100.8/32 dev wan0 scope host
settle
check_equal "addresses of link and host scope, with which no flow would leave: the flows stay" \
	"172.18.0.1 5" "$(sources 192.0.2.9)"
ip -n router addr add 203.0.113.1/26 dev wan0
check_replaced "the first address" 192.0.2.9 203.0.113.1
check_equal "the first address: an unnumbered device's flows stay" "172.18.0.1 5" "$(sources 10.9.0.9)"
check_equal "the first address: another device's flows stay" "203.0.113.65 5" "$(sources 203.0.113.99)"

ip -n router addr add 198.51.100.1/24 dev wan0
ip -n router addr add 203.0.113.2/26 dev wan0
ip -n router addr change 203.0.113.1/26 dev wan0 valid_lft 1000 preferred_lft 1000
ip -n router addr add 203.0.113.66/26 dev wan1
settle
check_equal "a second address, a secondary one, a renewed one: the flows stay" "203.0.113.1 5" "$(sources 192.0.2.9)"
check_equal "an address of another device: the flows stay" "203.0.113.65 5" "$(sources 203.0.113.99)"

# --- The address goes, and another one comes

ip -n router -4 addr flush dev wan0
ip -n router route replace default dev wan0
wait_until no_flows_to 192.0.2.9
send_lan_flows 5 192.0.2.9
check_equal "the address is gone: another device's" "172.18.0.1 5" "$(sources 192.0.2.9)"
ip -n router addr add 198.51.100.1/24 dev wan0
check_replaced "another address" 192.0.2.9 198.51.100.1

# --- IPv6, with duplicate address detection

forget_addresses
ns_exec router sh -c 'echo 1 > /proc/sys/net/ipv6/conf/wan0/accept_dad'
send_lan_flows 5 2001:db8:80::9 2001:db8:9::9 2001:db8:65::9
check_equal "IPv6: a device without an address: another device's" "2001:db8:65::1 5" "$(sources 2001:db8:80::9)"
check_equal "IPv6: an unnumbered device: another device's address" "2001:db8:65::1 5" "$(sources 2001:db8:9::9)"
ip -n router addr add fe80::7/64 dev wan0 nodad
settle
check_equal "IPv6: a link-local address: the flows stay" "2001:db8:65::1 5" "$(sources 2001:db8:80::9)"
ip -n router addr add 2001:db8:1::1/64 dev wan0
settle
flows=$(sources 2001:db8:80::9)
# On a very slow machine the detection may have ended.
if tentative; then
	check_equal "IPv6: a tentative address: the flows stay" "2001:db8:65::1 5" "$flows"
fi
check "IPv6: the address becomes usable" wait_until usable
check_replaced "IPv6: the first address" 2001:db8:80::9 2001:db8:1::1
check_equal "IPv6: the first address: an unnumbered device's flows stay" "2001:db8:65::1 5" \
	"$(sources 2001:db8:9::9)"
check_equal "IPv6: the first address: another device's flows stay" "2001:db8:65::1 5" "$(sources 2001:db8:65::9)"
ip -n router addr add 2001:db8:2::1/64 dev wan0
ip -n router addr change 2001:db8:1::1/64 dev wan0 valid_lft 1000 preferred_lft 1000
wait_until usable
settle
check_equal "IPv6: a second address, a renewed one: the flows stay" "2001:db8:1::1 5" "$(sources 2001:db8:80::9)"

# worker_runs COMMAND...: prints how often the worker runs while the command runs. Waits for earlier events first.
tracing=/sys/kernel/tracing/instances/late-address
worker_runs() {
	pause 0.7
	mkdir $tracing
	echo 1 > $tracing/events/workqueue/workqueue_execute_start/enable
	"$@" > /dev/null
	echo 0 > $tracing/events/workqueue/workqueue_execute_start/enable
	grep -c 'rustmasq.*notifier.*run_work' $tracing/trace
	rmdir $tracing
}

forget_addresses
send_lan_flows 5 2001:db8:80::9
ip -n server addr add 2001:db8:1::1/128 dev eth0 nodad
ip -n router addr add 2001:db8:1::1/64 dev wan0
failed() { [[ -n $(ip -n router -o -6 addr show dev wan0 dadfailed) ]]; }
check "IPv6: a duplicate address is detected" wait_until failed
settle
check_equal "IPv6: a duplicate address: the flows stay" "2001:db8:65::1 5" "$(sources 2001:db8:80::9)"
check_equal "IPv6: a duplicate address: the worker does not wait for it" 0 "$(worker_runs pause 1)"
ip -n server addr del 2001:db8:1::1/128 dev eth0

forget_addresses
ip -n server link set eth0 down
down() { [[ $(ip -n router link show wan0) == *NO-CARRIER* ]]; }
wait_until down || bail "no carrier"
# A device that was ready before begins the detection even without carrier.
ip -n router link set wan0 down
ip -n router link set wan0 up
ip -n router route replace default dev wan0
ip -n router -6 route replace default dev wan0
send_lan_flows 5 2001:db8:80::9
ip -n router addr add 2001:db8:1::1/64 dev wan0
settle
check_equal "IPv6: without carrier the flows stay" "2001:db8:65::1 5" "$(sources 2001:db8:80::9)"
check_equal "IPv6: without carrier the worker does not wait" 0 "$(worker_runs pause 1)"
ip -n server link set eth0 up
check "IPv6: the carrier comes, and the address becomes usable" wait_until usable
check_replaced "IPv6: the carrier came after the address" 2001:db8:80::9 2001:db8:1::1

# --- VRF: the device's own address comes before that of the VRF device

ip -n router link add red type vrf table 10 || bail "VRF"
ip -n router link set red up
for device in lan0 ppp0; do ip -n router link set $device master red; done
ip -n router addr add fd00:18::1/64 dev lan0 nodad 2> /dev/null
setup_device router ppp1 - 'link add ppp1 type dummy'
ip -n router link set ppp1 master red
ip -n router addr add 198.51.100.8/32 dev red
ip -n router route add 10.9.0.0/16 dev ppp0 table 10
ip -n router route add 10.10.0.0/16 dev ppp1 table 10
send_lan_flows 5 10.9.0.9 10.10.0.9
check_equal "VRF: an unnumbered member: the VRF device's address" "198.51.100.8 5" "$(sources 10.9.0.9)"
ip -n router addr add 198.51.100.9/32 dev ppp0
check_replaced "VRF: the member's first address" 10.9.0.9 198.51.100.9
check_equal "VRF: another member's flows stay" "198.51.100.8 5" "$(sources 10.10.0.9)"
ip -n router link del red
ip -n router link del ppp1
ip -n router addr flush dev ppp0 scope global
ip -n router addr add fd00:18::1/64 dev lan0 nodad 2> /dev/null
ip -n lan route replace default via fd00:18::1
ip -n router route replace 10.9.0.0/16 dev ppp0
ip -n router -6 route replace 2001:db8:9::/64 dev ppp0

# --- Many at once: nothing is skipped, and the table is not walked for each

forget_addresses
ns_exec router sh -c 'echo 1 > /proc/sys/net/ipv6/conf/all/accept_dad'
for n in {1..40}; do
	printf '%s\n' "link add many$n type dummy" "link set many$n up arp on" "route add 10.20.$n.0/24 dev many$n" \
		"route add 2001:db8:20:$n::/64 dev many$n"
done | ip -n router -batch - || bail "devices"
mapfile -t ipv4 < <(printf '10.20.%s.9\n' {1..40})
mapfile -t ipv6 < <(printf '2001:db8:20:%s::9\n' {1..40})
send_lan_flows 1 "${ipv4[@]}"
send_lan_flows 1 "${ipv6[@]}"
send_lan_flows 5 10.9.0.9
send_lan_flows 5 2001:db8:9::9
borrowed='dst=(172\.18\.0\.1|2001:db8:65::1|fd00:18::1) '
count_borrowed() { tracked -f "ipv$1" | grep -cE "src=(10\.20\.|2001:db8:20:).* $borrowed"; }
none_borrowed() { [[ $(count_borrowed "$1") == 0 ]]; }
check_equal "40 devices: each has a flow with another device's address" 40 "$(count_borrowed 4)"
check_equal "40 devices, IPv6: each has a flow with another device's address" 40 "$(count_borrowed 6)"
give_addresses() {
	for n in {1..40}; do echo "addr add 198.18.$n.1/24 dev many$n"; done | ip -n router -batch -
	wait_until none_borrowed 4
	pause 0.7
}
runs=$(worker_runs give_addresses)
check "40 devices get an address at once: all flows are removed" none_borrowed 4
# It runs once or twice, and more often only where the addresses come slowly.
check_match "40 devices get an address at once: the worker runs far less often" '^([1-9]|10)$' "$runs"
give_addresses6() {
	for n in {1..40}; do echo "addr add 2001:db8:21:$n::1/64 dev many$n"; done | ip -n router -batch -
	wait_until none_borrowed 6
	pause 1
}
runs=$(worker_runs give_addresses6)
check "40 devices get a tentative address at once: all flows are removed" none_borrowed 6
check "40 devices get a tentative address at once: the worker runs a few times ($runs)" test "$runs" -le $((15 * slow))
for destination in 10.9.0.9 2001:db8:9::9; do
	check_equal "an unnumbered device's flows to $destination stay" 5 "$(sources $destination | cut -d ' ' -f 2)"
done
add_200() {
	for n in {1..200}; do echo "addr add 198.19.$n.1/24 dev many1"; done | ip -n router -batch -
	pause 0.7
}
check_equal "200 addresses for a device that has one: the worker does not run" 0 "$(worker_runs add_200)"

# --- Work that is pending when the module is removed

ip -n router addr add 2001:db8:1::1/64 dev wan0
flush_rules
flush_flows
check "the module can be removed while an address is tentative" rmmod rustmasq
check "no other masquerading module was loaded meanwhile" no_other_masquerade

done_testing
