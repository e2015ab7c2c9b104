#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Front ends: nft
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
	local a=$1 psid=$3 m=$((16 - $1 - $2)) block j
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

# check_set WHAT FIRST OPTION...: checks that clients from FIRST on get all ports of the file "expected", one each, and that
# one client more is refused, with this rule. Each time they send to another port: one destination has eight pools at
# most, one for each set, and a pool stays for a minute.
to_port=10
check_set() {
	local what="IPv$v, $protocol, ${*:3}: $1" first=$2 count before
	count=$(wc -l < "$scratch/expected")
	to_port=$((to_port + 1))
	crowd_rule RUSTMASQ "${@:3}"
	before=$(our_counter ports_refused)
	send_crowd "$first" $((first + count - 1)) --to-port $to_port
	check_equal "$what: $count clients get $count ports" "$count" "$(ports_in_use | uniq | wc -l)"
	check "$what: these are the ports of the set" cmp "$scratch/expected" <(ports_in_use)
	check_equal "$what: no packet is refused" "$before" "$(our_counter ports_refused)"
	send_crowd $((first + count)) $((first + count)) --to-port $to_port
	check_equal "$what: one client more is refused" $((before + 1)) "$(our_counter ports_refused)"
}

# reserve LIST: reserves ports in the router's namespace.
reserve() { ns_exec router tee /proc/sys/net/ipv4/ip_local_reserved_ports <<< "$1" > /dev/null || bail "reserve $1"; }

# port_from PORT OPTION...: prints the port that a flow from the port gets, with this rule.
port_from() {
	crowd_rule RUSTMASQ "${@:2}"
	send_crowd 900 900 --first-port "$1"
	port_of 900
}

# send_one_more: lets the client 9 try again. Succeeds if it has a port.
send_one_more() {
	send_crowd 9 9
	[[ $(port_of 9) ]]
}

setup_crowd

# --- All ports of a set, and no other

list=700-709,5000,6000-6006,65535
protocols=(udp tcp sctp icmp)
((slow == 1)) || protocols=(udp icmp)
for v in $own_family; do
	for protocol in "${protocols[@]}"; do
		ports_of_list $list > "$scratch/expected"
		check_set "all ports" 1 --to-ports $list
		ports_of_map 4 9 77 > "$scratch/expected"
		check_set "all ports" 1 --psid 4/9/77
	done
	protocol=udp
	ports_of_list $list > "$scratch/expected"
	check_set "all ports" 1 --to-ports $list --random
	# Mappings stay longer than flows: these clients have none yet, and nobody else gets these ports.
	ports_of_list 900-909,15000,16000-16006,64000 > "$scratch/expected"
	check_set "all ports" 301 --to-ports 900-909,15000,16000-16006,64000 --full-cone
	ports_of_map 6 8 52 > "$scratch/expected"
	check_set "all ports" 1 --psid 6/8/52 --random-fully

	# --- What is left out

	seq 6000 6019 > "$scratch/expected"
	check_set "without exceptions, all ports" 1 --to-ports 6000-6019
	without 6003-6005,6010 < <(seq 6000 6019) > "$scratch/expected"
	check_set "all ports but these" 1 --to-ports 6000-6019 --except-ports 6003-6005,6010
	check_set "all ports but these" 1 --to-ports 6000-6019 --except-ports 6003-6005,6010 --random
	without 17003-17005,17010 < <(seq 17000 17019) > "$scratch/expected"
	check_set "all ports but these" 401 --to-ports 17000-17019 --except-ports 17003-17005,17010 --port-restricted-cone
	ports_of_map 4 9 77 | without 1-40000 > "$scratch/expected"
	check_set "all ports but these" 1 --psid 4/9/77 --except-ports 1-40000

	for protocol in "${protocols[@]}"; do
		[[ $protocol != sctp ]] || continue
		what="IPv$v, $protocol"
		check_equal "$what: without the option a flow keeps port 30080" 30080 "$(port_from 30080)"
		got=$(port_from 30080 --except-ports 30000-32767)
		check_match "$what: --except-ports 30000-32767: a flow from port 30080 gets another one" '^[0-9]+$' "$got"
		check_fails "... which is none of these: $got" test "$got" -ge 30000 -a "$got" -le 32767
		check_equal "... a flow from port 29999 keeps it" 29999 "$(port_from 29999 --except-ports 30000-32767)"
		got=$(port_from 30080 --to-ports 20000-40000 --except-ports 30000-32767 --full-cone)
		check_fails "... a mapping has none of these: $got" test "${got:-30000}" -ge 30000 -a "${got:-30000}" -le 32767
		# Unlike a port, an identifier may be 0.
		check_match "$what: the only one that is left is given" '^(65535|0)$' "$(port_from 30080 --except-ports 1-65534)"
	done
	protocol=udp
	check_port "IPv$v: a flow from an excepted port below 512 gets one of these" 100 119 \
		"$(port_from 500 --except-ports 1-99,120-511)"
	check_port "IPv$v: ... and one above where all below 512 are excepted" 600 1023 "$(port_from 500 --except-ports 1-511)"
	check_equal "IPv$v: ... and none where no class has any" "" "$(port_from 500 --except-ports 1-511,600-65535)"

	# --- Reserved ports

	reserve 6003-6005,6010,18003-18005,18010
	seq 6000 6019 > "$scratch/expected"
	check_set "reserved ports, too" 1 --to-ports 6000-6019
	without 6003-6005,6010 < <(seq 6000 6019) > "$scratch/expected"
	check_set "all ports but reserved ones" 1 --to-ports 6000-6019 --except-reserved
	check_set "all ports but reserved ones" 1 --to-ports 6000-6019 --except-reserved --random
	without 18003-18005,18010 < <(seq 18000 18019) > "$scratch/expected"
	check_set "all ports but reserved ones" 501 --to-ports 18000-18019 --except-reserved --full-cone
	check_equal "IPv$v: without the option a flow keeps a reserved port" 6004 "$(port_from 6004)"
	got=$(port_from 6004 --except-reserved)
	check_match "IPv$v: --except-reserved: it gets another one: $got" '^[0-9]+$' "${got/#600[345]/reserved}"

	# They change while the rule is there, and towards a crowded destination.
	reserve ''
	crowd_rule RUSTMASQ --to-ports 6000-6019 --except-reserved
	send_crowd 1 8
	reserve 6000-6019
	before=$(our_counter ports_refused)
	send_crowd 9 9
	check_equal "IPv$v: when all ports are reserved, a flow is refused" $((before + 1)) "$(our_counter ports_refused)"
	taken=$(ports_in_use)
	reserve 6000-6009
	# A pool learns within a second which ports are reserved no more.
	wait_until send_one_more || not_ok "IPv$v: ports that are reserved no more are given"
	send_crowd 10 30
	check_equal "IPv$v: the ports that are reserved no more are all used" 10 \
		"$(ports_in_use | grep -c '^601')"
	check_equal "IPv$v: of the reserved ones only those that flows had before" \
		"$(grep '^600' <<< "$taken")" "$(ports_in_use | grep '^600')"
	reserve ''
