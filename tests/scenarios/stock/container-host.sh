#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Front ends: legacy nft
#
# RUSTMASQ with what container hosts have and the test kernel has not: bridged packets that meet iptables (br_netfilter),
# under Docker's rules; IPsec, with rules that leave its flows alone (-m policy); WireGuard as the WAN; rules that ask
# ipset's sets (-m set); and a user's own network namespace.
#
#      web, neighbour           router                    server
#      eth0 ------------ docker0    wan0 ------------ eth0
#      172.17.0.2, .3    172.17.0.1  203.0.113.1     203.0.113.2
. "$(dirname "$0")/../../lib/lib.sh"

modprobe br_netfilter || bail "br_netfilter"
setup_ns web neighbour router server
setup_link router wan0 203.0.113.1/24 server eth0 203.0.113.2/24
setup_device router docker0 172.17.0.1/16 "link add docker0 type bridge"
for host in web:2 neighbour:3; do
	setup_link "${host%:*}" eth0 "172.17.0.${host#*:}/16" router "port${host#*:}" -
	ip -n router link set "port${host#*:}" master docker0 || bail "port of $host"
	ip -n router link set "port${host#*:}" type bridge_slave hairpin on || bail "hairpin mode of $host"
	ip -n "${host%:*}" route add default via 172.17.0.1
done
enable_forwarding router
serve server UDP 53
serve web TCP 80

# --- Docker's rules, for a published port of the container "web", without the userland proxy

ns_exec router "$IPTABLES" -t nat -N DOCKER || bail "the chain DOCKER"
ns_exec router "$IPTABLES" -t nat -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER || bail "the jump to DOCKER"
ns_exec router "$IPTABLES" -t nat -A DOCKER -p tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80 || bail DNAT
add_rule -s 172.17.0.0/16 ! -o docker0 -j RUSTMASQ || bail "the rule for the containers"

seen=$(probe neighbour UDP 203.0.113.2 53)
check_equal "a container leaves with the host's address" 203.0.113.1 "${seen%:*}"
seen=$(probe server TCP 203.0.113.1 8080)
check_equal "from outside, the published port is reached with the client's address" 203.0.113.2 "${seen%:*}"

# The answer crosses the bridge, from container to container. It meets NAT only by br_netfilter.
bridged() { ns_exec router sysctl -qw "net.bridge.bridge-nf-call-iptables=$1"; }
bridged 0
check_equal "without br_netfilter, a neighbour gets no answer from the published port" "" \
	"$(probe_briefly neighbour TCP 203.0.113.1 8080)"
bridged 1
seen=$(probe neighbour TCP 203.0.113.1 8080)
check_equal "with it, a neighbour reaches the published port, with its own address" 172.17.0.3 "${seen%:*}"
check_equal "a container does not reach its own published port" "" "$(probe_briefly web TCP 203.0.113.1 8080)"
add_rule -s 172.17.0.2 -d 172.17.0.2 -p tcp --dport 80 -j RUSTMASQ || bail "the rule for the container itself"
seen=$(probe web TCP 203.0.113.1 8080)
check_equal "with Docker's rule for that, it does, and sees the bridge's address" 172.17.0.1 "${seen%:*}"

# A packet that is bridged, and not routed, is masqueraded as well.
serve web UDP 53
check_equal "without a rule, bridged packets keep their source" 172.17.0.3:40000 \
	"$(probe neighbour UDP 172.17.0.2 53 sourceport=40000)"
add_rule -o docker0 -p udp -j RUSTMASQ --to-ports 5000-5009 || bail "the rule for bridged packets"
seen=$(probe neighbour UDP 172.17.0.2 53 sourceport=40001)
check_equal "with a rule, they get the bridge's address" 172.17.0.1 "${seen%:*}"
check_port "... and a port of the range" 5000 5009 "${seen##*:}"

# --- IPsec: a tunnel to the network 198.51.100.0/24 behind the server

