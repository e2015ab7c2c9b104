#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Front ends: nft
#
# Mappings of --full-cone in other protocols than UDP, with --random, beside rules without mappings, by masquerade_cone,
# and up to mappings_max. The network of setup_lan with IPv6, and further clients 172.18.0.3 and fd00:18::3.
# shellcheck source-path=SCRIPTDIR source=../../lib/drop-in.sh
. "$(dirname "$0")/../../lib/drop-in.sh"

setup_drop_in
ip -n lan addr add 172.18.0.3/16 dev lan0
ip -n lan addr add fd00:18::3/64 dev lan0 nodad
ip -n server addr add 203.0.113.3/24 dev eth0
# The server does not answer from this one.
ip -n server addr add 2001:db8:1::3/64 dev eth0 nodad preferred_lft 0
delay_sctp_heartbeats lan server
declare -A client=([4]=172.18.0 [6]="fd00:18:") server_of=([4]=203.0.113.2 [6]=2001:db8:1::2)
declare -A stranger_of=([4]=203.0.113.3 [6]=2001:db8:1::3) router_of=([4]=203.0.113.1 [6]=2001:db8:1::1)

# mappings_of PROTOCOL-NUMBER CLIENT: prints the mappings of an inside address, as INSIDE-PORT:OUTSIDE-PORT:CONE.
mappings_of() {
	local pattern="^protocol=$1 inside=$2 port=([0-9]+) .* outside_port=([0-9]+) .* cone=([a-z]+) .*"
	ns_exec router sed -nE "s/$pattern/\1:\2:\3/p" /proc/net/rustmasq_mappings
}
# start_anew: removes all rules, flows and mappings.
start_anew() {
	unload_all
	ns_exec router conntrack -F 2> /dev/null
	ns_exec router conntrack -F -f ipv6 2> /dev/null
}
# both_rules ARGUMENT...: adds a rule to both families.
both_rules() {
	add_rule "$@" || bail "a rule"
	add_rule6 "$@" || bail "a rule of IPv6"
}
# source_port IPV CLIENT PORT: prints the port that the server sees, of a packet from the port of an inside host.
source_port() {
	local bind="${client[$1]}.$2" seen
	[[ $1 == 4 ]] || bind="[${client[6]}:$2]"
	seen=$(probe_ip lan "$1" UDP "bind=$bind,sourceport=$3,reuseaddr")
	echo "${seen##*:}"
}

# --- Query identifiers

# ask_echo HOST IPV ADDRESS FROM IDENTIFIER: sends an echo request with the identifier, and succeeds if it is answered.
ask_echo() {
	ns_exec "$1" ping "-$2" -q -c 1 -W $((10 * slow)) -I "$4" -e "$5" "$3" > /dev/null
}
both_rules -o wan0 -j RUSTMASQ --full-cone
declare -A icmp=([4]=1 [6]=58) name=([4]=icmp [6]=icmpv6)
for v in 4 6; do
	first=${client[$v]}.2 second=${client[$v]}.3
	[[ $v == 4 ]] || first=fd00:18::2 second=fd00:18::3
	check "IPv$v: an echo request of a client is answered" ask_echo lan $v "${server_of[$v]}" "$first" 1234
	check_equal "... its identifier is kept" "1234:1234:full" "$(mappings_of "${icmp[$v]}" "$first")"
	check "... another client's with the same identifier, too" ask_echo lan $v "${server_of[$v]}" "$second" 1234
	check_match "... and has another one outside" '^1234:[0-9]+:full$' "$(mappings_of "${icmp[$v]}" "$second")"
	check_fails "... another one" test "$(mappings_of "${icmp[$v]}" "$second")" == 1234:1234:full
	check "... a stranger's echo request to the mapping is answered" \
		ask_echo server $v "${router_of[$v]}" "${stranger_of[$v]}" 1234
	check_match "... by the client" "src=$first dst=${stranger_of[$v]}" \
		"$(tracked -f ipv$v -p "${name[$v]}" --orig-src "${stranger_of[$v]}")"
done

# --- SCTP

serve server SCTP 5020
check_equal "SCTP: a client keeps its port" 203.0.113.1:4000 \
	"$(probe lan SCTP 203.0.113.2 5020 bind=172.18.0.2,sourceport=4000)"
check_equal "... by a mapping" 4000:4000:full "$(mappings_of 132 172.18.0.2)"
serve lan SCTP 4000 172.18.0.2
check_match "... a stranger reaches it" '^203.0.113.[23]:7777$' \
	"$(probe server SCTP 203.0.113.1 4000 bind=203.0.113.3,sourceport=7777)"

# --- Random ports

start_anew
both_rules -o wan0 -p udp -j RUSTMASQ --full-cone --random --to-ports 20000-60000
for v in 4 6; do
	port=$(source_port $v 2 4000)
	check_port "IPv$v, --random: a port of the range" 20000 60000 "$port"
	ns_exec router conntrack -F 2> /dev/null
	check_equal "... which the client keeps" "$port" "$(source_port $v 2 4000)"
done

# --- Rules without mappings

start_anew
both_rules -o wan0 -p udp --sport 4000:4999 -j RUSTMASQ --full-cone --to-ports 6000
both_rules -o wan0 -p udp -j RUSTMASQ --to-ports 6000-6001
for v in 4 6; do
	check_equal "IPv$v: a client has a mapping" 6000 "$(source_port $v 2 4000)"
	ns_exec router conntrack -F 2> /dev/null
	check_equal "... another one's flow by a rule without mappings gets another port" 6001 "$(source_port $v 3 5000)"
	refused=$(our_counter ports_refused)
	check_equal "... even if that is refused then" "" "$(patience=1 source_port $v 3 5001)"
	check "... which is counted" test "$(our_counter ports_refused)" -gt "$refused"
	ns_exec router conntrack -F 2> /dev/null
	check_equal "... and a further client is refused a mapping" "" "$(patience=1 source_port $v 3 4000)"
