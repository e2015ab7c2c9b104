#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# The module comes and goes many times, with the helper's parameter or without, with rules of one
# family, of both or of none, with the watch on or off, as the seed says; while senders make flows.
# shellcheck source-path=SCRIPTDIR source=../../lib/traffic.sh
. "$(dirname "$0")/../../lib/traffic.sh"

module=$(modinfo -n rustmasq) || bail "the module"
buffer=/sys/kernel/tracing/instances/cycles

# recorded: an event was.
recorded() { grep -q '^[^#]' $buffer/trace; }

# cycle: one life. Fails, and says why in `trouble`, if something is not as it should be.
cycle() {
	local port=$((RANDOM % 2 * 69)) rules=$((RANDOM % 4)) watch=$((RANDOM % 4)) users
	local events=("" flow_new flow_confirm packet)
	trouble="insmod"
	insmod "$module" tftp_port=$port || return
	trouble="rules"
	((!(rules & 1))) || add_rule -o wan0 -p udp -j RUSTMASQ --to-ports 10000-19999 || return
	((!(rules & 2))) || add_rule6 -o wan0 -j RUSTMASQ || return
	trouble="the watch, ${events[watch]}"
	if ((watch)); then
		echo 1 > "$buffer/events/rustmasq/${events[watch]}/enable" && wait_until recorded || return
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

# cycles COUNT: sets `refused`, `watched` and `lived` to how many were.
cycles() {
	local trouble
	refused=0 watched=0
	for ((lived = 0; lived < $1; lived++)); do
		cycle || {
			not_ok "cycle $lived" "$trouble"
			return
		}
	done
}

setup_traffic
mkdir $buffer || bail "a trace buffer"
trap 'rmdir $buffer; cleanup' EXIT
start_senders lan
resume_senders
cycles 3
quiesce

count=$(scaled 500)
leak_baseline
resume_senders
cycles "$count"
quiesce
check_leaks "$count"
stop_senders
check_equal "so many times the module came and went" "$count" "$lived"
echo "# $refused of these with rules, which kept rmmod from it; $watched with a watch that saw something"
check "flows were masqueraded meanwhile" test "$ranged" -gt 0 -a "$masqueraded" -gt "$ranged"
check "... and came through without, too" test "$plain" -gt 0
check_equal "... and none was lost" "$sent" $((masqueraded + plain))
count_expectations
check "expectations were made" test "$created" -gt 0
check_equal "... and each of them went" "$created" "$deleted"
rmdir $buffer
trap cleanup EXIT
check_nothing_left

done_testing
