#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Kernels: plain
#
# With --max-flows-per-host an inside address has at most so many flows at a time by a rule, or by rules that are alike.
# The scenario host-flows shows that the count is right, however flows end. tests/lib/ports.sh draws the network.
# shellcheck source-path=SCRIPTDIR source=../../lib/ports.sh
. "$(dirname "$0")/../../lib/ports.sh"

setup_crowd

# --- Without the option one client takes all ports

crowd_rule RUSTMASQ --to-ports 6000-6019
client_begins 30
check_equal "without the option one client takes all of 20 ports" 20 "$(flows_of 1)"
send_crowd 2 6
check_equal "... and five others get none" 0 "$(crowd_flows | grep -cv "^$(client_number 1) ")"

# --- Each protocol

for v in $own_family; do
	for protocol in udp tcp sctp icmp; do
		crowd_rule RUSTMASQ --to-ports 6000-6019 --max-flows-per-host 5
		refused=$(our_counter ports_refused)
		client_begins 30
		check_counted "one client gets as many flows as the limit says" 5 25
		send_crowd 2 4
		check_equal "$(step): ... and others get theirs" "1 1 1" "$(flows_of 2) $(flows_of 3) $(flows_of 4)"
		client_begins 5
		check_counted "packets of its flows pass" 5
		forget_ports 5001 5002
		client_begins 10
		check_counted "two flows that conntrack -D has removed are replaced by others" 5 5
		forget_all
		client_begins 10
		check_counted "all of them have ended by conntrack -F" 5 5
		check_equal "$(step): nobody was refused for want of a port" "$refused" "$(our_counter ports_refused)"
	done
done
protocol=udp

# --- The rule is changed, saved, restored

for v in 4 6; do
	crowd_rule RUSTMASQ --max-flows-per-host 5
	client_begins 3
	host_table router -t nat -A POSTROUTING -o wan0 -d 203.0.113.200 -j RUSTMASQ 2> /dev/null ||
		host_table router -t nat -A POSTROUTING -o wan0 -d 2001:db8:1::200 -j RUSTMASQ || bail "another rule"
	client_begins 9
	check_counted "counts survive that another rule is added" 5 4
	program=$IPTABLES
	[[ $v == 4 ]] || program=$IP6TABLES
	ns_exec router "$program-save" -t nat > "$scratch/saved"
	check_match "$(step): saved" '-j RUSTMASQ --max-flows-per-host 5$' \
		"$(grep -e -host "$scratch/saved")"
	check "$(step): restored" ns_exec router "$program-restore" -w -T nat < "$scratch/saved"
	client_begins 9
	check_counted "counts survive that all rules are restored" 5 4
	host_table router -t nat -F
	forget_ports 5000 5001
	host_table router -t nat -A POSTROUTING -o wan0 -p udp -j RUSTMASQ --max-flows-per-host 5 || bail "rule"
	client_begins 9
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
		client_begins 9
		check_counted "each protocol of -p has its own count" 5 4
	done
	forget_all
	host_table router -t nat -F
	host_table router -t nat -A POSTROUTING -o wan0 -j RUSTMASQ --max-flows-per-host 5 || bail "rule"
	protocol=tcp
	client_begins 3
	protocol=udp
	client_begins 9
	check_counted "a rule for all protocols counts them together" 2 7
	forget_all
	host_table router -t nat -F
	host_table router -t nat -A POSTROUTING -o wan0 -p udp --dport 9 -j RUSTMASQ --max-flows-per-host 5 || bail "rule"
	host_table router -t nat -A POSTROUTING -o wan0 -p udp -j RUSTMASQ --max-flows-per-host 7 || bail "rule"
	client_begins 9
	check_counted "one rule" 5 4
	client_begins 9 --first-port 5100 --to-port 10
	check_counted "... and another one with another number" 12 2
done

# --- With --when-full reject the client is told; the router's own flows are not counted

declare -A name_of=([4]=EHOSTUNREACH [6]=EACCES)
for v in 4 6; do
	crowd_rule RUSTMASQ --max-flows-per-host 5 --when-full reject
	client_begins 5
	told=$(ns_exec lan "$tools/refused.py" udp "$(client_number 1)" 5100 "${server_of[$v]}")
	check_match "$(step): the client is told by --when-full reject" "told ${name_of[$v]}" "$told"
	crowd_rule RUSTMASQ --max-flows-per-host 1
	ns_exec router "$tools/flows.py" --first-port 7000 9 "${server_of[$v]}"
	check_equal "$(step): the router's own flows are not counted" 9 \
		"$(crowd_flows --orig-src "${router_of[$v]}" | wc -l)"
done

done_testing
