#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Each event of the flow watch has its hooks while at least one trace instance has the event on, in every namespace and
# at the right place among those of conntrack and NAT. With the events off, the module has no hook in any namespace.
# The network is that of setup_lan, with IPv6, and the router has all tables of iptables.
. "$(dirname "$0")/../../lib/lib.sh"
. "$(dirname "$0")/../../lib/events.sh"

setup_two_flows

# --- Without nfnetlink, which iptables-legacy does not need, either

# netlink_modules: prints the loaded modules of nfnetlink, and those of nftables, which need it.
netlink_modules() { grep -oE '^(nfnetlink|nf_conntrack_netlink|nf_tables|nft_|nf_flow_table_inet)[^ ]*' /proc/modules; }
no_netlink() {
	# shellcheck disable=SC2046 # words
	modprobe -r $(netlink_modules) 2> /dev/null
	! netlink_modules
}

check "nfnetlink can be unloaded" wait_until no_netlink
for table in mangle filter raw; do
	ns_exec router "$IPTABLES" -w -t $table -S > /dev/null || bail "table $table"
	ns_exec router "$IP6TABLES" -w -t $table -S > /dev/null || bail "table $table"
done
record_events flow_new flow_confirm
check_flows_seen "without nfnetlink"
# procfs prints IPv6 addresses in full.
check_equal "without nfnetlink: ... with the tuples of /proc/net/nf_conntrack" "$(
	ns_exec router cat /proc/net/nf_conntrack | sed -E '
		s/fd00:0018:0000:0000:0000:0000:0000:000/fd00:18::/g
		s/2001:0db8:0001:0000:0000:0000:0000:000/2001:db8:1::/g' |
		grep "sport=$number " | as_endpoints | sed 's/^id=[0-9]* //' | sort)" \
	"$(events flow_confirm "^netns=$me " | while read -r line; do
		fields "$line" proto original reply untranslated
		echo
	done | sort)"
check_equal "... and it is still not loaded" "" "$(netlink_modules)"
stop_recording

# --- The order of hooks

