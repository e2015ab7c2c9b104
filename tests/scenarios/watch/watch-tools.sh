#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Whatever reads the flow watch's events, it sees the same: tracefs, trace-cmd and
# perf. And whatever becomes of the module meanwhile, nothing stays behind: it cannot
# go while perf has an event open, it can while tracefs has one turned on, and an
# event can be turned on before there is a module. The network is setup_lan's, with IPv6
# beside.
. "$(dirname "$0")/../../lib/lib.sh"
. "$(dirname "$0")/../../lib/events.sh"

setup_two_flows

event_is_on() { [[ $(< "$buffer/events/rustmasq/$1/enable") == 1 ]]; }

# --- Tools

# texts: what stands behind an event's name, of our flows.
texts() { sed -nE "s/.*flow_confirm: +(netns=$me .*original=[^ ]*:$number->.*)/\1/p" | sort; }

record_events flow_confirm
number=$((number + 1))
export -f probe_both probe ns_exec ns_enter
probe_command="$(declare -p number outside patience slow); probe_both"
check "trace-cmd records" trace-cmd record -q -e rustmasq:flow_confirm -o "$scratch/trace.dat" bash -c "$probe_command"
check "both flows were seen" both_seen
check_equal "... as lines" 2 "$(texts < "$buffer/trace" | wc -l)"
check_equal "trace-cmd report shows them as tracefs does" "$(texts < "$buffer/trace")" \
	"$(trace-cmd report -q -i "$scratch/trace.dat" 2> "$scratch/trace-cmd" | texts)"
forget_events
number=$((number + 1))
probe_command="$(declare -p number outside patience slow); probe_both"
check "perf records" perf record -q -a -e rustmasq:flow_confirm -o "$scratch/perf.data" -- bash -c "$probe_command"
check "both flows were seen" both_seen
check_equal "... as lines" 2 "$(texts < "$buffer/trace" | wc -l)"
check_equal "perf script shows them as tracefs does" "$(texts < "$buffer/trace")" \
	"$(perf script -i "$scratch/perf.data" 2> "$scratch/perf" | texts)"
stop_recording
check "the tools leave nothing behind" no_hooks_anywhere

# --- The module

ns_start router perf record -q -a -e rustmasq:flow_confirm -o "$scratch/perf.data" -- sleep 60
perf=${servers[-1]}
check "perf has the event open" wait_until hooks_everywhere 4
check_match "... and the module is in use" "in use" "$(rmmod rustmasq 2>&1)"
check "... and stays" module_loaded
kill -INT "$perf"
wait "$perf"
check "perf leaves nothing behind" no_hooks_anywhere

record_events flow_new flow_confirm packet
check_flows_seen "before the module goes"
check "the module can be removed while tracefs reads its events" rmmod rustmasq
check_fails "... and is" module_loaded
check "... with its hooks" no_hooks_anywhere
check_fails "... and its events" test -e "$tracing/events/rustmasq"
check "flows go on without it" probe_both
check "it comes again" modprobe rustmasq
check "... with its events off" no_hooks_anywhere
echo 1 > "$buffer/events/rustmasq/flow_confirm/enable"
check_flows_seen "the module is back"

# Turned on before there is a module to have the event.
rmmod rustmasq || bail "the module cannot be removed"
echo ':mod:rustmasq' > "$buffer/set_event" || bail "events of a module that is not there"
check "the events are turned on before the module comes" modprobe rustmasq
for event in flow_new flow_confirm packet; do check "... $event is on" event_is_on $event; done
check "... in every namespace" hooks_everywhere 16
check_flows_seen "turned on before the module came"
check "the module goes while they are on" rmmod rustmasq
check "... with its hooks" no_hooks_anywhere
check "... and comes again" modprobe rustmasq
stop_recording
check "nothing is left" no_hooks_anywhere

done_testing
