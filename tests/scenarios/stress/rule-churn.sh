#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Front ends: legacy nft
# CPUs: 2
#
# Rules can be added and deleted and whole tables replaced many times while senders make flows: no packet is lost, and
# while a table is replaced, each flow is masqueraded by the old one or the new one. Without a rule, flows pass
# untranslated.
# shellcheck source-path=SCRIPTDIR source=../../lib/traffic.sh
. "$(dirname "$0")/../../lib/traffic.sh"

variants=("-p udp -j RUSTMASQ --to-ports 10000-19999" "-p udp -j RUSTMASQ --to-ports 20000-29999 --random" "-j RUSTMASQ"
	"-j RUSTMASQ --random-fully")

# toggle_rules IPTABLES COUNT: picks a random rule, and adds it or deletes it if it exists, so many times.
toggle_rules() {
	local exists=(0 0 0 0) n pick
	for ((n = 0; n < $2; n++)); do
		pick=$((RANDOM % 4))
		# shellcheck disable=SC2086 # words
		if ((exists[pick])); then
			ns_exec router "$1" -w -t nat -D POSTROUTING -o wan0 ${variants[pick]}
		else
			ns_exec router "$1" -w -t nat -I POSTROUTING -o wan0 ${variants[pick]}
		fi || return
		exists[pick]=$((!exists[pick]))
	done
	n=$((exists[0] + exists[1] + exists[2] + exists[3]))
	[[ $(ns_exec router "$1" -w -t nat -S | grep -c RUSTMASQ) == "$n" ]] && ns_exec router "$1" -w -t nat -F
}

# replace_tables IPTABLES COUNT: replaces the table by another one, so many times. In each, a rule in a chain of its own
# matches all flows, after some that match none.
replace_tables() {
	local n decoys
	for ((n = 0; n < $2; n++)); do
		decoys=$(for ((decoy = RANDOM % 5; decoy > 0; decoy--)); do
			echo "-A POSTROUTING -o lan0 ${variants[RANDOM % 4]}"
		done)
		ns_exec router "$1-restore" -w <<-END || return
			*nat
			:more -
			$decoys
			-A POSTROUTING -o wan0 -j more
			-A more ${variants[RANDOM % 2]}
			COMMIT
		END
	done
}

# both_families FUNCTION COUNT: calls the function for tables of both families at the same time. Fails if one call does.
both_families() {
	local first second
	"$1" "$IPTABLES" "$2" &
	first=$!
	# Each call has random numbers of its own.
	RANDOM=$((SEED + 1))
	"$1" "$IP6TABLES" "$2" &
	second=$!
	wait $first && wait $second
}

# add_first_rules: adds a rule that each flow matches, in both families.
add_first_rules() {
	add_rule -o wan0 -p udp -j RUSTMASQ --to-ports 10000-19999 && add_rule6 -o wan0 -p udp -j RUSTMASQ --to-ports 10000-19999
}

setup_traffic
start_senders lan
resume_senders
both_families toggle_rules 3 || bail "the first rules"
add_first_rules || bail "rules for all flows"
both_families replace_tables 3 || bail "the first tables"
flush_nat_rules
quiesce

count=$(scaled 250)
leak_baseline
resume_senders
check "rules are added and deleted $count times in each family" both_families toggle_rules "$count"
pause_senders
count_arrivals
check "flows were masqueraded meanwhile" test "$ranged" -gt 0 -a "$masqueraded" -gt "$ranged"
check "... and passed untranslated without rules" test "$plain" -gt 0
check "no rule holds the module" wait_until module_unused_or_gone

others=$((masqueraded - ranged + plain)) before=$ranged
add_first_rules || bail "rules for all flows"
resume_senders
check "tables are replaced $count times in each family" both_families replace_tables "$count"
pause_senders
count_arrivals
check "flows arrived meanwhile" test "$ranged" -gt "$before"
check_equal "... and each was masqueraded by one of the tables" "$others" $((masqueraded - ranged + plain))
flush_nat_rules
quiesce
check_leaks $((4 * count))
stop_senders
check_equal "no packet was lost" "$sent" $((masqueraded + plain))
check_nothing_left

done_testing
