#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Front ends: legacy nft
# Kernels: plain
#
# iptables and ip6tables accept, refuse, list, save, restore and translate rules with RUSTMASQ as documented: the .t
# cases of tests/rules first, then each command. A refused command changes nothing.
. "$(dirname "$0")/../../lib/lib.sh"

setup_ns router

# list_rules: prints the rules as -S does, without the policy.
list_rules() { nat_table -S POSTROUTING | grep '^-A'; }

# save_rules: prints table nat with counters, without comments.
save_rules() { ns_exec router "$program-save" -c -t nat | grep -v '^#'; }
# restore_rules: restores table nat from standard input.
restore_rules() { ns_exec router "$program-restore" -w -c; }

test_commands() {
	local first='-A POSTROUTING -o wan0 -p tcp -j RUSTMASQ --to-ports 1000-2000'
	local second='-A POSTROUTING -p udp -j RUSTMASQ --random'

	nat_table -A POSTROUTING -p udp -j RUSTMASQ --random || bail "$program -A"
	check "$program -I inserts a rule" nat_table -I POSTROUTING 1 -o wan0 -p tcp -j RUSTMASQ --to-ports 1000-2000
	check_equal "$program -I 1 puts the rule before the other" "$first"$'\n'"$second" "$(list_rules)"
	check "$program -C finds a rule" nat_table -C POSTROUTING -p udp -j RUSTMASQ --random
	check_fails "$program -C finds no rule with another option" \
		nat_table -C POSTROUTING -p udp -j RUSTMASQ --random-fully
	check_fails "$program -C finds no rule with another range" \
		nat_table -C POSTROUTING -o wan0 -p tcp -j RUSTMASQ --to-ports 1000-2001
	check "$program -R replaces a rule" nat_table -R POSTROUTING 2 -p udp -j RUSTMASQ --to-ports 7 --random-fully
	second='-A POSTROUTING -p udp -j RUSTMASQ --to-ports 7 --random-fully'
	check_equal "$program -R 2 replaced the second rule" "$first"$'\n'"$second" "$(list_rules)"
	check_fails "$program -R refuses a reversed range" nat_table -R POSTROUTING 1 -p tcp -j RUSTMASQ --to-ports 5-1
	check_equal "$program -R changes nothing when it refuses the range" "$first"$'\n'"$second" "$(list_rules)"
	check_fails "$program -D refuses to delete a rule that does not exist" \
		nat_table -D POSTROUTING -p udp -j RUSTMASQ --to-ports 8
	check "$program -D RULE deletes a rule" nat_table -D POSTROUTING -o wan0 -p tcp -j RUSTMASQ --to-ports 1000-2000
	check "$program -D NUMBER deletes a rule" nat_table -D POSTROUTING 1
	check_equal "$program: no rule is left" "" "$(list_rules)"
}

test_chains() {
	nat_table -N leave || bail "$program -N"
	nat_table -A leave -p tcp -m comment --comment "the office's" -j RUSTMASQ --to-ports 80-81 --random --random-fully ||
		bail "$program: a rule in a user-defined chain"
	nat_table -A leave -j RUSTMASQ || bail "$program: a rule in a user-defined chain"
	check_fails "$program: PREROUTING cannot jump to a user-defined chain with RUSTMASQ" \
		nat_table -A PREROUTING -j leave
	check "$program: POSTROUTING can jump to it" nat_table -A POSTROUTING -c 5 600 -j leave
	nat_table -A POSTROUTING -c 7 700 -p udp -j RUSTMASQ --to-ports 9 || bail "$program -c"

	check_match "$program -L -n -v shows comment and options" \
		' RUSTMASQ +(tcp|6) .* /\* the office.s \*/ masq ports: 80-81 random random-fully' "$(nat_table -L leave -n -v)"
	check_match "$program -L without -n shows the options" \
		' masq ports: 80-81 random random-fully' "$(nat_table -L leave)"
	check_match "$program -L shows no options for a rule without options" \
		$'\nRUSTMASQ +(all|0) +(--)? +[^ ]+ +[^ ]+ *$' "$(nat_table -L leave -n)"
	check_match "$program -L -n -v shows counters" $'\n +7 +700 RUSTMASQ ' "$(nat_table -L POSTROUTING -n -v)"
	check_equal "$program -S -v shows counters" "-A POSTROUTING -p udp -c 7 700 -j RUSTMASQ --to-ports 9" \
		"$(nat_table -S POSTROUTING -v | grep RUSTMASQ)"
	check "$program -L -Z zeroes the counters" nat_table -L -Z
	check_match "$program -L shows counters of 0 after -Z" $'\n +0 +0 RUSTMASQ ' "$(nat_table -L POSTROUTING -n -v)"
}