done

# --- The price towards a crowded destination, and one port for all destinations

v=4 protocol=udp
list=$(for ((n = 0; n < 15; n++)); do printf '%s,' $((41000 + 1000 * n))-$((41039 + 1000 * n)); done)
crowd_rule RUSTMASQ --to-ports "${list%,}"
send_crowd 1 540 --to-port 10
before=$(our_counter lookups)
send_crowd 541 600 --to-port 10
spent=$(($(our_counter lookups) - before))
check_equal "600 ports in 15 parts: all are used" 600 "$(ports_in_use | uniq | wc -l)"
check "... the last 60 with two look-ups each at most ($spent)" test $spent -le 120
check "... /proc/net/rustmasq_pools shows the parts" grep -q " range=${list%,} in_use=600 resting=0 free=0\$" \
	<(ns_exec router cat /proc/net/rustmasq_pools)

crowd_rule RUSTMASQ --to-ports 5000,7000-7100,8000-8100
send_crowd 1 2
moved=$(port_of 2)
targets=(10.9.0.1)
send_crowd 2 2
check_equal "a client whose port was taken by another has one port towards both servers" "$moved" "$(port_of 2 10.9.0.1)"
targets=()

# --- Save and restore

options='--to-ports 1024-2047,4096-8191,50000 --except-ports 1030,5000-5999 --except-reserved --random --when-full reject'
options+=' --full-cone --max-flows-per-host 4294967295 --route-source --keep-own'
for v in 4 6; do
	for options in "$options" '--psid 6/8/52 --except-ports 1232'; do
		# shellcheck disable=SC2086 # several words
		crowd_rule RUSTMASQ $options
		program=$IPTABLES
		[[ $v == 4 ]] || program=$IP6TABLES
		saved=$(ns_exec router "$program-save" -t nat | grep RUSTMASQ)
		check_equal "$program-save prints the options" "-A POSTROUTING -o wan0 -p udp -j RUSTMASQ $options" "$saved"
		host_table router -t nat -F
		ns_exec router "$program-restore" -w <<< $'*nat\n'"$saved"$'\nCOMMIT'
		check_equal "$program-restore restores the rule" "$saved" \
			"$(ns_exec router "$program-save" -t nat | grep RUSTMASQ)"
		# shellcheck disable=SC2086 # several words
		check "$program -D finds the rule by its options" host_table router -t nat -D POSTROUTING -o wan0 -p udp \
			-j RUSTMASQ $options
	done
	host_table router -t nat -F
done

# --- Without pools: only some random ports are tried, but no other is given

v=4
forget_all
unload_module || bail "the module cannot be removed"
modprobe rustmasq pools_max=0 || bail "modprobe"
before=$(our_counter ports_refused)
crowd_rule RUSTMASQ --to-ports 700-709,5000,6000-6006,65535
send_crowd 1 60
check_equal "pools_max=0: 60 clients for 19 ports: each gets one of these, or is refused" "60 0" \
	"$(($(crowd_flows | wc -l) + $(our_counter ports_refused) - before)) $(ports_in_use | without 700-709,5000,6000-6006,65535 | wc -l)"
check "... and most ports are used" test "$(crowd_flows | wc -l)" -ge 15
host_table router -t nat -F
forget_all
# The next scenario has pools.
wait_until module_unused || bail "the module is used"
unload_module || bail "the module cannot be removed"

done_testing
