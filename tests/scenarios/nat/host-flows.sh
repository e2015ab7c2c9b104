#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# The flows that --max-flows-per-host counts: however they end, the count is taken back, and no host uses up what all
# need. tests/lib/ports.sh draws the network.
# shellcheck source-path=SCRIPTDIR source=../../lib/ports.sh
. "$(dirname "$0")/../../lib/ports.sh"

setup_crowd

# --- Flows that expire

declare -A timeout=([udp]=udp_timeout [tcp]=tcp_timeout_syn_sent [icmp]=icmp_timeout)
protocols=(udp tcp icmp)
((slow == 1)) || protocols=(udp)
for v in 4 6; do
	for protocol in "${protocols[@]}"; do
		name=nf_conntrack_${timeout[$protocol]}
		[[ $v$protocol != 6icmp ]] || name=nf_conntrack_icmpv6_timeout
		ns_exec router tee "/proc/sys/net/netfilter/$name" > /dev/null <<< 1 || bail "$name"
		crowd_rule RUSTMASQ --max-flows-per-host 5
		client_begins 7
		check_equal "$(step): two of seven are over the limit" 2 "$over"
		check "$(step): the others expire" wait_until has_flows 1 0
		ns_exec router tee "/proc/sys/net/netfilter/$name" > /dev/null <<< 600 || bail "$name"
		client_begins 7
		check_counted "... and others take their places" 5 2
	done
done
protocol=udp

# --- A TCP connection that ends by itself, and an address that goes

v=4
serve server TCP 81
host_table server -t raw -I PREROUTING -p tcp --dport 81 -j ACCEPT
ns_exec router tee /proc/sys/net/netfilter/nf_conntrack_tcp_timeout_time_wait > /dev/null <<< 1
protocol=tcp
crowd_rule RUSTMASQ --max-flows-per-host 1
no_tcp_flow() { [[ ! $(tracked -p tcp) ]]; }
for number in 1 2 3; do
	check_match "connection $number, after the one before it has ended" "^${router_of[4]}:[0-9]+$" \
		"$(probe lan TCP "${server_of[4]}" 81)"
	check "... it ends" wait_until no_tcp_flow
done
stop_servers
protocol=udp

for v in 4 6; do
	crowd_rule RUSTMASQ --max-flows-per-host 5
	client_begins 9
	check_counted "flows with an address of the router" 5 4
	bits=$((v == 4 ? 24 : 64)) flags=()
	[[ $v == 4 ]] || flags=(nodad)
	ip -n router addr del "${router_of[$v]}/$bits" dev wan0
	ip -n router addr add "${router_of[$v]%1}5/$bits" dev wan0 "${flags[@]}"
	check "$(step): the address goes, and so do its flows" wait_until has_flows 1 0
	client_begins 9
	check_counted "... others take their places" 5 4
	ip -n router addr del "${router_of[$v]%1}5/$bits" dev wan0
	ip -n router addr add "${router_of[$v]}/$bits" dev wan0 "${flags[@]}"
	check "$(step): ... twice" wait_until has_flows 1 0
	[[ $v == 6 ]] || ip -n router route replace 10.9.0.0/16 via "${server_of[4]}"
done

# --- A flow that cannot be set up is not counted

for v in 4 6; do
	for options in "--to-ports 6000-6002" "--to-ports 6100-6102 --full-cone"; do
		read -r -a words <<< "$options"
		crowd_rule RUSTMASQ "${words[@]}" --max-flows-per-host 5
		client_begins 9
		check_equal "$(step), $options: the ports are full before the limit is reached" "3 0" "$(flows_of 1) $over"
		forget_ports 5000 5000
		check_equal "$(step), $options: the two others" 2 "$(flows_of 1)"
		client_begins 3
		check_equal "$(step), $options: refused flows have left no count behind" "3 0" "$(flows_of 1) $over"
	done
done

# --- 10,000 hosts

many=$(scaled 10000)
for v in 4 6; do
	crowd_rule RUSTMASQ --max-flows-per-host 2
	over=$(our_counter flows_over_limit)
	ns_exec lan "$tools/flows.py" --first-port 5000 --from "$(client_range 1 "$many")" 3 "${server_of[$v]}"
	check_equal "$(step): of three flows of each of $many hosts, two pass" "$((2 * many)) $many" \
		"$(ns_exec router conntrack -C) $(($(our_counter flows_over_limit) - over))"
	crowd_flows | cut -d ' ' -f 1 | sort | uniq -c | awk '{ print $1 }' | sort -u > "$scratch/each"
	check_equal "$(step): ... of each" 2 "$(< "$scratch/each")"
	forget_all
	ns_exec lan "$tools/flows.py" --first-port 6000 --from "$(client_range 1 "$many")" 2 "${server_of[$v]}"
	check_equal "$(step): ... and two again, when those have ended" $((2 * many)) "$(ns_exec router conntrack -C)"
done

# --- A greedy host

# start_greedy: the first client begins flows as fast as it can, from 40,000 ports, again and again.
start_greedy() {
	# shellcheck disable=SC2016 # The inner shell expands it.
	ns_start lan bash -c 'while "$0" "$@"; do :; done' \
		"$tools/flows.py" --first-port 10000 --from "$(client_number 1)" 40000 "${server_of[$v]}"
}
busy() { (($(flows_of 1) >= ${1:-500})); }
others=200
for v in 4 6; do
	for limit in "" 500; do
		crowd_rule RUSTMASQ --to-ports 7000-7999 ${limit:+--max-flows-per-host "$limit"}
		start_greedy
		wait_until busy "${limit:-1000}" || bail "the greedy client"
		send_crowd 2 $((others + 1))
		got=$(crowd_flows | grep -cv "^$(client_number 1) ")
		stop_servers
		if [[ $limit ]]; then
			check_equal "$(step): beside a greedy host that has its limit, all others get their flows" "$others $limit" \
				"$got $(flows_of 1)"
		else
			check_equal "$(step): beside a greedy host without a limit they get none" 0 "$got"
		fi
	done
done

# --- The namespace goes with flows that are counted, and so does the module

for v in 4 6; do host_table router -t nat -F; done
check "the module is unloaded while flows are counted" wait_until unload_module
done_testing
