#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# With --keep-own a flow that has an address of the outgoing device keeps it, and its port if that is free, also with
# --random and --random-fully. Without the option, as with MASQUERADE, it gets the address that all flows get.
#
#     lan                 router                             server
#     lan0 ------------ lan0  wan0 ------------------------ eth0
#     172.18.0.2/16   172.18.0.1   203.0.113.1, .9        203.0.113.2/24
#     fd00:18::2/64   fd00:18::1   2001:db8:1::1, ::9     2001:db8:1::2/64
#                                  fe80::1, fe80::9       fe80::2
#     2001:db8:1::9 is deprecated, so that no flow is given it.
#                             hold0 198.51.100.7, 2001:db8:7::7: what a route names
. "$(dirname "$0")/../../lib/lib.sh"

setup_lan
setup_lan_ipv6
setup_device router hold0 198.51.100.7/32 'link add hold0 type dummy'
# restore_addresses: adds what the router's devices lose when they change their VRF, or when it is removed on purpose.
restore_addresses() {
	ip -n router -batch - <<-'END' || bail "addresses"
		addr replace 203.0.113.9/24 dev wan0
		addr replace fd00:18::1/64 dev lan0 nodad
		addr replace 2001:db8:1::9/64 dev wan0 nodad preferred_lft 0
		addr replace 2001:db8:1::1/64 dev wan0 nodad
		addr replace 2001:db8:7::7/128 dev hold0 nodad
		addr replace fe80::9/64 dev wan0 nodad
		addr replace fe80::1/64 dev wan0 nodad
	END
}
restore_addresses
ip -n server addr add fe80::2/64 dev eth0 nodad
ip -n server route add 198.51.100.0/24 via 203.0.113.1
ip -n server route add 2001:db8:7::/64 via 2001:db8:1::1
serve server UDP 53
serve server UDP6 653
declare -A primary=([4]=203.0.113.1 [6]=2001:db8:1::1) secondary=([4]=203.0.113.9 [6]=2001:db8:1::9)
declare -A inside=([4]=172.18.0.1 [6]=fd00:18::1) client=([4]=172.18.0.2 [6]=fd00:18::2)
declare -A server=([4]=203.0.113.2 [6]=2001:db8:1::2) by_route=([4]=198.51.100.7 [6]=2001:db8:7::7)

# seen_of HOST FAMILY ADDRESS PORT [OPTION]: the host asks the server from this address and port. Prints the source that
# it saw. OPTION is socat's.
seen_of() {
	if (($2 == 4)); then
		probe "$1" UDP 203.0.113.2 53 "bind=$3:$4${5:+,$5}"
	else
		probe "$1" UDP6 '[2001:db8:1::2]' 653 "bind=[$3]:$4${5:+,$5}" | shorten_address
	fi
}
# shorten_address: replaces the long form of IPv6 addresses, as the servers print it.
shorten_address() { sed -E 's/[][]//g; s/\b0+([0-9a-f])/\1/g; s/(:0)+:/::/'; }
# own_seen FAMILY ADDRESS PORT [OPTION]: the router does so, after all flows have been forgotten.
own_seen() {
	forget_all_flows
	seen_of router "$@"
}
forget_all_flows() { ns_exec router sh -c 'conntrack -F -f ipv4; conntrack -F -f ipv6' 2> /dev/null; }

# --- Without the option

targets=(RUSTMASQ)
! compared || targets+=(MASQUERADE)
for kind in "${targets[@]}"; do
	replace_rules "$kind"
	for v in 4 6; do
		check_equal "$kind, IPv$v: the second address is not kept, but the port" "${primary[$v]}:40000" \
			"$(own_seen $v "${secondary[$v]}" 40000)"
	done
	replace_rules "$kind" --random-fully
	for v in 4 6; do
		# One of 64512 is the same by chance.
		check_fails "$kind --random-fully, IPv$v: nor is the port" test \
			"$(own_seen $v "${primary[$v]}" 40000)" == "${primary[$v]}:40000"
	done
