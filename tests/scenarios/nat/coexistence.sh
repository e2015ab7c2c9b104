#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Front ends: legacy nft
# Kernels: plain
#
# RUSTMASQ works beside the other parts of the kernel that handle flows: other targets in the same table, a masquerading
# chain of nftables, a flowtable, conntrack's events, flushes (conntrack -F) and zones. Without zones, a second LAN
# with the same addresses takes the first one's answers.
#
#     lan                 router                     server
#     lan0 ------------ lan0  wan0 ---------------- eth0
#     172.18.0.2/16   172.18.0.1   203.0.113.1    203.0.113.2/24
#     172.18.0.18                  203.0.113.10
#                                  203.0.113.18
# shellcheck source-path=SCRIPTDIR source=../../lib/conversation.sh
. "$(dirname "$0")/../../lib/conversation.sh"

setup_lan
ip -n lan addr add 172.18.0.18/16 dev lan0
# The addresses that SNAT and NETMAP assign.
for address in 203.0.113.10 203.0.113.18; do ip -n router addr add $address/32 dev wan0; done

peers_start conversation.py
for port in 7 1001 1002 1003 1004; do
	peers serve server UDP 0.0.0.0 $port
	peers serve server TCP 0.0.0.0 $port
done
peers serve server UDP 0.0.0.0 9 mute
for protocol in UDP TCP; do peers serve router $protocol 0.0.0.0 2009; done

# restore_nat: replaces the router's table nat by the rules on standard input, and removes its flows.
restore_nat() {
	ns_exec router "$IPTABLES-restore" -w || bail "rules of table nat"
	ns_exec router conntrack -F 2> /dev/null
}

# rule_packets PATTERN: prints how many packets the rule of POSTROUTING that matches the pattern counted.
rule_packets() {
	ns_exec router "$IPTABLES" -w -t nat -S POSTROUTING -v | sed -nE "/$1/s/.* -c ([0-9]+) .*/\1/p"
}

# --- The same table

restore_nat <<-'END'
	*nat
	-A PREROUTING -p udp --dport 2001 -j DNAT --to-destination 203.0.113.2:7
	-A PREROUTING -p tcp --dport 2001 -j DNAT --to-destination 203.0.113.2:7
	-A PREROUTING -p udp --dport 2002 -j REDIRECT --to-ports 2009
	-A PREROUTING -p tcp --dport 2002 -j REDIRECT --to-ports 2009
	-A PREROUTING -d 198.51.100.0/24 -j NETMAP --to 203.0.113.0/24
	-A POSTROUTING -o wan0 -p udp --dport 1001 -j SNAT --to-source 203.0.113.10:5000
	-A POSTROUTING -o wan0 -p tcp --dport 1001 -j SNAT --to-source 203.0.113.10:5000
	-A POSTROUTING -o wan0 -p udp --dport 1002 -j MASQUERADE --to-ports 6000
	-A POSTROUTING -o wan0 -p tcp --dport 1002 -j MASQUERADE --to-ports 6000
	-A POSTROUTING -o wan0 -s 172.18.0.16/28 -j NETMAP --to 203.0.113.16/28
	-A POSTROUTING -o wan0 -p udp -j RUSTMASQ --to-ports 7000
	-A POSTROUTING -o wan0 -p tcp -j RUSTMASQ --to-ports 7000
	-A POSTROUTING -o wan0 -p udp -j SNAT --to-source 203.0.113.10:9000
	-A POSTROUTING -o wan0 -p tcp -j SNAT --to-source 203.0.113.10:9000
	-A POSTROUTING -o wan0 -j RUSTMASQ
	COMMIT
