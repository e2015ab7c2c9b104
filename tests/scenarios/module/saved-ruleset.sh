#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Kernels: plain
#
# Rules of iptables-nft with RUSTMASQ, both families in one ruleset: `nft -f` can load what `nft list ruleset` printed.
# It masquerades as before, as nftables' own statement. iptables-nft-save and -restore keep the rules as they are.
# `nft -j` translates no target.
. "$(dirname "$0")/../../lib/lib.sh"

IPTABLES=iptables-nft
IP6TABLES=ip6tables-nft
setup_lan
setup_lan_ipv6
serve server UDP 53
serve server UDP6 54

# check_sources RULES: checks the addresses and ports that the server sees from the LAN. All ranges are in 7000-7001.
check_sources() {
	local seen
	seen=$(probe lan UDP 203.0.113.2 53 sourceport=40000)
	check_equal "$1: IPv4 leaves with the router's address" 203.0.113.1 "${seen%:*}"
	check_port "$1: IPv4 leaves with a port of the range" 7000 7001 "${seen##*:}"
	seen=$(probe lan UDP6 '[2001:db8:1::2]' 54 sourceport=40000)
	check_equal "$1: IPv6 leaves with the router's address" '[2001:0db8:0001:0000:0000:0000:0000:0001]' "${seen%:*}"
	check_port "$1: IPv6 leaves with a port of the range" 7000 7001 "${seen##*:}"
}

# options that a rule can have, and the statement that nft lists
declare -A statements=(
	['--to-ports 7000']='masquerade to :7000'
	['--to-ports 7000-7001']='masquerade to :7000-7001'
	['--to-ports 7000-7001 --random']='masquerade to :7000-7001 random'
	['--to-ports 7000-7001 --random-fully']='masquerade to :7000-7001 fully-random'
	['--to-ports 7000-7001 --random --random-fully']='masquerade to :7000-7001 random,fully-random'
	['--to-ports 7000-7001 --when-full reject']='masquerade to :7000-7001'
)
for options in "${!statements[@]}"; do
	# shellcheck disable=SC2086 # several words
	add_rule -o wan0 -p udp -j RUSTMASQ $options || bail "the rule"
	# shellcheck disable=SC2086
	add_rule6 -o wan0 -p udp -j RUSTMASQ $options || bail "the rule"
	check_sources "$options"
	ns_exec router nft list ruleset > "$scratch/listed" 2> "$scratch/warnings"
	check_equal "$options: nft lists both rules in translation" 2 \
		"$(grep -cF "${statements[$options]} comment \"translated from -j RUSTMASQ $options\"" "$scratch/listed")"
	ns_exec router nft flush ruleset
	check "$options: nft loads what it listed" ns_exec router nft -f "$scratch/listed"
	ns_exec router nft list ruleset > "$scratch/loaded" 2> /dev/null
	check_equal "$options: the loaded rules are listed as before, with their comments" \
		"$(sed 's/counter packets [0-9]* bytes [0-9]*/counter/; s/  */ /g' "$scratch/listed")" \
		"$(sed 's/counter packets [0-9]* bytes [0-9]*/counter/; s/  */ /g' "$scratch/loaded")"
	check_fails "$options: the loaded rules are not RUSTMASQ any more" grep -q RUSTMASQ \
		<(ns_exec router nft -j list ruleset | sed 's/"comment": "[^"]*"//g')
	ns_exec router conntrack -F 2> /dev/null
	check_sources "$options, loaded by nft"
	ns_exec router nft flush ruleset
	ns_exec router conntrack -F 2> /dev/null
done

# The options that do not depend on a protocol, and the identifiers of ICMP.
add_rule -o wan0 -j RUSTMASQ
add_rule -o wan0 -j RUSTMASQ --random
add_rule6 -o wan0 -j RUSTMASQ --random-fully --when-full reject
add_rule -o wan0 -p icmp -m comment --comment "of the user" -j RUSTMASQ --to-ports 1000-1010
add_rule6 -o wan0 -p icmpv6 -j RUSTMASQ --to-ports 1000-1010
add_rule -o wan0 -p sctp -j RUSTMASQ --to-ports 5
ns_exec router nft list ruleset > "$scratch/listed" 2> /dev/null
check_equal "nft lists six rules in translation" 6 \
	"$(grep -c 'masquerade.* comment "translated from' "$scratch/listed")"
check_fails "nft lists no target of iptables" grep -q 'xt target' "$scratch/listed"
check "nft -j names the target without translation" grep -qF '"xt": {"type": "target", "name": "RUSTMASQ"}' \
	<(ns_exec router nft -j list ruleset)
ns_exec router iptables-nft-save > "$scratch/saved"
ns_exec router ip6tables-nft-save > "$scratch/saved6"
ns_exec router nft flush ruleset
check "nft loads six rules" ns_exec router nft -f "$scratch/listed"
check "the LAN host's echo request is answered" ns_exec lan ping -c 1 -W 5 203.0.113.2
check "the LAN host's echo request is answered over IPv6" ns_exec lan ping -c 1 -W 5 2001:db8:1::2

# iptables-nft's own way keeps the rules.
ns_exec router nft flush ruleset
check "iptables-nft-restore restores the rules" ns_exec router iptables-nft-restore -w < "$scratch/saved"
check "ip6tables-nft-restore restores the rules" ns_exec router ip6tables-nft-restore -w < "$scratch/saved6"
check_equal "they are RUSTMASQ again" "$(grep -h RUSTMASQ "$scratch/saved" "$scratch/saved6")" \
	"$(ns_exec router iptables-nft-save | grep RUSTMASQ; ns_exec router ip6tables-nft-save | grep RUSTMASQ)"

done_testing
