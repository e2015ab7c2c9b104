#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Kernels: plain
#
# The router translates ICMP errors, including the part of the original packet that they quote: a host in the LAN
# recognises its own packet, and a host outside sees no LAN address. Errors about path MTU work, too. Without a rule the
# LAN's host gets no error.
#
#     lan -------- inner -------- router -------- near -------- far -------- server
#     172.18.0.2   172.18.0.1/    172.19.0.1/     203.0.113.2/  198.51.100.2/
#                  172.19.0.2     203.0.113.1     198.51.100.1  192.0.2.1   192.0.2.2
#     fd00:18::2   fd00:18::1/    fd00:19::1/     2001:db8:1::2/ 2001:db8:2::2/
#                  fd00:19::2     2001:db8:1::1   2001:db8:2::1 2001:db8:3::1 2001:db8:3::2
#
# No host to the right of the router has a route to 172.18.0.0/15 or fd00::/8.
. "$(dirname "$0")/../../lib/lib.sh"
packets=$tools/packets.py

setup_ns lan inner router near far server
setup_link lan lan0 172.18.0.2/24 inner lan0 172.18.0.1/24
setup_link inner up0 172.19.0.2/24 router lan0 172.19.0.1/24
setup_link router wan0 203.0.113.1/24 near wan0 203.0.113.2/24
setup_link near up0 198.51.100.1/24 far up0 198.51.100.2/24
setup_link far net0 192.0.2.1/24 server eth0 192.0.2.2/24
for entry in lan:lan0:fd00:18::2 inner:lan0:fd00:18::1 inner:up0:fd00:19::2 router:lan0:fd00:19::1 \
	router:wan0:2001:db8:1::1 near:wan0:2001:db8:1::2 near:up0:2001:db8:2::1 far:up0:2001:db8:2::2 \
	far:net0:2001:db8:3::1 server:eth0:2001:db8:3::2; do
	IFS=: read -r name device address <<< "$entry"
	ip -n "$name" addr add "$address/64" dev "$device" nodad || bail "address $address"
done
while read -r name target via; do
	ip -n "$name" route add "$target" via "$via" || bail "route of $name"
done << 'ROUTES'
lan default 172.18.0.1
lan default fd00:18::1
inner default 172.19.0.1
inner default fd00:19::1
router 172.18.0.0/24 172.19.0.2
router fd00:18::/64 fd00:19::2
router default 203.0.113.2
router default 2001:db8:1::2
near 192.0.2.0/24 198.51.100.2
near 2001:db8:3::/64 2001:db8:2::2
far 203.0.113.0/24 198.51.100.1
far 2001:db8:1::/64 2001:db8:2::1
server default 192.0.2.1
server default 2001:db8:3::1
ROUTES
for name in inner router near far; do enable_forwarding $name; done
for name in "${hosts[@]}"; do
	# No rate limit may drop an error.
	ns_exec "$name" sh -c 'echo 0 > /proc/sys/net/ipv4/icmp_ratelimit; echo 0 > /proc/sys/net/ipv6/icmp/ratelimit'
done
# Unreachable routes, so that the error comes at once and not after the neighbour's time limit.
ip -n far route add unreachable 192.0.2.64/26
ip -n far route add unreachable 2001:db8:3:0:1::/80

# provoke ADDRESS PORT [OPTION...]: sends a datagram from lan. Prints the ICMP error that comes back: its sender, type,
# code and MTU.
provoke() {
	ns_exec lan "$packets" provoke "$@"
}

# Without a rule. Both run at the same time, because each waits for its time limit.
waiting=()
provoke 192.0.2.2 9 --patience 1 > "$scratch/no-rule-4" &
waiting+=($!)
provoke 2001:db8:3::2 9 --patience 1 > "$scratch/no-rule-6" &
waiting+=($!)
wait "${waiting[@]}"
check_equal "IPv4: without a rule no error arrives" "" "$(< "$scratch/no-rule-4")"
check_equal "IPv6: without a rule no error arrives" "" "$(< "$scratch/no-rule-6")"
ns_exec router conntrack -F 2> /dev/null

add_rule -o wan0 -p udp -j RUSTMASQ --to-ports 6000-6999 || bail "rule"
add_rule -o wan0 -j RUSTMASQ || bail "rule"
add_rule6 -o wan0 -p udp -j RUSTMASQ --to-ports 6000-6999 || bail "rule"
add_rule6 -o wan0 -j RUSTMASQ || bail "rule"

# --- From outside to the host inside

check_equal "IPv4: port unreachable" "192.0.2.2 3 3 0" "$(provoke 192.0.2.2 9)"
check_equal "IPv4: host unreachable" "198.51.100.2 3 1 0" "$(provoke 192.0.2.99 9)"
check_equal "IPv4: time exceeded, one router outside" \
	"203.0.113.2 11 0 0" "$(provoke 192.0.2.2 9 --hops 3)"
check_equal "IPv4: time exceeded, two routers outside" \
	"198.51.100.2 11 0 0" "$(provoke 192.0.2.2 9 --hops 4)"
check_equal "IPv6: port unreachable" "2001:db8:3::2 1 4 0" "$(provoke 2001:db8:3::2 9)"
check_equal "IPv6: no route" "2001:db8:2::2 1 0 0" "$(provoke 2001:db8:3:0:1::9 9)"
check_equal "IPv6: time exceeded, one router outside" \
	"2001:db8:1::2 3 0 0" "$(provoke 2001:db8:3::2 9 --hops 3)"
check_equal "IPv6: time exceeded, two routers outside" \
	"2001:db8:2::2 3 0 0" "$(provoke 2001:db8:3::2 9 --hops 4)"

