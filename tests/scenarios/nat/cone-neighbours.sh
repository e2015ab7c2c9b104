#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Mappings of --full-cone live beside conntrack's other users. ctnetlink's events show flows that leave by a mapping,
# and those that come in by it. `conntrack -D` and -F end flows but not the mapping. A flowtable forwards both kinds of
# flows, and NFQUEUE may hold the first packet of either. Endpoints with the same address in two zones have a mapping
# each, even at the same outside address and port.
#
#     lan                 router                     server
#     lan0 ------------ lan0  wan0 ---------------- eth0
#     172.18.0.2/16   172.18.0.1   203.0.113.1    203.0.113.2/24, .3
#     172.18.0.3
#     fd00:18::2      fd00:18::1   2001:db8:1::1  2001:db8:1::2, ::3
#     fd00:18::3
# shellcheck source-path=SCRIPTDIR source=../../lib/conversation.sh
. "$(dirname "$0")/../../lib/conversation.sh"

setup_lan
setup_lan_ipv6
ip -n lan addr add 172.18.0.3/16 dev lan0
ip -n lan addr add fd00:18::3/64 dev lan0 nodad preferred_lft 0
ip -n server addr add 203.0.113.3/24 dev eth0
ip -n server addr add 2001:db8:1::3/64 dev eth0 nodad preferred_lft 0
declare -A inside=([4]=172.18.0.2 [6]=fd00:18::2) outside=([4]=203.0.113.1 [6]=2001:db8:1::1)
declare -A server=([4]=203.0.113.2 [6]=2001:db8:1::2) stranger_address=([4]=203.0.113.3 [6]=2001:db8:1::3)
declare -A any=([4]=0.0.0.0 [6]=::)
# The same, as a port follows them.
declare -A other_inside=([4]=172.18.0.3 [6]='[fd00:18::3]') shown=([4]=203.0.113.1 [6]='[2001:db8:1::1]')
declare -A stranger=([4]=203.0.113.3 [6]='[2001:db8:1::3]')

peers_start conversation.py
for v in 4 6; do
	for protocol in UDP TCP; do peers serve server $protocol "${any[$v]}" 7; done
	peers serve lan UDP "${inside[$v]}" 4000
done
add_rule -o wan0 -j RUSTMASQ --full-cone || bail "a rule"
add_rule6 -o wan0 -j RUSTMASQ --full-cone || bail "a rule"

# go_out PORT [ADDRESS]: an inside endpoint of family $v says hello to the server. Sets `said` to the source seen there.
go_out() {
	peers ask lan UDP "${server[$v]}" 7 "${2-}:$1" hello
	said=${said% hello}
}

# check_goes_out WHAT PORT: checks that the port of the inside endpoint leaves by the same one.
check_goes_out() {
	go_out "$2"
	check_equal "IPv$v: $1" "${shown[$v]}:$2" "$said"
}

# check_comes_in WHAT [PORT [FROM]]: checks that a stranger reaches the inside endpoint by its mapping.
check_comes_in() {
	local from="${stranger[$v]}:${3:-7777}"
	check_said "IPv$v: $1" "$from knock" ask server UDP "${outside[$v]}" "${2:-4000}" "$from" knock
}

# mapping PORT: prints the mappings of the inside endpoint of family $v, a line each, without what depends on the time.
mapping() {
	ns_exec router sed -nE "s/.* inside=${inside[$v]} port=$1 (.*) device=[0-9]+ cone=full (.*) age=.*/\1 \2/p" \
		/proc/net/rustmasq_mappings | sed 's/ zone=0//' | sort
}

is_mapping() { [[ $(mapping "$1") == "$2" ]]; }

# check_mapping_of WHAT PORT FLOWS INBOUND: checks the mapping of the inside endpoint. Flows end soon after they
# are deleted.
check_mapping_of() {
	local expected="outside=${outside[$v]} outside_port=$2 flows=$3 inbound=$4"
	wait_until is_mapping "$2" "$expected"
	check_equal "IPv$v: $1" "$expected" "$(mapping "$2")"
}

# --- ctnetlink's events, conntrack -D and -F

ns_start router conntrack -E -b 4194304 > "$scratch/events" 2> "$scratch/listener"
v=4
# The subscription of conntrack(8) cannot be seen: flows begin until it shows one.
event_is_shown() {
	go_out 3999
	ns_exec router conntrack -D -p udp --orig-port-src 3999
	grep -q sport=3999 "$scratch/events"
}
check "conntrack -E shows flows" wait_until event_is_shown
# check_ct_event WHAT PATTERN: checks that conntrack -E shows such an event.
check_ct_event() { check "IPv$v: $1" wait_until grep -qE "$2" "$scratch/events"; }
# delete_flows ARGUMENT...: deletes flows of the family.
delete_flows() { ns_exec router conntrack -D -f "ipv$v" -p udp "$@" > /dev/null 2>&1; }