END
for protocol in UDP TCP; do
	check_said "$protocol: a flow that SNAT's rule matches gets SNAT's source" "203.0.113.10:5000 hello" \
		ask lan $protocol 203.0.113.2 1001 :2501 hello
	check_said "$protocol: a flow that MASQUERADE's rule matches gets MASQUERADE's source" \
		"203.0.113.1:6000 hello" \
		ask lan $protocol 203.0.113.2 1002 :2502 hello
	check_said "$protocol: a flow that NETMAP's rule matches gets NETMAP's source" "203.0.113.18:2503 hello" \
		ask lan $protocol 203.0.113.2 1003 172.18.0.18:2503 hello
	check_said "$protocol: a flow that RUSTMASQ's rule matches gets RUSTMASQ's source, though a rule with SNAT follows" \
		"203.0.113.1:7000 hello" \
		ask lan $protocol 203.0.113.2 1003 :2504 hello
	check_said "$protocol: RUSTMASQ translates a flow that DNAT translated before" "203.0.113.1:7000 hello" \
		ask lan $protocol 203.0.113.9 2001 :2505 hello
	check_said "$protocol: RUSTMASQ translates a flow whose destination NETMAP translated before" \
		"203.0.113.1:7000 hello" ask lan $protocol 198.51.100.2 1004 :2506 hello
	check_said "$protocol: a flow that REDIRECT's rule matches reaches the router with its own source" \
		"172.18.0.2:2507 hello" ask lan $protocol 203.0.113.9 2002 :2507 hello
done
check_said "ICMP: the rule without ports masquerades the echo request" "answer from 203.0.113.2" ping lan 203.0.113.2 5
check_tracked "conntrack has exactly these flows" "$(
	for protocol in udp 'tcp ESTABLISHED'; do
		[[ $protocol == udp ]] && end='' || end=' [ASSURED]'
		cat <<-END
			$protocol src=172.18.0.2 dst=203.0.113.2 sport=2501 dport=1001 src=203.0.113.2 dst=203.0.113.10 sport=1001 dport=5000$end
			$protocol src=172.18.0.2 dst=203.0.113.2 sport=2502 dport=1002 src=203.0.113.2 dst=203.0.113.1 sport=1002 dport=6000$end
			$protocol src=172.18.0.18 dst=203.0.113.2 sport=2503 dport=1003 src=203.0.113.2 dst=203.0.113.18 sport=1003 dport=2503$end
			$protocol src=172.18.0.2 dst=203.0.113.2 sport=2504 dport=1003 src=203.0.113.2 dst=203.0.113.1 sport=1003 dport=7000$end
			$protocol src=172.18.0.2 dst=203.0.113.9 sport=2505 dport=2001 src=203.0.113.2 dst=203.0.113.1 sport=7 dport=7000$end
			$protocol src=172.18.0.2 dst=198.51.100.2 sport=2506 dport=1004 src=203.0.113.2 dst=203.0.113.1 sport=1004 dport=7000$end
			$protocol src=172.18.0.2 dst=203.0.113.9 sport=2507 dport=2002 src=172.18.0.1 dst=172.18.0.2 sport=2009 dport=2507$end
		END
	done
	echo "icmp src=172.18.0.2 dst=203.0.113.2 type=8 code=0 id=5 src=203.0.113.2 dst=203.0.113.1 type=0 code=0 id=5"
)"
check_equal "the rule with SNAT after RUSTMASQ counted no packet" 0 "$(rule_packets '-p udp .*:9000')"
peers hang_up

for order in "SNAT RUSTMASQ 203.0.113.10:9000" "RUSTMASQ SNAT 203.0.113.1:7000"; do
	read -r first second source <<< "$order"
	declare -A rules=(
		[SNAT]="-A POSTROUTING -o wan0 -p udp -j SNAT --to-source 203.0.113.10:9000"
		[RUSTMASQ]="-A POSTROUTING -o wan0 -p udp -j RUSTMASQ --to-ports 7000"
	)
	restore_nat <<< "*nat"$'\n'"${rules[$first]}"$'\n'"${rules[$second]}"$'\nCOMMIT'
	check_said "the rule with $first decides if it is before $second" \
		"$source hello" ask lan UDP 203.0.113.2 7 :2510 hello
done

# --- A masquerading chain of nftables in another table

restore_nat <<-'END'
	*nat
	-A POSTROUTING -o wan0 -p udp -j RUSTMASQ --to-ports 7000
	COMMIT
