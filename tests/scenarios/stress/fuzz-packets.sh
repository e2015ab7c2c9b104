#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# CPUs: 2
#
# A router with RUSTMASQ and our TFTP helper does the same with random frames (valid and invalid ones, and answers to
# forwarded ones) as a router with the kernel's MASQUERADE and helper, but for ports that are chance, and the flow
# viewer can read every event. With wrong rules at the first router, the comparison reports differences.
# shellcheck source-path=SCRIPTDIR source=../../lib/lib.sh
. "$(dirname "$0")/../../lib/lib.sh"
# shellcheck source-path=SCRIPTDIR source=../../lib/events.sh
. "$(dirname "$0")/../../lib/events.sh"

# --- Two routers that are alike, and the links by which frames arrive and leave:
#
#     wire                  masquerade                            wire
#     m-lan ------------- lan0             wan0 ---------------- m-wan
#                         172.18.0.1/16    203.0.113.1/24
#                         fd00:18::1/64    2001:db8:1::1/64
#     r-lan ------------- lan0             wan0 ---------------- r-wan
#                           rustmasq: the same
#
# The devices do not resolve neighbours. Frames from the LAN may be larger than wan0's MTU.

# setup_wires ROUTER: makes its devices and connects them to the namespace "wire".
setup_wires() {
	local side mac=1 address
	for side in lan wan; do
		ip -n wire link add "${1:0:1}-$side" mtu 9000 type veth peer name "${side}0" netns "$1" || bail "link $side of $1"
		ip -n wire link set "${1:0:1}-$side" addrgenmode none arp off
		ip -n "$1" link set "${side}0" address "02:00:00:00:00:0$mac" addrgenmode none arp off multicast off
		mac=2
		ip -n wire link set "${1:0:1}-$side" up
	done
	ip -n "$1" link set lan0 mtu 9000 up
	ip -n "$1" link set wan0 mtu 1500 up
	for address in 172.18.0.1/16:lan0 fd00:18::1/64:lan0 203.0.113.1/24:wan0 2001:db8:1::1/64:wan0; do
		ip -n "$1" addr add "${address%:*}" dev "${address##*:}" || bail "address $address"
	done
	ip -n "$1" route add default dev wan0
	ip -n "$1" -6 route add default dev wan0
}

