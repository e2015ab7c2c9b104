#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# When an address is removed or a device goes down, all flows that were masqueraded with it are removed, and no others.
# MASQUERADE's modules, whose notifiers would do the same, are not loaded.
. "$(dirname "$0")/../../lib/lib.sh"

setup_lan
# Packets need not arrive. Without ARP, none waits for a neighbour's answer.
ip -n router link set wan0 arp off
add_rule -j RUSTMASQ || bail "rule"
# Flows must not time out before the flush.
ns_exec router sh -c 'echo 600 > /proc/sys/net/netfilter/nf_conntrack_udp_timeout'
check "no other masquerading module is loaded" remove_other_masquerade

# send_flows COUNT ADDRESS...: sends a packet from each of COUNT ports of the LAN's host to each address.
send_flows() { ns_exec lan "$tools/flows.py" "$@"; }
# count_flows_from ADDRESS: prints how many of the router's flows leave with ADDRESS.
count_flows_from() { tracked --reply-dst "$1" | wc -l; }
no_flows_from() { [[ $(count_flows_from "$1") == 0 ]]; }

# --- An address is removed; another one on the same device stays

ip -n router addr add 198.51.100.1/24 dev wan0
send_flows 20 203.0.113.9 198.51.100.9
check_equal "20 flows leave with the first address" 20 "$(count_flows_from 203.0.113.1)"
check_equal "20 flows leave with the second address" 20 "$(count_flows_from 198.51.100.1)"
ip -n router addr del 198.51.100.1/24 dev wan0
check "an address is removed: its flows are removed" wait_until no_flows_from 198.51.100.1
check_equal "an address is removed: the other address's flows stay" 20 "$(count_flows_from 203.0.113.1)"

# --- A point-to-point address: flows are found by the local address, not by the peer's

ip -n router addr add 10.0.0.1 peer 10.0.0.2/32 dev wan0
send_flows 5 10.0.0.2
check_equal "5 flows leave with the point-to-point address" 5 "$(count_flows_from 10.0.0.1)"
ip -n router addr del 10.0.0.1 peer 10.0.0.2/32 dev wan0
check "a point-to-point address is removed: its flows are removed" wait_until no_flows_from 10.0.0.1

# --- A borrowed address: wan1 has none of its own and uses another device's

ip -n router link add wan1 type dummy
ip -n router link set wan1 up
ip -n router link add holder type dummy
ip -n router link set holder up
ip -n router addr add 192.0.2.1/32 dev lo
ip -n router route add 10.9.0.0/16 dev wan1
send_flows 5 10.9.0.2
borrowed=$(tracked --orig-dst 10.9.0.2 | sed -nE 's/.*src=10.9.0.2 dst=([0-9.]+).*/\1/p' | sort -u)
check_match "an unnumbered device borrows an address" '^[0-9.]+$' "$borrowed"
[[ $borrowed != 172.18.0.2 ]] || not_ok "an unnumbered device does not use the LAN host's address" "$borrowed"
owner=$(ip -n router -o addr show | awk -v a="$borrowed/" 'index($4, a) == 1 { print $2 " " $4; exit }')
# shellcheck disable=SC2086 # device and address
set -- $owner
before=$(count_flows_from 203.0.113.1)
ip -n router addr del "$2" dev "$1"
check "a borrowed address is removed from $1: its flows are removed" wait_until no_flows_from "$borrowed"
[[ $borrowed == 203.0.113.1 ]] ||
	check_equal "a borrowed address is removed from $1: other flows stay" "$before" "$(count_flows_from 203.0.113.1)"
ip -n router addr add "$2" dev "$1"

# --- The same address on two devices: the flow's own device still has it

ip -n router addr add 192.0.2.50/24 dev wan0
ip -n router addr add 192.0.2.50/32 dev holder
send_flows 5 192.0.2.9
check_equal "5 flows leave with an address that two devices have" 5 "$(count_flows_from 192.0.2.50)"
ip -n router addr del 192.0.2.50/32 dev holder
# A second change follows. When its effect is visible, the first one was processed.
ip -n router addr add 198.51.101.1/24 dev wan0
send_flows 1 198.51.101.9
ip -n router addr del 198.51.101.1/24 dev wan0
check "a marker flow is removed" wait_until no_flows_from 198.51.101.1
check_equal "the address is removed from the other device: the flows stay" 5 "$(count_flows_from 192.0.2.50)"
ip -n router addr del 192.0.2.50/24 dev wan0

