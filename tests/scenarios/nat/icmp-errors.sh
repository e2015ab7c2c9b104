#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# ICMP errors carry a piece of the packet that they are about. For the host in the
# LAN to know it again, the router has to translate that piece back, and to hide
# the LAN in the piece of an error that goes out.
#
#     lan -------- inner -------- router -------- near -------- far -------- server
#     172.18.0.2   172.18.0.1/    172.19.0.1/     203.0.113.2/  198.51.100.2/
#                  172.19.0.2     203.0.113.1     198.51.100.1  192.0.2.1   192.0.2.2
#     fd00:18::2   fd00:18::1/    fd00:19::1/     2001:db8:1::2/ 2001:db8:2::2/
#                  fd00:19::2     2001:db8:1::1   2001:db8:2::1 2001:db8:3::1 2001:db8:3::2
#
# Nobody right of the router knows a way to 172.18.0.0/15 or fd00::/8.
. "$(dirname "$0")/../../lib/lib.sh"
packets=$tools/packets.py

setup_ns lan inner router near far server
setup_link lan lan0 172.18.0.2/24 inner lan0 172.18.0.1/24
setup_link inner up0 172.19.0.2/24 router lan0 172.19.0.1/24
setup_link router wan0 203.0.113.1/24 near wan0 203.0.113.2/24
setup_link near up0 198.51.100.1/24 far up0 198.51.100.2/24
setup_link far net0 192.0.2.1/24 server eth0 192.0.2.2/24
for place in lan:lan0:fd00:18::2 inner:lan0:fd00:18::1 inner:up0:fd00:19::2 router:lan0:fd00:19::1 \
	router:wan0:2001:db8:1::1 near:wan0:2001:db8:1::2 near:up0:2001:db8:2::1 far:up0:2001:db8:2::2 \
	far:net0:2001:db8:3::1 server:eth0:2001:db8:3::2; do
	IFS=: read -r name device address <<< "$place"
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
	# No error is to be missing because there were some before it.
	ns_exec "$name" sh -c 'echo 0 > /proc/sys/net/ipv4/icmp_ratelimit; echo 0 > /proc/sys/net/ipv6/icmp/ratelimit'
done
# Networks that are not there, so that nobody waits for a neighbour's answer.
ip -n far route add unreachable 192.0.2.64/26
ip -n far route add unreachable 2001:db8:3:0:1::/80

# provoke ADDRESS PORT [OPTION...]: the ICMP error that lan gets for a datagram:
# who sent it, its type and code, and the MTU in it.
provoke() {
	ns_exec lan "$packets" provoke "$@"
}

# Without the feature nothing comes back. All at once, for each takes its time.
waiting=()
provoke 192.0.2.2 9 --patience 1 > "$scratch/vain-4" &
waiting+=($!)
provoke 2001:db8:3::2 9 --patience 1 > "$scratch/vain-6" &
waiting+=($!)
wait "${waiting[@]}"
check_equal "IPv4: without a rule no error is heard" "" "$(< "$scratch/vain-4")"
check_equal "IPv6: without a rule no error is heard" "" "$(< "$scratch/vain-6")"
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

# An error of another protocol than UDP, and the programs that people use.
hops() {
	ns_exec lan traceroute -n -q 1 -w 3 "$@" | awk 'NR > 1 { printf "%s%s", (NR > 2 ? " " : ""), $2 }'
}
for method in '' -I -T; do
	# shellcheck disable=SC2086 # A word or none.
	check_equal "traceroute${method:+ $method} sees all hops" \
		"172.18.0.1 172.19.0.1 203.0.113.2 198.51.100.2 192.0.2.2" "$(hops $method 192.0.2.2)"
	# shellcheck disable=SC2086
	check_equal "traceroute -6${method:+ $method} sees all hops" \
		"fd00:18::1 fd00:19::1 2001:db8:1::2 2001:db8:2::2 2001:db8:3::2" "$(hops -6 $method 2001:db8:3::2)"