# list_hooks HOST: prints its hooks in the order of their calls, each as a line FAMILY HOOK PRIORITY MODULE.
list_hooks() {
	ns_exec "$1" nft list hooks | awk '
		$1 == "family" { family = $2 }
		$1 == "hook" { hook = $2 }
		/\[/ { print family, hook, $1 + 0, $NF }'
}

# neighbours_of_conntrack FAMILY HOOK: prints from the list $order the hook before conntrack's own, the latter's
# priority, and the hook after it.
neighbours_of_conntrack() {
	awk -v place="$1 $2" '
		$1 " " $2 != place { next }
		found { print $3, $4; exit }
		$4 == "[nf_conntrack]" { print before " then " $3 " then "; found = 1 }
		{ before = $3 " " $4 }' <<< "$order" | xargs
}

check "with the events off the module has no hook in any namespace" no_hooks_anywhere
record_events packet
order=$(list_hooks router)
for family in ip ip6; do
	for hook in prerouting output; do
		check_equal "packet, $family, $hook: right before and right after conntrack" \
			"-201 [rustmasq] then -200 then -199 [rustmasq]" "$(neighbours_of_conntrack $family $hook)"
	done
	for hook in input forward postrouting; do
		check_equal "packet, $family, $hook: no hook" "" "$(grep "^$family $hook .*rustmasq" <<< "$order")"
	done
done
check "packet: hooks in every namespace, those without conntrack included" hooks_everywhere 8
check_fails "... where they do not turn conntrack on" grep -q nf_conntrack <(ns_exec lan nft list hooks)
record_events flow_new
check_equal "flow_new: hooks right after conntrack, and no others" "ip output -199 [rustmasq]
ip prerouting -199 [rustmasq]
ip6 output -199 [rustmasq]
ip6 prerouting -199 [rustmasq]" "$(list_hooks router | grep rustmasq | sort)"
check "flow_new: hooks in every namespace" hooks_everywhere 4
record_events flow_confirm
order=$(list_hooks router)
for place in 'ip postrouting 2147483647' 'ip input 2147483647' 'ip6 postrouting 2147483647' 'ip6 input 2147483646'; do
	read -r family hook confirm <<< "$place"
	check_equal "flow_confirm, $family, $hook: right before conntrack confirms" \
		"2147483645 [rustmasq] then $confirm then" "$(neighbours_of_conntrack "$family" "$hook")"
done
check "flow_confirm: hooks in every namespace" hooks_everywhere 4
check_match "... and after NAT" "ip postrouting 100 [^"$'\n'"]*
ip postrouting 2147483645 .rustmasq." "$order"

# --- Several trace instances

other=$tracing/instances/other
mkdir "$other" || bail "a second trace instance"
echo 1 > "$other/events/rustmasq/flow_confirm/enable"
echo 1 > "$other/events/rustmasq/flow_new/enable"
check "a second instance turns on the same event and another one: each event has its hooks once" hooks_everywhere 8
stop_recording
check "the first instance is removed: the hooks stay for the second" hooks_everywhere 8
echo 0 > "$other/events/rustmasq/flow_new/enable"
check "one event is turned off: the other keeps its hooks" hooks_everywhere 4
rmdir "$other"
check "the last instance is removed: no hook is left" no_hooks_anywhere

# --- Namespaces

# setup_tracking_ns HOST: makes a namespace that tracks connections.
setup_tracking_ns() {
	setup_ns "$1"
	ns_exec "$1" "$IPTABLES" -w -A INPUT -m conntrack --ctstate INVALID -j DROP || bail "rule"
}
# flow_recorded_in HOST: succeeds if a new flow there is recorded once.
flow_recorded_in() {
	forget_events
	ns_exec "$1" ping -q -c 1 -W 5 127.0.0.1 > /dev/null
	[[ $(events flow_confirm "^netns=$(netns "$1") " | wc -l) == 1 ]]
}

setup_tracking_ns before
record_events flow_confirm
setup_tracking_ns after
check "an event comes from a namespace that existed before it was turned on" flow_recorded_in before
check "... and from one that was created later" flow_recorded_in after
stop_recording
check "the event is turned off: no hook is left in either" no_hooks_anywhere
record_events flow_confirm
check "it is turned on again: it comes from the older namespace" flow_recorded_in before
check "... and from the newer one" flow_recorded_in after
stop_recording

# Turns events on and off and creates and removes namespaces while packets pass. It does not matter if the conntrack
# table becomes full.
record_events
ns_start lan hping3 --udp -q -p 53 -i u1000 203.0.113.2 > "$scratch/flood" 2>&1
# toggle_event EVENT: turns it on and off several times.
toggle_event() {
	local n
	for ((n = 0; n < 15 / slow; n++)); do
		echo 1 > "$buffer/events/rustmasq/$1/enable" || return
		echo 0 > "$buffer/events/rustmasq/$1/enable" || return
	done
}
# churn_namespace NAME: creates a namespace that tracks a flow, and removes it, several times.
churn_namespace() {
	local n
	for ((n = 0; n < 8 / slow; n++)); do
		ip netns add "short-$1"
		ip -n "short-$1" link set lo up
		ns_exec "short-$1" "$IPTABLES" -w -A INPUT -m conntrack --ctstate INVALID -j DROP
		ns_exec "short-$1" ping -q -c 1 -W 5 127.0.0.1 > /dev/null
		ip netns del "short-$1"
	done
}
waiting=()
for event in flow_new flow_confirm packet; do
	toggle_event $event &
	waiting+=($!)
done
for n in 1 2; do
	churn_namespace $n &
	waiting+=($!)
done
for n in "${waiting[@]}"; do wait "$n" || bail "events turned on and off"; done
check "events were toggled and namespaces removed under traffic: no hook is left" no_hooks_anywhere
record_events flow_confirm
check "... and the event still comes from an old namespace" flow_recorded_in before
setup_tracking_ns latest
check "... and from a new one" flow_recorded_in latest
stop_recording
check "no hook is left" no_hooks_anywhere

done_testing
