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
			on router "$1" -w -t nat -D POSTROUTING -o wan0 ${variants[dice]}
		else
			on router "$1" -w -t nat -I POSTROUTING -o wan0 ${variants[dice]}
		fi || return
		there[dice]=$((!there[dice]))
	done
	n=$((there[0] + there[1] + there[2] + there[3]))
	[[ $(on router "$1" -w -t nat -S | grep -c RUSTMASQ) == "$n" ]] && on router "$1" -w -t nat -F
}

# replaced IPTABLES COUNT: table after table; of each some rule matches the flows, in a chain or not.
replaced() {
	local n decoys
	for ((n = 0; n < $2; n++)); do
		decoys=$(for ((decoy = RANDOM % 5; decoy > 0; decoy--)); do
			echo "-A POSTROUTING -o lan0 ${variants[RANDOM % 4]}"
		done)
		on router "$1-restore" -w <<-END || return
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
	rule -o wan0 -p udp -j RUSTMASQ --to-ports 10000-19999 && rule6 -o wan0 -p udp -j RUSTMASQ --to-ports 10000-19999
}

crowd
send_off lan
go_on
both come_and_go 3 || bail "the first rules"
begin_with || bail "rules for all flows"
both replaced 3 || bail "more tables"
rules_gone
quiet

count=$(share 250)
leaks_before
go_on
check "rules come and go, $count times in each family" both come_and_go "$count"
pause
arrived
check "flows were masqueraded meanwhile" test "$ranged" -gt 0 -a "$masqueraded" -gt "$ranged"
check "... and came through without, too" test "$plain" -gt 0
check "no rule holds the module" wait_until unused

others=$((masqueraded - ranged + plain)) before=$ranged
begin_with || bail "rules for all flows"
go_on
check "tables are replaced, $count times in each family" both replaced "$count"
pause
arrived
check "flows came meanwhile" test "$ranged" -gt "$before"
check_equal "... and each was masqueraded by one of the tables" "$others" $((masqueraded - ranged + plain))
rules_gone
quiet
leaks_after $((4 * count))
call_back
check_equal "no packet was lost" "$sent" $((masqueraded + plain))
leave_nothing
