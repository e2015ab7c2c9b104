#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Front ends: legacy nft
#
# Rules come and go, and whole tables are replaced, while senders make flows: no packet is lost, and
# none slips through a table while it is replaced.
# shellcheck source-path=SCRIPTDIR source=../../lib/traffic.sh
. "$(dirname "$0")/../../lib/traffic.sh"

variants=("-p udp -j RUSTMASQ --to-ports 10000-19999" "-p udp -j RUSTMASQ --to-ports 20000-29999 --random" "-j RUSTMASQ"
	"-j RUSTMASQ --random-fully")

# come_and_go IPTABLES COUNT: a rule comes, or goes if it is there; each time one by the dice.
come_and_go() {
	local there=(0 0 0 0) n dice
	for ((n = 0; n < $2; n++)); do
		dice=$((RANDOM % 4))
		# shellcheck disable=SC2086 # words
		if ((there[dice])); then
			ns_exec router "$1" -w -t nat -D POSTROUTING -o wan0 ${variants[dice]}
		else
			ns_exec router "$1" -w -t nat -I POSTROUTING -o wan0 ${variants[dice]}
		fi || return
		there[dice]=$((!there[dice]))
	done
	n=$((there[0] + there[1] + there[2] + there[3]))
	[[ $(ns_exec router "$1" -w -t nat -S | grep -c RUSTMASQ) == "$n" ]] && ns_exec router "$1" -w -t nat -F
}

# replaced IPTABLES COUNT: table after table; of each some rule matches the flows, in a chain or not.
replaced() {
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

# both WHAT COUNT: that is done with tables of both families at once. Fails if one does.
both() {
	local first second
	"$1" "$IPTABLES" "$2" &
	first=$!
	# Each has dice of its own.
	RANDOM=$((SEED + 1))
	"$1" "$IP6TABLES" "$2" &
	second=$!
	wait $first && wait $second
}

# begin_with: in both families a rule that each flow matches.
begin_with() {
	add_rule -o wan0 -p udp -j RUSTMASQ --to-ports 10000-19999 && add_rule6 -o wan0 -p udp -j RUSTMASQ --to-ports 10000-19999
}

setup_traffic
start_senders lan
resume_senders
both come_and_go 3 || bail "the first rules"
begin_with || bail "rules for all flows"
both replaced 3 || bail "more tables"
flush_nat_rules
quiesce

count=$(scaled 250)
leak_baseline
resume_senders
check "rules come and go, $count times in each family" both come_and_go "$count"
pause_senders
count_arrivals
check "flows were masqueraded meanwhile" test "$ranged" -gt 0 -a "$masqueraded" -gt "$ranged"
check "... and came through without, too" test "$plain" -gt 0
check "no rule holds the module" wait_until module_unused_or_gone

others=$((masqueraded - ranged + plain)) before=$ranged
begin_with || bail "rules for all flows"
resume_senders
check "tables are replaced, $count times in each family" both replaced "$count"
pause_senders
count_arrivals
check "flows came meanwhile" test "$ranged" -gt "$before"
check_equal "... and each was masqueraded by one of the tables" "$others" $((masqueraded - ranged + plain))
flush_nat_rules
quiesce
check_leaks $((4 * count))
stop_senders
check_equal "no packet was lost" "$sent" $((masqueraded + plain))
check_nothing_left

done_testing