done

# --- Rules with several kinds of cones

start_anew
both_rules -o wan0 -p udp --sport 4000 -j RUSTMASQ --full-cone
both_rules -o wan0 -p udp --sport 4001 -j RUSTMASQ --port-restricted-cone
check_equal "a client has a full cone" 4000 "$(source_port 4 2 4000)"
check_equal "... another one a port-restricted one" 4001 "$(source_port 4 3 4001)"
serve lan UDP 4000 172.18.0.2
check_equal "that one reaches the first by its mapping" 203.0.113.1:4001 \
	"$(probe lan UDP 203.0.113.1 4000 bind=172.18.0.3,sourceport=4001,reuseaddr)"
check_equal "... and its own stays port-restricted" 4001:4001:port "$(mappings_of 17 172.18.0.3)"
check_equal "a client without a mapping reaches the first, too" 203.0.113.1:4002 \
	"$(probe lan UDP 203.0.113.1 4000 bind=172.18.0.3,sourceport=4002,reuseaddr)"
check_equal "... and gets one that lets in nobody" 4002:4002:port "$(mappings_of 17 172.18.0.3 | grep 4002)"
stop_servers

# --- Two destinations that a rule leads to one server

start_anew
serve server UDP 5000
serve server UDP6 5006
add_rule -o wan0 -p udp -j RUSTMASQ --full-cone || bail "a rule"
ns_exec router "$IPTABLES" -w -t nat -A PREROUTING -i lan0 -p udp --dport 5000 -j DNAT --to-destination 203.0.113.2 ||
	bail "a rule of DNAT"
for n in 2 9; do
	seen=$(probe lan UDP 203.0.113.$n 5000 bind=172.18.0.2,sourceport=4000,reuseaddr)
	check_match "a rule leads two destinations to one server: .$n answers" '^203.0.113.1:[0-9]+$' "$seen"
done
ns_exec router "$IPTABLES" -w -t nat -F PREROUTING

# --- A mapping that is made without a rule, for a flow to another mapping

declare -A asked=([4]=172.18.0.2 [6]=fd00:18::2) asking=([4]=172.18.0.3 [6]=fd00:18::3)
declare -A in_brackets=([4]=%s [6]=[%s])
for options in "--to-ports 6000-6099" --random; do
	start_anew
	read -r -a words <<< "$options"
	both_rules -o wan0 -p udp -j RUSTMASQ --full-cone "${words[@]}"
	for v in 4 6; do
		what="IPv$v, $options" kind=UDP
		[[ $v == 4 ]] || kind=UDP6
		port=$(source_port $v 2 4000)
		serve lan $kind 4000 "${asked[$v]}"
		# shellcheck disable=SC2059 # The format is an address, in brackets or not.
		seen=$(probe lan $kind "$(printf "${in_brackets[$v]}" "${router_of[$v]}")" "$port" \
			"bind=$(printf "${in_brackets[$v]}" "${asking[$v]}"),sourceport=4100,reuseaddr")
		check_match "$what: an inside host that has no mapping reaches another's" ':4100$' "$seen"
		check_equal "$what: ... and gets one that lets in nobody" 4100:4100:port "$(mappings_of 17 "${asking[$v]}")"
		port=$(source_port $v 3 4100)
		check_fails "$what: ... until it leaves by the rule, which does not give its port" test "$port" == 4100
		check_equal "$what: ... but a mapping with the port that the server sees" "4100:$port:full" \
			"$(mappings_of 17 "${asking[$v]}")"
		check_equal "$what: ... which is kept" "$port" "$(source_port $v 3 4100)"
		stop_last 1
	done
done

# --- The bound

start_anew
modprobe rustmasq mappings_max=2 || bail "the module"
both_rules -o wan0 -j RUSTMASQ --full-cone
check_equal "mappings_max is shown" 2 "$(cat /sys/module/rustmasq/parameters/mappings_max)"
for port in 4000 4001 4002; do
	check_equal "mappings_max=2: a flow gets through" $port "$(source_port 4 2 $port)"
done
check_equal "... two have mappings" "4000:4000:full 4001:4001:full" "$(mappings_of 17 172.18.0.2 | sort | paste -sd ' ')"
check_equal "... one was denied" "2 1" "$(our_counter mappings) $(our_counter mappings_denied)"
serve lan UDP 4002 172.18.0.2
check_equal "... and cannot be reached from outside" "" \
	"$(probe_briefly server UDP 203.0.113.1 4002 bind=203.0.113.3,sourceport=7777)"
start_anew
check_fails "mappings_max must not be beyond its limit" modprobe rustmasq mappings_max=16777217

# --- Rules of others

cones=(none full address port)
for cone in 1 2 3 0; do
	modprobe rustmasq masquerade=1 masquerade_cone=$cone || bail "the module"
	both_rules -o wan0 -j MASQUERADE
	for v in 4 6; do
		check_equal "masquerade_cone=$cone, IPv$v: a client keeps its port" 4000 "$(source_port $v 2 4000)"
		expected=4000:4000:${cones[cone]}
		[[ $cone != 0 ]] || expected=
		check_equal "... and has such a mapping" "$expected" \
			"$(mappings_of 17 "$([[ $v == 4 ]] && echo 172.18.0.2 || echo fd00:18::2)")"
	done
	start_anew
done
check_fails "masquerade_cone must not be beyond 3" modprobe rustmasq masquerade=1 masquerade_cone=4
check_fails "... nor below 0" modprobe rustmasq masquerade=1 masquerade_cone=-1

done_testing
