#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# CPUs: 2
#
# Mappings of --full-cone are made, used and ended by two CPUs at the same time, by two rules: no endpoint gets two, no
# port belongs to two, and no packet is lost. So it is while conntrack's table is flushed and others send to the mappings
# from outside; afterwards no flow is counted that is gone. Thousands of mappings go with their address. The module can be
# unloaded, and namespaces removed, with mappings and flows from outside. The full effort is 100 rounds.
#
#     lan 172.18.0.2 ------ lan0 172.18.0.1  router  wan0 203.0.113.1 ----- eth0  server
#     lan2 172.19.0.2 ----- lan2 172.19.0.1               198.51.100.1      203.0.113.2
#
# Other addresses of 10.1.0.0/16 and 10.2.0.0/16 are used as sources of packets that nobody answers.
. "$(dirname "$0")/../../lib/lib.sh"
# shellcheck source-path=SCRIPTDIR source=../../lib/leaks.sh
. "$(dirname "$0")/../../lib/leaks.sh"

[[ -e /sys/devices/system/cpu/cpu1 ]] || skip_all "this needs two CPUs"
rounds=$(scaled 100)
pairs=$((rounds * 200 / slow))
((pairs <= 10000)) || pairs=10000

modprobe -a nf_conntrack nf_conntrack_netlink pktgen || bail "modules"
limit=/proc/sys/net/netfilter/nf_conntrack_max
limit_before=$(< $limit)
trap '[[ ! -e $limit ]] || echo "$limit_before" > $limit; cleanup' EXIT
echo 262144 > $limit

setup_lan
setup_ns lan2
setup_link lan2 lan0 172.19.0.2/24 router lan2 172.19.0.1/24
ip -n lan2 route add default via 172.19.0.1
setup_device router wan0 198.51.100.1/24
# An address that nobody has, for flows that leave with the other outside address.
nobody=198.51.100.9
for name in "lan 172.18.0.1" "lan2 172.19.0.1" "router 203.0.113.2"; do
	ns_exec "${name% *}" ping -q -c 1 -W 5 "${name#* }" > /dev/null || bail "ping ${name#* } from ${name% *}"
done
# mac_of HOST DEVICE: prints its MAC address.
mac_of() { ip -n "$1" -br link show "$2" | awk '{ print $3 }'; }
ip -n router -batch - <<< "route add 10.1.0.0/16 via 172.18.0.2
	route add 10.2.0.0/16 via 172.19.0.2"
ip -n router neigh replace $nobody lladdr "$(mac_of server eth0)" dev wan0 nud permanent
# The server counts what comes from the sources that nobody answers, and the LAN's host what strangers send to these.
ns_exec server "$IPTABLES" -w -t raw -A PREROUTING -p udp -d 203.0.113.2 --dport 5000:5999 -j DROP || bail "a counter"
ns_exec lan "$IPTABLES" -w -t raw -A PREROUTING -d 10.1.0.0/16 -j DROP || bail "a counter"
# dropped_at HOST: prints the count.
dropped_at() { ns_exec "$1" "$IPTABLES" -w -t raw -nvxL PREROUTING | awk '$3 == "DROP" { print $1 }'; }

# Conntrack stays on when our rules go, as it does with any other rule that needs it.
ns_exec router "$IPTABLES" -w -A FORWARD -m conntrack --ctstate INVALID || bail "a rule with -m conntrack"

# two_rules: replaces the rules by two. Their mappings share the outside ports.
two_rules() {
	flush_rules
	add_rule -o wan0 -s 10.2.0.0/16 -p udp -j RUSTMASQ --full-cone --to-ports 2000-61999 || bail "a rule"
	add_rule -o wan0 -j RUSTMASQ --full-cone || bail "a rule"
}
list_mapped() { ns_exec router cat /proc/net/rustmasq_mappings; }
# count_mapped: prints how many mappings there are, how many inside endpoints they have, and how many outside ones.
count_mapped() {
	list_mapped | awk '!inside[$2 " " $3]++ { i++ } !outside[$4 " " $5]++ { o++ } END { print NR, i + 0, o + 0 }'
}
none_is_left() { [[ ! $(list_mapped) ]]; }
# no_flow_is_counted: flushes conntrack's table, and succeeds if no mapping has a flow then.
no_flow_is_counted() {
	ns_exec router conntrack -F
	! list_mapped | grep -qv ' flows=0 '
}