# traceroute_hops [OPTION...] ADDRESS: prints the hops that traceroute sees. It uses UDP, ICMP (-I) or TCP (-T).
traceroute_hops() {
	ns_exec lan traceroute -n -q 1 -w 3 "$@" | awk 'NR > 1 { printf "%s%s", (NR > 2 ? " " : ""), $2 }'
}
for method in '' -I -T; do
	# shellcheck disable=SC2086 # A word or none.
	check_equal "traceroute${method:+ $method} sees all hops" \
		"172.18.0.1 172.19.0.1 203.0.113.2 198.51.100.2 192.0.2.2" "$(traceroute_hops $method 192.0.2.2)"
	# shellcheck disable=SC2086
	check_equal "traceroute -6${method:+ $method} sees all hops" \
		"fd00:18::1 fd00:19::1 2001:db8:1::2 2001:db8:2::2 2001:db8:3::2" "$(traceroute_hops -6 $method 2001:db8:3::2)"
done

# --- From inside to the host outside

# A server sends to a client that has ended. The client's host returns an error, which reaches the server from the
# router's address.
for service in 192.0.2.2:53 2001:db8:3::2:54; do
	ns_start server "$packets" echo "${service%:*}" "${service##*:}" > "$scratch/echo-${service##*:}"
	wait_until grep -q ready "$scratch/echo-${service##*:}" || bail "no echo server"
done
seen=$(ns_exec lan "$packets" send 192.0.2.2 53)
seen6=$(ns_exec lan "$packets" send 2001:db8:3::2 54)
stop_servers
check_equal "IPv4: port unreachable from the LAN's host comes from the router's address" "203.0.113.1 3 3 0" \
	"$(ns_exec server "$packets" provoke 203.0.113.1 "${seen##* }" --from-port 53)"
check_equal "IPv6: port unreachable from the LAN's host comes from the router's address" "2001:db8:1::1 1 4 0" \
	"$(ns_exec server "$packets" provoke 2001:db8:1::1 "${seen6##* }" --from-port 54)"

# --- Path MTU

head -c 300000 /dev/urandom > "$scratch/file"
sum=$(sha256sum < "$scratch/file")

# set_mtu MTU HOST DEVICE HOST DEVICE: sets the MTU of both ends of a link.
set_mtu() {
	ip -n "$2" link set "$3" mtu "$1" || bail "MTU $1"
	ip -n "$4" link set "$5" mtu "$1" || bail "MTU $1"
}

# path_mtu HOST ADDRESS: prints the MTU that the host has learnt for the path to the address.
path_mtu() {
	ip -n "$1" route get "$2" | grep -o 'mtu [0-9]*'
}

flush_route_caches() {
	local name
	for name in "${hosts[@]}"; do
		ip -n "$name" route flush cache
		ip -n "$name" -6 route flush cache
	done
}

download_sum() {
	ns_exec lan timeout 10 socat -u "$1:$2:82" - < /dev/null | sha256sum
}

upload() {
	ns_exec lan timeout 10 socat -t 10 - "$1:$2:83" < "$scratch/file"
}

for addresses in "82,fork,reuseaddr OPEN:$scratch/file,rdonly" "83,fork,reuseaddr EXEC:sha256sum"; do
	ns_start server socat "TCP6-LISTEN:${addresses% *},ipv6only=0" "${addresses#* }" 2> "$scratch/files"
	wait_until listening server TCP "${addresses%%,*}" || bail "no file server"
done

# A small MTU outside: packets from the LAN are too big, and a router outside sends the error.
set_mtu 1300 near up0 far up0
check_equal "IPv4: fragmentation needed" "203.0.113.2 3 4 1300" "$(provoke 192.0.2.2 9 --size 1400)"
check_equal "IPv4: fragmentation needed: the LAN host learns the path's MTU" "mtu 1300" "$(path_mtu lan 192.0.2.2)"
check_equal "IPv6: packet too big" "2001:db8:1::2 2 0 1300" "$(provoke 2001:db8:3::2 9 --size 1400)"
check_equal "IPv6: packet too big: the LAN host learns the path's MTU" "mtu 1300" "$(path_mtu lan 2001:db8:3::2)"
flush_route_caches
check_equal "IPv4: an upload over the path with the small MTU is complete" "$sum" "$(upload TCP 192.0.2.2)"
check_equal "IPv4: TCP on the LAN host learnt the path's MTU" "mtu 1300" "$(path_mtu lan 192.0.2.2)"
check_equal "IPv6: an upload over the path with the small MTU is complete" "$sum" "$(upload TCP6 '[2001:db8:3::2]')"
check_equal "IPv6: TCP on the LAN host learnt the path's MTU" "mtu 1300" "$(path_mtu lan 2001:db8:3::2)"

# A small MTU inside: packets from the server are too big after the router has translated them. The router sends the
# error, which must not show a LAN address.
set_mtu 1500 near up0 far up0
set_mtu 1300 inner up0 router lan0
flush_route_caches
check_equal "IPv4: a download over the path with the small MTU is complete" "$sum" "$(download_sum TCP 192.0.2.2)"
check_equal "IPv4: the server learnt the path's MTU" "mtu 1300" "$(path_mtu server 203.0.113.1)"
check_equal "IPv6: a download over the path with the small MTU is complete" \
	"$sum" "$(download_sum TCP6 '[2001:db8:3::2]')"
check_equal "IPv6: the server learnt the path's MTU" "mtu 1300" "$(path_mtu server 2001:db8:1::1)"

done_testing
