#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# CPUs: 2
#
# rmmod can race with packets, the helper's expectations and a crowded destination, whose pool of ports is full and whose
# clients are refused with an answer; and at random with trace events that are on or toggled, with a process that repeats
# rmmod, with the flush after an address was deleted, and with a new rule that loads the module again. Without the module
# there is no expectation, and at the end no conntrack entry or hook is left.
# shellcheck source-path=SCRIPTDIR source=../../lib/traffic.sh
. "$(dirname "$0")/../../lib/traffic.sh"

module=$(modinfo -n rustmasq) || bail "the module"
buffer=/sys/kernel/tracing/instances/races

# --- Actions while the module is unloaded

# extra_addresses add/del: prints commands of ip(8) for wan0's addresses that are deleted and added again. Some flows
# are translated to them.
extra_addresses() {
	echo "addr $1 198.51.100.1/24 dev wan0"
	echo "addr $1 2001:db8:2::1/64 dev wan0"
}
# count_extra_flows: sets `flows` to the number of flows that are translated to these addresses.
count_extra_flows() { flows=$(grep -cE 'dst=(198\.51\.100\.1|2001:0db8:0002:0000:0000:0000:0000:0001) ' "$inside/nf_conntrack"); }
extra_flows_exist() { count_extra_flows && ((flows)); }

# A destination of each family for whose flows there are only eight ports.
crowded_of=([4]=203.0.113.3 [6]=2001:db8:1::3)
few_ports=(-o wan0 -p udp -j RUSTMASQ --to-ports 7000-7007 --when-full reject)

# count_refused: sets `refused_now` to the number of packets that conntrack counts as dropped, as those are that get no
# port.
count_refused() {
	local lines fields
	refused_now=0
	mapfile -s 1 -t lines < "$inside/stat/nf_conntrack"
	for fields in "${lines[@]}"; do
		read -r -a fields <<< "$fields"
		((refused_now += 0x${fields[10]}))
	done
}
some_are_refused() {
	local refused_now
	count_refused
	((refused_now > refused_before))
}

# repeat_rmmod: repeats rmmod until it succeeds. Prints a dot each time that it fails.
repeat_rmmod() {
	local end=$((SECONDS + 20))
	until rmmod rustmasq 2> /dev/null || ((SECONDS > end)); do printf .; done
}

# toggle_all_events: turns the module's events on and off until it is gone.
toggle_all_events() {
	while [[ -e $buffer/events/rustmasq ]]; do
		echo 1 > $buffer/events/rustmasq/enable
		echo 0 > $buffer/events/rustmasq/enable
	done 2> /dev/null
}

# --- Ways to unload the module. Their names are printed when they fail.

while_a_process_repeats_rmmod() {
	local repeating
	repeat_rmmod > "$scratch/refused" &
	repeating=$!
	wait_until test -s "$scratch/refused" || return
	flush_nat_rules
	wait $repeating
	((refused += $(wc -c < "$scratch/refused")))
}

right_after_the_rules_are_flushed() {
	flush_nat_rules
	wait_until rmmod rustmasq
}

# Further changes of addresses follow for a while, which delay the flush. So rmmod may come before, during or after it.
while_a_flush_is_pending() {
	local flows before changing n
	wait_until extra_flows_exist || return
	flush_nat_rules
	count_extra_flows
	before=$flows
	{
		extra_addresses del
		for ((n = 1; n <= 100; n++)); do printf "addr %s 192.0.2.$n/32 dev wan0\n" add del; done
	} | ip -n router -batch - &
	changing=$!
	pause "$delay"
	rmmod rustmasq
	count_extra_flows
	wait $changing
	extra_addresses add | ip -n router -batch -
	if ((flows == 0)); then flushed=$((flushed + 1)); elif ((flows == before)); then unflushed=$((unflushed + 1)); fi
}

