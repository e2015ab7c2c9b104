#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# The flow watch costs nothing while nobody looks: its hooks come with the first
# reader of an event and go with the last, in every namespace, and stand where they
# should among those of conntrack and NAT. The network is setup_lan's, with IPv6 beside,
# and a router with all of iptables' tables.
. "$(dirname "$0")/../../lib/lib.sh"
. "$(dirname "$0")/../../lib/events.sh"

setup_two_flows

# --- Without nfnetlink, which iptables-legacy does without, too

# netlink: the modules of it, and those of nftables, which need it.
netlink() { grep -oE '^(nfnetlink|nf_conntrack_netlink|nf_tables|nft_|nf_flow_table_inet)[^ ]*' /proc/modules; }
no_netlink() {
	# shellcheck disable=SC2046 # words
	modprobe -r $(netlink) 2> /dev/null
	! netlink
}

check "nfnetlink can be unloaded" wait_until no_netlink
for table in mangle filter raw; do
	ns_exec router "$IPTABLES" -w -t $table -S > /dev/null || bail "table $table"
	ns_exec router "$IP6TABLES" -w -t $table -S > /dev/null || bail "table $table"
done
record_events flow_new flow_confirm
check_flows_seen "without nfnetlink"
# /proc does not shorten addresses.
check_equal "without nfnetlink: ... as /proc/net/nf_conntrack has them" "$(
	ns_exec router cat /proc/net/nf_conntrack | sed -E '
		s/fd00:0018:0000:0000:0000:0000:0000:000/fd00:18::/g
		s/2001:0db8:0001:0000:0000:0000:0000:000/2001:db8:1::/g' |
		grep "sport=$number " | as_endpoints | sed 's/^id=[0-9]* //' | sort)" \
	"$(events flow_confirm "^netns=$me " | while read -r line; do
		fields "$line" proto original reply untranslated
		echo
	done | sort)"
check_equal "... and it is still not there" "" "$(netlink)"
stop_recording

# --- The order of hooks

# list_hooks HOST: "FAMILY HOOK PRIORITY MODULE" a line, in the order in which they are called.
list_hooks() {
	ns_exec "$1" nft list hooks | awk '
		$1 == "family" { family = $2 }
		$1 == "hook" { hook = $2 }
		/\[/ { print family, hook, $1 + 0, $NF }'
}

# beside FAMILY HOOK: of what `list_hooks router` said, conntrack's own hook with the one
# before and the one behind it.
beside() {
	awk -v place="$1 $2" '
		$1 " " $2 != place { next }
		found { print $3, $4; exit }
		$4 == "[nf_conntrack]" { print before " then " $3 " then "; found = 1 }
		{ before = $3 " " $4 }' <<< "$order" | xargs
}

check "with the events off there is no hook of ours in any namespace" no_hooks_anywhere
record_events packet
order=$(list_hooks router)
for family in ip ip6; do
	for hook in prerouting output; do
		check_equal "packet, $family, $hook: right before and right after conntrack" \
			"-201 [rustmasq] then -200 then -199 [rustmasq]" "$(beside $family $hook)"
	done
	for hook in input forward postrouting; do
		check_equal "packet, $family, $hook: nothing" "" "$(grep "^$family $hook .*rustmasq" <<< "$order")"
	done
done
check "packet: in every namespace, those without conntrack included" hooks_everywhere 8
check_fails "... where conntrack is not turned on" grep -q nf_conntrack <(ns_exec lan nft list hooks)
record_events flow_new
check_equal "flow_new: right after conntrack, nothing else" "ip output -199 [rustmasq]
ip prerouting -199 [rustmasq]
ip6 output -199 [rustmasq]
ip6 prerouting -199 [rustmasq]" "$(list_hooks router | grep rustmasq | sort)"
check "flow_new: in every namespace" hooks_everywhere 4
record_events flow_confirm
order=$(list_hooks router)
for place in 'ip postrouting 2147483647' 'ip input 2147483647' 'ip6 postrouting 2147483647' 'ip6 input 2147483646'; do
	read -r family hook confirm <<< "$place"
	check_equal "flow_confirm, $family, $hook: right before the confirmation, after NAT" \
		"2147483645 [rustmasq] then $confirm then" "$(beside "$family" "$hook")"
done
check "flow_confirm: in every namespace" hooks_everywhere 4
check_match "... and NAT comes before" "ip postrouting 100 [^"$'\n'"]*
ip postrouting 2147483645 .rustmasq." "$order"

# --- Several readers

other=$tracing/instances/other
mkdir "$other" || bail "a second buffer"
echo 1 > "$other/events/rustmasq/flow_confirm/enable"
echo 1 > "$other/events/rustmasq/flow_new/enable"
check "a second reader, and another event: one hook for each event" hooks_everywhere 8
stop_recording
check "the first reader leaves: the second keeps both" hooks_everywhere 8
echo 0 > "$other/events/rustmasq/flow_new/enable"
check "one event goes, the other stays" hooks_everywhere 4
rmdir "$other"
check "the last one leaves" no_hooks_anywhere

# --- Namespaces

# setup_tracking_ns HOST: a namespace that tracks connections of its own.
setup_tracking_ns() {
	setup_ns "$1"
	ns_exec "$1" "$IPTABLES" -w -A INPUT -m conntrack --ctstate INVALID -j DROP || bail "rule"
}
# seen_in HOST: a flow there is seen, once.
seen_in() {
	forget_events
	ns_exec "$1" ping -q -c 1 -W 5 127.0.0.1 > /dev/null
	[[ $(events flow_confirm "^netns=$(netns "$1") " | wc -l) == 1 ]]
}

setup_tracking_ns before
record_events flow_confirm
setup_tracking_ns after
check "an event is for namespaces that were there before" seen_in before
check "... and for those that came after" seen_in after
stop_recording
check "the last reader leaves both" no_hooks_anywhere
record_events flow_confirm
check "the event is turned on again: the namespace that was there" seen_in before
check "... and the one that had come while it was on" seen_in after
stop_recording

# All at once: readers come and go, namespaces come and go, packets go on. A
# conntrack table that is full is of no interest here.
record_events
ns_start lan hping3 --udp -q -p 53 -i u1000 203.0.113.2 > "$scratch/flood" 2>&1
toggle_event() {
	local n
	for ((n = 0; n < 15 / slow; n++)); do
		echo 1 > "$buffer/events/rustmasq/$1/enable" || return
		echo 0 > "$buffer/events/rustmasq/$1/enable" || return
	done
}
lives() {
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
	lives $n &
	waiting+=($!)
done
for n in "${waiting[@]}"; do wait "$n" || bail "on and off"; done
check "readers and namespaces came and went, under traffic: nothing is left" no_hooks_anywhere
record_events flow_confirm
check "... and the event still works, in a namespace that was there" seen_in before
setup_tracking_ns latest
check "... and in a new one" seen_in latest
stop_recording
check "nothing is left" no_hooks_anywhere

done_testing