done

# --- From inside to the host outside

# A server answers when its client is gone: the client's host says so, and the
# server hears it from the router.
for place in 192.0.2.2:53 2001:db8:3::2:54; do
	ns_start server "$packets" echo "${place%:*}" "${place##*:}" > "$scratch/echo-${place##*:}"
	wait_until grep -q ready "$scratch/echo-${place##*:}" || bail "no server for echoes"
done
seen=$(ns_exec lan "$packets" send 192.0.2.2 53)
seen6=$(ns_exec lan "$packets" send 2001:db8:3::2 54)
stop_servers
check_equal "IPv4: port unreachable from inside shows the router's address" "203.0.113.1 3 3 0" \
	"$(ns_exec server "$packets" provoke 203.0.113.1 "${seen##* }" --from-port 53)"
check_equal "IPv6: port unreachable from inside shows the router's address" "2001:db8:1::1 1 4 0" \
	"$(ns_exec server "$packets" provoke 2001:db8:1::1 "${seen6##* }" --from-port 54)"

# --- Path MTU

head -c 300000 /dev/urandom > "$scratch/file"
sum=$(sha256sum < "$scratch/file")

# cable MTU HOST DEVICE HOST DEVICE: both ends of it.
cable() {
	ip -n "$2" link set "$3" mtu "$1" || bail "MTU $1"
	ip -n "$4" link set "$5" mtu "$1" || bail "MTU $1"
}

# path_mtu HOST ADDRESS: what it learnt.
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

for what in "82,fork,reuseaddr OPEN:$scratch/file,rdonly" "83,fork,reuseaddr EXEC:sha256sum"; do
	ns_start server socat "TCP6-LISTEN:${what% *},ipv6only=0" "${what#* }" 2> "$scratch/files"
	wait_until listening server TCP "${what%%,*}" || bail "no server for files"
done

# Narrow outside: what the LAN sends is too big, the error comes from outside.
cable 1300 near up0 far up0
check_equal "IPv4: fragmentation needed" "203.0.113.2 3 4 1300" "$(provoke 192.0.2.2 9 --size 1400)"
check_equal "IPv4: ... and the LAN host knows the path's MTU" "mtu 1300" "$(path_mtu lan 192.0.2.2)"
check_equal "IPv6: packet too big" "2001:db8:1::2 2 0 1300" "$(provoke 2001:db8:3::2 9 --size 1400)"
check_equal "IPv6: ... and the LAN host knows the path's MTU" "mtu 1300" "$(path_mtu lan 2001:db8:3::2)"
flush_route_caches
check_equal "IPv4: an upload over the narrow path is whole" "$sum" "$(upload TCP 192.0.2.2)"
check_equal "IPv4: ... TCP learnt the path's MTU" "mtu 1300" "$(path_mtu lan 192.0.2.2)"
check_equal "IPv6: an upload over the narrow path is whole" "$sum" "$(upload TCP6 '[2001:db8:3::2]')"
check_equal "IPv6: ... TCP learnt the path's MTU" "mtu 1300" "$(path_mtu lan 2001:db8:3::2)"

# Narrow inside: what the server sends is too big behind the translation, the
# error comes from the router and must not speak of the LAN.
cable 1500 near up0 far up0
cable 1300 inner up0 router lan0
flush_route_caches
check_equal "IPv4: a download into the narrow LAN is whole" "$sum" "$(download_sum TCP 192.0.2.2)"
check_equal "IPv4: ... the server learnt the path's MTU" "mtu 1300" "$(path_mtu server 203.0.113.1)"
check_equal "IPv6: a download into the narrow LAN is whole" "$sum" "$(download_sum TCP6 '[2001:db8:3::2]')"
check_equal "IPv6: ... the server learnt the path's MTU" "mtu 1300" "$(path_mtu server 2001:db8:1::1)"

done_testing