END
# set_other_chain PRIORITY: makes a chain that masquerades. It comes before iptables' chain (priority 100) or after it.
set_other_chain() {
	ns_exec router nft -f - <<-END || bail "nftables' table"
		table ip other
		delete table ip other
		table ip other {
			chain after_routing {
				type nat hook postrouting priority $1;
				oifname "wan0" udp dport 7 counter masquerade to :6000
			}
		}
	END
	end_conversations
	ns_exec router "$IPTABLES" -w -t nat -Z
}
other_chain_packets() { ns_exec router nft list table ip other | sed -nE 's/.*counter packets ([0-9]+) .*/\1/p'; }

set_other_chain 90
check_said "an earlier chain of nftables decides" "203.0.113.1:6000 hello" ask lan UDP 203.0.113.2 7 :2520 hello
check_equal "RUSTMASQ's rule does not count what the earlier chain translated" \
	"1 0" "$(other_chain_packets) $(rule_packets RUSTMASQ)"
check_said "RUSTMASQ translates a flow that the earlier chain does not match" "203.0.113.1:7000 hello" \
	ask lan UDP 203.0.113.2 1001 :2521 hello
check_equal "the earlier chain and RUSTMASQ's rule counted one flow each" \
	"1 1" "$(other_chain_packets) $(rule_packets RUSTMASQ)"
set_other_chain 110
check_said "RUSTMASQ decides before a later chain of nftables" \
	"203.0.113.1:7000 hello" ask lan UDP 203.0.113.2 7 :2522 hello
check_equal "the later chain does not count what RUSTMASQ translated" \
	"0 1" "$(other_chain_packets) $(rule_packets RUSTMASQ)"
ns_exec router nft delete table ip other

# --- A flowtable

restore_nat <<-'END'
	*nat
	-A POSTROUTING -o wan0 -p udp -j RUSTMASQ --to-ports 7000-7009
	-A POSTROUTING -o wan0 -p tcp -j RUSTMASQ --to-ports 7000-7009
	COMMIT
END
ns_exec router nft -f - <<-'END' || bail "a flowtable"
	table inet fast {
		flowtable fast {
			hook ingress priority 0
			devices = { "lan0", "wan0" }
		}
		chain slow {
			type filter hook forward priority 10
			counter
		}
		chain forward {
			type filter hook forward priority 0
			meta l4proto { tcp, udp } flow add @fast
		}
	}
END
# The packets that the chain "slow" counted: those that did not take the flowtable's fast path.
slow_path_packets() { ns_exec router nft list chain inet fast slow | sed -nE 's/.*counter packets ([0-9]+) .*/\1/p'; }
is_offloaded() { ns_exec router grep -qE "^ipv4 +2 +${1,,} .* sport=$2 dport=7 .*dst=203.0.113.1 sport=7 dport=700[0-9] .*\[OFFLOAD\]" /proc/net/nf_conntrack; }

declare -A client_port=([TCP]=2530 [UDP]=2531) source=()
for protocol in TCP UDP; do
	peers open $protocol lan $protocol 203.0.113.2 7 ":${client_port[$protocol]}"
	check_said_like "$protocol, flowtable: the flow starts with a port of the range" '^203.0.113.1:700[0-9] one$' \
		say $protocol one
	source[$protocol]=${said% one}
	check_said "$protocol, flowtable: the second line arrives with the same port" \
		"${source[$protocol]} two" say $protocol two
	check "$protocol, flowtable: the flow is offloaded" \
		wait_until is_offloaded $protocol "${client_port[$protocol]}"
	check_match "$protocol, flowtable: conntrack -L shows the flow as offloaded" "\[OFFLOAD\]" \
		"$(tracked -p "${protocol,,}" --orig-port-src "${client_port[$protocol]}")"
done
before=$(slow_path_packets)
for protocol in TCP UDP; do
	check_said "$protocol, flowtable: the offloaded flow works both ways" \
		"${source[$protocol]} three" say $protocol three
	check_said "$protocol, flowtable: the offloaded flow works a second time" \
		"${source[$protocol]} four" say $protocol four
