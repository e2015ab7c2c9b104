#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Kernels: plain
#
# Two STUN clients of different makes say what the options of cones promise: coturn's of RFC 5780, for both families,
# and one of RFC 3489. Each option is that of a rule for a client with an address of its own. Without an option the
# filtering depends on address and port; with --random, the mapping does, too. The STUN server is coturn. It has two
# addresses, and answers from the other one, or from another port, when asked to.
#
#     lan                      router                     server
#     lan0 ----------------- lan0  wan0 ---------------- eth0
#     172.18.0.2/16, .3-.7   172.18.0.1   203.0.113.1    203.0.113.2/24, .3
#     fd00:18::2, ::3-::7    fd00:18::1   2001:db8:1::1  2001:db8:1::2, ::3
. "$(dirname "$0")/../../lib/lib.sh"

setup_lan
setup_lan_ipv6
ip -n server addr add 203.0.113.3/24 dev eth0
ip -n server addr add 2001:db8:1::3/64 dev eth0 nodad

# Client number n has the option n.
options=([2]="" [3]=--random [4]=--port-restricted-cone [5]=--address-restricted-cone [6]=--full-cone
	[7]="--full-cone --random")
# The words of coturn's client for the kind of the mapping, and of the filtering.
independent="Endpoint Independent" both="Address and Port Dependent"
mapping=([2]=$independent [3]=$both [4]=$independent [5]=$independent [6]=$independent [7]=$independent)
filtering=([2]=$both [3]=$both [4]=$both [5]="Address Dependent" [6]=$independent [7]=$independent)
# The other client's words of them. It does not ask for the filtering where the mapping depends on the endpoint.
independent="Independent Mapping,"
others=([2]="$independent Port Dependent Filter" [3]="Dependent Mapping" [4]="$independent Port Dependent Filter"
	[5]="$independent Address Dependent Filter" [6]="$independent Independent Filter"
	[7]="$independent Independent Filter")

for n in "${!options[@]}"; do
	if ((n > 2)); then
		ip -n lan addr add "172.18.0.$n/16" dev lan0
		# IPv6 would take the newest address as a source.
		ip -n lan addr add "fd00:18::$n/64" dev lan0 nodad preferred_lft 0
	fi
	read -r -a words <<< "${options[$n]}"
	add_rule -s "172.18.0.$n" -o wan0 -j RUSTMASQ "${words[@]}" || bail "a rule"
	add_rule6 -s "fd00:18::$n" -o wan0 -j RUSTMASQ "${words[@]}" || bail "a rule"
done

# has_opened_sockets ADDRESS: succeeds if the STUN server answers from the address, too.
has_opened_sockets() { ns_exec server ss -Hlun | tr -d '[]' | grep -qF "$1:3479"; }

# start_server NAME ADDRESS ADDRESS: starts a STUN server with two addresses.
start_server() {
	ns_start server turnserver -n --stun-only --no-cli --no-tls --no-dtls --listening-ip="$2" --listening-ip="$3" \
		--log-file=stdout --simple-log --pidfile="$scratch/$1.pid" > "$scratch/$1"
	wait_until has_opened_sockets "$3" || bail "the STUN server: $(tail -n 3 "$scratch/$1")"
}
start_server turnserver4 203.0.113.2 203.0.113.3
start_server turnserver6 2001:db8:1::2 2001:db8:1::3

# start_client NAME COMMAND...: starts a client.
clients=()
start_client() {
	ns_enter lan "${@:2}" > "$scratch/$1" 2>&1 &
	clients+=($!)
}
# The clients wait for answers that do not come, all at the same time. The kernel chooses other ports than theirs.
for n in "${!options[@]}"; do
	start_client "4-$n" turnutils_natdiscovery -m -f -L "172.18.0.$n" -l "110${n}0" 203.0.113.2
	start_client "6-$n" turnutils_natdiscovery -m -f -L "fd00:18::$n" -l "110${n}0" 2001:db8:1::2
	start_client "stun-$n" stun 203.0.113.2 -i "172.18.0.$n" -p "120${n}0"
done
wait "${clients[@]}"

# told FILE KIND: prints what coturn's client says of the mapping or the filtering.
told() { sed -n "s/^NAT with \(.*\) $2!.*/\1/p" "$scratch/$1"; }

for n in "${!options[@]}"; do
	what="RUSTMASQ ${options[$n]:-without an option}"
	for v in 4 6; do
		check_equal "$what, IPv$v: coturn's client about the mapping" "${mapping[$n]}" "$(told "$v-$n" Mapping)"
		check_equal "$what, IPv$v: ... and about the filtering" "${filtering[$n]}" "$(told "$v-$n" Filtering)"
	done
	[[ ${options[$n]} == *random* ]] && port="random port" || port="preserves ports"
	[[ ${options[$n]} == *cone* ]] && hairpin="will hairpin" || hairpin="no hairpin"
	check_equal "$what: the other client" "${others[$n]}, $port, $hairpin" \
		"$(sed -n 's/^Primary: //p' "$scratch/stun-$n" | tr -d '\t')"
done

done_testing
