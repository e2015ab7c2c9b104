#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Front ends: legacy nft
#
# Beside whatever else the kernel does with flows: other targets in the same table,
# nftables' masquerading in another, a flowtable, conntrack's events, its emptying,
# and its zones.
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
# What SNAT and NETMAP give.
for address in 203.0.113.10 203.0.113.18; do ip -n router addr add $address/32 dev wan0; done

peers_start conversation.py
for port in 7 1001 1002 1003 1004; do
	peers serve server UDP 0.0.0.0 $port
	peers serve server TCP 0.0.0.0 $port
done
peers serve server UDP 0.0.0.0 9 mute
for protocol in UDP TCP; do peers serve router $protocol 0.0.0.0 2009; done

restore_nat() {
	ns_exec router "$IPTABLES-restore" -w || bail "rules of table nat"
	ns_exec router conntrack -F 2> /dev/null
}

# packets PATTERN: how many the rule of POSTROUTING that matches it counted, by iptables.
packets() {
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
	check_said "$protocol: SNAT's flow gets SNAT's source" "203.0.113.10:5000 hello" \
		ask lan $protocol 203.0.113.2 1001 :2501 hello
	check_said "... MASQUERADE's gets MASQUERADE's" "203.0.113.1:6000 hello" ask lan $protocol 203.0.113.2 1002 :2502 hello
	check_said "... NETMAP's gets NETMAP's" "203.0.113.18:2503 hello" \
		ask lan $protocol 203.0.113.2 1003 172.18.0.18:2503 hello
	check_said "... RUSTMASQ's gets its own, though SNAT stands behind it" "203.0.113.1:7000 hello" \
		ask lan $protocol 203.0.113.2 1003 :2504 hello
	check_said "... after DNAT, RUSTMASQ's as well" "203.0.113.1:7000 hello" ask lan $protocol 203.0.113.9 2001 :2505 hello
	check_said "... after NETMAP too" "203.0.113.1:7000 hello" ask lan $protocol 198.51.100.2 1004 :2506 hello
	check_said "... REDIRECT's stays here, as it came" "172.18.0.2:2507 hello" ask lan $protocol 203.0.113.9 2002 :2507 hello
done
check_said "ICMP: the rule without ports" "answer from 203.0.113.2" ping lan 203.0.113.2 5
check_tracked "conntrack has each of these, and nothing else" "$(
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
check_equal "SNAT behind RUSTMASQ saw nothing" 0 "$(packets '-p udp .*:9000')"
peers hang_up

for order in "SNAT RUSTMASQ 203.0.113.10:9000" "RUSTMASQ SNAT 203.0.113.1:7000"; do
	read -r first second source <<< "$order"
	declare -A rules=(
		[SNAT]="-A POSTROUTING -o wan0 -p udp -j SNAT --to-source 203.0.113.10:9000"
		[RUSTMASQ]="-A POSTROUTING -o wan0 -p udp -j RUSTMASQ --to-ports 7000"
	)
	restore_nat <<< "*nat"$'\n'"${rules[$first]}"$'\n'"${rules[$second]}"$'\nCOMMIT'
	check_said "$first above $second decides" "$source hello" ask lan UDP 203.0.113.2 7 :2510 hello
done

# --- nftables' masquerading in a table of its own

restore_nat <<-'END'
	*nat
	-A POSTROUTING -o wan0 -p udp -j RUSTMASQ --to-ports 7000
	COMMIT
END
# other PRIORITY: a chain that masquerades, before ours or after it.
other() {
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
other_packets() { ns_exec router nft list table ip other | sed -nE 's/.*counter packets ([0-9]+) .*/\1/p'; }

other 90
check_said "an earlier chain of nftables' is the one that decides" "203.0.113.1:6000 hello" ask lan UDP 203.0.113.2 7 :2520 hello
check_equal "... and RUSTMASQ is not even asked" "1 0" "$(other_packets) $(packets RUSTMASQ)"
check_said "... except for what the other leaves alone" "203.0.113.1:7000 hello" ask lan UDP 203.0.113.2 1001 :2521 hello
check_equal "... of which each counts its own" "1 1" "$(other_packets) $(packets RUSTMASQ)"
other 110
check_said "a later chain comes too late" "203.0.113.1:7000 hello" ask lan UDP 203.0.113.2 7 :2522 hello
check_equal "... and is not asked" "0 1" "$(other_packets) $(packets RUSTMASQ)"
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
slowly() { ns_exec router nft list chain inet fast slow | sed -nE 's/.*counter packets ([0-9]+) .*/\1/p'; }
is_offloaded() { ns_exec router grep -qE "^ipv4 +2 +${1,,} .* sport=$2 dport=7 .*dst=203.0.113.1 sport=7 dport=700[0-9] .*\[OFFLOAD\]" /proc/net/nf_conntrack; }

declare -A own=([TCP]=2530 [UDP]=2531) source=()
for protocol in TCP UDP; do
	peers open $protocol lan $protocol 203.0.113.2 7 ":${own[$protocol]}"
	check_said_like "$protocol and a flowtable: the flow begins with a port of the range" '^203.0.113.1:700[0-9] one$' \
		say $protocol one
	source[$protocol]=${said% one}
	check_said "... says more" "${source[$protocol]} two" say $protocol two
	check "... and is offloaded" wait_until is_offloaded $protocol "${own[$protocol]}"
	check_match "... as conntrack -L says too" "\[OFFLOAD\]" "$(tracked -p "${protocol,,}" --orig-port-src "${own[$protocol]}")"
done
before=$(slowly)
for protocol in TCP UDP; do
	check_said "$protocol: it works on, both ways" "${source[$protocol]} three" say $protocol three
	check_said "... and on" "${source[$protocol]} four" say $protocol four
done
check_equal "... past the chain forward" "$before" "$(slowly)"
ns_exec router nft delete table inet fast || bail "removing the flowtable"
for protocol in TCP UDP; do
	check_said "$protocol: without the flowtable it goes on as well" "${source[$protocol]} five" say $protocol five
	check_fails "... and is not offloaded any more" is_offloaded $protocol "${own[$protocol]}"
done

# --- conntrack -E and -L while flows come

end_conversations
ns_start router conntrack -E -e NEW -p udp -o id -b 4194304 > "$scratch/events" 2> /dev/null
listener=$!
knock() {
	peers tell lan UDP 203.0.113.2 9 :19999 knock
	peers hang_up
	ns_exec router conntrack -D -p udp --orig-port-src 19999 > /dev/null 2>&1
	grep -q sport=19999 "$scratch/events"
}
check "conntrack -E hears of new flows" wait_until knock
restore_nat <<-'END'
	*nat
	-A POSTROUTING -o wan0 -p udp -j RUSTMASQ --to-ports 32768-65535
	COMMIT
END
peers heard server UDP 9
ns_start lan "$tools/flows.py" 300 203.0.113.2
flood=$!
looks=0 bad=0
while kill -0 $flood 2> /dev/null; do
	tracked -p udp > "$scratch/looked"
	looks=$((looks + 1))
	bad=$((bad + $(grep 'dport=9 ' "$scratch/looked" |
		grep -cvE 'src=172.18.0.2 dst=203.0.113.2 sport=2[0-9]{4} dport=9 .*src=203.0.113.2 dst=203.0.113.1 sport=9 dport=[3-6][0-9]{4} ')))
	bad=$((bad + $(grep -oE ' id=[0-9]+' "$scratch/looked" | sort | uniq -d | wc -l)))
done
check "conntrack -L was called meanwhile ($looks times)" test $looks -gt 0
check_equal "... and said nothing wrong" 0 $bad
server_counted() { peers sources server UDP 9 && [[ $said == "$1 "* ]]; }
news() { grep -E 'src=172.18.0.2 .* sport=2[0-9]{4} dport=9 ' "$scratch/events"; }
all_heard() { [[ $(news | wc -l) -ge 300 ]]; }
check "conntrack -E tells of each new flow" wait_until all_heard
check_equal "... once" 300 "$(news | wc -l)"
check_equal "... with tuples of RUSTMASQ's" 300 "$(news | grep -cE ' src=203.0.113.2 dst=203.0.113.1 sport=9 dport=[3-6][0-9]{4} ')"
check_equal "... that are all different" 300 "$(news | grep -oE ' dst=203.0.113.1 sport=9 dport=[0-9]+' | sort -u | wc -l)"
check_equal "... and of flows that conntrack -L lists afterwards" "" \
	"$(diff <(news | grep -oE ' id=[0-9]+' | sort) <(tracked -p udp -o id | grep 'dport=9 ' | grep -oE ' id=[0-9]+' | sort))"
check "all arrive" wait_until server_counted 300
peers sources server UDP 9
check_equal "... from the router" "300 from 203.0.113.1" "$said"
kill "$listener"

# --- conntrack -F while flows live

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
	check_said "conntrack -F, $n: the connection goes on from its one port" "203.0.113.1:8000 $n" say TCP $n
	check_said_like "... the datagrams from any of their range" "^203.0.113.1:700[0-9] $n$" say UDP $n
	check_match "... as conntrack has it" "udp src=172.18.0.2 .* sport=2541 .* dst=203.0.113.1 sport=7 dport=700[0-9]" "$(list_conntrack)"
	ns_exec router conntrack -F 2> /dev/null
	check_tracked "... until it is emptied" ""
done
peers hang_up

restore_nat <<-'END'
	*nat
	-A POSTROUTING -o wan0 -p udp -j RUSTMASQ --to-ports 32768-65535
	COMMIT
END
peers heard server UDP 9
ns_start lan "$tools/flows.py" 200 203.0.113.2
flood=$! flushes=0
while kill -0 $flood 2> /dev/null; do
	ns_exec router conntrack -F 2> /dev/null
	flushes=$((flushes + 1))
done
check "conntrack -F as new flows come ($flushes times)" test $flushes -gt 0
check "... all arrive" wait_until server_counted 200
peers sources server UDP 9
check_equal "... from the router's address" "200 from 203.0.113.1" "$said"
check "... though not each is remembered" test "$(tracked -p udp | grep -c 'dport=9 ')" -lt 200

# --- Zones: another LAN, with the same addresses

setup_ns lan2
setup_link lan2 lan0 172.18.0.2/16 router lan1 172.18.0.1/32
ip -n lan2 route add default via 172.18.0.1
# What belongs to lan2's flows goes there.
ip -n router route add 172.18.0.0/16 dev lan1 table 2
ip -n router rule add fwmark 2 lookup 2
ns_exec router "$IPTABLES-restore" -w <<-'END' || bail "marks"
	*mangle
	-A PREROUTING -i lan1 -j CONNMARK --set-mark 2
	-A PREROUTING -i wan0 -j CONNMARK --restore-mark
	COMMIT
END
# zones RULE...: of table raw's chain PREROUTING.
zones() {
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
check_said "two LANs with the same addresses: the first one's flow works" "203.0.113.1:40000 hello" say 1 hello
check_said "without zones, the other's is taken for the same" "203.0.113.1:40000 hello" say 2 hello
check_said "... and takes the first one's answers away" silence vain-say 1 hello

# For the questions a zone each, for the answers one for all: NAT tells them apart.
zones "-i lan0 -j CT --zone-orig 1" "-i lan1 -j CT --zone-orig 2"
for protocol in UDP TCP; do
	for n in 1 2; do peers open $protocol$n "lan${n#1}" $protocol 203.0.113.2 7 :40000; done
	check_said "$protocol, zones for questions: the first flow works" "203.0.113.1:40000 one" say ${protocol}1 one
	check_said_like "... the other one, too" "^203.0.113.1:[0-9]+ two$" say ${protocol}2 two
	port=${said% two} port=${port#*:}
	check_port "... from another port of the range" 32768 65535 "$port"
	check "... not from the same" test "$port" != 40000
	check_said "... and again the first" "203.0.113.1:40000 three" say ${protocol}1 three
	check_said "... and the other" "203.0.113.1:$port four" say ${protocol}2 four
done
check_tracked "... conntrack has them by their zones" "$(cat <<-'END'
	udp src=172.18.0.2 dst=203.0.113.2 sport=40000 dport=7 zone-orig=1 src=203.0.113.2 dst=203.0.113.1 sport=7 dport=40000
	udp src=172.18.0.2 dst=203.0.113.2 sport=40000 dport=7 zone-orig=2 src=203.0.113.2 dst=203.0.113.1 sport=7 dport=MOVED mark=2
	tcp ESTABLISHED src=172.18.0.2 dst=203.0.113.2 sport=40000 dport=7 zone-orig=1 src=203.0.113.2 dst=203.0.113.1 sport=7 dport=40000 [ASSURED]
	tcp ESTABLISHED src=172.18.0.2 dst=203.0.113.2 sport=40000 dport=7 zone-orig=2 src=203.0.113.2 dst=203.0.113.1 sport=7 dport=MOVED [ASSURED] mark=2
END
)"

# A zone for each LAN and its own uplink: all that is the same may stay so.
setup_ns server2
setup_link server2 eth0 203.0.113.2/24 router wan1 203.0.113.1/24
ip -n router route add 203.0.113.0/24 dev wan1 table 3
ip -n router rule add iif lan1 lookup 3
ip -n router rule add iif wan1 lookup 2
for protocol in UDP TCP; do peers serve server2 $protocol 0.0.0.0 7; done
zones "-i lan0 -j CT --zone 1" "-i wan0 -j CT --zone 1" "-i lan1 -j CT --zone 2" "-i wan1 -j CT --zone 2"
ns_exec router "$IPTABLES" -w -t mangle -F
peers heard server UDP 7
for protocol in UDP TCP; do
	for n in 1 2; do
		peers open $protocol$n "lan${n#1}" $protocol 203.0.113.2 7 :40000
		check_said "$protocol, zones with an uplink each: the flow of zone $n keeps its port" "203.0.113.1:40000 one" \
			say $protocol$n one
	done
	for n in 1 2; do check_said "... and works on in zone $n" "203.0.113.1:40000 two" say $protocol$n two; done
	check_heard "... the second one's server is the second" "203.0.113.1:40000 one"$'\n'"203.0.113.1:40000 two" server2 $protocol 7
done
check_tracked "... conntrack has each in its zone" "$(
	for n in 1 2; do
		cat <<-END
			udp src=172.18.0.2 dst=203.0.113.2 sport=40000 dport=7 src=203.0.113.2 dst=203.0.113.1 sport=7 dport=40000 zone=$n
			tcp ESTABLISHED src=172.18.0.2 dst=203.0.113.2 sport=40000 dport=7 src=203.0.113.2 dst=203.0.113.1 sport=7 dport=40000 [ASSURED] zone=$n
		END
	done
)"

done_testing