done
check_equal "the offloaded flows' packets bypass the hook forward" "$before" "$(slow_path_packets)"
ns_exec router nft delete table inet fast || bail "removing the flowtable"
for protocol in TCP UDP; do
	check_said "$protocol: the flow goes on after the flowtable was removed" \
		"${source[$protocol]} five" say $protocol five
	check_fails "$protocol: the flow is not offloaded any more" is_offloaded $protocol "${client_port[$protocol]}"
done

# --- conntrack -E and -L while new flows arrive

end_conversations
ns_start router conntrack -E -e NEW -p udp -o id -b 4194304 >> "$scratch/events" 2> "$scratch/listener"
listener=$!
# Sends the first packet of a flow. Succeeds once conntrack -E has reported such a flow.
event_is_reported() {
	peers tell lan UDP 203.0.113.2 9 :19999 knock
	peers hang_up
	ns_exec router conntrack -D -p udp --orig-port-src 19999 > /dev/null 2>&1
	grep -q sport=19999 "$scratch/events"
}
check "conntrack -E reports new flows" wait_until event_is_reported
server_counted() { peers sources server UDP 9 && [[ $said == "$1 "* ]]; }
new_events() { grep -E 'src=172.18.0.2 .* sport=2[0-9]{4} dport=9 ' "$scratch/events"; }
all_reported() { [[ $(new_events | wc -l) -ge 300 ]]; }

# make_reported_flows: makes 300 flows while conntrack -L runs. Succeeds if conntrack -E reports so many.
listings=0 wrong=0
make_reported_flows() {
	local sender
	restore_nat <<-'END'
		*nat
		-A POSTROUTING -o wan0 -p udp -j RUSTMASQ --to-ports 32768-65535
		COMMIT
	END
	: > "$scratch/events"
	peers heard server UDP 9
	ns_start lan "$tools/flows.py" 300 203.0.113.2
	sender=$!
	while kill -0 $sender 2> /dev/null; do
		tracked -p udp > "$scratch/listing"
		listings=$((listings + 1))
		wrong=$((wrong + $(grep 'dport=9 ' "$scratch/listing" |
			grep -cvE 'src=172.18.0.2 dst=203.0.113.2 sport=2[0-9]{4} dport=9 .*src=203.0.113.2 dst=203.0.113.1 sport=9 dport=[3-6][0-9]{4} ')))
		wrong=$((wrong + $(grep -oE ' id=[0-9]+' "$scratch/listing" | sort | uniq -d | wc -l)))
	done
	wait_until all_reported
}
# The kernel does not promise that an event arrives: one loss is forgiven.
make_reported_flows || {
	echo "# events of $(new_events | wc -l) of 300 flows arrived, up to $(new_events | tail -n 1); $(< "$scratch/listener")"
	ns_exec router sed "s/^/# /" /proc/net/netlink
	make_reported_flows
}
check "conntrack -L was called while new flows arrived ($listings times)" test $listings -gt 0
check_equal "conntrack -L listed no wrong tuple and no ID twice" 0 $wrong
check "conntrack -E reports each new flow" all_reported
check_equal "conntrack -E reports each new flow once" 300 "$(new_events | wc -l)"
check_equal "conntrack -E reports the tuples that RUSTMASQ chose" 300 \
	"$(new_events | grep -cE ' src=203.0.113.2 dst=203.0.113.1 sport=9 dport=[3-6][0-9]{4} ')"
check_equal "all reported reply tuples are different" 300 \
	"$(new_events | grep -oE ' dst=203.0.113.1 sport=9 dport=[0-9]+' | sort -u | wc -l)"
check_equal "conntrack -L then lists the flows that were reported" "" \
	"$(diff <(new_events | grep -oE ' id=[0-9]+' | sort) <(tracked -p udp -o id | grep 'dport=9 ' | grep -oE ' id=[0-9]+' | sort))"