for v in 4 6; do
	out="src=${inside[$v]} dst=${server[$v]} sport=4000 dport=7 .*src=${server[$v]} dst=${outside[$v]} sport=7 dport=4000"
	in="src=${stranger_address[$v]} dst=${outside[$v]} sport=7777 dport=4000 .*"
	in+="src=${inside[$v]} dst=${stranger_address[$v]} sport=4000 dport=7777"
	check_goes_out "an inside endpoint keeps its port" 4000
	check_ct_event "conntrack -E shows its flow" "\[NEW\] udp .*$out"
	check_comes_in "a stranger reaches it"
	check_ct_event "conntrack -E shows the stranger's flow" "\[NEW\] udp .*$in"
	check_mapping_of "the mapping has both flows" 4000 1 1

	delete_flows --orig-port-src 4000
	check_ct_event "conntrack -D ends the flow" "\[DESTROY\] udp .*$out"
	check_mapping_of "... and the mapping has one from outside" 4000 0 1
	delete_flows --orig-port-src 7777
	check_ct_event "conntrack -D ends the stranger's flow" "\[DESTROY\] udp .*$in"
	check_mapping_of "... and the mapping has none" 4000 0 1
	check_comes_in "a stranger reaches the endpoint without a flow of its own"
	go_out 4000 "${other_inside[$v]}"
	check_match "IPv$v: another endpoint with the same port gets a port" "^${shown[$v]//[\[\]]/.}:[0-9]+\$" "$said"
	check_fails "IPv$v: ... but not the mapping's" test "$said" == "${shown[$v]}:4000"
	check_goes_out "the endpoint gets its port again" 4000
	ns_exec router conntrack -F 2> /dev/null
	check_mapping_of "conntrack -F leaves the mapping without flows" 4000 0 2
	check_comes_in "... by which a stranger still comes in"
done

# --- A flowtable

ns_exec router conntrack -F 2> /dev/null
ns_exec router nft -f - <<-END || bail "a flowtable"
	table inet fast {
		flowtable lanes { hook ingress priority 0; devices = { lan0, wan0 }; }
		chain slow {
			type filter hook forward priority 10; policy accept;
			counter
		}
		chain forward {
			type filter hook forward priority 0; policy accept;
			meta l4proto { tcp, udp } ct state established flow add @lanes
		}
	}
END
slow_packets() { ns_exec router nft list chain inet fast slow | sed -nE 's/.*counter packets ([0-9]+) .*/\1/p'; }
# in_flowtable COUNT: succeeds if so many flows are in the flowtable.
in_flowtable() { [[ $(ns_exec router grep -c OFFLOAD /proc/net/nf_conntrack) == "$1" ]]; }
names=()
for v in 4 6; do
	for protocol in UDP TCP; do
		peers open "out$v$protocol" lan $protocol "${server[$v]}" 7 :4001
		names+=("out$v$protocol")
		[[ $protocol == UDP ]] || peers serve lan TCP "${inside[$v]}" 4001
		[[ $protocol == TCP ]] || peers serve lan UDP "${inside[$v]}" 4001
		for word in one two; do
			check_said "IPv$v, $protocol: a flow leaves by its mapping" "${shown[$v]}:4001 $word" say "out$v$protocol" $word
		done
		peers open "in$v$protocol" server $protocol "${outside[$v]}" 4001 "${stranger[$v]}:7001"
		names+=("in$v$protocol")
		for word in one two; do
			check_said "IPv$v, $protocol: a flow comes in by the mapping" "${stranger[$v]}:7001 $word" \
				say "in$v$protocol" $word
		done
	done
done
check "all flows are in the flowtable" wait_until in_flowtable 8
before=$(slow_packets)
for name in "${names[@]}"; do
	peers say "$name" three
	check_match "flow ${name}: it goes on" " three\$" "$said"
done
check_equal "the packets bypass the hook forward" "$before" "$(slow_packets)"
for v in 4 6; do
	check_equal "IPv$v: the mappings of UDP and TCP have their flows" \
		"$(printf 'outside=%s outside_port=4001 flows=1 inbound=1\n' "${outside[$v]}" "${outside[$v]}")" \
		"$(mapping 4001)"
done
peers hang_up
ns_exec router nft delete table inet fast
ns_exec router conntrack -F 2> /dev/null

# --- NFQUEUE