# --- Another namespace with the same addresses keeps its flows

setup_ns other client
setup_link client eth0 172.18.0.2/16 other lan0 172.18.0.1/16
setup_link other wan0 203.0.113.1/24 server eth1 -
ip -n client route add default via 172.18.0.1
ip -n other link set wan0 arp off
enable_forwarding other
ns_exec other "$IPTABLES" -w -t nat -A POSTROUTING -j RUSTMASQ || bail "rule in the other namespace"
ns_exec client "$tools/flows.py" 10 203.0.113.9
flush_rules
add_rule -j RUSTMASQ
send_flows 10 203.0.113.9
ip -n router addr del 203.0.113.1/24 dev wan0
check "an address is removed in one namespace: its flows are removed" wait_until no_flows_from 203.0.113.1
check_equal "an address is removed in one namespace: the other namespace's flows stay" 10 \
	"$(ns_exec other conntrack -L --reply-dst 203.0.113.1 2> /dev/null | wc -l)"
ip -n router addr add 203.0.113.1/24 dev wan0

# --- A device goes down, and then up again before the worker runs

send_flows 10 203.0.113.9
check_equal "10 flows leave through the device" 10 "$(count_flows_from 203.0.113.1)"
ip -n router link set wan0 down
check "a device goes down: its flows are removed" wait_until no_flows_from 203.0.113.1
ip -n router link set wan0 up
send_flows 10 203.0.113.9
check_equal "10 flows leave through the device again" 10 "$(count_flows_from 203.0.113.1)"
printf 'link set wan0 down\nlink set wan0 up\n' | ip -n router -batch -
check "a device goes down for a moment: its flows are removed" wait_until no_flows_from 203.0.113.1

# --- A flow that begins after the device is up again is not taken for an earlier one

# A sender in the LAN that starts no process for a datagram: it sends one to each ADDRESS/PORT that it reads.
mkfifo "$scratch/targets"
# shellcheck disable=SC2016 # The inner shell expands it.
ns_start lan bash -c 'while read -r target; do echo x > "/dev/udp/$target"; done < "$0"' "$scratch/targets"
exec {targets}> "$scratch/targets"
count_flows_to_port() { tracked -p udp --orig-port-dst "$1" | wc -l; }
no_flow_to_port() { [[ $(count_flows_to_port "$1") == 0 ]]; }
one_flow_to_port() { [[ $(count_flows_to_port "$1") == 1 ]]; }
stayed=0
for n in {1..6}; do
	echo 203.0.113.9/$((1000 + n)) >&"$targets"
	wait_until one_flow_to_port $((1000 + n)) || not_ok "flow $n before the change"
	# Another change follows at once: a worker that waits for a pause would start to wait again.
	printf 'link set %s\n' 'wan0 down' 'wan0 up' 'holder down' 'holder up' | ip -n router -batch -
	echo 203.0.113.9/$((2000 + n)) >&"$targets"
	wait_until no_flow_to_port $((1000 + n)) || not_ok "flow $n is removed"
	ip -n router addr add 198.51.101.1/24 dev wan0
	echo 198.51.101.9/$((3000 + n)) >&"$targets"
	wait_until one_flow_to_port $((3000 + n)) || not_ok "marker flow $n"
	ip -n router addr del 198.51.101.1/24 dev wan0
	wait_until no_flow_to_port $((3000 + n)) || not_ok "marker flow $n is removed"
	stayed=$((stayed + $(count_flows_to_port $((2000 + n)))))
done
exec {targets}>&-
# The worker and the packet start at the same time, so a few flows may be removed.
check "most flows that begin after the device is up again stay ($stayed of 6)" test "$stayed" -gt 3

# --- IPv6: its notifier is called in atomic context

