#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# tracefs, trace-cmd and perf show the same text of the flow watch's events. The module cannot be unloaded while perf
# has an event open, but it can while tracefs has one on, and an event can be turned on before the module is loaded.
# With the events off, or without the module, no hook is left and flows work. The network is that of setup_lan, with
# IPv6.
. "$(dirname "$0")/../../lib/lib.sh"
. "$(dirname "$0")/../../lib/events.sh"

setup_two_flows

event_is_on() { [[ $(< "$buffer/events/rustmasq/$1/enable") == 1 ]]; }

# --- Tools that record events

# event_texts: prints the text behind the event's name from each line of the standard input that is about our flows.
event_texts() { sed -nE "s/.*flow_confirm: +(netns=$me .*original=[^ ]*:$number->.*)/\1/p" | sort; }

record_events flow_confirm
number=$((number + 1))
export -f probe_both probe ns_exec ns_enter
probe_command="$(declare -p number outside patience slow); probe_both"
check "trace-cmd records flow_confirm" trace-cmd record -q -e rustmasq:flow_confirm -o "$scratch/trace.dat" bash -c "$probe_command"
check "tracefs has both flows" both_seen
check_equal "... a line each" 2 "$(event_texts < "$buffer/trace" | wc -l)"
check_equal "trace-cmd report shows them as tracefs does" "$(event_texts < "$buffer/trace")" \
	"$(trace-cmd report -q -i "$scratch/trace.dat" 2> "$scratch/trace-cmd" | event_texts)"
forget_events
number=$((number + 1))
probe_command="$(declare -p number outside patience slow); probe_both"
check "perf records flow_confirm" perf record -q -a -e rustmasq:flow_confirm -o "$scratch/perf.data" -- bash -c "$probe_command"
check "tracefs has both flows" both_seen
check_equal "... a line each" 2 "$(event_texts < "$buffer/trace" | wc -l)"
check_equal "perf script shows them as tracefs does" "$(event_texts < "$buffer/trace")" \
	"$(perf script -i "$scratch/perf.data" 2> "$scratch/perf" | event_texts)"
stop_recording
check "the tools leave no hook behind" no_hooks_anywhere

# --- Loading and unloading the module

ns_start router perf record -q -a -e rustmasq:flow_confirm -o "$scratch/perf.data" -- sleep 60
perf=${servers[-1]}
check "perf has the event open" wait_until hooks_everywhere 4
check_match "... and rmmod says that the module is in use" "in use" "$(rmmod rustmasq 2>&1)"
check "... and leaves it loaded" module_loaded
kill -INT "$perf"
wait "$perf"
check "perf leaves no hook behind" no_hooks_anywhere

record_events flow_new flow_confirm packet
check_flows_seen "before the module is unloaded"
check "the module can be unloaded while its events are on in tracefs" rmmod rustmasq
check_fails "... and is gone" module_loaded
check "... with its hooks" no_hooks_anywhere
check_fails "... and its events" test -e "$tracing/events/rustmasq"
check "flows work without it" probe_both
check "it can be loaded again" modprobe rustmasq
check "... with its events off" no_hooks_anywhere
echo 1 > "$buffer/events/rustmasq/flow_confirm/enable"
check_flows_seen "the module is loaded again"

# The events can be turned on before the module is loaded.
rmmod rustmasq || bail "the module cannot be unloaded"
echo ':mod:rustmasq' > "$buffer/set_event" || bail "events of a module that is not there"
check "the module can be loaded when its events were turned on before" modprobe rustmasq
for event in flow_new flow_confirm packet; do check "... $event is on" event_is_on $event; done
check "... with hooks in every namespace" hooks_everywhere 16
check_flows_seen "turned on before the module was loaded"
check "the module can be unloaded while they are on" rmmod rustmasq
check "... with its hooks" no_hooks_anywhere
check "... and loaded again" modprobe rustmasq
stop_recording
check "no hook is left" no_hooks_anywhere

done_testing
