#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Kernels: plain
#
# A range of ten ports is used up by ten mappings: the eleventh inside endpoint is refused, towards each place, and that is
# counted. With --when-full reject it is told. Nobody's mapping is taken for it, also when that has no flow any more. Once
# the mappings have ended, with their address, all ports are there for others. tests/lib/ports.sh draws the network.
# shellcheck source-path=SCRIPTDIR source=../../lib/ports.sh
. "$(dirname "$0")/../../lib/ports.sh"

rule=(RUSTMASQ --full-cone --to-ports 6000-6009)
# By IP version: the router towards the LAN, the error's type and code, and its name for a socket.
declare -A inside_of=([4]=172.18.0.1 [6]=fd00:18::1) kind_of=([4]="3 13" [6]="1 1") name_of=([4]=EHOSTUNREACH [6]=EACCES)
declare -A number_of=([udp]=17 [tcp]=6 [4icmp]=1 [6icmp]=58) length_of=([4]=24 [6]=64)

of_step() { echo "IPv$v, $protocol"; }

# all_mappings: prints the mappings of the family and the protocol: INSIDE PORT, a line each, in the order of the ports.
all_mappings() {
	local number=${number_of[$protocol]:-${number_of[$v$protocol]}}
	# shellcheck disable=SC2016 # awk's
	ns_exec router awk -F '[ =]' -v protocol="$number" -v outside="${router_of[$v]}" \
		'$2 == protocol && $8 == outside { print $4, $10 }' /proc/net/rustmasq_mappings | sort -k 2n
}
nothing_mapped() { [[ ! $(all_mappings) ]]; }

# new_rule_of_cone: replaces the rule, and ends all mappings: their address goes and comes back.
new_rule_of_cone() {
	local address=${router_of[$v]}/${length_of[$v]}
	ip -n router addr del "$address" dev wan0
	wait_until nothing_mapped || not_ok "$(of_step): mappings end with their address" "$(all_mappings)"
	setup_device router wan0 "$address"
	crowd_rule "${rule[@]}"
}

# check_no_port WHAT CLIENT [OPTION...]: checks that the client's packet is dropped and counted, and that all mappings are
# as they were. OPTIONs are those of flows.py.
check_no_port() {
	local what dropped refused before
	what="$(of_step): $1"
	dropped=$(losses) refused=$(our_counter ports_refused) before=$(all_mappings)
	send_crowd "$2" "$2" "${@:3}"
	check_equal "$what: dropped, and counted as refused" "$((${dropped% *} + 1)) ${dropped#* } $((refused + 1))" \
		"$(losses) $(our_counter ports_refused)"
	check_equal "$what: ... and nobody's mapping is taken" "$before" "$(all_mappings)"
}

# check_ten FIRST: checks that ten clients from the number FIRST on get all ports, one each.
check_ten() {
	local refused
	refused=$(our_counter ports_refused)
	send_crowd "$1" $(($1 + 9))
	check_equal "$(of_step): the clients from $1 on have all ten ports" "$(seq -s ' ' 6000 6009)" \
		"$(all_mappings | awk '{ print $2 }' | paste -s -d ' ')"
	check_equal "$(of_step): ... one each" "$(for ((n = $1; n < $1 + 10; n++)); do client_number $n; done | sort)" \
		"$(all_mappings | awk '{ print $1 }' | sort)"
	check_equal "$(of_step): ... and none is refused" "$refused" "$(our_counter ports_refused)"
}

setup_crowd
for step in "4 udp" "6 udp" "4 tcp" "6 icmp"; do
	read -r v protocol <<< "$step"
	new_rule_of_cone
	check_ten 1
	check_no_port "an eleventh client" 11
	if [[ $protocol != icmp ]]; then
		check_no_port "... also towards another port" 11 --to-port 10
		before=$(all_mappings)
		send_crowd 1 10 --to-port 10
		check_equal "$(of_step): ten clients begin another flow each, by the same mappings" "20 $before" \
			"$(crowd_flows | wc -l) $(all_mappings)"
		check_equal "$(of_step): ... with the same ports" 10 "$(crowd_flows | sort -u | wc -l)"
	fi
	forget_all
	if [[ $protocol == udp ]]; then
		crowd_rule "${rule[@]}" --when-full reject
		before=$(all_mappings)
		ns_exec lan "$tools/refused.py" udp "$(client_number 11)" 5000 "${server_of[$v]}" > "$scratch/refused"
		check_equal "$(of_step), --when-full reject: an eleventh client is told, also while no mapping has a flow" \
			"${inside_of[$v]} ${kind_of[$v]} udp $(client_number 11):5000>${server_of[$v]};told ${name_of[$v]}" \
			"$(paste -s -d ';' "$scratch/refused")"
		check_equal "$(of_step): ... and nobody's mapping is taken" "$before" "$(all_mappings)"
	else
		check_no_port "an eleventh client, while no mapping has a flow" 11
	fi
	new_rule_of_cone
	check_ten 11
done

done_testing