check "the first packets of all flows arrive" wait_until server_counted 300
peers sources server UDP 9
check_equal "they all come from the router's address" "300 from 203.0.113.1" "$said"
kill "$listener"

# --- conntrack -F while flows are in use

restore_nat <<-'END'
	*nat
	-A POSTROUTING -o wan0 -p udp -j RUSTMASQ --to-ports 7000-7009
	-A POSTROUTING -o wan0 -p tcp -j RUSTMASQ --to-ports 8000
	COMMIT
END
end_conversations
peers open TCP lan TCP 203.0.113.2 7 :2540
peers open UDP lan UDP 203.0.113.2 7 :2541
for n in 1 2 3 4; do
	check_said "conntrack -F, round $n: the TCP connection goes on with its only port" \
		"203.0.113.1:8000 $n" say TCP $n
	check_said_like "conntrack -F, round $n: the datagrams leave with a port of their range" \
		"^203.0.113.1:700[0-9] $n$" say UDP $n
	check_match "conntrack -F, round $n: conntrack tracks the datagrams again" \
		"udp src=172.18.0.2 .* sport=2541 .* dst=203.0.113.1 sport=7 dport=700[0-9]" "$(list_conntrack)"
	ns_exec router conntrack -F 2> /dev/null
	check_tracked "conntrack -F, round $n: it removes all flows" ""
done
peers hang_up

restore_nat <<-'END'
	*nat
	-A POSTROUTING -o wan0 -p udp -j RUSTMASQ --to-ports 32768-65535
	COMMIT
END
peers heard server UDP 9
ns_start lan "$tools/flows.py" 200 203.0.113.2
sender=$! flushes=0
while kill -0 $sender 2> /dev/null; do
	ns_exec router conntrack -F 2> /dev/null
	flushes=$((flushes + 1))
done
check "conntrack -F was called while new flows arrived ($flushes times)" test $flushes -gt 0
check "conntrack -F: the first packets of all flows arrive" wait_until server_counted 200
peers sources server UDP 9
check_equal "conntrack -F: they all come from the router's address" "200 from 203.0.113.1" "$said"
check "conntrack -F: some of the flows are not tracked any more" test "$(tracked -p udp | grep -c 'dport=9 ')" -lt 200

# --- Zones: a second LAN with the same addresses

setup_ns lan2
setup_link lan2 lan0 172.18.0.2/16 router lan1 172.18.0.1/32
ip -n lan2 route add default via 172.18.0.1
# Sends packets of lan2's flows to lan2, by their mark.
ip -n router route add 172.18.0.0/16 dev lan1 table 2
ip -n router rule add fwmark 2 lookup 2
ns_exec router "$IPTABLES-restore" -w <<-'END' || bail "marks"
	*mangle
	-A PREROUTING -i lan1 -j CONNMARK --set-mark 2
	-A PREROUTING -i wan0 -j CONNMARK --restore-mark
	COMMIT
END
# set_zones RULE...: replaces the router's rules in chain PREROUTING of table raw, and ends all conversations.
set_zones() {
	printf '%s\n' "*raw" "${@/#/-A PREROUTING }" COMMIT | ns_exec router "$IPTABLES-restore" -w || bail "zones"
	end_conversations
}
restore_nat <<-'END'
	*nat
	-A POSTROUTING -p tcp -j RUSTMASQ --to-ports 32768-65535
	-A POSTROUTING -p udp -j RUSTMASQ --to-ports 32768-65535
	COMMIT
END

peers open 1 lan UDP 203.0.113.2 7 :40000
peers open 2 lan2 UDP 203.0.113.2 7 :40000
check_said "no zones: the first LAN's flow works" "203.0.113.1:40000 hello" say 1 hello
check_said "no zones: conntrack takes the second LAN's flow for the first LAN's" "203.0.113.1:40000 hello" say 2 hello
check_said "no zones: the first LAN gets no answers any more" silence vain-say 1 hello