done
flush_rules
check "no other masquerading module is loaded" remove_other_masquerade

# --- With it

# check_kept WHAT: checks which of the router's flows keep their addresses and ports.
check_kept() {
	local v
	for v in 4 6; do
		check_equal "$1, IPv$v: the router's second address and its port are kept" "${secondary[$v]}:40000" \
			"$(own_seen $v "${secondary[$v]}" 40000)"
		check_equal "$1, IPv$v: so are the first one and its port" "${primary[$v]}:40001" \
			"$(own_seen $v "${primary[$v]}" 40001)"
		check_match "$1, IPv$v: another device's address is not" "^${primary[$v]}:[0-9]+\$" \
			"$(own_seen $v "${inside[$v]}" 40002)"
		check_match "$1, IPv$v: the LAN's flows get the first address" "^${primary[$v]}:[0-9]+\$" \
			"$(seen_of lan $v "${client[$v]}" 40003)"
	done
}
for options in "" --random --random-fully --full-cone; do
	# shellcheck disable=SC2086 # no word if it is empty
	replace_rules RUSTMASQ --keep-own $options
	check_kept "--keep-own $options"
done

# With a random port the LAN's flows do not keep theirs, nor do the router's with an address of another device.
replace_rules RUSTMASQ --keep-own --random
for v in 4 6; do
	check_fails "--random, IPv$v: a LAN's host does not keep its port" test \
		"$(seen_of lan $v "${client[$v]}" 40003)" == "${primary[$v]}:40003"
	check_fails "--random, IPv$v: nor does another device's address" test \
		"$(own_seen $v "${inside[$v]}" 40002)" == "${primary[$v]}:40002"
done

# DHCPv6: a client's link-local address, one of two, and its port.
for address in fe80::1 fe80::9; do
	forget_all_flows
	ns_exec router socat -u - "UDP6-SENDTO:[ff02::1:2%wan0]:547,bind=[$address%wan0]:546" <<< x
	check_match "a DHCPv6 client keeps $address and its port" " dst=$address sport=547 dport=546 " \
		"$(tracked -f ipv6 -p udp --orig-dst ff02::1:2)"
done

# Query identifiers.
ns_exec router sh -c 'echo 0 0 > /proc/sys/net/ipv4/ping_group_range'
for v in 4 6; do
	ns_exec router "$tools/flows.py" --protocol icmp --first-port 777 --from "${secondary[$v]}" 1 "${server[$v]}"
	check_match "IPv$v: an echo request keeps its address and identifier" \
		"id=777 src=${server[$v]} dst=${secondary[$v]} .*id=777 " \
		"$(tracked -f ipv$v --orig-src "${secondary[$v]}" --orig-dst "${server[$v]}" |
			grep -E '^icmp')"
done

# --- A port that is taken

for options in "" --random; do
	flush_rules
	forget_all_flows
	for v in 4 6; do
		program=$IPTABLES
		((v == 4)) || program=$IP6TABLES
		ns_exec router "$program" -w -t nat -A POSTROUTING -s "${client[$v]}" -o wan0 -j SNAT \
			--to-source "${secondary[$v]}" || bail "SNAT"
		# shellcheck disable=SC2086 # no word if it is empty
		ns_exec router "$program" -w -t nat -A POSTROUTING -o wan0 -j RUSTMASQ --keep-own $options ||
			bail "a rule"
		what="--keep-own $options, IPv$v"
		check_equal "$what: a LAN's host gets the port by SNAT" "${secondary[$v]}:40000" \
			"$(seen_of lan $v "${client[$v]}" 40000)"
		seen=$(seen_of router $v "${secondary[$v]}" 40000)
		check_match "$what: the router's flow keeps its address" "^${secondary[$v]}:[0-9]+\$" "$seen"
		check_fails "$what: ... and gets another port" test "${seen##*:}" == 40000
	done
done

# --- With ports of a range: the port is one of it.

