#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Kernels: plain
#
# A range of ports or identifiers is used up to its last one: as many clients as it has ports get through, each with
# another port. One more is refused, counted, and gets the port of the next flow that ends. tests/lib/ports.sh draws the
# network. MASQUERADE loses some of the same clients.
# shellcheck source-path=SCRIPTDIR source=../../lib/ports.sh
. "$(dirname "$0")/../../lib/ports.sh"

# check_full WHAT COUNT FIRST [OPTION...]: checks that COUNT clients get COUNT ports from FIRST on, one each, with the
# rule in place. OPTIONs are those of flows.py.
check_full() {
	local what="IPv$v, $protocol, $1" count=$2 first=$3 before arrived ports freed got
	before=$(losses) arrived=$(arrived)
	send_crowd 1 "$count" "${@:4}"
	crowd_flows | awk '{ print $3 }' | sort -n > "$scratch/ports"
	ports=$(uniq "$scratch/ports" | wc -l)
	check_equal "$what: $count clients get through" "$count" "$(wc -l < "$scratch/ports")"
	check_equal "$what: they have as many ports" "$count $first $((first + count - 1))" \
		"$ports $(head -n 1 "$scratch/ports") $(tail -n 1 "$scratch/ports")"
	check_equal "$what: their packets arrive" "$count" "$(($(arrived) - arrived))"
	check_equal "$what: none is dropped" "$before" "$(losses)"
	send_crowd $((count + 1)) $((count + 1))
	check_equal "$what: one client more is refused and counted" "$((${before% *} + 1)) ${before#* }" "$(losses)"
	freed=$(port_of $((count / 2)))
	ns_exec router conntrack -D -f "ipv$v" --orig-src "$(client_number $((count / 2)))" > "$scratch/deleted" 2>&1 ||
		not_ok "$what: a flow can be removed" "$(< "$scratch/deleted")"
	send_crowd $((count + 2)) $((count + 2))
	got=$(port_of $((count + 2)))
	check_equal "$what: the next client gets the port of a flow that was removed" "$freed" "$got"
}

# take_ports FIRST END: the LAN's host sends a UDP packet from each port from FIRST to END - 1 to the server's port 10, by
# the kernel's packet generator, as they are many.
take_ports() {
	local mac file line host=172.18.0.2 target="dst ${server_of[4]}"
	modprobe pktgen || bail "pktgen"
	mac=$(ip -n router -br link show lan0 | awk '{ print $3 }')
	[[ $v == 4 ]] || host=fd00:18::2 target="dst6 ${server_of[6]}"$'\n'"lan0 src6 fd00:18::2"
	while read -r file line; do
		ns_exec lan tee "/proc/net/pktgen/$file" <<< "$line" > /dev/null || bail "pktgen: $line"
	done <<-END
		kpktgend_0 add_device lan0
		lan0 dst_mac $mac
		lan0 $target
		lan0 udp_src_min $1
		lan0 udp_src_max $2
		lan0 udp_dst_min 10
		lan0 udp_dst_max 10
		lan0 count $(($2 - $1))
		pgctrl start
		kpktgend_0 rem_device_all
	END
	check_equal "IPv$v: one client has all ports from $1 to $(($2 - 1))" $(($2 - $1)) \
		"$(crowd_flows --orig-src $host | wc -l)"
}

# check_class [OPTION...]: checks that 600 clients with a port below 512 get all ports below 512, and then others.
check_class() {
	local what="IPv$v, $protocol, default options${*:+, $*}" before
	crowd_rule RUSTMASQ "$@"
	before=$(losses)
	send_crowd 1 600 --first-port 300
	crowd_flows | awk '{ print $3 }' | sort -nu > "$scratch/ports"
	check_equal "$what: 600 clients have as many ports, and all below 512" "600 511" \
		"$(awk '$1 < 512 { low++ } END { print NR, low + 0 }' "$scratch/ports")"
	check_equal "$what: ... and none is dropped" "$before" "$(losses)"
}

# pool_has COUNT: succeeds if there is a pool that knows of so many ports in use.
pool_has() { ns_exec router grep -q " in_use=$1 " /proc/net/rustmasq_pools; }

