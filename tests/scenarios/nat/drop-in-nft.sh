#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Front ends: legacy
#
# With masquerade=1 the module serves the statement `masquerade` of nftables: its flows get the module's ports, and what
# nft lists, monitors and refuses is what it does with the kernel's own nft_masq.
. "$(dirname "$0")/../../lib/drop-in.sh"

setup_drop_in

# print_own FAMILY STATEMENT...: prints a table in the place of the old one, with a chain for each statement.
print_own() {
	local statement number=0
	printf '%s\n' "table $1 own" "delete table $1 own" "table $1 own {" \
		"map ports { typeof udp dport : udp sport; elements = { 5000 : 7005, 5006 : 7005 }; }"
	for statement in "${@:2}"; do
		printf '%s\n' "chain out$((++number)) {" \
			"type nat hook postrouting priority srcnat + $number; oifname \"wan0\" $statement; }"
	done
	echo "}"
}
# own_table STATEMENT: makes this table, for inet.
own_table() { ns_exec router nft -f - <<< "$(print_own inet "$1")"; }

statements=("meta l4proto udp masquerade to :7000-7009" "meta l4proto udp masquerade to :7003 random"
	"meta l4proto udp masquerade to :7000-7009 random,fully-random,persistent" "masquerade to :udp dport map @ports"
	"meta l4proto udp masquerade to :udp dport map { 5000 : 7004, 5006 : 7004 }")
masquerades=(masquerade "masquerade random" "masquerade fully-random" "masquerade persistent"
	"masquerade random,fully-random,persistent")

# The families of a table; fewer on the debug kernel, where nft is slow.
families=(inet ip ip6)
((slow == 1)) || families=(ip6)

# note_forms: prints all statements as nft lists and monitors them, in text and as JSON, and the errors of those that it
# refuses.
note_forms() {
	local family chain monitor
	ns_start router nft monitor > "$scratch/monitored"
	monitor=$!
	wait_until grep -q "table ip before" <(ns_exec router nft "add table ip before; delete table ip before"
		cat "$scratch/monitored")
	for family in "${families[@]}"; do
		print_own "$family" "${statements[@]}" "${masquerades[@]}" > "$scratch/own"
		ns_exec router nft -c -f "$scratch/own"
		ns_exec router nft -f "$scratch/own"
		ns_exec router nft list table "$family" own
		ns_exec router nft -j list table "$family" own | sed -E 's/"handle": [0-9]+/"handle": N/g'
		ns_exec router nft destroy table "$family" own
	done 2>&1
	for chain in "nat hook prerouting priority 0" "filter hook postrouting priority 0" "nat hook input priority 0"; do
		ns_exec router nft "table inet own { chain wrong { type $chain; masquerade; }; }" 2>&1
	done
	wait_until grep -q "delete table ip6 own" "$scratch/monitored"
	kill "$monitor"
	grep -v "before\|generation\|# new" "$scratch/monitored" | sed -E 's/handle [0-9]+//'
}

# check_nft STEP...: loads the modules in this order, and compares.
check_nft() {
	local what="order '$*'" v
	load_modules "$@"
	note_forms > "$scratch/ours"
	check_equal "$what: what is listed, monitored and refused is the kernel's" "" \
		"$(diff "$scratch/theirs" "$scratch/ours")"
	check_equal "$what: no rule is left" 0 "$(users rustmasq)"
	check "$what: a statement is added" own_table "${statements[0]}"
	for v in 4 6; do check_served "$what" 1 $v; done
	check_equal "$what: it holds the module" 1 "$(users rustmasq)"
}

load_modules nft
note_forms > "$scratch/theirs"
check "the kernel's own refuses wrong chains" grep -q "Operation not supported" "$scratch/theirs"
count=$((${#families[@]} * (${#statements[@]} + ${#masquerades[@]})))
check_equal "it lists all statements, monitors them, and shows them as JSON" "$((2 * count)) $count" \
	"$(grep -c 'wan0" .*masquerade' "$scratch/theirs") $(grep -o '"masquerade"' "$scratch/theirs" | wc -l)"
unload_all
check_nft ours
for statement in "${statements[@]:1}"; do
	check "one table replaces another at once" own_table "$statement"
	for v in 4 6; do check_served "$statement" 1 $v; done
	check_equal "... and holds the module" 1 "$(users rustmasq)"
done
ns_exec router nft flush ruleset
check_equal "flush ruleset releases the module" 0 "$(users rustmasq)"
unload_all
check_nft ours nft
unload_all
check_nft nft ours
unload_all
done_testing