: > "$scratch/queue"
ns_start router "$tools/nfqueue.py" 7 > "$scratch/queue"
queue=${servers[-1]}
wait_until grep -q ready "$scratch/queue" || bail "no queue"
# set_queue -A|-D: adds or removes rules that send the first packets of flows with port 4002 to the queue, before NAT.
set_queue() {
	for program in "$IPTABLES" "$IP6TABLES"; do
		ns_exec router "$program" -w -t mangle "$1" POSTROUTING -p udp -m multiport --ports 4002 \
			-m conntrack --ctstate NEW -j NFQUEUE --queue-num 7 || bail "NFQUEUE"
	done
}
holds() { [[ $(grep -c '^held' "$scratch/queue") == "$1" ]]; }
count=0
set_queue -A
for v in 4 6; do
	peers serve lan UDP "${inside[$v]}" 4002
	for direction in out in; do
		if [[ $direction == out ]]; then
			peers open queued lan UDP "${server[$v]}" 7 :4002
			source=${shown[$v]}:4002
		else
			source=${stranger[$v]}:7002
			peers open queued server UDP "${outside[$v]}" 4002 "$source"
		fi
		count=$((count + 1))
		check_said "IPv$v, $direction: NFQUEUE holds the first packet" silence vain-say queued hello
		wait_until holds $count || not_ok "IPv$v, $direction: it is held" "$(< "$scratch/queue")"
		kill -USR1 "$queue"
		check_said "IPv$v, $direction: ... and lets it go on by the mapping" "$source hello" hear queued
		check_said "IPv$v, $direction: ... and the next one" "$source again" say queued again
		peers hang_up queued
	done
	check_mapping_of "the mapping has both flows" 4002 1 1
done
set_queue -D

# --- Zones: a second network with the same addresses, which the same router connects

setup_ns lan2 server2
setup_link lan2 lan0 172.18.0.2/16 router lan1 172.18.0.1/16
setup_link server2 eth0 203.0.113.2/24 router wan1 203.0.113.1/24
ip -n lan2 -batch - <<-END
	addr add fd00:18::2/64 dev lan0 nodad
	route add default via 172.18.0.1
	route add default via fd00:18::1
END
ip -n server2 -batch - <<-END
	addr add 203.0.113.3/24 dev eth0
	addr add 2001:db8:1::2/64 dev eth0 nodad
	addr add 2001:db8:1::3/64 dev eth0 nodad preferred_lft 0
END
ip -n router -batch - <<-END || bail "the second network's routes"
	addr add fd00:18::1/64 dev lan1 nodad
	addr add 2001:db8:1::1/64 dev wan1 nodad
	route add 172.18.0.0/16 dev lan1 table 2
	route add 203.0.113.0/24 dev wan1 table 2
	route add fd00:18::/64 dev lan1 table 2
	route add 2001:db8:1::/64 dev wan1 table 2
END
for version in -4 -6; do
	for device in lan1 wan1; do ip -n router $version rule add iif $device lookup 2; done
done
add_rule -o wan1 -j RUSTMASQ --full-cone || bail "a rule"
add_rule6 -o wan1 -j RUSTMASQ --full-cone || bail "a rule"
for program in "$IPTABLES" "$IP6TABLES"; do
	ns_exec router "$program-restore" -w <<-'END' || bail "zones"
		*raw
		-A PREROUTING -i lan0 -j CT --zone 1
		-A PREROUTING -i wan0 -j CT --zone 1
		-A PREROUTING -i lan1 -j CT --zone 2
		-A PREROUTING -i wan1 -j CT --zone 2
		COMMIT
	END
done

for v in 4 6; do
	for n in "" 2; do
		peers serve server$n UDP "${any[$v]}" 8
		peers serve lan$n UDP "${inside[$v]}" 4003
		check_said "IPv$v, zones: the endpoint of lan$n keeps its port" "${shown[$v]}:4003 lan$n" \
			ask lan$n UDP "${server[$v]}" 8 :4003 "lan$n"
	done
	for n in "" 2; do
		check_said "IPv$v, zones: a stranger reaches an endpoint from server$n" "${stranger[$v]}:7003 server$n" \
			ask server$n UDP "${outside[$v]}" 4003 "${stranger[$v]}:7003" "server$n"
		check_heard "IPv$v, zones: ... that of lan$n" "${stranger[$v]}:7003 server$n" lan$n UDP 4003
	done
	check_equal "IPv$v, zones: the endpoints have a mapping each" \
		"$(printf "outside=${outside[$v]} outside_port=4003 zone=%d flows=1 inbound=1\n" 1 2)" "$(mapping 4003)"
done

done_testing
