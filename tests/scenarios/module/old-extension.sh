#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Front ends: legacy nft
# Kernels: plain
#
# The iptables extension of before revision 1 of a rule's binary form (scripts/old-extension) works with this module.
# iptables-nft lists, saves and restores its rules with the extension of today. iptables-legacy does not list a rule of
# another revision than the newest, of whichever target; such a rule goes on working, too.
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
# source_port PORT: prints the port that the server sees, of a packet from the port.
source_port() {
	local seen
	seen=$(probe lan "$protocol" "${server[$v]}" "$port" "sourceport=$1")
	echo "${seen##*:}"
}
# saved_rules: prints the rules as iptables-save has them, by the extension of today.
saved_rules() { ns_exec router "${program[$v]}-save" -t nat | grep RUSTMASQ; }

declare -A program=([4]=$IPTABLES [6]=$IP6TABLES) server=([4]=203.0.113.2 [6]='[2001:db8:1::2]')
setup_lan
setup_lan_ipv6
serve server UDP 5000
serve server UDP6 5006

for v in 4 6; do
	name=${program[$v]}
	protocol=UDP port=5000
	[[ $v == 4 ]] || protocol=UDP6 port=5006
	rule='-A POSTROUTING -o wan0 -p udp -j RUSTMASQ --to-ports 6000-6010 --random --when-full reject --full-cone'
	# shellcheck disable=SC2086 # several words
	check "$name, the earlier extension: a rule is added" with_old $rule
	check_equal "... and listed" "$rule" "$(with_old -S POSTROUTING | grep RUSTMASQ)"
	check_port "... it works" 6000 6010 "$(source_port 40000)"
	check_fails "... it has none of the new options" with_old -A POSTROUTING -p udp -j RUSTMASQ --psid 6/8/52
	check_match "... and names the one that it does not know" 'unknown option "--except-reserved"' \
		"$(with_old -A POSTROUTING -j RUSTMASQ --except-reserved 2>&1)"
	check_fails "... it takes one range" with_old -A POSTROUTING -p udp -j RUSTMASQ --to-ports 5,7
	if [[ $IPTABLES == *-legacy ]]; then
		check_match "$name, the extension of today: it is of another revision" 'RUSTMASQ \[unsupported revision\]' \
			"$(with_new -S POSTROUTING)"
		check_port "... and works" 6000 6010 "$(source_port 40001)"
		check "... a rule is added beside it" with_new -A POSTROUTING -p udp -j RUSTMASQ --to-ports 5,7
		check "... it is deleted by its number" with_new -D POSTROUTING 1
		check_equal "... the other one is left" '-A POSTROUTING -p udp -j RUSTMASQ --to-ports 5,7' "$(saved_rules)"
		with_new -F
		continue
	fi
	check_equal "$name, the extension of today lists the earlier one's rule" "$rule" \
		"$(with_new -S POSTROUTING | grep RUSTMASQ)"
	check_match "... -L, too" 'masq ports: 6000-6010 random when-full reject full-cone' "$(with_new -n -L POSTROUTING)"
	check_equal "... and saves it" "$rule" "$(saved_rules)"
	check "... a rule is added beside it" with_new -A POSTROUTING -p udp -j RUSTMASQ --to-ports 5,7
	check_match "nft list ruleset translates rules of both" \
		'to :6000-6010 random comment .*RUSTMASQ --to-ports 6000-6010 .*to :5 comment .*RUSTMASQ --to-ports 5,7' \
		"$(ns_exec router nft list ruleset 2> /dev/null | tr '\n' ' ')"
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