# secure HOST: makes both directions of the tunnel on a host.
secure() {
	local key=0x000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f
	local inner=(src 172.17.0.0/16 dst 198.51.100.0/24) back=(src 198.51.100.0/24 dst 172.17.0.0/16)
	local there=(src 203.0.113.1 dst 203.0.113.2 proto esp) here=(src 203.0.113.2 dst 203.0.113.1 proto esp)
	local to=out from=in
	[[ $1 == router ]] || to=in from=out
	ip -n "$1" xfrm state add "${there[@]}" spi 1 mode tunnel auth 'hmac(sha256)' $key enc cipher_null '' &&
		ip -n "$1" xfrm state add "${here[@]}" spi 2 mode tunnel auth 'hmac(sha256)' $key enc cipher_null '' &&
		ip -n "$1" xfrm policy add "${inner[@]}" dir $to tmpl "${there[@]}" mode tunnel &&
		ip -n "$1" xfrm policy add "${back[@]}" dir $from tmpl "${here[@]}" mode tunnel
}
setup_device server lo 198.51.100.1/24
serve server UDP 54 198.51.100.1
secure router || bail "the tunnel's router"
secure server || bail "the tunnel's server"
ip -n router xfrm policy add src 198.51.100.0/24 dst 172.17.0.0/16 dir fwd tmpl src 203.0.113.2 dst 203.0.113.1 \
	proto esp mode tunnel || bail "the tunnel's forward policy"
ip -n router route add 198.51.100.0/24 via 203.0.113.2 || bail "the route into the tunnel"
ip -n server route add 172.17.0.0/16 via 203.0.113.1 || bail "the route back"
flush_rules
add_rule -s 172.17.0.0/16 -o wan0 -m policy --dir out --pol none -j RUSTMASQ || bail "the rule with -m policy"
check_equal "-m policy: a flow into the tunnel keeps its source" 172.17.0.3:40002 \
	"$(probe neighbour UDP 198.51.100.1 54 sourceport=40002)"
check "-m policy: it went by IPsec" test "$(ip -n server -s xfrm state get src 203.0.113.1 dst 203.0.113.2 proto esp spi 1 |
	sed -nE 's/.* ([0-9]+)\(packets\).*/\1/p' | sort -n | tail -n 1)" -gt 0
seen=$(probe neighbour UDP 203.0.113.2 53 sourceport=40003)
check_equal "-m policy: another flow leaves with the host's address" 203.0.113.1 "${seen%:*}"

# --- WireGuard: a tunnel between router and server is the WAN. The server takes nothing else from it than packets from
# the router's address there, 10.9.0.1 or fd00:9::1.

# tunnel HOST NUMBER OTHER: makes the end of the tunnel on a host, whose number in the networks is NUMBER, OTHER at the
# other end.
tunnel() {
	local peer
	setup_device "$1" wg0 "10.9.0.$2/24" "link add wg0 type wireguard"
	peer=$(wg pubkey < "$scratch/key-$3")
	ip -n "$1" addr add "fd00:9::$2/64" dev wg0 nodad &&
		ns_exec "$1" wg set wg0 private-key "$scratch/key-$2" listen-port 51820 peer "$peer" \
			allowed-ips "10.9.0.$3/32,fd00:9::$3/128" endpoint "203.0.113.$3:51820"
}
(umask 077 && wg genkey > "$scratch/key-1" && wg genkey > "$scratch/key-2") || bail "keys"
tunnel router 1 2 || bail "the tunnel's end on the router"
tunnel server 2 1 || bail "the tunnel's end on the server"
ip -n router addr add fd00:17::1/64 dev docker0 nodad || bail "IPv6 of the bridge"
ip -n neighbour addr add fd00:17::3/64 dev eth0 nodad || bail "IPv6 of a container"
ip -n neighbour route add default via fd00:17::1 || bail "the container's route"
for protocol in UDP TCP; do
	serve server "$protocol" 55
	serve server "${protocol}6" 56
done
flush_rules
check_equal "WireGuard: without a rule, a flow does not pass the tunnel" "" "$(probe_briefly neighbour UDP 10.9.0.2 55)"
add_rule -o wg0 -j RUSTMASQ || bail "the rule for the tunnel"
add_rule6 -o wg0 -j RUSTMASQ || bail "the rule for the tunnel, IPv6"
for protocol in UDP TCP; do
	seen=$(probe neighbour "$protocol" 10.9.0.2 55)
	check_equal "WireGuard: $protocol leaves with the tunnel's address" 10.9.0.1 "${seen%:*}"
	seen=$(probe neighbour "${protocol}6" "[fd00:9::2]" 56)
	check_equal "WireGuard: ${protocol}6 does, too" "[fd00:0009:0000:0000:0000:0000:0000:0001]" "${seen%:*}"
