#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Kernels: plain
#
# With --end, the flow viewer shows each flow when it ends as well, with packets, bytes and duration as conntrack counted
# them, in namespaces that are made later, too. It keeps no namespace that is removed, and tells which settings of
# conntrack are off. Without --end it shows no ends. The network is that of setup_lan with IPv6.
. "$(dirname "$0")/../../lib/lib.sh"

setup_lan
setup_lan_ipv6
serve server UDP 53
serve server TCP 80
serve server UDP6 54
modprobe rustmasq || bail "the module"
add_rule -o wan0 -p tcp -j RUSTMASQ --to-ports 50000-50999 || bail "a rule"
add_rule -o wan0 -j RUSTMASQ || bail "a rule"
add_rule6 -o wan0 -j RUSTMASQ || bail "a rule"

# set_conntrack NAME=VALUE...: sets these sysctls of conntrack in the router's namespace.
set_conntrack() {
	local each
	for each; do
		ns_exec router sh -c "echo ${each#*=} > /proc/sys/net/netfilter/nf_conntrack_${each%=*}" || bail "the sysctl $each"
	done
}
set_conntrack acct=1 timestamp=1

# begin_viewer NAME OPTION...: starts a viewer, whose output goes to $scratch/NAME.
begin_viewer() {
	ns_start router rustmasq watch "${@:2}" > "$scratch/$1" 2> "$scratch/$1.said"
	wait_until grep -q "rustmasq: watching" "$scratch/$1.said" || bail "the viewer $1: $(< "$scratch/$1.said")"
}
begin_viewer table --end
begin_viewer json --end --json
begin_viewer some --end --json --port 40001 --protocol udp
begin_viewer none --json

# ends NAME PORT: prints the objects of ends of flows from that port.
ends() { grep -F '"event": "end"' "$scratch/$1" | grep -E "\"original\": \{\"source\": \{[^}]*\"port\": $2\}"; }

# value FIELD OBJECT: prints a field of the object, as JSON.
value() { python3 -I -S -c 'import json, sys; print(json.dumps(json.loads(sys.argv[2])[sys.argv[1]]))' "$1" "$2"; }

# end_flows: removes the router's flows.
end_flows() { ns_exec router conntrack -F 2> /dev/null; }

before=$(date +%s)
check "a flow over UDP works" test "$(probe lan UDP 203.0.113.2 53 sourceport=40001)"
check "a flow over TCP works" test "$(probe lan TCP 203.0.113.2 80 sourceport=40002)"
check "a flow over IPv6 works" test "$(probe lan UDP6 '[2001:db8:1::2]' 54 sourceport=40003)"
# conntrack's own counts: packets and bytes of each direction.
is_closed() { tracked -p tcp --state TIME_WAIT | grep -q .; }
wait_until is_closed || bail "the TCP flow is not closed"
declare -A counted
entries=$(tracked -f ipv4; tracked -f ipv6)
for port in 40001 40002 40003; do
	counted[$port]=$(grep -E "src=[^ ]* dst=[^ ]* sport=$port " <<< "$entries" |
		grep -oE '(packets|bytes)=[0-9]+' | cut -d = -f 2 | paste -sd ' ')
done
end_flows
for port in 40001 40002 40003; do
	check "--json shows the end of the flow from port $port" wait_until ends json $port
	end=$(ends json $port)
	read -r packets bytes answers answered <<< "${counted[$port]}"
	check_equal "... with conntrack's packets" "{\"original\": $packets, \"reply\": $answers}" "$(value packets "$end")"
	check_equal "... and bytes" "{\"original\": $bytes, \"reply\": $answered}" "$(value bytes "$end")"
	begin=$(grep -F '"event": "begin"' "$scratch/json" | grep -F "$(grep -oE '"id": [0-9]+,' <<< "$end")")
	for field in netns namespace proto original reply moved zone mark icmp; do
		check_equal "... its $field is that of its begin" "$(value $field "$begin")" "$(value $field "$end")"
	done
	check "... it begins and ends while this runs" python3 -I -S -c '
import json, sys, time
begin, end = json.loads(sys.argv[1]), json.loads(sys.argv[2])
assert int(sys.argv[3]) - 1 <= end["begin"] <= end["time"] <= time.time() + 1, end
assert abs(end["begin"] - begin["time"]) < 1 and abs(end["time"] - end["begin"] - end["duration"]) < 0.01, end' \
		"$begin" "$end" "$before"
done
check_match "the table shows the end of a flow" \
	'^[0-9:.]+ +router +udp +- +- +172.18.0.2:40001->203.0.113.2:53 +203.0.113.1:40001->203.0.113.2:53 +ended after [0-9]+\.[0-9]{3} s, 1\+1 packets, [0-9]+\+[0-9]+ bytes$' \
	"$(grep -F 172.18.0.2:40001 "$scratch/table" | grep ended)"
check_equal "the filters select ends, too" "40001 40001" \
	"$(grep -oE '"original": \{"source": \{[^}]*\}' "$scratch/some" | grep -oE '[0-9]+\}' | tr -d '}' | paste -sd ' ')"
check "without --end the begins are shown" grep -q '"port": 40003}' "$scratch/none"
check_fails "... and no ends" grep -q '"event": "end"' "$scratch/none"

# --- Namespaces that come and go

setup_ns late
setup_link router late0 192.0.2.1/24 late eth0 192.0.2.2/24
ns_exec late "$IPTABLES" -w -A OUTPUT -m conntrack --ctstate INVALID -j DROP || bail "a rule in the namespace"
# The namespace has been noticed when the end of one of its flows is shown.
number=50000
late_end_shown() {
	number=$((number + 1))
	ns_exec late socat -u - UDP:192.0.2.1:9,sourceport=$number <<< x
	ns_exec late conntrack -F
	pause 0.2
	ends json $number
}
check "the end of a flow in a new namespace is shown" wait_until late_end_shown
check_equal "... with the namespace's name" '"late"' "$(value namespace "$(ends json '500[0-9]{2}' | head -n 1)")"
ip netns del late
hosts=(lan router server)
device_gone() { ! ip -n router link show late0; }
check "the viewers keep no namespace that is removed" wait_until device_gone

# --- Settings that are off

# The initial namespace has not been set up for this.
check_equal "each setting that is off is told once" \
	"nf_conntrack_acct is 0 in namespace init and perhaps in others: packets and bytes are not known
nf_conntrack_timestamp is 0 in namespace init and perhaps in others: duration and begin are not known" \
	"$(sed -n 's/^rustmasq: net.netfilter.//p' "$scratch/json.said" | sort)"
check_equal "... and nothing else" "rustmasq: watching" "$(grep -v ' is 0 in ' "$scratch/json.said")"
check_equal "without --end nothing is told" "rustmasq: watching" "$(< "$scratch/none.said")"
set_conntrack acct=0 timestamp=0
check "a flow that is not counted works" test "$(probe lan UDP 203.0.113.2 53 sourceport=40004)"
end_flows
check "its end is shown" wait_until ends json 40004
check_equal "... without counts" "null null null null" \
	"$(for field in packets bytes duration begin; do value $field "$(ends json 40004)"; done | paste -sd ' ')"
check_match "... in the table, too" ' ended$' "$(grep -F 172.18.0.2:40004 "$scratch/table" | grep ended)"
set_conntrack events=0
begin_viewer off --end --json
set_conntrack events=2
check_fails "events that are off in another namespace are not told for the initial one" \
	grep -q "events is 0 in namespace init" "$scratch/off.said"
check "... but for that one" grep -q "nf_conntrack_events is 0 in namespace router" "$scratch/off.said"

done_testing