# end_mappings: ends all mappings of the first outside address, and all flows.
end_mappings() {
	ip -n router addr del 203.0.113.1/24 dev wan0
	wait_until none_is_left || not_ok "mappings end with their address" "$(list_mapped | head -n 3)"
	setup_device router wan0 203.0.113.1/24
	ns_exec router conntrack -F 2> /dev/null
}

# send_udp HOST COUNT TARGET MAC COMMAND...: sends so many UDP packets by the kernel's packet generator.
send_udp() {
	local line device=lan0
	[[ $1 != server ]] || device=eth0
	while read -r line; do
		ns_exec "$1" tee "/proc/net/pktgen/${line%% *}" <<< "${line#* }" > /dev/null || bail "pktgen: $line"
	done <<-END
		kpktgend_1 rem_device_all
		kpktgend_1 add_device $device
		$device dst_mac $4
		$device dst $3
		$device count $2
		$(printf "$device %s\n" "${@:5}")
		pgctrl start
		kpktgend_1 rem_device_all
	END
}
to_server=$(mac_of router lan0) from_server=$(mac_of router wan0)

# send_pairs KIND PAIRS: two CPUs send pairs of packets (races.py). Sets `reached` to how many reach the server.
send_pairs() {
	local before
	before=$(dropped_at server)
	"$tools/races.py" "$1" "$2" lan,lan2 203.0.113.2 || not_ok "pairs of packets were sent"
	reached=$(($(dropped_at server) - before))
}

# --- Two CPUs make mappings

two_rules
for kind in "server two endpoints that want the same port" "port other pairs of endpoints" "flow two packets of one flow"; do
	what="${kind#* }"
	kind=${kind%% *}
	send_pairs "$kind" "$pairs"
	count=$((2 * pairs))
	[[ $kind != flow ]] || count=$pairs
	check_equal "$pairs times $what: all packets arrive" $((2 * pairs)) "$reached"
	check_equal "... there is a mapping for each endpoint, with a port of its own" "$count $count $count" "$(count_mapped)"
	end_mappings
done

# --- They end meanwhile, and others send to them

# flush_all_the_time: flushes conntrack's table, until it is ended.
flush_all_the_time() { while :; do ns_exec router conntrack -F; done 2> /dev/null; }
# send_inwards_all_the_time: sends to the ports that the pairs get, until it is ended.
send_inwards_all_the_time() {
	while :; do
		send_udp server $((4000 / slow)) 203.0.113.1 "$from_server" "flag UDPSRC_RND" "udp_src_min 1024" \
			"udp_src_max 65000" "udp_dst_min 2000" "udp_dst_max $((2000 + pairs))"
	done
}
flush_all_the_time &
meanwhile=($!)
send_inwards_all_the_time > "$scratch/inwards" &
meanwhile+=($!)
for ((n = 0; n < 3; n++)); do send_pairs port $pairs; done
kill "${meanwhile[@]}"
wait "${meanwhile[@]}" 2> /dev/null
check_equal "flushes and strangers: there is a mapping for each endpoint, with a port of its own" \
	"$((2 * pairs)) $((2 * pairs)) $((2 * pairs))" "$(count_mapped)"
check "... strangers reached them" test "$(dropped_at lan)" -gt 0
wait_until no_flow_is_counted
check_equal "... with all flows gone, none is counted" "" "$(list_mapped | grep -v ' flows=0 ' | head -n 5)"
end_mappings

# --- A thousand mappings are made and dropped in each round