# remove_time_limits ROUTER: turns off the rate limits of ICMP errors and makes timeouts long, so that no result depends
# on time.
remove_time_limits() {
	# shellcheck disable=SC2016 # for that shell
	ns_exec "$1" bash -c '
		cd /proc/sys/net
		for file in netfilter/nf_conntrack_*timeout* netfilter/nf_conntrack_gre_timeout* ipv4/ipfrag_time ipv6/ip6frag_time; do
			echo 3600 > $file
		done
		echo 0 | tee ipv4/icmp_ratelimit ipv4/icmp_ratemask ipv6/icmp/ratelimit ipv4/ipfrag_max_dist \
			ipv4/conf/*/{send,accept,secure}_redirects ipv6/conf/*/accept_redirects ipv6/conf/*/accept_ra
		' > /dev/null || bail "settings of $1"
}

# set_router_rules ROUTER TARGET HELPER: sets rules of table nat with the target, and of table raw with the helper.
set_router_rules() {
	local program range="--to-ports 20000-59999"
	for program in "$IPTABLES" "$IP6TABLES"; do
		ns_exec "$1" "$program-restore" -w <<-END || bail "rules of $1"
			*raw
			-A PREROUTING -p udp --dport 69 -j CT --helper $3
			-A OUTPUT -p igmp -j DROP
			COMMIT
			*nat
			-A POSTROUTING -o wan0 -p tcp --dport 1:1023 -j $2 $range
			-A POSTROUTING -o wan0 -p tcp -j $2 $range --random
			-A POSTROUTING -o wan0 -p sctp -j $2 $range
			-A POSTROUTING -o wan0 -p udp --dport 53 -j $2 --random-fully
			-A POSTROUTING -o wan0 -p udp --dport 123 -j $2 $range
			-A POSTROUTING -o wan0 -j $2
			COMMIT
		END
	done
	ns_exec "$1" "$IPTABLES" -w -t nat -I POSTROUTING 5 -o wan0 -p icmp -j "$2" --to-ports 20000-59999 || bail "rules of $1"
	# IPv6 sends these messages by itself from time to time.
	ns_exec "$1" "$IP6TABLES-restore" -w -n <<-END || bail "rules of $1"
		*raw
		-A OUTPUT -p ipv6-icmp --icmpv6-type redirect -j DROP
		-A OUTPUT -p ipv6-icmp --icmpv6-type 131 -j DROP
		-A OUTPUT -p ipv6-icmp --icmpv6-type 143 -j DROP
		COMMIT
	END
}

modprobe -a nf_conntrack_netlink nf_nat_tftp rustmasq || bail "modules"
setup_ns wire masquerade rustmasq
ns_exec wire sh -c 'echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6; echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6'
for router in masquerade rustmasq; do
	setup_wires $router
	enable_forwarding $router
	remove_time_limits $router
done
set_router_rules masquerade MASQUERADE tftp
set_router_rules rustmasq RUSTMASQ rustmasq-tftp

# --- The flow watch, with all events recorded, and the flow viewer

record_events flow_new flow_confirm packet
ns_start wire rustmasq watch > "$scratch/shown" 2> "$scratch/said"
wait_until grep -q watching "$scratch/said" || bail "the flow viewer: $(< "$scratch/said")"

# count_shown ROUTER: prints how many of its flows the viewer has shown.
count_shown() { grep -c " $1 " "$scratch/shown"; }
as_many_shown() { [[ $(count_shown rustmasq) == $(count_shown masquerade) ]]; }

# --- The frames. Without full effort, 40 percent of them suffice.

count=$(scaled 100000)
((EFFORT >= 100)) || count=$(scaled 40000)
what="$count random frames: both routers send the same frames and have the same flows"
if result=$("$tools/packet_fuzz.py" "$count" "$SEED" "$buffer"); then ok "$what"; else not_ok "$what" "$result"; fi
printf '# seed %s\n' "$SEED"
printf '%s\n' "$result" | sed 's/^/# /'
for event in flow_new flow_confirm packet; do
	check_match "the flow viewer can read the event $event" "lines of the event $event: [1-9]" "$result"
done
check "the flow viewer shows as many flows of one router as of the other" wait_until as_many_shown
check_match "... and there are some" '^[1-9][0-9]+$' "$(count_shown rustmasq)"
check_equal "... and reports no error" "rustmasq: watching" "$(< "$scratch/said")"
stop_recording

# rule_counters ROUTER: prints how many flows and bytes all rules of table nat have counted, and how many rules have
# counted none, for each family. Sums, because ports decide which rule counts a flow, and some of them are chance.
rule_counters() {
	local program
	for program in "$IPTABLES" "$IP6TABLES"; do
		ns_exec "$1" "$program-save" -c -t nat |
			awk -F '[^0-9]+' '/-A POSTROUTING/ { flows += $2; bytes += $3; unused += !$2 } END { print flows, bytes, unused + 0 }'
	done
}
check_equal "the rules of both routers count the same" "$(rule_counters masquerade)" "$(rule_counters rustmasq)"
# With few frames, it is chance whether each rule counts one.
unused=0
((count >= 2000)) || unused='[0-9]+'
check_match "... and all rules count flows" "^[1-9][0-9]+ [0-9]+ $unused.[1-9][0-9]+ [0-9]+ $unused\$" "$(rule_counters rustmasq)"

# --- Wrong rules are noticed

# check_noticed COUNT WHAT PATTERN: checks that so many frames suffice to report a difference, in a line that matches.
check_noticed() {
	local output
	if output=$("$tools/packet_fuzz.py" "$1" "$SEED"); then
		not_ok "it is noticed that $2" "$output"
	else
		check_match "it is noticed that $2" "$3" "$output"
	fi
}

check_wrong_rules() {
	ns_exec rustmasq "$IPTABLES" -w -t nat -I POSTROUTING -p udp --dport 53 -j ACCEPT
	check_noticed 300 "RUSTMASQ does not translate some flows" "came different frames"
	ns_exec rustmasq "$IPTABLES" -w -t nat -D POSTROUTING 1

	for program in "$IPTABLES" "$IP6TABLES"; do ns_exec rustmasq "$program" -w -t raw -D PREROUTING 1; done
	check_noticed 300 "requests create no expectations" "does not expect what it should"
	# The kernel's own helper also takes what has no name for a request.
	for program in "$IPTABLES" "$IP6TABLES"; do
		ns_exec rustmasq "$program" -w -t raw -I PREROUTING -p udp --dport 69 -j CT --helper tftp
	done
	check_noticed 1000 "other packets create expectations" "this is no request"
}
if compared; then check_wrong_rules; fi

# --- Unloading the module

stop_servers
for program in "$IPTABLES" "$IP6TABLES"; do
	ns_exec rustmasq "$program" -w -t nat -F
	ns_exec rustmasq "$program" -w -t raw -F
done
ns_exec rustmasq conntrack -F 2> /dev/null
check "the module can be unloaded" wait_until rmmod rustmasq

done_testing