# A zone for each LAN's original direction, and one zone for all replies: NAT gives each flow a reply tuple of its own.
set_zones "-i lan0 -j CT --zone-orig 1" "-i lan1 -j CT --zone-orig 2"
for protocol in UDP TCP; do
	for n in 1 2; do peers open $protocol$n "lan${n#1}" $protocol 203.0.113.2 7 :40000; done
	check_said "$protocol, zones for originals: the first LAN's flow works" \
		"203.0.113.1:40000 one" say ${protocol}1 one
	check_said_like "$protocol, zones for originals: the second LAN's flow works" \
		"^203.0.113.1:[0-9]+ two$" say ${protocol}2 two
	port=${said% two} port=${port#*:}
	check_port "$protocol, zones for originals: the second flow has a port of the range" 32768 65535 "$port"
	check "$protocol, zones for originals: the second flow does not have the first flow's port" \
		test "$port" != 40000
	check_said "$protocol, zones for originals: the first LAN's flow still works" \
		"203.0.113.1:40000 three" say ${protocol}1 three
	check_said "$protocol, zones for originals: the second LAN's flow still works" \
		"203.0.113.1:$port four" say ${protocol}2 four
done
check_tracked "zones for originals: conntrack has exactly these flows" "$(cat <<-'END'
	udp src=172.18.0.2 dst=203.0.113.2 sport=40000 dport=7 zone-orig=1 src=203.0.113.2 dst=203.0.113.1 sport=7 dport=40000
	udp src=172.18.0.2 dst=203.0.113.2 sport=40000 dport=7 zone-orig=2 src=203.0.113.2 dst=203.0.113.1 sport=7 dport=MOVED mark=2
	tcp ESTABLISHED src=172.18.0.2 dst=203.0.113.2 sport=40000 dport=7 zone-orig=1 src=203.0.113.2 dst=203.0.113.1 sport=7 dport=40000 [ASSURED]
	tcp ESTABLISHED src=172.18.0.2 dst=203.0.113.2 sport=40000 dport=7 zone-orig=2 src=203.0.113.2 dst=203.0.113.1 sport=7 dport=MOVED [ASSURED] mark=2
END
)"

# A zone for each LAN and an uplink of its own: both flows may have the same tuples.
setup_ns server2
setup_link server2 eth0 203.0.113.2/24 router wan1 203.0.113.1/24
ip -n router route add 203.0.113.0/24 dev wan1 table 3
ip -n router rule add iif lan1 lookup 3
ip -n router rule add iif wan1 lookup 2
for protocol in UDP TCP; do peers serve server2 $protocol 0.0.0.0 7; done
set_zones "-i lan0 -j CT --zone 1" "-i wan0 -j CT --zone 1" "-i lan1 -j CT --zone 2" "-i wan1 -j CT --zone 2"
ns_exec router "$IPTABLES" -w -t mangle -F
peers heard server UDP 7
for protocol in UDP TCP; do
	for n in 1 2; do
		peers open $protocol$n "lan${n#1}" $protocol 203.0.113.2 7 :40000
		check_said "$protocol, zones with uplinks: the flow in zone $n keeps its port" "203.0.113.1:40000 one" \
			say $protocol$n one
	done
	for n in 1 2; do
		check_said "$protocol, zones with uplinks: the flow in zone $n still works" "203.0.113.1:40000 two" \
			say $protocol$n two
	done
	check_heard "$protocol, zones with uplinks: the second LAN's flow reaches the second server" \
		"203.0.113.1:40000 one"$'\n'"203.0.113.1:40000 two" server2 $protocol 7
done
check_tracked "zones with uplinks: conntrack has exactly these flows" "$(
	for n in 1 2; do
		cat <<-END
			udp src=172.18.0.2 dst=203.0.113.2 sport=40000 dport=7 src=203.0.113.2 dst=203.0.113.1 sport=7 dport=40000 zone=$n
			tcp ESTABLISHED src=172.18.0.2 dst=203.0.113.2 sport=40000 dport=7 src=203.0.113.2 dst=203.0.113.1 sport=7 dport=40000 [ASSURED] zone=$n
		END
	done
)"

done_testing
