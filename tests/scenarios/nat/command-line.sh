#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Front ends: legacy nft
#
# What a person types and sees: the .t cases, then each command, saving and
# restoring, and translating, with iptables and ip6tables.
. "$(dirname "$0")/../../lib/lib.sh"

setup_ns router

# What -S says of the rules, without the policy.
list_rules() { nat_table -S POSTROUTING | grep '^-A'; }

save() { ns_exec router "$program-save" -c -t nat | grep -v '^#'; }
# restore_rules: what stands in stdin.
restore_rules() { ns_exec router "$program-restore" -w -c; }

commands() {
	local one='-A POSTROUTING -o wan0 -p tcp -j RUSTMASQ --to-ports 1000-2000'
	local two='-A POSTROUTING -p udp -j RUSTMASQ --random'

	nat_table -A POSTROUTING -p udp -j RUSTMASQ --random || bail "$program -A"
	check "$program -I" nat_table -I POSTROUTING 1 -o wan0 -p tcp -j RUSTMASQ --to-ports 1000-2000
	check_equal "$program -I put the rule before the other" "$one"$'\n'"$two" "$(list_rules)"
	check "$program -C finds a rule" nat_table -C POSTROUTING -p udp -j RUSTMASQ --random
	check_fails "$program -C does not take one option for another" \
		nat_table -C POSTROUTING -p udp -j RUSTMASQ --random-fully
	check_fails "$program -C does not take one range for another" \
		nat_table -C POSTROUTING -o wan0 -p tcp -j RUSTMASQ --to-ports 1000-2001
	check "$program -R" nat_table -R POSTROUTING 2 -p udp -j RUSTMASQ --to-ports 7 --random-fully
	two='-A POSTROUTING -p udp -j RUSTMASQ --to-ports 7 --random-fully'
	check_equal "$program -R replaced the second rule" "$one"$'\n'"$two" "$(list_rules)"
	check_fails "$program -R with a bad range" nat_table -R POSTROUTING 1 -p tcp -j RUSTMASQ --to-ports 5-1
	check_equal "... leaves the rule that was there" "$one"$'\n'"$two" "$(list_rules)"
	check_fails "$program -D does not delete another rule" nat_table -D POSTROUTING -p udp -j RUSTMASQ --to-ports 8
	check "$program -D RULE" nat_table -D POSTROUTING -o wan0 -p tcp -j RUSTMASQ --to-ports 1000-2000
	check "$program -D NUMBER" nat_table -D POSTROUTING 1
	check_equal "$program: none is left" "" "$(list_rules)"
}

chains() {
	nat_table -N leave || bail "$program -N"
	nat_table -A leave -p tcp -m comment --comment "the office's" -j RUSTMASQ --to-ports 80-81 --random --random-fully ||
		bail "$program: a rule in a chain of one's own"
	nat_table -A leave -j RUSTMASQ || bail "$program: a rule in a chain of one's own"
	check_fails "$program: such a chain cannot be called from PREROUTING" nat_table -A PREROUTING -j leave
	check "$program: ... but from POSTROUTING" nat_table -A POSTROUTING -c 5 600 -j leave
	nat_table -A POSTROUTING -c 7 700 -p udp -j RUSTMASQ --to-ports 9 || bail "$program -c"

	check_match "$program -L -n -v shows comment and options" \
		' RUSTMASQ +(tcp|6) .* /\* the office.s \*/ masq ports: 80-81 random random-fully' "$(nat_table -L leave -n -v)"
	check_match "$program -L without -n does" ' masq ports: 80-81 random random-fully' "$(nat_table -L leave)"
	check_match "$program -L shows a rule without options without any" \
		$'\nRUSTMASQ +(all|0) +(--)? +[^ ]+ +[^ ]+ *$' "$(nat_table -L leave -n)"
	check_match "$program -L -n -v shows counters" $'\n +7 +700 RUSTMASQ ' "$(nat_table -L POSTROUTING -n -v)"
	check_equal "$program -S -v shows counters" "-A POSTROUTING -p udp -c 7 700 -j RUSTMASQ --to-ports 9" \
		"$(nat_table -S POSTROUTING -v | grep RUSTMASQ)"
	check "$program -L -Z" nat_table -L -Z
	check_match "$program -Z set the counters to 0" $'\n +0 +0 RUSTMASQ ' "$(nat_table -L POSTROUTING -n -v)"
}

round_trip() {
	local before
	nat_table -A POSTROUTING -c 12 3456 -p udp -j RUSTMASQ --to-ports 1-65535 --random || bail "$program -c"
	before=$(save)
	check_match "$program-save has the rules" 'RUSTMASQ --to-ports 80-81 --random --random-fully' "$before"
	nat_table -F
	nat_table -X
	check_equal "$program -F -X removed them" 0 "$(save | grep -c RUSTMASQ)"
	check "$program-restore" restore_rules <<< "$before"
	check_equal "$program: after the round trip all is as it was, counters too" "$before" "$(save)"
	check "$program-restore once more, over them" restore_rules <<< "$before"
	check_equal "$program: they are still the same" "$before" "$(save)"
	check_match "$program-restore with one bad rule names option and line" \
		'--to-ports: "70000" .*allowed: .*line:? 3' "$(restore_rules 2>&1 <<- 'RULES'
			*nat
			-A POSTROUTING -j RUSTMASQ
			-A POSTROUTING -p tcp -j RUSTMASQ --to-ports 70000
			COMMIT
		RULES
		)"
	check_equal "... changes nothing" "$before" "$(save)"
	nat_table -F
	nat_table -X
}

translation() {
	local text
	text=$(ns_exec router "$translate" -t nat -A POSTROUTING -p tcp -j RUSTMASQ --to-ports 10-20)
	check_equal "$translate says that there is no translation" \
		"nft # -t nat -A POSTROUTING -p tcp -j RUSTMASQ --to-ports 10-20 " "$text"
}

for family in ipt:$IPTABLES ip6t:$IP6TABLES; do
	program=${family#*:}
	translate=${program%-*}-translate
	cases=("$checkout/tests/rules/lib${family%:*}_RUSTMASQ.t")
	# What is the same for both families is the extension's affair rather than the kernel's: where time is dear, by one.
	brief=
	[[ $slow == 1 || $family == ipt:* ]] || brief=yes
	[[ $brief ]] || cases+=("$checkout/tests/rules/libxt_RUSTMASQ.t")
	run_tap "rule_cases.py $program" ns_exec router "$tools/rule_cases.py" "$program" "${cases[@]}"
	[[ $brief ]] || commands
	chains
	round_trip
	translation
	check_match "$program -j RUSTMASQ -h" "RUSTMASQ target options:.*--to-ports PORT.*--random .*--random-fully " \
		"$(ns_exec router "$program" -j RUSTMASQ -h | tr '\n' ' ')"
done

done_testing
