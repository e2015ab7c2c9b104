#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Kernels: plain
#
# Each counter of /proc/net/rustmasq moves by a known number, and no other one does. `rustmasq stat` shows the same
# numbers to people and programs, and the pools. The trace event port_refused shows each refusal. With pools_max=1 the
# second crowded destination gets no pool, which is counted, and works. Another namespace's counters stay 0.
# tests/lib/ports.sh draws the network.
# shellcheck source-path=SCRIPTDIR source=../../lib/ports.sh
. "$(dirname "$0")/../../lib/ports.sh"
# shellcheck source=../../lib/events.sh
. "$(dirname "$0")/../../lib/events.sh"

# ours HOST: prints the counters of a host.
ours() { ns_exec "$1" cat /proc/net/rustmasq; }

# remember_counters: remembers the router's counters, for the next three functions.
remember_counters() { ours router > "$scratch/noted"; }

# changed: prints the counters that have changed since then, as NAME+CHANGE in the file's order.
changed() {
	join --nocheck-order "$scratch/noted" <(ours router) |
		awk '$2 != $3 { printf "%s%s%+d", sep, $1, $3 - $2; sep = " " }'
}

# change_of NAME: prints by how much a counter has changed.
change_of() {
	awk -v name="$1" '$1 == name { value = $2 - value } END { print value + 0 }' "$scratch/noted" <(ours router)
}

# has_changed NAME CHANGE: succeeds if a counter has changed by so much.
has_changed() { [[ $(change_of "$1") == "$2" ]]; }

# check_changes WHAT EXPECTED COMMAND...: checks which counters the command changes. Flows of one port to one
# destination come far enough from one another that nobody takes them for a race.
check_changes() {
	pause 0.3
	remember_counters
	"${@:3}"
	check_equal "$1" "$2" "$(changed)"
}

# begin CLIENT PORT [COUNT [SERVER]]: a client sends a packet from each of COUNT source ports, from PORT on.
begin() {
	ns_exec lan "$tools/flows.py" --protocol "$protocol" --first-port "$2" --from "$(client_number "$1")" "${3:-1}" \
		"${4:-${server_of[$v]}}" || not_ok "client $1 sent"
}

# send_portless: the LAN's host sends a packet of a protocol without ports.
send_portless() { ns_exec lan socat -u EXEC:'echo x' "IP4-SENDTO:${server_of[4]}:253"; }

# The next four functions print the router's counters as lines NAME VALUE, each as another reader shows them.
by_table() { ns_exec router rustmasq stat | awk '$1 == "COUNTER" { next } !NF { exit } { print $1, $2 }'; }
by_json() {
	ns_exec router rustmasq stat --json | python3 -I -S -c '
import json, sys
for pair in json.load(sys.stdin)["counters"].items():
    print(*pair)'
}
# Fails if it is not in the format, or if a name does not fit its type.
by_prometheus() {
	ns_exec router rustmasq stat --prometheus | python3 -I -c '
import sys
from prometheus_client.parser import text_string_to_metric_families
for family in text_string_to_metric_families(sys.stdin.read()):
    assert family.documentation and family.type in ("counter", "gauge"), family
    for sample in family.samples:
        assert sample.name == family.name + ("_total" if family.type == "counter" else ""), sample
        if not sample.labels:
            print(family.name.removeprefix("rustmasq_"), int(sample.value))'
}

# pool_metrics: prints the metrics of pools as NAME LABELS VALUE, as the parser understands them.
pool_metrics() {
	ns_exec router rustmasq stat --prometheus | python3 -I -c '
import sys
from prometheus_client.parser import text_string_to_metric_families
for family in text_string_to_metric_families(sys.stdin.read()):
    for sample in family.samples:
        if sample.labels:
            print(sample.name, *sample.labels.values(), int(sample.value))'
}

setup_crowd

# --- Each counter

modprobe rustmasq || bail "the module"
names="flows_masqueraded ports_kept ports_moved ports_refused flows_over_limit lookups races_avoided pools pools_most pools_denied"
check_equal "there are fifteen counters, all 0" "$names mappings mappings_denied inbound_filtered flows_flushed no_address 0" \
	"$(ours router | awk '{ printf "%s ", $1; sum += $2 } END { print sum }')"
check_equal "... and no pool" "" "$(ns_exec router cat /proc/net/rustmasq_pools)"
check_equal "everybody reads the counters, and root the pools" "444 440" \
	"$(ns_exec router stat -c %a /proc/net/rustmasq /proc/net/rustmasq_pools | paste -sd ' ')"

