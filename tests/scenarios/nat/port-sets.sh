#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Front ends: legacy nft
#
# The ports of a rule that are not one range: a list of ranges, a port set of MAP (RFC 7597), and what is left out of
# them. All of them are used, up to the last one, and no other; towards a crowded destination at one price. A flow that
# comes with a port that the rule does not give gets another one. tests/lib/ports.sh draws the network.
# shellcheck source-path=SCRIPTDIR source=../../lib/ports.sh
. "$(dirname "$0")/../../lib/ports.sh"

# ports_of_list LIST: prints the ports of a list of ranges, a line each, in order.
ports_of_list() { tr , '\n' <<< "$1" | awk -F - '{ for (n = $1; n <= $NF; n++) print n }' | sort -n; }

# ports_of_map OFFSET LENGTH PSID: prints the ports of a port set of MAP, as RFC 7597, section 5.1, makes them.
ports_of_map() {
	local a=$1 k=$2 psid=$3 m=$((16 - $1 - $2)) block j
	for ((block = a > 0; block < 1 << a; block++)); do
		for ((j = 0; j < 1 << m; j++)); do
			echo $(((block << (16 - a)) + (psid << m) + j))
		done
	done | grep -vx 0 | sort -n
}

# without LIST: prints those of the ports of its input that are not in the list.
without() { sort -n | comm -23 <(sort) <(ports_of_list "$1" | sort) | sort -n; }

# ports_in_use: prints the ports of the flows, a line each, in order.
ports_in_use() { crowd_flows | awk '{ print $3 }' | sort -n; }

# refusals: prints how many packets the router has refused a port.
refusals() { ns_exec router awk '$1 == "ports_refused" { print $2 }' /proc/net/rustmasq; }

# look_ups: prints how many look-ups the router has made to choose ports.
look_ups() { ns_exec router awk '$1 == "lookups" { print $2 }' /proc/net/rustmasq; }

# check_set WHAT OPTION...: checks that clients get all ports of the file "expected", one each, and that one client more
# is refused, with this rule.
check_set() {
	local what="IPv$v, $protocol, ${*:2}: $1" count before
	count=$(wc -l < "$scratch/expected")
	crowd_rule RUSTMASQ "${@:2}"
	before=$(refusals)
	send_crowd 1 "$count"
	check_equal "$what: $count clients get $count ports" "$count" "$(ports_in_use | uniq | wc -l)"
	check "$what: these are the ports of the set" cmp "$scratch/expected" <(ports_in_use)
	check_equal "$what: no packet is refused" "$before" "$(refusals)"
	send_crowd $((count + 1)) $((count + 1))
	check_equal "$what: one client more is refused" $((before + 1)) "$(refusals)"
}

setup_crowd

# --- All ports of a set, and no other

list=700-709,5000,6000-6006,65535
for v in 4 6; do
	for protocol in udp tcp sctp icmp; do
		ports_of_list $list > "$scratch/expected"
		check_set "all ports" --to-ports $list
		ports_of_map 4 9 77 > "$scratch/expected"
		check_set "all ports" --psid 4/9/77
	done
done

done_testing
