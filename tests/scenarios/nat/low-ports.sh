#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Kernels: plain
#
# Ports below 1024. Many clients with one of them (NTP) share the ports below 512; when those are taken, they get the
# ports from 600 to 1023, and then others. None is lost, but with MASQUERADE many are. With --random or --random-fully the
# router's own flows keep theirs: the router's DHCP client would lose its lease, because servers answer to its port. The
# network is that of setup_lan, with IPv6, and 1,100 clients:
#
#     lan                         router        server
#     10.1.1-11.1-100             203.0.113.1   203.0.113.2
#     fd00:1::1 to fd00:1::1100   fe80::1       fe80::2
. "$(dirname "$0")/../../lib/lib.sh"

setup_lan
setup_lan_ipv6
ip -n router addr add fe80::1/64 dev wan0 nodad
ip -n server addr add fe80::2/64 dev eth0 nodad
ip -n lan route add local 10.1.0.0/16 dev lo
ip -n lan route add local fd00:1::/64 dev lo
ns_exec lan sh -c 'echo 1 > /proc/sys/net/ipv6/ip_nonlocal_bind'
ip -n router route add 10.1.0.0/16 via 172.18.0.2
ip -n router route add fd00:1::/64 via fd00:18::2
serve server UDP 67
serve server UDP6 547

# send_low FAMILY FIRST LAST: the clients from number FIRST to LAST, multiples of 100, each send a packet to the server.
send_low() {
	local net sources=''
	case $1 in
	4)
		for ((net = $2 / 100 + 1; net <= $3 / 100; net++)); do sources+=,10.1.$net.1-100; done
		set -- 203.0.113.2
		;;
	6)
		sources=,fd00:1::$(($2 + 1))-$3
		set -- 2001:db8:1::2
		;;
	esac
	ns_exec lan "$tools/flows.py" --first-port 123 --to-port 123 --from "${sources#,}" 1 "$1"
}

# low_ports FAMILY: prints the ports that these clients got, in order.
low_ports() {
	tracked -f "ipv$1" -p udp --orig-port-src 123 | sed -E 's/.* dport=([0-9]+) .*/\1/' | sort -n
}

# count_ports FAMILY: prints how many different ports they have below 512, from 600 to 1023, and others.
count_ports() {
	low_ports "$1" | uniq | awk '{ count[$1 < 512 ? 1 : $1 >= 600 && $1 < 1024 ? 2 : 3]++ }
		END { print count[1] + 0, count[2] + 0, count[3] + 0 }'
}

# source_ports COUNT HOST PROTOCOL ADDRESS PORT OPTIONS: the host asks the server so many times, in new flows. Prints
# the source ports that it saw, each once.
source_ports() {
	local n
	for ((n = 0; n < $1; n++)); do
		ns_exec router sh -c 'conntrack -F -f ipv4; conntrack -F -f ipv6' 2> /dev/null
		probe "${@:2}"
		echo
	done | sed 's/.*://' | sort -nu
}

# --- Many clients

ns_exec router sh -c "echo $((60 * slow)) > /proc/sys/net/netfilter/nf_conntrack_udp_timeout"
for family in 4 6; do
	if compared; then
		replace_rules MASQUERADE
		send_low $family 0 600
		lost=$((600 - $(low_ports $family | wc -l)))
		echo "# IPv$family: of 600 clients with source port 123, $lost are lost with MASQUERADE"
		check "IPv$family: MASQUERADE loses those for which no port below 512 is left" test $lost -ge 89
	fi
	replace_rules RUSTMASQ
	send_low $family 0 500
	check_equal "IPv$family: 500 clients with source port 123 get ports below 512" "500 0 0" "$(count_ports $family)"
	send_low $family 500 600
	check_equal "IPv$family: the next 100 get the last 11 of these, and others from 600 to 1023" "511 89 0" \
		"$(count_ports $family)"
	send_low $family 600 1100
	check_equal "IPv$family: the next 500 get the last 335 of these, and others" "511 424 165" "$(count_ports $family)"
	check_equal "IPv$family: no two have the same port" 1100 "$(low_ports $family | wc -l)"
done

# --- The router's own flows. Another low port is the same one by chance in 1 of 511 cases, so it is tried three times.

if compared; then
	replace_rules MASQUERADE --random-fully
	check "MASQUERADE --random-fully: the router's DHCPv6 client loses its port" \
		test "$(source_ports 3 router UDP6 '[fe80::2%wan0]' 547 'bind=[fe80::1%wan0]:546')" != 546
	flush_rules
	remove_other_masquerade
fi
for option in --random --random-fully; do
	replace_rules RUSTMASQ $option
	what="RUSTMASQ $option"
	check_equal "$what, IPv6: a DHCPv6 client keeps its port, with its link-local address" 546 \
		"$(source_ports 3 router UDP6 '[fe80::2%wan0]' 547 'bind=[fe80::1%wan0]:546')"
	check_equal "$what, IPv6: with its global address" 546 \
		"$(source_ports 3 router UDP6 '[2001:db8:1::2]' 547 sourceport=546)"
	ns_exec router socat -u - 'UDP6-SENDTO:[ff02::1:2%wan0]:547,bind=[fe80::1%wan0]:546' <<< x
	check_match "$what, IPv6: to the servers' multicast address" ' dst=fe80::1 sport=547 dport=546 ' \
		"$(tracked -f ipv6 -p udp --orig-dst ff02::1:2)"
	check_equal "$what, IPv4: a DHCP client keeps its port" 68 \
		"$(source_ports 3 router UDP 203.0.113.2 67 sourceport=68)"
	check_equal "$what, IPv4: port 1023 is kept" 1023 \
		"$(source_ports 3 router UDP 203.0.113.2 67 sourceport=1023)"
	check "$what, IPv4: port 1024 is not kept" \
		test "$(source_ports 2 router UDP 203.0.113.2 67 sourceport=1024)" != 1024
	check "$what, IPv4: a low port is not kept with another address than the flow gets" \
		test "$(source_ports 3 router UDP 203.0.113.2 67 bind=172.18.0.1:68)" != 68
	check "$what, IPv4: a low port of a LAN's host is not kept" \
		test "$(source_ports 3 lan UDP 203.0.113.2 67 sourceport=68)" != 68
	check "$what, IPv6: a low port of a LAN's host is not kept" \
		test "$(source_ports 3 lan UDP6 '[2001:db8:1::2]' 547 sourceport=546)" != 546
done

# A port that is taken is not kept: both flows go on. Nobody had this one a moment ago.
flush_rules
add_rule -s 172.18.0.2 -o wan0 -j RUSTMASQ || bail "rule"
add_rule -o wan0 -j RUSTMASQ --random-fully || bail "second rule"
check_equal "a LAN's host gets the port first" 203.0.113.1:77 "$(probe lan UDP 203.0.113.2 67 sourceport=77)"
seen=$(probe router UDP 203.0.113.2 67 sourceport=77)
check_port "the router's own flow then gets another low port" 1 511 "${seen##*:}"
check "the router's own flow does not get the port of the other" test "${seen##*:}" != 77

# A range of ports is the rule's explicit will.
flush_rules
add_rule -o wan0 -p udp -j RUSTMASQ --to-ports 5000-5999 --random-fully || bail "rule with a range"
check_port "with a range of ports, the router's own flows get one of it" 5000 5999 \
	"$(source_ports 1 router UDP 203.0.113.2 67 sourceport=68)"

done_testing