for v in 4 6; do
	for protocol in udp tcp icmp; do
		crowd_rule RUSTMASQ
		check_changes "IPv$v, $protocol: flows that keep their ports" "flows_masqueraded+5 ports_kept+5 lookups+5" \
			begin 1 $((30000 + v * 100)) 5
		crowd_rule RUSTMASQ --to-ports 20000-29999
		check_changes "IPv$v, $protocol: a flow that gets another port" "flows_masqueraded+1 ports_moved+1 lookups+1" \
			begin 1 5000
	done
done
v=4 protocol=udp
host_table router -t nat -A POSTROUTING -o wan0 -p 253 -j RUSTMASQ || bail "a rule for another protocol"
check_changes "a flow of a protocol without ports" "flows_masqueraded+1" send_portless
check_changes "an established flow" "" send_portless

# Either the claim of the first flow of each pair stops the second, or a look-up finds it.
crowd_rule RUSTMASQ
remember_counters
ns_exec lan "$tools/flows.py" --first-port 31000 --from 10.1.0.1-2 20 "${server_of[4]}"
races=$(change_of races_avoided)
check_equal "pairs of flows with the same port: one is kept, the other not" \
	"flows_masqueraded+40 ports_kept+20 ports_moved+20" "$(changed | sed 's/ lookups.*//')"
check_equal "... with a look-up more, or a claim that is refused" 60 $(($(change_of lookups) + races))
check "... refused at least once" test "$races" -ge 1

# A range of one port. The second flow tries the port three times and makes a pool. That gives it once more, unless the
# pool's worker has been faster.
crowd_rule RUSTMASQ --to-ports 6000
record_events port_refused
check_changes "one port: the first flow gets it" "flows_masqueraded+1 ports_moved+1 lookups+1" begin 1 5000
pause 0.3
remember_counters
begin 2 5000
check_match "... and the second flow is refused, by a new pool" \
	'^ports_refused\+1 lookups\+[34] pools\+1 pools_most\+1$' "$(changed)"
check_changes "... and three more, by the same pool and without a look-up" "ports_refused+3" begin 3 5000 3
check_equal "... all of which the trace shows" \
	"$(for each in 10.1.0.2:5000 10.1.0.3:5000 10.1.0.3:5001 10.1.0.3:5002; do
		echo "netns=$(netns router) proto=udp original=$each->203.0.113.2:9 outside=203.0.113.1 range=6000-6000"
	done)" "$(events port_refused | sed -E 's/ id=[0-9]+//')"
stop_recording
pool="protocol=udp destination=203.0.113.2 port=9 source=203.0.113.1 zone=0 range=6000-6000"
check_equal "the pool is full" "$pool in_use=1 resting=0 free=0" "$(ns_exec router cat /proc/net/rustmasq_pools)"

# --- The readers

ours router > "$scratch/counters"
for reader in by_table by_json by_prometheus; do
	check_equal "rustmasq stat, $reader: the same numbers" "$(< "$scratch/counters")" "$($reader)"
done
check_equal "people see the pool" "udp 203.0.113.2:9 203.0.113.1 6000-6000 1 0 0" \
	"$(ns_exec router rustmasq stat | awk '$1 == "udp" { $1 = $1; print }')"
check_equal "programs see the pool" "udp 203.0.113.2 9 203.0.113.1 0 6000-6000 1 0 0" \
	"$(ns_exec router rustmasq stat --json | python3 -I -S -c '
import json, sys
for pool in json.load(sys.stdin)["pools"]:
    print(*pool.values())')"
metric="rustmasq_pool_ports_%s udp 203.0.113.2 9 203.0.113.1 0 6000-6000 %d\n"
# shellcheck disable=SC2059
check_equal "Prometheus sees the pool" "$(printf "$metric" in_use 1 resting 0 free 0)" "$(pool_metrics)"
crowd_rule RUSTMASQ
check_equal "a port that was freed rests" \
	"$pool in_use=0 resting=1 free=0" "$(ns_exec router cat /proc/net/rustmasq_pools)"

# --- Other namespaces, users, and ends of the program

for host in lan server; do
	check_equal "$host, which masquerades nothing, has counted nothing" 0 \
		"$(ours $host | awk '{ sum += $2 } END { print sum }')"
	check_equal "... and has no pool" "" "$(ns_exec $host cat /proc/net/rustmasq_pools)"
done
install /usr/sbin/rustmasq /run/rustmasq-copy || bail "a copy of the program"
shown=$(ns_exec router setpriv --reuid nobody --regid nogroup --clear-groups /run/rustmasq-copy stat 2>&1)
status=$?
rm /run/rustmasq-copy
check_match "without privileges it says what is not shown" \
	"^rustmasq: the pools are not shown: /proc/net/rustmasq_pools: Permission denied: run it as root"$'\n'"COUNTER" "$shown"
