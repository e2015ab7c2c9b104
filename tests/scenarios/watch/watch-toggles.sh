#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# The watch goes on and off many times while senders make flows: no packet is lost, a reader that stays
# sees each flow once, and those that come and go see some.
# shellcheck source-path=SCRIPTDIR source=../../lib/traffic.sh
. "$(dirname "$0")/../../lib/traffic.sh"

tracing=/sys/kernel/tracing/instances
events=(flow_new packet flow_confirm)

# count_our_hooks HOST: how many are ours.
count_our_hooks() { ns_exec "$1" nft list hooks | grep -cF '[rustmasq]'; }

# toggle_events COUNT: so many times an event goes on and off again.
toggle_events() {
	local n event switch
	for ((n = 0; n < $1; n++)); do
		event=${events[RANDOM % 3]}
		switch=$tracing/toggles/events/rustmasq/$event/enable
		echo 1 > "$switch" || return
		# Every now and then somebody looks while it is on.
		((RANDOM % 10)) || wait_until grep -q "$event" $tracing/toggles/trace || return
		echo 0 > "$switch" || return
	done
}

setup_traffic
modprobe rustmasq || bail "the module"
for reader in steady toggles; do mkdir $tracing/$reader || bail "a trace buffer"; done
trap 'cleanup; rmdir $tracing/steady $tracing/toggles' EXIT
add_rule -o wan0 -p udp -j RUSTMASQ --to-ports 10000-19999 || bail "rule"
add_rule6 -o wan0 -p udp -j RUSTMASQ --to-ports 10000-19999 || bail "rule for IPv6"
start_senders lan
resume_senders
toggle_events 5
pause_senders
count_arrivals
before=$ranged

# A module that goes takes the events with it, so it stays for all of this.
count=$(scaled 1000)
ns_exec router conntrack -F 2> /dev/null
leak_baseline
echo 1 > $tracing/steady/events/rustmasq/flow_confirm/enable
cat $tracing/steady/trace_pipe > "$scratch/events" &
servers+=($!)
resume_senders
check "an event goes on and off $count times" toggle_events "$count"
stop_senders
check_equal "each packet arrived, masqueraded" "$sent" "$ranged"
all_confirmed() { [[ $(grep -c ': flow_confirm: .*:69 reply=' "$scratch/events") == $((sent - before)) ]]; }
check "the reader that stays saw each flow, once" wait_until all_confirmed
for name in "${hosts[@]}"; do check_equal "its hooks alone are left in $name" 4 "$(count_our_hooks "$name")"; done
echo 0 > $tracing/steady/events/rustmasq/flow_confirm/enable
for name in "${hosts[@]}"; do check_equal "... and go with it from $name" 0 "$(count_our_hooks "$name")"; done
ns_exec router conntrack -F 2> /dev/null
check_leaks "$count"
flush_nat_rules
check_nothing_left

done_testing
