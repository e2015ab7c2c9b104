#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# CPUs: 2
#
# The watch's events are turned on and off many times while senders make flows: no packet is lost, and a trace instance
# that keeps flow_confirm on records each flow once. With the events off, no hook is left.
# shellcheck source-path=SCRIPTDIR source=../../lib/traffic.sh
. "$(dirname "$0")/../../lib/traffic.sh"

tracing=/sys/kernel/tracing/instances
events=(flow_new packet flow_confirm)

# count_our_hooks HOST: prints how many hooks the module has there.
count_our_hooks() { ns_exec "$1" nft list hooks | grep -cF '[rustmasq]'; }

# toggle_events COUNT: turns a random event on and off again, so many times.
toggle_events() {
	local n event switch
	for ((n = 0; n < $1; n++)); do
		event=${events[RANDOM % 3]}
		switch=$tracing/toggles/events/rustmasq/$event/enable
		echo 1 > "$switch" || return
		# Every tenth time or so, waits until the event is recorded.
		((RANDOM % 10)) || wait_until grep -q "$event" $tracing/toggles/trace || return
		echo 0 > "$switch" || return
	done
}

setup_traffic
modprobe rustmasq || bail "the module"
for instance in steady toggles; do mkdir $tracing/$instance || bail "a trace buffer"; done
trap 'cleanup; rmdir $tracing/steady $tracing/toggles' EXIT
add_rule -o wan0 -p udp -j RUSTMASQ --to-ports 10000-19999 || bail "rule"
add_rule6 -o wan0 -p udp -j RUSTMASQ --to-ports 10000-19999 || bail "rule for IPv6"
start_senders lan
resume_senders
toggle_events 5
pause_senders
count_arrivals
before=$ranged

# Unloading the module would remove its events, so it stays loaded for all of this.
count=$(scaled 1000)
ns_exec router conntrack -F 2> /dev/null
leak_baseline
echo 1 > $tracing/steady/events/rustmasq/flow_confirm/enable
cat $tracing/steady/trace_pipe > "$scratch/events" &
servers+=($!)
resume_senders
check "events are turned on and off $count times" toggle_events "$count"
stop_senders
check_equal "each packet arrives masqueraded" "$sent" "$ranged"
all_confirmed() { [[ $(grep -c ': flow_confirm: .*:69 reply=' "$scratch/events") == $((sent - before)) ]]; }
check "the instance that keeps flow_confirm on records each flow once" wait_until all_confirmed
for name in "${hosts[@]}"; do check_equal "only the hooks of its event are left in $name" 4 "$(count_our_hooks "$name")"; done
echo 0 > $tracing/steady/events/rustmasq/flow_confirm/enable
for name in "${hosts[@]}"; do check_equal "... and none with the event off in $name" 0 "$(count_our_hooks "$name")"; done
ns_exec router conntrack -F 2> /dev/null
check_leaks "$count"
flush_nat_rules
check_nothing_left

done_testing