check_equal "... and shows the counters" "0 15" "$status $(grep -c '^[a-z_]* *[0-9]' <<< "$shown")"

ns_exec router timeout --preserve-status --signal INT 3.5 rustmasq stat --watch > "$scratch/watched" &
watcher=$!
pause 1
begin 9 40000 50
wait $watcher
check_equal "--watch ends well by SIGINT" 0 $?
check_match "... after it has shown the counters each second" "^[2-4]\$" "$(grep -c '^COUNTER' "$scratch/watched")"
check_match "... and the difference" "ports_kept +[0-9]+ +[1-9]" "$(< "$scratch/watched")"
ns_exec router rustmasq stat --watch | read -r _
check_equal "--watch ends well when nobody reads it" "0 0" "${PIPESTATUS[*]}"

# --- The flush, and no address

# MASQUERADE's module, which another scenario may have loaded, would remove the flows first.
check "xt_MASQUERADE is not loaded" remove_other_masquerade
crowd_rule RUSTMASQ
begin 1 5000 7
remember_counters
ip -n router addr del 203.0.113.1/24 dev wan0
check "the flush forgets seven flows" wait_until has_changed flows_flushed 7
check_equal "... and does nothing else" "flows_flushed+7" "$(changed)"
ip -n router route add 203.0.113.0/24 dev wan0
ip -n router addr flush dev lan0 scope global
ip -n router addr add 172.18.0.1/16 dev lan0 scope link
ip -n router route replace 10.1.0.0/16 via 172.18.0.2
check_changes "three packets without an address to leave with" "no_address+3" begin 1 5000 3
ip -n router addr flush dev lan0
ip -n router addr add 172.18.0.1/16 dev lan0
ip -n router addr add 203.0.113.1/24 dev wan0
ip -n router route replace 10.1.0.0/16 via 172.18.0.2
ip -n router route replace 10.9.0.0/16 via 203.0.113.2

# --- The bound of pools

flush_counted() {
	host_table router -t nat -F
	v=6 host_table router -t nat -F
}
flush_counted
wait_until unload_module || bail "the module can be unloaded"
check_match "without the module rustmasq stat says so" \
	"^rustmasq: the module rustmasq is not loaded \(modprobe rustmasq\)\$" \
	"$(ns_exec router rustmasq stat 2>&1)"
for option in --json --prometheus --watch; do
	check_fails "... and fails, $option" ns_exec router rustmasq stat $option
done
for value in -1 1025 x ""; do
	check_fails "pools_max cannot be '$value'" modprobe rustmasq "pools_max=$value"
done
modprobe rustmasq pools_max=1 || bail "the module with pools_max=1"
check_equal "the parameter can be read" 1 "$(< /sys/module/rustmasq/parameters/pools_max)"
crowd_rule RUSTMASQ --to-ports 6000
begin 1 5000
pause 0.3
begin 2 5000
check_changes "pools_max=1: a second destination's first flow" \
	"flows_masqueraded+1 ports_moved+1 lookups+1" begin 1 5000 1 10.9.0.1
arrived=$(arrived)
check_changes "... its second flow needs a pool, which is denied; the kernel chooses" \
	"flows_masqueraded+1 ports_moved+1 lookups+3 pools_denied+1" begin 2 5000 1 10.9.0.1
check_equal "... and finds no free port" "$arrived" "$(arrived)"
check_equal "there is one pool" "pools 1 pools_most 1" "$(ours router | grep '^pools\(_most\)\? ' | paste -sd ' ')"
ns_exec router conntrack -D --orig-dst 10.9.0.1 > "$scratch/deleted" 2>&1 || not_ok "a flow can be removed"
# The port rests for others, which a pool would know, so the kernel chooses again.
check_changes "the second destination works" "flows_masqueraded+1 ports_moved+1 pools_denied+1" \
	begin 3 5000 1 10.9.0.1
check_equal "... for its packet arrives" $((arrived + 1)) "$(arrived)"
flush_counted
wait_until unload_module || bail "the module can be unloaded"
modprobe rustmasq pools_max=0 || bail "the module with pools_max=0"
crowd_rule RUSTMASQ --to-ports 6000
begin 1 5000
check_changes "pools_max=0: no pool" "flows_masqueraded+1 ports_moved+1 lookups+3 pools_denied+1" begin 2 5000
# Other scenarios have the default.
flush_counted
check "the module can be unloaded at the end" wait_until unload_module

done_testing
