#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Kernels: plain
#
# Ports of flows that have ended. When all ports of a range are in TIME_WAIT, a SYN whose sequence number is beyond that
# of an old connection gets its port, and another one does not, until one of them expires. A port that has just been
# freed comes last: others are given before it, whether the destination is crowded or not. tests/lib/ports.sh draws the
# network.
# shellcheck source-path=SCRIPTDIR source=../../lib/ports.sh
. "$(dirname "$0")/../../lib/ports.sh"

setup_crowd
ns_start server "$tools/connections.py" serve 203.0.113.2 1 > "$scratch/served"
wait_until grep -q ready "$scratch/served" || bail "no server"

# in_state STATE: prints how many TCP flows the router has in that state.
in_state() { tracked -p tcp --state "$1" | wc -l; }
all_in_state() { [[ $(in_state "$1") == "$2" ]]; }

# finish FIRST LAST SEQUENCE: clients FIRST to LAST each make a connection that begins with the sequence number, and
# close it in order. Afterwards the server answers no more: what it says would end the flows of SYNs.
finish() {
	local answered
	host_table server -t raw -I PREROUTING -p tcp --dport 7000 -j ACCEPT
	answered=$(ns_exec lan "$tools/connections.py" close "$3" 203.0.113.2 5000 "$(client_range "$1" "$2")")
	check_equal "connections of the clients $1 to $2 are answered and closed" $(($2 - $1 + 1)) "$answered"
	check "... and over" wait_until all_in_state TIME_WAIT $(($2 - $1 + 1))
	host_table server -t raw -D PREROUTING 1
}

# send_syn CLIENT SEQUENCE: the client sends a SYN with the sequence number. Succeeds if a flow begins.
send_syn() {
	send_crowd "$1" "$1" --to-port 7000 --sequence "$2"
	[[ $(port_of "$1") ]]
}

# next_passes [OPTION...]: a client that has sent nothing before begins a flow. Succeeds if it does. OPTIONs are those
# of flows.py.
newcomer=100
next_passes() {
	newcomer=$((newcomer + 1))
	send_crowd $newcomer $newcomer "$@"
	[[ $(port_of $newcomer) ]]
}

# --- All ports of a range are in TIME_WAIT

protocol=tcp
crowd_rule RUSTMASQ --to-ports 6000-6019
finish 1 20 1000000
check_fails "a SYN with an earlier sequence number gets none of them" send_syn 21 900000
check_equal "... and they stay" 20 "$(in_state TIME_WAIT)"
# A SYN that comes before the pool has looked at the connections again may be refused, and is repeated.
twenty_begin() {
	send_crowd 22 41 --to-port 7000 --sequence 2000000
	all_in_state SYN_SENT 20
}
check "20 clients with a later sequence number get one each" wait_until twenty_begin
check_equal "... all of them" "20 6000 6019" "$(crowd_flows --state SYN_SENT | awk '{ print $3 }' | sort -nu |
	awk 'NR == 1 { first = $1 } END { print NR, first, $1 }')"
check_fails "then there is none for another one" send_syn 42 2000000

# --- One port of a full range is in TIME_WAIT

crowd_rule RUSTMASQ --to-ports 6100-6119
finish 50 50 1000000
send_crowd 51 69 --to-port 7000
check_equal "19 ports of 20 are in use" 19 "$(in_state SYN_SENT)"
check "a SYN with a later sequence number soon gets the only port in TIME_WAIT" \
	wait_until next_passes --to-port 7000 --sequence 2000000

# --- A flow of a full range expires

# check_expiry WHAT FIRST [OPTION...]: of four clients from number FIRST on, which have all ports of a range, lets one's
# flow expire in a second, and checks that another client gets its port then. OPTIONs are those of flows.py.
check_expiry() {
	local freed owner
	owner=$(client_number "$2") freed=$(port_of "$2")
	check_fails "$1 have all ports of a range" next_passes "${@:3}"
	ns_exec router conntrack -U -f ipv$v -p "$protocol" --orig-src "$owner" -t 1 > "$scratch/expired" 2>&1 ||
		not_ok "$1: one flow expires" "$(< "$scratch/expired")"
	check "... when one expires, another flow begins" wait_until next_passes "${@:3}"
	check_equal "... with its port" 1 \
		"$(crowd_flows | awk -v port="$freed" -v owner="$owner" '$3 == port && $1 != owner' | wc -l)"
}

crowd_rule RUSTMASQ --to-ports 6200-6203
finish 71 74 1000000
check_expiry "IPv4: four connections in TIME_WAIT" 71 --to-port 7000 --sequence 900000
protocol=udp
for v in 4 6; do
	crowd_rule RUSTMASQ --to-ports 6200-6203
	send_crowd 1 4
	check_expiry "IPv$v: four flows" 1
done

# --- A port that has just been freed. One client has all ports but ten, in flows that keep their port, so that the others
# make the destination a crowded one.

protocol=udp
for v in 4 6; do
	crowd_rule RUSTMASQ --to-ports 6000-6199
	ns_exec lan "$tools/flows.py" --first-port 6000 190 "${server_of[$v]}"
	send_crowd 1 5
	for freed in 6007 6100 6188; do
		ns_exec router conntrack -D -f ipv$v -p udp --orig-port-src $freed > /dev/null 2>&1 || not_ok "a flow ends"
	done
	send_crowd 6 10
	check_equal "IPv$v: ten clients get the ten ports that were free, none of three that have just been freed" \
		"10 6190 6199" "$(crowd_flows --orig-port-src 5000 | awk '{ print $3 }' | sort -nu |
			awk 'NR == 1 { first = $1 } END { print NR, first, $1 }')"
	send_crowd 11 13
	check_equal "IPv$v: when only those are left, they are given" "6007 6100 6188" \
		"$(for number in 11 12 13; do port_of $number; done | sort -n | paste -sd ' ')"
done

# --- A port that has just been freed, while the destination is not crowded

# ports_of FIRST LAST: prints the ports of the clients FIRST to LAST, in their order.
ports_of() { for ((number = $1; number <= $2; number++)); do port_of $number; done | sort -n; }

for v in 4 6; do
	crowd_rule RUSTMASQ --to-ports 6300-6319
	send_crowd 1 10
	ports_of 1 10 > "$scratch/freed"
	check_equal "IPv$v: ten clients have a port of twenty each" 10 "$(sort -u "$scratch/freed" | wc -l)"
	forget_all
	send_crowd 11 20
	check_equal "IPv$v: when their flows have ended, the next ten get the other ten" 20 \
		"$(ports_of 11 20 | sort -nu - "$scratch/freed" | wc -l)"
	send_crowd 21 30
	check_equal "IPv$v: ... and the next ten get those that were freed" "$(paste -sd ' ' "$scratch/freed")" \
		"$(ports_of 21 30 | paste -sd ' ')"
	crowd_rule RUSTMASQ
	send_crowd 31 31
	check_equal "IPv$v: a client keeps its port" 5000 "$(port_of 31)"
	forget_all
	send_crowd 32 32
	check_equal "IPv$v: ... and so does another one with the same port a moment later" 5000 "$(port_of 32)"
done

done_testing