done
flush_rules
for protocol in udp tcp; do
	add_rule -o wg0 -p $protocol -j RUSTMASQ --to-ports 8000-8009 || bail "the rule with ports"
	add_rule6 -o wg0 -p $protocol -j RUSTMASQ --to-ports 8000-8009 || bail "the rule with ports, IPv6"
	seen=$(probe neighbour "${protocol^^}" 10.9.0.2 55)
	check_port "WireGuard: $protocol gets a port of the range" 8000 8009 "${seen##*:}"
	seen=$(probe neighbour "${protocol^^}6" "[fd00:9::2]" 56)
	check_port "WireGuard: $protocol over IPv6 gets a port of the range" 8000 8009 "${seen##*:}"
done
check_match "WireGuard: the tunnel carried them" $'\t[1-9][0-9]*\t[1-9][0-9]*$' "$(ns_exec server wg show wg0 transfer)"

# --- ipset: the first rule asks for a set that the destination is not in, the second for one that it is in

flush_rules
# with_sets FAMILY NETWORK ADD: makes the sets "away" and "near", the latter with NETWORK, and rules by the command ADD.
with_sets() {
	ns_exec router ipset create "away-$1" hash:net family "$1" &&
		ns_exec router ipset create "near-$1" hash:net family "$1" &&
		ns_exec router ipset add "near-$1" "$2" &&
		"$3" -p udp -m set --match-set "away-$1" dst -j RUSTMASQ --to-ports 9001 &&
		"$3" -p udp -m set --match-set "near-$1" dst -j RUSTMASQ --to-ports 9002
}
with_sets inet 10.9.0.0/24 add_rule || bail "the sets and their rules"
with_sets inet6 fd00:9::/64 add_rule6 || bail "the sets and their rules, IPv6"
check_equal "ipset: the rule counts whose set has the destination" 10.9.0.1:9002 "$(probe neighbour UDP 10.9.0.2 55)"
seen=$(probe neighbour UDP6 "[fd00:9::2]" 56)
check_equal "ipset: the same for IPv6" 9002 "${seen##*:}"
ns_exec router ipset add away-inet 10.9.0.0/24 || bail "a set's member"
ns_exec router ipset add away-inet6 fd00:9::/64 || bail "a set's member, IPv6"
check_equal "ipset: an address that a set gets later counts" 10.9.0.1:9001 "$(probe neighbour UDP 10.9.0.2 55)"
seen=$(probe neighbour UDP6 "[fd00:9::2]" 56)
check_equal "ipset: the same for IPv6, later" 9001 "${seen##*:}"

# --- A user's own network namespace

# rootless COMMAND: runs a shell command as an unprivileged user, as root of a user and a network namespace.
rootless() {
	setpriv --reuid 65534 --regid 65534 --clear-groups unshare --user --map-root-user --net -- bash -c "$1"
}
rootless_flow="
	ip link set lo up && ip addr add 10.0.2.100/24 dev lo &&
	ip link add wan0 type dummy && ip addr add 203.0.113.7/24 dev wan0 && ip link set wan0 up &&
	ip neigh add 203.0.113.8 lladdr 02:00:00:00:00:01 dev wan0 &&
	XTABLES_LOCKFILE=/dev/null $IPTABLES -t nat -A POSTROUTING -o wan0 -p udp -j RUSTMASQ --to-ports 7000 &&
	echo | socat -t 0 - UDP:203.0.113.8:53,bind=10.0.2.100:40000,shut-none &&
	conntrack -L 2> /dev/null"
check_match "a user masquerades in a network namespace of their own" \
	"src=10.0.2.100 dst=203.0.113.8 sport=40000 dport=53 .*src=203.0.113.8 dst=203.0.113.7 sport=53 dport=7000 " \
	"$(rootless "$rootless_flow" 2>&1)"

done_testing
