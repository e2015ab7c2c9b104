#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Front ends: legacy nft
# Kernels: plain
#
# The iptables extension of before revision 1 of a rule's binary form (scripts/old-extension) works with this module, and
# its rules are listed, saved and restored by the extension of today.
. "$(dirname "$0")/../../lib/lib.sh"

modules=/lib/modules/$(uname -r)
old=$modules/old-extension/libxt_RUSTMASQ.so
[[ -e $old ]] || skip_all "git's history was not there to build the earlier extension"
folder=$(dirname "$(find /usr/lib -name libxt_RUSTMASQ.so | head -n 1)")
[[ -e $folder/libxt_tcp.so || -e $folder/libxt_udp.so ]] || bail "no folder of extensions: $folder"

# with_old ARGUMENT...: runs iptables of the family $v in the router with the earlier extension.
with_old() {
	ns_exec router env XTABLES_LIBDIR="${old%/*}:$folder" "${program[$v]}" -w -t nat "$@"
}
# with_new ARGUMENT...: the same with that of today.
with_new() { ns_exec router "${program[$v]}" -w -t nat "$@"; }
# saved_rules: prints the rules as iptables-save has them, by the extension of today.
saved_rules() { ns_exec router "${program[$v]}-save" -t nat | grep RUSTMASQ; }

declare -A program=([4]=$IPTABLES [6]=$IP6TABLES) server=([4]=203.0.113.2 [6]='[2001:db8:1::2]')
setup_lan
setup_lan_ipv6
serve server UDP 5000
serve server UDP6 5000

for v in 4 6; do
	name=${program[$v]}
	udp=UDP$v
	rule='-A POSTROUTING -o wan0 -p udp -j RUSTMASQ --to-ports 6000-6010 --random --when-full reject --full-cone'
	# shellcheck disable=SC2086 # several words
	check "$name, the earlier extension: a rule is added" with_old $rule
	check_equal "... and listed" "$rule" "$(with_old -S POSTROUTING | grep RUSTMASQ)"
	got=$(probe lan "${udp/4/}" "${server[$v]}" 5000 sourceport=40000)
	check_port "... it works" 6000 6010 "${got##*:}"
	check_fails "... it has none of the new options" with_old -A POSTROUTING -p udp -j RUSTMASQ --psid 6/8/52
	check_match "... and names the one that it does not know" 'unknown option "--except-reserved"' \
		"$(with_old -A POSTROUTING -j RUSTMASQ --except-reserved 2>&1)"
	check_fails "... it takes one range" with_old -A POSTROUTING -p udp -j RUSTMASQ --to-ports 5,7
	check_equal "$name, the extension of today lists the earlier one's rule" "$rule" \
		"$(with_new -S POSTROUTING | grep RUSTMASQ)"
	check_match "... -L, too" 'masq ports: 6000-6010 random when-full reject full-cone' "$(with_new -n -L POSTROUTING)"
	check_equal "... and saves it" "$rule" "$(saved_rules)"
	check "... a rule is added beside it" with_new -A POSTROUTING -p udp -j RUSTMASQ --to-ports 5,7
	if [[ $IPTABLES == *-nft ]]; then
		check_match "nft list ruleset translates rules of both" \
			'to :6000-6010 random comment .*RUSTMASQ --to-ports 6000-6010 .*to :5 comment .*RUSTMASQ --to-ports 5,7' \
			"$(ns_exec router nft list ruleset | tr '\n' ' ')"
	fi
	all=$(saved_rules)
	with_new -F
	check "... all are restored" ns_exec router "$name-restore" -w <<< $'*nat\n'"$all"$'\nCOMMIT'
	check_equal "... as they were" "$all" "$(saved_rules)"
	with_new -F
	# shellcheck disable=SC2086 # several words
	with_old $rule
	check "... a rule of the earlier one is deleted by its number" with_new -D POSTROUTING 1
	check_equal "... none is left" "" "$(saved_rules)"
done

done_testing