add_rule6 -j RUSTMASQ || bail "rule for IPv6"
ip -n lan addr add fd00::2/64 dev lan0 nodad
ip -n router addr add fd00::1/64 dev lan0 nodad
ip -n lan -6 route add default via fd00::1
ip -n router addr add 2001:db8:1::1/64 dev wan0 nodad
ip -n router addr add 2001:db8:2::1/64 dev wan0 nodad
count_flows6_from() { tracked -f ipv6 --reply-dst "$1" | wc -l; }
no_flows6_from() { [[ $(count_flows6_from "$1") == 0 ]]; }
send_flows 10 2001:db8:1::9 2001:db8:2::9
check_equal "IPv6: 10 flows leave with the first address" 10 "$(count_flows6_from 2001:db8:1::1)"
check_equal "IPv6: 10 flows leave with the second address" 10 "$(count_flows6_from 2001:db8:2::1)"
ip -n router addr del 2001:db8:1::1/64 dev wan0
check "IPv6: an address is removed: its flows are removed" wait_until no_flows6_from 2001:db8:1::1
check_equal "IPv6: an address is removed: the other address's flows stay" 10 "$(count_flows6_from 2001:db8:2::1)"
ip -n router link set wan0 down
check "IPv6: a device goes down: its flows are removed" wait_until no_flows6_from 2001:db8:2::1
ip -n router link set wan0 up

# --- More addresses at once than the notifier can store one by one: none is skipped

flush_rules
add_rule -j RUSTMASQ
for n in $(seq 60); do echo "addr add 10.1.$n.1/24 dev wan0"; done | ip -n router -batch -
send_flows 10 10.1.1-60.2 203.0.113.9
count_batch_flows() { tracked | grep -c 'dst=10\.1\.[0-9]*\.1 '; }
no_batch_flows() { [[ $(count_batch_flows) == 0 ]]; }
check_equal "600 flows leave with 60 addresses" 600 "$(count_batch_flows)"
# A flow of a VRF, whose IPv6 addresses are not those of the others.
ip -n router link add red type vrf table 10 || bail "VRF"
ip -n router link set red up
ip -n router link add wan9 type dummy
ip -n router link set wan9 master red
setup_device router wan9 2001:db8:99::1/64
add_rule6 -j RUSTMASQ
ns_exec router socat -u - 'UDP6-SENDTO:[2001:db8:99::9]:9,so-bindtodevice=red' <<< x
check_equal "IPv6: a flow leaves by a VRF" 1 "$(count_flows6_from 2001:db8:99::1)"
tracing=/sys/kernel/tracing/instances/flush
mkdir $tracing
echo 1 > $tracing/events/workqueue/workqueue_execute_start/enable
for n in $(seq 60); do echo "addr del 10.1.$n.1/24 dev wan0"; done | ip -n router -batch -
check "60 addresses are removed at once: all of their flows are removed" wait_until no_batch_flows
check_equal "60 addresses are removed at once: other flows stay" 10 "$(count_flows_from 203.0.113.1)"
check_equal "60 addresses are removed at once: so does the VRF's" 1 "$(count_flows6_from 2001:db8:99::1)"
echo 0 > $tracing/events/workqueue/workqueue_execute_start/enable
runs=$(grep -c 'rustmasq.*notifier.*run_work' $tracing/trace)
rmdir $tracing
check_match "60 addresses are removed at once: the worker runs once or twice" '^[12]$' "$runs"

# --- Work that is pending when the module or the namespace is removed

send_flows 10 203.0.113.9
printf 'addr del 203.0.113.1/24 dev wan0\n' | ip -n router -batch -
flush_rules
ns_exec other "$IPTABLES" -w -t nat -F
check "the module is removed while a flush is pending" rmmod rustmasq
add_rule -j RUSTMASQ || bail "rule after reloading"
ip -n router addr add 203.0.113.1/24 dev wan0
send_flows 10 203.0.113.9
ip -n router addr del 203.0.113.1/24 dev wan0
stop_servers
check "a namespace is removed while a flush is pending" ip netns del router
hosts=(lan server other client)
check "the removed namespace does not use the module any more" wait_until module_unused
check "the module can be removed" rmmod rustmasq
check "no other masquerading module was loaded meanwhile" no_other_masquerade

done_testing
