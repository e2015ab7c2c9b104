#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Every kind of protocol is masqueraded, and the answers come back: protocols with ports, with identifiers, and those of
# which NAT can translate the address only. Without a rule no answer comes back. The network of setup_lan with IPv6:
#
#     lan                 router                     server
#     lan0 ------------ lan0  wan0 ---------------- eth0
#     172.18.0.2       172.18.0.1   203.0.113.1      203.0.113.2
#     fd00:18::2       fd00:18::1   2001:db8:1::1    2001:db8:1::2
. "$(dirname "$0")/../../lib/lib.sh"
packets=$tools/packets.py

setup_lan
setup_lan_ipv6

# Conntrack does not know protocol 253. The header of GRE+key has the optional key. SCTP has a checksum of its own kind
# (CRC32c).
names=(TCP UDP SCTP ICMP GRE GRE+key 253)
declare -A number=([GRE]=47 [GRE+key]=47 [253]=253)
declare -A header=([GRE]=00000800 [GRE+key]=2000080000000007 [253]=abcd)
declare -A server_of=([4]=203.0.113.2 [6]=2001:db8:1::2)
# The router's address as socat writes it, and as all other programs do.
declare -A socat_router_of=([4]=203.0.113.1 [6]='[2001:0db8:0001:0000:0000:0000:0000:0001]')
declare -A router_of=([4]=203.0.113.1 [6]=2001:db8:1::1)

# serve_raw ADDRESS PROTOCOL: a server for a raw protocol.
serve_raw() {
	local log=$scratch/answer-$1-$2
	ns_start server "$packets" answer "$1" "$2" > "$log"
	wait_until grep -q ready "$log" || bail "no server for protocol $2"
}

# The source port without its last digit, which is the family. No source port is used twice: TCP would wait before it
# takes one again.
port_prefix=4000
# probe_protocol NAME FAMILY: sends a packet to the server. Prints the source that the server saw, or nothing if no
# answer came.
probe_protocol() {
	local address=${server_of[$2]} port=80 suffix=''
	[[ $2 == 4 ]] || port=81 suffix=6
	case $1 in
	TCP | UDP | SCTP) [[ $2 == 4 ]] || address=[$address]
		probe lan "$1$suffix" "$address" $port "sourceport=$port_prefix$2" ;;
	ICMP) ns_exec lan ping "-$2" -q -c 1 -W $((patience * slow)) "$address" > /dev/null &&
		tracked -f "ipv$2" -p "icmp${suffix:+v6}" --reply-src "$address" | grep -o 'dst=[^ ]*' | tail -n 1 ;;
	*) ns_exec lan "$packets" ask --patience $((patience * slow)) "$address" "${number[$1]}" "${header[$1]}" ;;
	esac
}

for family in 4 6; do
	port=80 suffix=''
	[[ $family == 4 ]] || port=81 suffix=6
	for name in TCP UDP SCTP; do serve server "$name$suffix" $port; done
	for name in 47 253; do serve_raw "${server_of[$family]}" $name; done
done

# Without a rule. All run at the same time, because each waits for its time limit.
patience=1
waiting=()
for family in 4 6; do
	for name in "${names[@]}"; do
		probe_protocol "$name" $family > "$scratch/no-rule-$name-$family" &
		waiting+=($!)
	done
done
wait "${waiting[@]}"
for family in 4 6; do
	for name in "${names[@]}"; do
		check_equal "IPv$family, $name: without a rule no answer" "" "$(< "$scratch/no-rule-$name-$family")"
	done
done
patience=5 port_prefix=4050
ns_exec router conntrack -F 2> /dev/null

add_rule -o wan0 -j RUSTMASQ || bail "rule"
add_rule6 -o wan0 -j RUSTMASQ || bail "rule for IPv6"

for family in 4 6; do
	for name in "${names[@]}"; do
		case $name in
		TCP | UDP | SCTP) expected=${socat_router_of[$family]}:$port_prefix$family ;;
		ICMP) expected=dst=${router_of[$family]} ;;
		*) expected=${router_of[$family]} ;;
		esac
		check_equal "IPv$family, $name: the server saw the router's address, and the answer came back" \
			"$expected" "$(probe_protocol "$name" $family)"
	done
done

# NAT updates the checksum when it changes a port. Each protocol has its own kind of checksum.
flush_rules
ns_exec router "$IP6TABLES" -w -t nat -F
port_prefix=4100
for name in TCP UDP SCTP; do
	add_rule -p "${name,,}" -j RUSTMASQ --to-ports 6000-6009 || bail "rule for $name"
	add_rule6 -p "${name,,}" -j RUSTMASQ --to-ports 6000-6009 ||
		bail "rule for $name, IPv6"
	for family in 4 6; do
		seen=$(probe_protocol "$name" $family)
		check_equal "IPv$family, $name, --to-ports: the server saw the router's address" \
			"${socat_router_of[$family]}" "${seen%:*}"
		check_port "IPv$family, $name, --to-ports: the server saw a port of the range" 6000 6009 "${seen##*:}"
	done
done

done_testing
