#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Front ends: legacy nft
#
# With --max-flows-per-host an inside address has at most so many flows at a time by a rule, however its flows end, so
# that no host uses up what all need. tests/lib/ports.sh draws the network.
# shellcheck source-path=SCRIPTDIR source=../../lib/ports.sh
. "$(dirname "$0")/../../lib/ports.sh"

what() { echo "IPv$v, $protocol"; }

# counter NAME: prints one of our counters.
counter() { ns_exec router sed -n "s/^$1 //p" /proc/net/rustmasq; }

# begin COUNT [OPTION...]: the first client begins so many flows, from port 5000 on. Sets `over` to the number of packets
# that were over the limit meanwhile. OPTIONs are those of flows.py.
begin() {
	over=$(counter flows_over_limit)
	ns_exec lan "$tools/flows.py" --protocol "$protocol" --first-port 5000 --from "$(client_number 1)" "${@:2}" \
		"$1" "${server_of[$v]}" || not_ok "$(what): $1 flows are sent"
	over=$(($(counter flows_over_limit) - over))
}

# flows_of CLIENT: prints how many flows the client with this number has.
flows_of() { crowd_flows --orig-src "$(client_number "$1")" | wc -l; }
has_flows() { [[ $(flows_of "$1") == "$2" ]]; }

# check_counted WHAT COUNT [OVER]: checks that the first client has so many flows, and that so many were over the limit.
check_counted() { check_equal "$(what): $1" "$2 flows, ${3-0} over" "$(flows_of 1) flows, $over over"; }

# forget_ports FIRST LAST: removes the first client's flows from these source ports.
forget_ports() {
	local port words=(--orig-port-src)
	[[ $protocol != icmp ]] || words=("--$(conntrack_name)-id")
	for ((port = $1; port <= $2; port++)); do
		ns_exec router conntrack -D -f "ipv$v" -p "$(conntrack_name)" --orig-src "$(client_number 1)" \
			"${words[@]}" "$port" > /dev/null 2>&1 || not_ok "$(what): the flow from $port is removed"
	done
}

setup_crowd

# --- Without the option one client takes all ports

crowd_rule RUSTMASQ --to-ports 6000-6019
begin 30
check_equal "without the option one client takes all of 20 ports" 20 "$(flows_of 1)"
send_crowd 2 6
check_equal "... and five others get none" 0 "$(crowd_flows | grep -cv "^$(client_number 1) ")"

# --- Each protocol, and each way to end

for v in 4 6; do
	for protocol in udp tcp sctp icmp; do
		crowd_rule RUSTMASQ --to-ports 6000-6019 --max-flows-per-host 5
		refused=$(counter ports_refused)
		begin 30
		check_counted "one client gets as many flows as the limit says" 5 25
		send_crowd 2 4
		check_equal "$(what): ... and others get theirs" "1 1 1" "$(flows_of 2) $(flows_of 3) $(flows_of 4)"
		begin 5
		check_counted "packets of its flows pass" 5
		forget_ports 5001 5002
		begin 10
		check_counted "two flows that conntrack -D has removed are replaced by others" 5 5
		forget_all
		begin 10
		check_counted "all of them have ended by conntrack -F" 5 5
		check_equal "$(what): nobody was refused for want of a port" "$refused" "$(counter ports_refused)"
	done
done

# --- Flows that expire

declare -A timeout=([udp]=udp_timeout [tcp]=tcp_timeout_syn_sent [icmp]=icmp_timeout)
for v in 4 6; do
	for protocol in udp tcp icmp; do
		name=nf_conntrack_${timeout[$protocol]}
		[[ $v$protocol != 6icmp ]] || name=nf_conntrack_icmpv6_timeout
		ns_exec router tee "/proc/sys/net/netfilter/$name" > /dev/null <<< 1 || bail "$name"
		crowd_rule RUSTMASQ --max-flows-per-host 5
		begin 7
		check_equal "$(what): two of seven are over the limit" 2 "$over"
		check "$(what): the others expire" wait_until has_flows 1 0
		ns_exec router tee "/proc/sys/net/netfilter/$name" > /dev/null <<< 600 || bail "$name"
		begin 7
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
	begin 9
	check_counted "flows with an address of the router" 5 4
	bits=$((v == 4 ? 24 : 64))
	ip -n router addr del "${router_of[$v]}/$bits" dev wan0
	ip -n router addr add "${router_of[$v]%1}5/$bits" dev wan0 $([[ $v == 4 ]] || echo nodad)
	check "$(what): the address goes, and so do its flows" wait_until has_flows 1 0
	begin 9
	check_counted "... others take their places" 5 4
	ip -n router addr del "${router_of[$v]%1}5/$bits" dev wan0
	ip -n router addr add "${router_of[$v]}/$bits" dev wan0 $([[ $v == 4 ]] || echo nodad)
	check "$(what): ... twice" wait_until has_flows 1 0
	[[ $v == 6 ]] || ip -n router route replace 10.9.0.0/16 via "${server_of[4]}"
done

# --- A flow that cannot be set up is not counted

for v in 4 6; do
	for options in "--to-ports 6000-6002" "--to-ports 6100-6102 --full-cone"; do
		read -r -a words <<< "$options"
		crowd_rule RUSTMASQ "${words[@]}" --max-flows-per-host 5
		begin 9
		check_equal "$(what), $options: the ports are full before the limit is reached" "3 0" "$(flows_of 1) $over"
		forget_ports 5000 5000
		check_equal "$(what), $options: the two others" 2 "$(flows_of 1)"
		begin 3
		check_equal "$(what), $options: refused flows have left no count behind" "3 0" "$(flows_of 1) $over"
	done
