#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Kernels: plain
#
# Two peers behind two routers connect by their mappings alone, as browsers do in a call: ICE (RFC 8445), by aioice,
# with a STUN server and no relay. With --full-cone or --port-restricted-cone on both routers they find a path; with
# --random, where each destination sees another port, they do not, unless the other router lets in anybody. Two peers
# behind one router with --full-cone connect by its outside address. Both routers let in answers and what a mapping
# leads in. Both LANs have the same addresses, and each client has a rule of its own.
#
#     lan                  r1                           server                            r2             lan2
#     172.18.0.2, ... --- lan0  wan0 ------------- eth0         eth1 ------------- wan0  lan0 --- 172.18.0.2, ...
#                               203.0.113.1/24     203.0.113.2  198.51.100.2     198.51.100.1/24
#     other
#     172.19.0.2, ... --- lan1
. "$(dirname "$0")/../../lib/lib.sh"

setup_ns lan other r1 server r2 lan2
setup_link lan lan0 172.18.0.2/16 r1 lan0 172.18.0.1/16
setup_link other lan0 172.19.0.2/16 r1 lan1 172.19.0.1/16
setup_link lan2 lan0 172.18.0.2/16 r2 lan0 172.18.0.1/16
setup_link r1 wan0 203.0.113.1/24 server eth0 203.0.113.2/24
setup_link r2 wan0 198.51.100.1/24 server eth1 198.51.100.2/24
for host in "lan 172.18.0.1" "other 172.19.0.1" "lan2 172.18.0.1" "r1 203.0.113.2" "r2 198.51.100.2"; do
	ip -n "${host% *}" route add default via "${host#* }"
done
for host in r1 r2 server; do enable_forwarding $host; done

for host in r1 r2; do
	ns_exec $host "$IPTABLES-restore" -w <<-END || bail "the filter of $host"
		*filter
		-A FORWARD -i wan0 -m conntrack --ctstate ESTABLISHED,RELATED,DNAT -j ACCEPT
		-A FORWARD -i wan0 -j DROP
		COMMIT
	END
done
ns_start server turnserver -n --stun-only --no-cli --no-tls --no-dtls --listening-ip=203.0.113.2 \
	--log-file=stdout --simple-log --pidfile="$scratch/turnserver.pid" > "$scratch/turnserver"
wait_until listening server UDP 3478 || bail "the STUN server: $(tail -n 3 "$scratch/turnserver")"

# add_client HOST NETWORK ROUTER OPTION...: gives a host a further address, and its router a rule for that. Sets `peer`
# to the peer there.
last=10
add_client() {
	last=$((last + 1)) peer=$1@$2.0.$last
	ip -n "$1" addr add "$2.0.$last/16" dev lan0
	ns_exec "$3" "$IPTABLES" -w -t nat -A POSTROUTING -s "$2.0.$last" -o wan0 -j RUSTMASQ "${@:4}" || bail "a rule of $3"
}

# Pairs of peers by their routers' options, and if they find a path.
pairs=() titles=() expected=()
# expect_path WHAT FIRST SECOND yes|no ADDRESS: notes what two peers should say. ADDRESS is that of the second mapping.
expect_path() {
	local first="heard hello from $3" second="heard hello from $2"
	[[ $4 == yes ]] || first="no path" second="no path"
	pairs+=("$2=$3") titles+=("$1")
	expected+=("$2, mapping 203.0.113.1, $first; $3, mapping $5, $second")
}
while IFS=/ read -r first second answer; do
	read -r -a words <<< "$first"
	add_client lan 172.18 r1 "${words[@]}"
	one=$peer
	read -r -a words <<< "$second"
	add_client lan2 172.18 r2 "${words[@]}"
	expect_path "$first and $second" "$one" "$peer" "$answer" 198.51.100.1
done << 'END'
--full-cone/--full-cone/yes
--port-restricted-cone/--port-restricted-cone/yes
--address-restricted-cone --random/--port-restricted-cone/yes
--full-cone/--random/yes
--port-restricted-cone/--random/no
--random/--random/no
END
for option in --full-cone ""; do
	answer=yes
	[[ $option ]] || answer=no
	add_client lan 172.18 r1 ${option:+"$option"}
	one=$peer
	add_client other 172.19 r1 ${option:+"$option"}
	expect_path "one router, ${option:-no option}" "$one" "$peer" "$answer" 203.0.113.1
done

"$tools/ice_peers.py" 203.0.113.2 "${pairs[@]}" > "$scratch/said" || bail "the peers"
# said_by PEER: prints what the peer said, without its mapping's port.
said_by() { grep "^$1," "$scratch/said" | sed -E 's/(mapping [0-9.]+):[0-9]+/\1/'; }
for n in "${!pairs[@]}"; do
	pair=${pairs[$n]}
	answer="they connect"
	[[ ${expected[$n]} != *"no path"* ]] || answer="they find no path"
	check_equal "${titles[$n]}: $answer" "${expected[$n]}" "$(said_by "${pair%=*}"); $(said_by "${pair#*=}")"
done

done_testing
