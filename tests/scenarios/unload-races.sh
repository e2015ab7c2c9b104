#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# rmmod races with packets, always with answers that the TFTP helper expects, and by the dice with trace
# events that are read or turned on and off, with somebody who tries all the time, with the flush of an
# address that has just gone, or with a rule that wants the module back.
# shellcheck source-path=SCRIPTDIR source=../crowd.sh
. "$(dirname "$0")/../crowd.sh"

module=$(modinfo -n rustmasq) || bail "the module"
buffer=/sys/kernel/tracing/instances/races

# --- What goes on while the module goes

# addresses add/del: those that some of the flows leave with, and that may go.
addresses() {
	ip -n router -batch - <<-END
		addr $1 198.51.100.1/24 dev wan0
		addr $1 2001:db8:2::1/64 dev wan0
	END
}
# marked: sets `flows` to how many flows leave with them.
marked() { flows=$(grep -cE 'dst=(198\.51\.100\.1|2001:0db8:0002:0000:0000:0000:0000:0001) ' "$inside/nf_conntrack"); }
some_marked() { marked && ((flows)); }

# insist: prints how often rmmod failed.
insist() {
	local count=0 end=$((SECONDS + 20))
	until rmmod rustmasq 2> /dev/null || ((SECONDS > end)); do ((count += 1)); done
	echo "$count"
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
	local insisting refused=0
	insist > "$scratch/refused" &
	insisting=$!
	sleep "$delay"
	rules_gone
	wait $insisting
	read -r refused < "$scratch/refused"
	((refusals += refused))
}

right_after_the_rules() {
	rules_gone
	wait_until rmmod rustmasq
}

while_a_flush_is_under_way() {
	local flows before
	wait_until some_marked || return
	rules_gone
	marked
	before=$flows
	addresses del
	sleep "$delay"
	rmmod rustmasq
	marked
	addresses add
	if ((flows == 0)); then ((flushed += 1)); elif ((flows == before)); then ((unflushed += 1)); fi
}

while_a_rule_comes() {
	local coming
	rules_gone
	rule -o wan0 -j RUSTMASQ 2> /dev/null &
	coming=$!
	sleep "$delay"
	rmmod rustmasq 2> /dev/null
	if wait $coming; then
		((came += 1))
		[[ $(< /sys/module/rustmasq/refcnt) == 1 ]] || return
		rules_gone
	fi
	wait_until module_out
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
	((!(families & 1))) || rule -o wan0 -j RUSTMASQ || return
	((!(families & 2))) || rule6 -o wan0 -j RUSTMASQ || return
	((watch != 1)) || echo 1 > $buffer/events/rustmasq/enable
	((watch != 2)) || { flicker & flickering=$!; }
	trouble="expectations"
	wait_until some_expected || return
	trouble=${way//_/ }
	$way || return
	[[ ! $flickering ]] || wait "$flickering"
	[[ ! -e /sys/module/rustmasq ]] || return
	trouble="expectations that stay"
	! some_expected
}

# rounds COUNT: sets `lived` to how many there were, and others to what was seen.
rounds() {
	local way trouble
	refusals=0 flushed=0 unflushed=0 came=0
	for ((lived = 0; lived < $1; lived++)); do
		round || {
			not_ok "round $lived" "$trouble"
			return
		}
	done
}

# --- All of them

crowd
# No answer is needed for these.
mac=$(ip -n server -br link show eth0 | awk '{ print $3 }')
targets+=(198.51.100.9 2001:db8:2::9)
for address in "${targets[@]:2}"; do ip -n router neigh add "$address" lladdr "$mac" dev wan0 || bail "neighbours"; done
addresses add || bail "addresses"
mkdir $buffer || bail "a trace buffer"
trap 'leave; rmdir $buffer' EXIT
cat $buffer/trace_pipe > "$scratch/events" &
servers+=($!)

send_off
rounds 5
call_back
quiet

count=$(share 200)
leaks_before
send_off
rounds "$count"
call_back
check_equal "so many times the module came and went" "$count" "$lived"
echo "# rmmod was refused $refusals times; a flush was over $flushed times and prevented $unflushed times;" \
	"$came rules came in between"
check "flows were masqueraded meanwhile" test "$masqueraded" -gt 0
check "events were read" grep -q flow_confirm "$scratch/events"
expected
check "expectations were made" test "$created" -gt 0
quiet
leaks_after "$count"
expected
check_equal "each expectation went" "$created" "$deleted"
leave_nothing