done

# --- The rule is changed, saved, restored

for v in 4 6; do
	crowd_rule RUSTMASQ --max-flows-per-host 5
	begin 3
	host_table router -t nat -A POSTROUTING -o wan0 -d 203.0.113.200 -j RUSTMASQ 2> /dev/null ||
		host_table router -t nat -A POSTROUTING -o wan0 -d 2001:db8:1::200 -j RUSTMASQ || bail "another rule"
	begin 9
	check_counted "counts survive that another rule is added" 5 4
	program=$IPTABLES
	[[ $v == 4 ]] || program=$IP6TABLES
	ns_exec router "$program-save" -t nat > "$scratch/saved"
	check_match "$(what): saved" '-j RUSTMASQ --max-flows-per-host 5$' \
		"$(grep -e -host "$scratch/saved")"
	check "$(what): restored" ns_exec router "$program-restore" -w -T nat < "$scratch/saved"
	begin 9
	check_counted "counts survive that all rules are restored" 5 4
	host_table router -t nat -F
	forget_ports 5000 5001
	host_table router -t nat -A POSTROUTING -o wan0 -p udp -j RUSTMASQ --max-flows-per-host 5 || bail "rule"
	begin 9
	check_counted "counts survive that there was no rule meanwhile, in which two flows ended" 5 4
done

# --- Rules that differ

for v in 4 6; do
	forget_all
	host_table router -t nat -F
	for protocol in udp tcp; do
		host_table router -t nat -A POSTROUTING -o wan0 -p $protocol -j RUSTMASQ --max-flows-per-host 5 || bail "rule"
	done
	for protocol in udp tcp; do
		begin 9
		check_counted "each protocol of -p has its own count" 5 4
	done
	forget_all
	host_table router -t nat -F
	host_table router -t nat -A POSTROUTING -o wan0 -j RUSTMASQ --max-flows-per-host 5 || bail "rule"
	protocol=tcp
	begin 3
	protocol=udp
	begin 9
	check_counted "a rule for all protocols counts them together" 2 7
	forget_all
	host_table router -t nat -F
	host_table router -t nat -A POSTROUTING -o wan0 -p udp --dport 9 -j RUSTMASQ --max-flows-per-host 5 || bail "rule"
	host_table router -t nat -A POSTROUTING -o wan0 -p udp -j RUSTMASQ --max-flows-per-host 7 || bail "rule"
	begin 9
	check_counted "one rule" 5 4
	begin 9 --first-port 5100 --to-port 10
	check_counted "... and another one with another number" 12 2
done

# --- With --when-full reject the client is told; the router's own flows are not counted

declare -A name_of=([4]=EHOSTUNREACH [6]=EACCES)
for v in 4 6; do
	crowd_rule RUSTMASQ --max-flows-per-host 5 --when-full reject
	begin 5
	told=$(ns_exec lan "$tools/refused.py" udp "$(client_number 1)" 5100 "${server_of[$v]}")
	check_match "$(what): the client is told by --when-full reject" "told ${name_of[$v]}" "$told"
	crowd_rule RUSTMASQ --max-flows-per-host 1
	ns_exec router "$tools/flows.py" --first-port 7000 9 "${server_of[$v]}"
	check_equal "$(what): the router's own flows are not counted" 9 \
		"$(crowd_flows --orig-src "${router_of[$v]}" | wc -l)"
done

# --- 10,000 hosts

many=$(scaled 10000)
for v in 4 6; do
	crowd_rule RUSTMASQ --max-flows-per-host 2
	over=$(counter flows_over_limit)
	ns_exec lan "$tools/flows.py" --first-port 5000 --from "$(client_range 1 "$many")" 3 "${server_of[$v]}"
	check_equal "$(what): of three flows of each of $many hosts, two pass" "$((2 * many)) $many" \
		"$(ns_exec router conntrack -C) $(($(counter flows_over_limit) - over))"
	crowd_flows | cut -d ' ' -f 1 | sort | uniq -c | awk '{ print $1 }' | sort -u > "$scratch/each"
	check_equal "$(what): ... of each" 2 "$(< "$scratch/each")"
	forget_all
	ns_exec lan "$tools/flows.py" --first-port 6000 --from "$(client_range 1 "$many")" 2 "${server_of[$v]}"
	check_equal "$(what): ... and two again, when those have ended" $((2 * many)) "$(ns_exec router conntrack -C)"
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
		crowd_rule RUSTMASQ --to-ports 6000-6999 ${limit:+--max-flows-per-host "$limit"}
		start_greedy
		wait_until busy "${limit:-1000}" || bail "the greedy client"
		send_crowd 2 $((others + 1))
		got=$(crowd_flows | grep -cv "^$(client_number 1) ")
		stop_servers
		if [[ $limit ]]; then
			check_equal "$(what): beside a greedy host that has its limit, all others get their flows" "$others $limit" \
				"$got $(flows_of 1)"
		else
			check_equal "$(what): beside a greedy host without a limit they get none" 0 "$got"
		fi
	done
done

# --- The namespace goes with flows that are counted, and so does the module

check "the module is unloaded while flows are counted" eval 'for v in 4 6; do host_table router -t nat -F; done; wait_until unload_module'
done_testing
