#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# rmmod races with packets, always with answers that the TFTP helper expects, and by the dice with trace
# events that are read or turned on and off, with somebody who tries all the time, with the flush of an
# address that has just gone, or with a rule that wants the module back.
# shellcheck source-path=SCRIPTDIR source=../../lib/traffic.sh
. "$(dirname "$0")/../../lib/traffic.sh"

module=$(modinfo -n rustmasq) || bail "the module"
buffer=/sys/kernel/tracing/instances/races

# --- What goes on while the module goes

# going add/del: what ip is told to do with the addresses that may go, and that some of the flows leave with.
going() {
	echo "addr $1 198.51.100.1/24 dev wan0"
	echo "addr $1 2001:db8:2::1/64 dev wan0"
}
# count_marked: sets `flows` to how many flows leave with them.
count_marked() { flows=$(grep -cE 'dst=(198\.51\.100\.1|2001:0db8:0002:0000:0000:0000:0000:0001) ' "$inside/nf_conntrack"); }
some_marked() { count_marked && ((flows)); }

# insist: prints a dot each time that rmmod fails.
insist() {
	local end=$((SECONDS + 20))
	until rmmod rustmasq 2> /dev/null || ((SECONDS > end)); do printf .; done
}

# flicker: the events go on and off until the module is gone.
flicker() {
	while [[ -e $buffer/events/rustmasq ]]; do
		echo 1 > $buffer/events/rustmasq/enable
		echo 0 > $buffer/events/rustmasq/enable
	done 2> /dev/null
}

# --- Ways to go

while_somebody_insists() {
	local insisting
	insist > "$scratch/refused" &
	insisting=$!
	wait_until test -s "$scratch/refused" || return
	flush_nat_rules
	wait $insisting
	((refused += $(wc -c < "$scratch/refused")))
}

right_after_the_rules() {
	flush_nat_rules
	wait_until rmmod rustmasq
}

# The changes go on for a while, which puts the walk off; so it may be due, under way, or over.
while_a_flush_is_under_way() {
	local flows before changing n
	wait_until some_marked || return
	flush_nat_rules
	count_marked
	before=$flows
	{
		going del
		for ((n = 1; n <= 100; n++)); do printf "addr %s 192.0.2.$n/32 dev wan0\n" add del; done
	} | ip -n router -batch - &
	changing=$!
	pause "$delay"
	rmmod rustmasq
	count_marked
	wait $changing
	going add | ip -n router -batch -
	if ((flows == 0)); then flushed=$((flushed + 1)); elif ((flows == before)); then unflushed=$((unflushed + 1)); fi
}

while_a_rule_comes() {
	local coming
	flush_nat_rules
	add_rule -o wan0 -j RUSTMASQ 2> /dev/null &
	coming=$!
	pause "$delay"
	rmmod rustmasq 2> /dev/null
	if wait $coming; then
		came=$((came + 1))
		[[ $(< /sys/module/rustmasq/refcnt) == 1 ]] || return
		flush_nat_rules
	fi
	wait_until unload_if_loaded
}

ways=(while_somebody_insists right_after_the_rules while_a_flush_is_under_way while_a_rule_comes)

# round: the module comes, works, and goes. Fails, and says why in `trouble`, if that is not so.
round() {
	local families=$((RANDOM % 3 + 1)) watch=$((RANDOM % 3)) delay flickering=
	printf -v delay '0.%03d' $((RANDOM % 120))
	way=${ways[RANDOM % 4]}
	trouble="insmod"
	insmod "$module" tftp_port=69 || return
	trouble="rules"
	((!(families & 1))) || add_rule -o wan0 -j RUSTMASQ || return
	((!(families & 2))) || add_rule6 -o wan0 -j RUSTMASQ || return
	((watch != 1)) || echo 1 > $buffer/events/rustmasq/enable
	((watch != 2)) || { flicker & flickering=$!; }
	trouble="expectations"
	wait_until expectations_exist || return
	trouble=${way//_/ }
	$way || return
	[[ ! $flickering ]] || wait "$flickering"
	[[ ! -e /sys/module/rustmasq ]] || return
	trouble="expectations that stay"
	! expectations_exist
}

# rounds COUNT: sets `lived` to how many there were, and others to what was seen.
rounds() {
	local way trouble
	refused=0 flushed=0 unflushed=0 came=0
	for ((lived = 0; lived < $1; lived++)); do
		round || {
			not_ok "round $lived" "$trouble"
			return
		}
	done
}

# --- All of them

setup_traffic
# No answer is needed for these.
mac=$(ip -n server -br link show eth0 | awk '{ print $3 }')
targets+=(198.51.100.9 2001:db8:2::9)
for address in "${targets[@]:2}"; do ip -n router neigh add "$address" lladdr "$mac" dev wan0 || bail "neighbours"; done
going add | ip -n router -batch - || bail "addresses"
mkdir $buffer || bail "a trace buffer"
trap 'cleanup; rmdir $buffer' EXIT
cat $buffer/trace_pipe > "$scratch/events" &
servers+=($!)

start_senders lan
resume_senders
rounds 3
quiesce

count=$(scaled 200)
leak_baseline
resume_senders
rounds "$count"
quiesce
check_leaks "$count"
stop_senders
check_equal "so many times the module came and went" "$count" "$lived"
echo "# rmmod was refused $refused times; a flush was over $flushed times and prevented $unflushed times;" \
	"$came rules came in between"
check "flows were masqueraded meanwhile" test "$masqueraded" -gt 0
check "events were read" grep -q flow_confirm "$scratch/events"
count_expectations
check "expectations were made" test "$created" -gt 0
check_equal "... and each of them went" "$created" "$deleted"
check_nothing_left

done_testing