for options in "" --random; do
	flush_rules
	# shellcheck disable=SC2086 # no word if it is empty
	add_rule -o wan0 -p udp -j RUSTMASQ --keep-own --to-ports 5000-5999 $options || bail "a rule"
	# shellcheck disable=SC2086 # no word if it is empty
	add_rule6 -o wan0 -p udp -j RUSTMASQ --keep-own --to-ports 5000-5999 $options || bail "a rule"
	for v in 4 6; do
		what="--to-ports $options, IPv$v"
		check_equal "$what: a port of the range is kept" "${secondary[$v]}:5500" \
			"$(own_seen $v "${secondary[$v]}" 5500)"
		check_match "$what: another port is not, but the address" "^${secondary[$v]}:5[0-9]{3}\$" \
			"$(own_seen $v "${secondary[$v]}" 40000)"
	done
done

# --- With --route-source: only flows without an address of the device get the one that the route names.

replace_rules RUSTMASQ --keep-own --route-source
ip -n router route add "${server[4]}" dev wan0 src 198.51.100.7
ip -n router route add "${server[6]}" dev wan0 src 2001:db8:7::7
for v in 4 6; do
	check_equal "--route-source, IPv$v: the second address is kept" "${secondary[$v]}:40000" \
		"$(own_seen $v "${secondary[$v]}" 40000)"
	check_equal "--route-source, IPv$v: a LAN's host gets what the route names" "${by_route[$v]}:40003" \
		"$(seen_of lan $v "${client[$v]}" 40003)"
	check_equal "--route-source, IPv$v: so does the router with another device's address" "${by_route[$v]}:40004" \
		"$(seen_of router $v "${inside[$v]}" 40004)"
	ip -n router route del "${server[$v]}" dev wan0
done

# --- The address goes

for v in 4 6; do
	check_equal "IPv$v: a flow keeps its address" "${secondary[$v]}:40000" "$(own_seen $v "${secondary[$v]}" 40000)"
	seen_of lan $v "${client[$v]}" 40003 > "$scratch/other"
	ip -n router addr del "${secondary[$v]}/$((v == 4 ? 24 : 64))" dev wan0
	no_flow_of() { [[ -z $(tracked -f "ipv$v" --reply-dst "${secondary[$v]}") ]]; }
	check "IPv$v: the address goes: the flow is removed" wait_until no_flow_of
	check_match "IPv$v: ... others stay" "dst=${primary[$v]} .*dport=40003 " \
		"$(tracked -f ipv$v -p udp --orig-src "${client[$v]}")"
done
restore_addresses

# --- Saved rules

for program in "$IPTABLES" "$IP6TABLES"; do
	rules=$(ns_exec router "$program-save" -t nat)
	check_match "$program-save: the rule has both options" '-j RUSTMASQ --route-source --keep-own' "$rules"
	ns_exec router "$program" -w -t nat -F
	check "$program-restore: it is restored" ns_exec router "$program-restore" -w <<< "$rules"
done
for v in 4 6; do
	check_equal "after restoring, IPv$v: the second address is kept" "${secondary[$v]}:40000" \
		"$(own_seen $v "${secondary[$v]}" 40000)"
done

# --- A VRF, whose device the router's packets pass first

modprobe vrf
ip -n router link add red type vrf table 10 || bail "VRF"
ip -n router link set red up
for device in lan0 wan0; do ip -n router link set $device master red; done
restore_addresses
for v in 4 6; do
	replace_rules RUSTMASQ
	check_equal "VRF, without the option, IPv$v: the second address is not kept, but the port" \
		"${primary[$v]}:40000" \
		"$(own_seen $v "${secondary[$v]}" 40000 so-bindtodevice=red)"
	for options in --keep-own "--keep-own --random"; do
		# shellcheck disable=SC2086 # words
		replace_rules RUSTMASQ $options
		check_equal "VRF, $options, IPv$v: the second address and its port are kept" "${secondary[$v]}:40000" \
			"$(own_seen $v "${secondary[$v]}" 40000 so-bindtodevice=red)"
	done
done

flush_rules
check "no other masquerading module was loaded meanwhile" no_other_masquerade
done_testing