# check_others: checks that a flow gets the only free port of a thousand, although the pool does not know of some flows:
# those of the router, which no rule translates.
check_others() {
	local what="IPv$v, ports of the router's own flows" own=${router_of[$v]} last before
	crowd_rule RUSTMASQ --to-ports 6000-6999
	host_table router -t nat -I POSTROUTING -s "$own" -j ACCEPT
	ns_exec lan "$tools/flows.py" --first-port 6000 700 "${server_of[$v]}"
	send_crowd 1 30
	check "$what: the pool of a crowded destination knows all flows" wait_until pool_has 730
	last=$(comm -23 <(seq 6700 6999) <(crowd_flows | awk '{ print $3 }' | sort -n) | tail -n 1)
	# Those whose port a client has leave with one beyond the range.
	ns_exec router "$tools/flows.py" --first-port 6700 --from "$own" $((last - 6700)) "${server_of[$v]}"
	ns_exec router "$tools/flows.py" --first-port $((last + 1)) --from "$own" $((6999 - last)) "${server_of[$v]}"
	before=$(losses)
	send_crowd 31 31
	check_equal "$what: a client gets the only port that is left" "$last" "$(port_of 31)"
	send_crowd 32 32
	check_equal "$what: ... and another one is refused" "$((${before% *} + 1)) ${before#* }" "$(losses)"
}

setup_crowd

# --- A small range of each protocol

for v in 4 6; do
	for protocol in udp tcp sctp icmp; do
		crowd_rule RUSTMASQ --to-ports 6000-6019
		check_full "20 ports" 20 6000
	done
done
v=6 protocol=tcp
crowd_rule RUSTMASQ --to-ports 4990-5009 --random-fully
check_full "20 ports with the clients' own, --random-fully" 20 4990
v=4 protocol=udp
crowd_rule RUSTMASQ --to-ports 6000-6019 --random
check_full "20 ports, --random" 20 6000
crowd_rule RUSTMASQ --to-ports 4990-5009
check_full "20 ports with the clients' own, one client after the other" 20 4990 --pause 0.1

# --- A large range

count=$((4000 / slow))
range=10000-$((10000 + count - 1))
if compared; then
	crowd_rule MASQUERADE --to-ports $range
	before=$(losses)
	send_crowd 1 $count
	lost=$((count - $(crowd_flows | wc -l)))
	echo "# of $count clients for $count ports, MASQUERADE loses $lost"
	check "MASQUERADE loses some of $count clients for $count ports" test $lost -gt 0
	check "... after it gave them ports that were taken: insert_failed" \
		test "$(($(conntrack_statistic router insert_failed) - ${before#* }))" -ge $lost
fi
crowd_rule RUSTMASQ --to-ports $range
check_full "$count ports" $count 10000

# --- A range that the router's own flows use, too

protocol=udp
for v in 4 6; do check_others; done

# --- A class of ports, with the default options

for v in 4 6; do
	for protocol in tcp sctp; do
		check_class
		check_class --random
	done
	protocol=udp
	check_class --random-fully
done
v=4

# --- All ports of the default options, of which one client has all but the last 100, to a port of the server where none
# rests

if compared; then
	limit=/proc/sys/net/netfilter/nf_conntrack_max
	limit_before=$(< $limit)
	trap 'echo "$limit_before" > $limit; cleanup' EXIT
	echo 262144 > $limit
	for v in 4 6; do
		crowd_rule RUSTMASQ
		take_ports 1024 65436
		before=$(losses)
		send_crowd 1 100 --to-port 10
		check_equal "IPv$v, default options: 100 clients get the last 100 of all ports" "100 65436 65535" \
			"$(crowd_flows --orig-port-src 5000 | grep -E '^(10\.|fd00:1:)' | awk '{ print $3 }' | sort -nu |
				awk 'NR == 1 { first = $1 } END { print NR, first, $1 }')"
		check_equal "... and none is dropped" "$before" "$(losses)"
		send_crowd 101 101 --to-port 10
		check_equal "... and one client more is refused" "$((${before% *} + 1)) ${before#* }" "$(losses)"
	done
fi

done_testing