test_save_and_restore() {
	local before
	nat_table -A POSTROUTING -c 12 3456 -p udp -j RUSTMASQ --to-ports 1-65535 --random || bail "$program -c"
	before=$(save_rules)
	check_match "$program-save prints the rules" 'RUSTMASQ --to-ports 80-81 --random --random-fully' "$before"
	nat_table -F
	nat_table -X
	check_equal "$program -F -X removed the rules" 0 "$(save_rules | grep -c RUSTMASQ)"
	check "$program-restore restores the rules" restore_rules <<< "$before"
	check_equal "$program: all rules and counters are as they were before -F" "$before" "$(save_rules)"
	check "$program-restore replaces the same rules" restore_rules <<< "$before"
	check_equal "$program: the rules and counters are still the same" "$before" "$(save_rules)"
	check_match "$program-restore names the option and the line of a bad rule" \
		'--to-ports: "70000" .*allowed: .*line:? 3' "$(restore_rules 2>&1 <<- 'RULES'
			*nat
			-A POSTROUTING -j RUSTMASQ
			-A POSTROUTING -p tcp -j RUSTMASQ --to-ports 70000
			COMMIT
		RULES
		)"
	check_equal "$program-restore changes nothing when it refuses a rule" "$before" "$(save_rules)"
	nat_table -F
	nat_table -X
}

# check_xlate DESCRIPTION EXPECTED ARGUMENT...: checks the translation of a rule in POSTROUTING, of which EXPECTED
# is what follows the chain's name.
check_xlate() {
	local inet=ip
	[[ $program != ip6tables* ]] || inet=ip6
	check_equal "$translate: $1" "nft 'add rule $inet nat POSTROUTING $2'" \
		"$(ns_exec router "$translate" -t nat -A POSTROUTING "${@:3}")"
}

test_translation() {
	check_xlate "no option" 'counter masquerade comment "translated from -j RUSTMASQ"' -j RUSTMASQ
	local options='--to-ports 10-20 --random --random-fully --when-full reject'
	# shellcheck disable=SC2086 # several words
	check_xlate "all options" "tcp dport 80 counter masquerade to :10-20 random,fully-random comment \
\"translated from -j RUSTMASQ $options\"" -p tcp --dport 80 -j RUSTMASQ $options
	check_xlate "a list, of which nftables takes the longest part" "tcp dport 80 counter masquerade to :2000-2999 \
comment \"translated from -j RUSTMASQ --to-ports 5-9,2000-2999,4000\"" -p tcp --dport 80 -j RUSTMASQ --to-ports 5-9,2000-2999,4000
	options="--to-ports 1,$(seq -s, 10001 2 10025) --random"
	# shellcheck disable=SC2086 # several words
	check_xlate "options that are too long for a comment" "tcp dport 80 counter masquerade to :1 random comment \
\"translated from -j RUSTMASQ --to-ports 1,$(seq -s, 10001 2 10025) ...\"" -p tcp --dport 80 -j RUSTMASQ $options
	check_xlate "a comment of the user's takes precedence" \
		'udp sport 5 counter masquerade to :69 comment "two words"' \
		-p udp --sport 5 -m comment --comment "two words" -j RUSTMASQ --to-ports tftp
}

# test_places: the extension names a wrong table or chain. Where it cannot, the kernel does.
test_places() {
	local log
	check_match "$program names a chain that has no such target" \
		'RUSTMASQ: chain "OUTPUT" .* allowed: POSTROUTING' "$(nat_table -I OUTPUT -j RUSTMASQ 2>&1)"
	check_match "$program names the default table, which has no such target" \
		'RUSTMASQ: table "filter", the default, .* allowed: -t nat' \
		"$(ns_exec router "$program" -w -A POSTROUTING -j RUSTMASQ 2>&1)"
	check "$program takes arguments that look like a table and a chain" \
		nat_table -A POSTROUTING -m comment --comment -tfilter -m comment --comment -AOUTPUT -j RUSTMASQ
	nat_table -F
	dmesg -C
	check_fails "$program-restore refuses a rule in another chain" restore_rules <<- 'RULES'
		*nat
		-A PREROUTING -j RUSTMASQ
		COMMIT
	RULES
	log=$(dmesg)
	check_match "$program-restore: the kernel's log names the reason" \
		'RUSTMASQ target: used from hooks PREROUTING, but only usable from POSTROUTING' "$log"
}

for family in ipt:$IPTABLES ip6t:$IP6TABLES; do
	program=${family#*:}
	translate=${program%-*}-translate
	cases=("$checkout/tests/rules/lib${family%:*}_RUSTMASQ.t")
	# The same code of the extension handles the options of both families. The debug kernel, which is slow, tests
	# them with one family.
	skip_common=
	[[ $slow == 1 || $family == ipt:* ]] || skip_common=yes
	[[ $skip_common ]] || cases+=("$checkout/tests/rules/libxt_RUSTMASQ.t")
	run_tap "rule_cases.py $program" ns_exec router "$tools/rule_cases.py" "$program" "${cases[@]}"
	[[ $skip_common ]] || test_commands
	test_chains
	test_save_and_restore
	test_translation
	test_places
	check_match "$program -j RUSTMASQ -h prints the target's options" \
		"RUSTMASQ target options:.*--to-ports PORT.*--random .*--random-fully .*--psid OFFSET.*--keep-own " \
		"$(ns_exec router "$program" -j RUSTMASQ -h | tr '\n' ' ')"
done

done_testing
