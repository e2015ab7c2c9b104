#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Kernels: plain
#
# When all ports are taken, a flow's first packet is dropped. With --when-full reject, its sender is told at once: by an
# ICMP error of the router that quotes the packet as it was sent, at the kernel's rate limit. tests/lib/ports.sh draws the
# network.
# shellcheck source-path=SCRIPTDIR source=../../lib/ports.sh
. "$(dirname "$0")/../../lib/ports.sh"

# By IP version: the router towards the LAN, the error's type and code, and its name for a socket.
declare -A inside_of=([4]=172.18.0.1 [6]=fd00:18::1) kind_of=([4]="3 13" [6]="1 1") name_of=([4]=EHOSTUNREACH [6]=EACCES)

# fill_ports [OPTION...]: lets four clients take all ports of the rule, which has these options as well.
fill_ports() {
	crowd_rule RUSTMASQ --to-ports 6000-6003 "$@"
	send_crowd 1 4
	check_equal "$(what "$@"): four clients take four ports" 4 "$(crowd_flows | wc -l)"
}
what() { echo "IPv$v, $protocol${*:+, $*}"; }

# begin_refused HOST SOURCE [OPTION...]: lets a host begin a flow, and prints what refused.py says, on one line. Sets
# `dropped` to the number of packets that are dropped meanwhile. OPTIONs are those of refused.py.
begin_refused() {
	dropped=$(losses)
	ns_exec "$1" "$tools/refused.py" "${@:3}" "$protocol" "$2" 5000 "${aim:-${server_of[$v]}}" > "$scratch/refused"
	dropped=$(($(losses | cut -d ' ' -f 1) - ${dropped% *}))
	told=$(paste -s -d ';' "$scratch/refused")
}

# quote SOURCE [TARGET]: prints the quoted packet.
quote() { echo "$protocol $1:5000>${2:-${server_of[$v]}}"; }

setup_crowd
# The time that a packet takes. Without it, an error would arrive while connect() still holds the socket's lock; TCP
# ignores that, and repeats its SYN.
modprobe sch_netem
ns_exec router tc qdisc add dev lan0 root netem delay 20ms || bail "delay"

# --- Each protocol

for v in 4 6; do
	for protocol in udp tcp sctp icmp; do
		client=$(client_number 9)
		for options in "" "--when-full drop"; do
			[[ ! $options || $protocol == udp ]] || continue
			read -r -a words <<< "$options"
			fill_ports "${words[@]}"
			begin_refused lan "$client" --patience "0.$((5 * slow > 9 ? 9 : 5 * slow))"
			check_equal "$(what "$options"): a fifth client hears nothing" "told nothing" "$told"
			check "$(what "$options"): ... and its packet is counted" test $dropped -ge 1
		done
		fill_ports --when-full reject
		begin_refused lan "$client"
		# SCTP takes the error for a hint, and tries again.
		name=${name_of[$v]}
		[[ $protocol != sctp ]] || name=nothing
		check_equal "$(what --when-full reject): a fifth client is told" \
			"${inside_of[$v]} ${kind_of[$v]} $(quote "$client");told $name" "$told"
		check "$(what --when-full reject): ... and its packet is counted" test $dropped -ge 1
		check_equal "$(what --when-full reject): ... and it has no flow" "" "$(crowd_flows --orig-src "$client")"
	done
	# The router's own packets: TCP heeds the error of its second SYN, after a second. UDP is told by the system call.
	for protocol in tcp udp; do
		fill_ports --when-full reject
		begin_refused router "${router_of[$v]}" --patience $((3 * slow))
		name=${name_of[$v]}
		[[ $protocol != udp ]] || name=EPERM
		check_equal "$(what --when-full reject): the router is told, too" \
			"${router_of[$v]} ${kind_of[$v]} $(quote "${router_of[$v]}");told $name" "$told"
	done
done

# --- Behind destination NAT

declare -A alias_of=([4]=203.0.113.77 [6]=2001:db8:1::77)
for v in 4 6; do
	fill_ports --when-full reject
	host_table router -t nat -A PREROUTING -p udp -d "${alias_of[$v]}" -j DNAT --to-destination "${server_of[$v]}" ||
		bail "DNAT"
	aim=${alias_of[$v]} begin_refused lan "$(client_number 10)"
	check_equal "$(what): the error quotes the destination that the client knows" \
		"${alias_of[$v]} ${kind_of[$v]} $(quote "$(client_number 10)" "${alias_of[$v]}");told ${name_of[$v]}" "$told"
done

# --- The rate limit: six errors at once for a client, and then one in so many milliseconds

declare -A limit_of=([4]=ipv4/icmp_ratelimit [6]=ipv6/icmp/ratelimit)
for v in 4 6; do
	fill_ports --when-full reject
	for limit in 10000:11:6 0:12:20; do
		IFS=: read -r milliseconds client count <<< "$limit"
		ns_exec router tee "/proc/sys/net/${limit_of[$v]}" <<< "$milliseconds" > /dev/null || bail "rate limit"
		begin_refused lan "$(client_number "$client")" --flows 20
		check_equal "$(what): a rate limit of $milliseconds ms: of 20 flows, $count are answered" "$count" \
			"$(grep -c "${inside_of[$v]} ${kind_of[$v]} " "$scratch/refused")"
		check_equal "$(what): a rate limit of $milliseconds ms: 20 packets are counted" 20 $dropped
	done
done

# --- A client in a VRF, to which only the VRF's table leads back

ip -n router link add red type vrf table 10 || bail "VRF"
ip -n router link set red up
ip -n router link set lan0 master red
ip -n router addr add fd00:18::1/64 dev lan0 nodad
ip -n router -batch - <<-END || bail "the VRF's routes"
	route add 10.1.0.0/16 via 172.18.0.2 vrf red
	route add fd00:1::/64 via fd00:18::2 vrf red
	route add default via ${server_of[4]} dev wan0 onlink vrf red
	route add default via ${server_of[6]} dev wan0 onlink vrf red
END
for v in 4 6; do
	fill_ports --when-full reject
	begin_refused lan "$(client_number 13)"
	check_equal "$(what): a client in a VRF is told" \
		"${inside_of[$v]} ${kind_of[$v]} $(quote "$(client_number 13)");told ${name_of[$v]}" "$told"
done

done_testing