many=$((1000 / slow))
begin=$EPOCHREALTIME
for ((n = 0, made = 0; n < rounds; n++)); do
	send_udp lan $many $nobody "$to_server" "src_min 10.1.1.1" "src_max 10.1.1.1" "udp_src_min 10000" \
		"udp_src_max $((10000 + many))" "udp_dst_min 9" "udp_dst_max 9"
	((made += $(list_mapped | grep -c outside=198.51.100.1)))
	ip -n router addr del 198.51.100.1/24 dev wan0
	wait_until none_is_left || not_ok "round $n: mappings are left" "$(list_mapped | head -n 3)"
	ip -n router addr add 198.51.100.1/24 dev wan0
	ns_exec router conntrack -F 2> /dev/null
done
check_equal "$rounds times $many mappings were made, and went with their address" $((rounds * many)) $made
echo "# in $(awk -v from="$begin" -v to="$EPOCHREALTIME" 'BEGIN { print to - from }') s"

# --- The module goes with mappings and flows from outside

# with_a_flow_from_outside: loads the module and lets the server ask the client by its mapping.
with_a_flow_from_outside() {
	two_rules
	send_udp lan 1 203.0.113.2 "$to_server" "src_min 172.18.0.2" "src_max 172.18.0.2" "udp_src_min 4000" \
		"udp_src_max 4000" "udp_dst_min 5000" "udp_dst_max 5000"
	[[ $(ask_client) == 203.0.113.2:7777 ]]
}
ask_client() { probe server UDP 203.0.113.1 4000 sourceport=7777,reuseaddr; }

serve lan UDP 4000 172.18.0.2
failed=0 kept=0
count=$(((rounds + 4) / 5))
for ((n = 0; n < count; n++)); do
	with_a_flow_from_outside || not_ok "round $n: a flow from outside"
	send_udp server $((2000 / slow)) 203.0.113.1 "$from_server" "flag UDPSRC_RND" "udp_src_min 1024" "udp_src_max 65000" \
		"udp_dst_min 4000" "udp_dst_max 4000" &
	ns_exec router "$IPTABLES" -w -t nat -F
	wait_until unload_module || ((failed++))
	wait $!
	[[ $(ask_client) == 203.0.113.2:7777 ]] && ((kept++))
	ns_exec router conntrack -F 2> /dev/null
done
check_equal "$count times, the module goes with mappings and flows from outside" 0 $failed
check_equal "... whose flows in the table go on" "$count" $kept

# --- Namespaces go with mappings

# try_namespace: makes a router with mappings and removes it, while further packets come. Prints what fails.
try_namespace() {
	local sending
	ip netns add gone
	ip -n lan link add to-gone type veth peer name lan0 netns gone
	ip -n lan -batch - <<< "addr add 10.7.0.2/24 dev to-gone
		link set to-gone up
		route add 10.8.0.0/24 via 10.7.0.1"
	ip -n gone -batch - <<< "link add wan0 type dummy
		addr add 203.0.113.1/24 dev wan0
		addr add 10.7.0.1/24 dev lan0
		link set wan0 up
		link set lan0 up
		route add default dev wan0"
	enable_forwarding gone
	ns_exec gone "$IPTABLES" -w -t nat -A POSTROUTING -o wan0 -j RUSTMASQ --full-cone || echo "no rule"
	ns_exec lan ping -q -c 1 -W 5 10.7.0.1 > /dev/null || echo "no neighbour"
	ns_exec lan "$tools/flows.py" 50 10.8.0.2 || echo "no flows"
	[[ $(ns_exec gone grep -c . /proc/net/rustmasq_mappings) == 50 ]] || echo "no 50 mappings"
	ns_exec lan "$tools/flows.py" --first-port 20000 2000 10.8.0.3 &
	sending=$!
	ip netns del gone
	wait $sending
} 2> /dev/null
count=$(((rounds + 4) / 5))
check_equal "$count times, a namespace goes with its mappings" "" "$(for ((n = 0; n < count; n++)); do try_namespace; done)"
modprobe -r pktgen
check_nothing_left

done_testing
