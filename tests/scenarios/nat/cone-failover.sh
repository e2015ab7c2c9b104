#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Kernels: plain
#
# conntrackd tells a second router of the flows of the first one, both with --full-cone --random. When the second takes
# over the addresses, flows go on with their ports. Mappings are not conntrackd's: the second router makes them with the
# endpoints' next flows, which get other ports.
#
#     lan                 switches   r1, r2                   switches   server
#     172.18.0.2/16 ------ inner --- lan0  wan0 -------------- outer --- 203.0.113.2/24, .3
#                                    sync0 192.0.2.1, .2/30
#     The active router has 172.18.0.1 and 203.0.113.1.
# shellcheck source-path=SCRIPTDIR source=../../lib/conversation.sh
. "$(dirname "$0")/../../lib/conversation.sh"

modprobe bridge || bail "bridges"
setup_ns lan r1 r2 server switches
for name in inner outer; do setup_device switches $name - "link add $name type bridge"; done
# plug HOST DEVICE ADDRESS BRIDGE: connects a host's device to a bridge.
plug() {
	setup_link "$1" "$2" "$3" switches "$1-$2" -
	ip -n switches link set "$1-$2" master "$4" || bail "bridge $4"
}
plug lan lan0 172.18.0.2/16 inner
plug server eth0 203.0.113.2/24 outer
ip -n server addr add 203.0.113.3/24 dev eth0
ip -n lan route add default via 172.18.0.1
for router in r1 r2; do
	plug $router lan0 - inner
	plug $router wan0 - outer
	enable_forwarding $router
	ns_exec $router "$IPTABLES" -w -t nat -A POSTROUTING -o wan0 -j RUSTMASQ --full-cone --random ||
		bail "a rule of $router"
done
setup_link r1 sync0 192.0.2.1/30 r2 sync0 192.0.2.2/30

# activate ROUTER: gives it the addresses.
activate() {
	ip -n "$1" addr add 172.18.0.1/16 dev lan0
	ip -n "$1" addr add 203.0.113.1/24 dev wan0
	ip -n lan neigh flush all
	ip -n server neigh flush all
}

# start_conntrackd ROUTER ADDRESS PEER: starts conntrackd, which sends the router's flows to its peer.
start_conntrackd() {
	cat > "$scratch/$1.conf" <<-END
		Sync {
			Mode NOTRACK {
			}
			UDP {
				IPv4_address $2
				IPv4_Destination_Address $3
				Port 3780
				Interface sync0
				Checksum on
			}
		}
		General {
			HashSize 1024
			HashLimit 8192
			LogFile $scratch/$1.log
			Syslog off
			LockFile $scratch/$1.lock
			UNIX {
				Path $scratch/$1.ctl
			}
		}
	END
	ns_start "$1" conntrackd -C "$scratch/$1.conf" > "$scratch/$1.out" 2>&1
	wait_until conntrackd_says "$1" -i || bail "conntrackd: $(cat "$scratch/$1.out" "$scratch/$1.log")"
}
conntrackd_says() { ns_exec "$1" conntrackd -C "$scratch/$1.conf" "${@:2}"; }
activate r1
start_conntrackd r1 192.0.2.1 192.0.2.2
start_conntrackd r2 192.0.2.2 192.0.2.1

peers_start conversation.py
for port in 7 8; do peers serve server UDP 0.0.0.0 $port; done
peers serve lan UDP 172.18.0.2 4000

peers open flow lan UDP 203.0.113.2 7 :4000
peers say flow one
source=${said% one} port=${said##*:}
port=${port% one}
check_match "a flow leaves by a mapping" "^203\.0\.113\.1:[0-9]+\$" "$source"
check_said "... and goes on" "$source two" say flow two
peers open strangers server UDP 203.0.113.1 "$port" 203.0.113.3:7777
check_said "a stranger's flow comes in" "203.0.113.3:7777 one" say strangers one
knows_flows() {
	[[ $(conntrackd_says r2 -e | grep -cE "src=172.18.0.2 .*dport=7 |src=203.0.113.3 .*dport=$port ") == 2 ]]
}
check "the second router's conntrackd knows both" wait_until knows_flows

# The first router fails: what happens there is not told any more.
ip -n r1 link set sync0 down
ip -n r1 addr flush dev lan0
ip -n r1 addr flush dev wan0
activate r2
check "the second router takes them over" conntrackd_says r2 -c
check_said "the flow goes on with its port" "$source three" say flow three
check_said "the stranger's flow goes on, too" "203.0.113.3:7777 two" say strangers two
check_equal "the second router has no mapping yet" "" "$(ns_exec r2 cat /proc/net/rustmasq_mappings)"
peers ask lan UDP 203.0.113.2 8 :4000 hello
check_match "a new flow of the endpoint makes one" "^203\.0\.113\.1:[0-9]+ hello\$" "$said"
port=${said##*:}
port=${port% hello}
check_said "... by which strangers reach the endpoint" "203.0.113.3:7778 hello" \
	ask server UDP 203.0.113.1 "$port" 203.0.113.3:7778 hello

done_testing