while_a_rule_is_added() {
	local adding
	flush_nat_rules
	add_rule -o wan0 -j RUSTMASQ 2> /dev/null &
	adding=$!
	pause "$delay"
	rmmod rustmasq 2> /dev/null
	if wait $adding; then
		added=$((added + 1))
		[[ $(< /sys/module/rustmasq/refcnt) == 1 ]] || return
		flush_nat_rules
	fi
	wait_until unload_if_loaded
}

ways=(while_a_process_repeats_rmmod right_after_the_rules_are_flushed while_a_flush_is_pending while_a_rule_is_added)

# round: loads the module, waits until it works, and unloads it in a random way. Fails, and leaves the failed step in
# `trouble`, if something is wrong.
round() {
	local families=$((RANDOM % 3 + 1)) watch=$((RANDOM % 3)) delay toggling="" refused_now refused_before
	printf -v delay '0.%03d' $((RANDOM % 120))
	way=${ways[RANDOM % 4]}
	trouble="insmod"
	insmod "$module" tftp_port=69 || return
	trouble="rules"
	count_refused
	refused_before=$refused_now
	((!(families & 1))) || add_rule -d "${crowded_of[4]}" "${few_ports[@]}" || return
	((!(families & 1))) || add_rule -o wan0 -j RUSTMASQ || return
	((!(families & 2))) || add_rule6 -d "${crowded_of[6]}" "${few_ports[@]}" || return
	((!(families & 2))) || add_rule6 -o wan0 -j RUSTMASQ || return
	((watch != 1)) || echo 1 > $buffer/events/rustmasq/enable
	((watch != 2)) || { toggle_all_events & toggling=$!; }
	trouble="expectations"
	wait_until expectations_exist || return
	trouble="a crowded destination"
	wait_until some_are_refused || return
	trouble=${way//_/ }
	$way || return
	[[ ! $toggling ]] || wait "$toggling"
	[[ ! -e /sys/module/rustmasq ]] || return
	trouble="expectations are left"
	! expectations_exist
}

# run_rounds COUNT: runs so many rounds, or fewer if one fails. Sets `completed` to how many succeeded, `refused` to how
# often rmmod failed while it was repeated, `flushed` and `unflushed` to the rounds in which a flush was over or had not
# begun, and `added` to those in which a rule was added.
run_rounds() {
	local way trouble
	refused=0 flushed=0 unflushed=0 added=0
	for ((completed = 0; completed < $1; completed++)); do
		round || {
			not_ok "round $completed" "$trouble"
			return
		}
	done
}

# --- The rounds

setup_traffic
# Static neighbour entries lead packets for these addresses to the server, which does not have them.
mac=$(ip -n server -br link show eth0 | awk '{ print $3 }')
targets+=(198.51.100.9 2001:db8:2::9 "${crowded_of[@]}")
for address in "${targets[@]:2}"; do ip -n router neigh add "$address" lladdr "$mac" dev wan0 || bail "neighbours"; done
extra_addresses add | ip -n router -batch - || bail "addresses"
mkdir $buffer || bail "a trace buffer"
trap 'cleanup; rmdir $buffer' EXIT
cat $buffer/trace_pipe > "$scratch/events" &
servers+=($!)

start_senders lan
resume_senders
run_rounds 3
quiesce

count=$(scaled 200)
leak_baseline
resume_senders
run_rounds "$count"
quiesce
check_leaks "$count"
stop_senders
check_equal "the module was loaded and unloaded $count times" "$count" "$completed"
echo "# rmmod failed $refused times while it was repeated; a flush was over $flushed times and prevented $unflushed times;" \
	"$added rules were added during rmmod"
check "flows were masqueraded meanwhile" test "$masqueraded" -gt 0
check "events were recorded" grep -q flow_confirm "$scratch/events"
count_expectations
check "expectations were created" test "$created" -gt 0
check_equal "... and all of them removed" "$created" "$deleted"
check_nothing_left

done_testing
