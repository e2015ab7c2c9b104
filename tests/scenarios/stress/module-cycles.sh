#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# CPUs: 2
#
# The module can be loaded and unloaded many times while senders make flows, with or without tftp_port, rules of either
# family, and an event that is on, as the seed chooses: no packet is lost and no memory leaks. While there are rules it
# cannot be unloaded; without rules flows pass untranslated.
# shellcheck source-path=SCRIPTDIR source=../../lib/traffic.sh
. "$(dirname "$0")/../../lib/traffic.sh"

module=$(modinfo -n rustmasq) || bail "the module"
buffer=/sys/kernel/tracing/instances/cycles

# event_recorded: succeeds if at least one event was recorded.
event_recorded() { grep -q '^[^#]' $buffer/trace; }

# cycle: loads and unloads the module once. Fails, and leaves the failed step in `trouble`, if something is wrong.
# Counts in `watched` the cycles with a recorded event and in `refused` those whose rules made rmmod fail.
cycle() {
	local port=$((RANDOM % 2 * 69)) rules=$((RANDOM % 4)) watch=$((RANDOM % 4)) users
	local events=("" flow_new flow_confirm packet)
	trouble="insmod"
	insmod "$module" tftp_port=$port || return
	trouble="rules"
	((!(rules & 1))) || add_rule -o wan0 -p udp -j RUSTMASQ --to-ports 10000-19999 || return
	((!(rules & 2))) || add_rule6 -o wan0 -j RUSTMASQ || return
	trouble="the event ${events[watch]}"
	if ((watch)); then
		echo 1 > "$buffer/events/rustmasq/${events[watch]}/enable" && wait_until event_recorded || return
		((watched += 1))
	fi
	trouble="an expectation"
	((!port)) || wait_until expectations_exist || return
	read -r users < /sys/module/rustmasq/refcnt
	trouble="$users users with rules $rules"
	((users == (rules & 1) + (rules >> 1))) || return
	if ((rules)); then
		trouble="rmmod with rules"
		! rmmod rustmasq 2> /dev/null || return
		((refused += 1))
		((!(rules & 1))) || ns_exec router "$IPTABLES" -w -t nat -F
		((!(rules & 2))) || ns_exec router "$IP6TABLES" -w -t nat -F
	fi
	trouble="rmmod"
	wait_until rmmod rustmasq && [[ ! -e /sys/module/rustmasq && ! -e $buffer/events/rustmasq ]] || return
	count_expectations
	trouble="$pending expectations left"
	((pending == 0))
}

# run_cycles COUNT: runs so many cycles, or fewer if one fails. Sets `completed` to how many succeeded.
run_cycles() {
	local trouble
	refused=0 watched=0
	for ((completed = 0; completed < $1; completed++)); do
		cycle || {
			not_ok "cycle $completed" "$trouble"
			return
		}
	done
}

setup_traffic
mkdir $buffer || bail "a trace buffer"
trap 'rmdir $buffer; cleanup' EXIT
start_senders lan
resume_senders
run_cycles 3
quiesce

count=$(scaled 500)
leak_baseline
resume_senders
run_cycles "$count"
quiesce
check_leaks "$count"
stop_senders
check_equal "the module was loaded and unloaded $count times" "$count" "$completed"
echo "# $refused times with rules, for which rmmod refused at first; $watched times with a recorded event"
check "flows were masqueraded meanwhile" test "$ranged" -gt 0 -a "$masqueraded" -gt "$ranged"
check "... and passed untranslated without rules" test "$plain" -gt 0
check_equal "... and no packet was lost" "$sent" $((masqueraded + plain))
count_expectations
check "expectations were created" test "$created" -gt 0
check_equal "... and all of them removed" "$created" "$deleted"
rmdir $buffer
trap cleanup EXIT
check_nothing_left

done_testing
