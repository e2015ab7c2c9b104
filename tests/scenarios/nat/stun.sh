#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Kernels: plain
#
# A STUN server of coturn tells what kind of NAT its client is behind (RFC 5780): the mapping does not depend on the
# destination, with the client's own port, with another one because the own is taken, and with a range that does not have
# it; as with MASQUERADE. With --random it does depend. tests/lib/ports.sh draws the network.
# shellcheck source-path=SCRIPTDIR source=../../lib/ports.sh
. "$(dirname "$0")/../../lib/ports.sh"

setup_crowd
# The server has two addresses, from which it answers at two ports each.
ip -n server addr add 10.9.0.1/32 dev eth0 || bail "the server's second address"
host_table server -t raw -I PREROUTING -p udp --dport 3478:3479 -j ACCEPT || bail "the server's rule"
ns_start server turnserver -n --stun-only --no-cli --no-tls --no-dtls --listening-ip=203.0.113.2 \
	--listening-ip=10.9.0.1 --log-file=stdout --simple-log --pidfile="$scratch/turnserver.pid" > "$scratch/turnserver"
listens() { ns_exec server ss -Hlun | grep -q "10.9.0.1:3479"; }
wait_until listens || bail "the STUN server: $(tail -n 3 "$scratch/turnserver")"

# discover PORT: asks for the kind of the NAT from the port of the LAN's host, and prints what is said of the mapping.
discover() {
	ns_exec lan turnutils_natdiscovery -m -L 172.18.0.2 -l "$1" 203.0.113.2 > "$scratch/discovery" 2>&1
	grep -oE '(Endpoint Independent|Address Dependent|Address and Port Dependent) Mapping' "$scratch/discovery" ||
		tail -n 3 "$scratch/discovery"
}

# check_mapping WHAT PORT: checks that the mapping is independent of the endpoint. Sets `port` to the mapping's port.
check_mapping() {
	check_equal "$1: the mapping is independent of the endpoint" "Endpoint Independent Mapping" "$(discover "$2")"
	port=$(crowd_flows --orig-src 172.18.0.2 --orig-port-src "$2" --orig-dst 203.0.113.2 | awk '{ print $3 }' | sort -u)
}

for target in $(compared && echo MASQUERADE) RUSTMASQ; do
	crowd_rule "$target"
	check_mapping "$target" 40001
	check_equal "$target: ... and the port is the client's own" 40001 "$port"
	# Another client has the port towards the server.
	crowd_rule "$target"
	ns_exec lan "$tools/flows.py" --first-port 40002 --from 10.1.0.1 --to-port 3478 1 203.0.113.2
	check_mapping "$target, the port is taken" 40002
	check_match "$target, the port is taken: ... and it is another one" '^[0-9]+$' "$port"
	check "$target, the port is taken: ... than the client's own" test "$port" != 40002
	crowd_rule "$target" --to-ports 6000-6999
	check_mapping "$target --to-ports" 40003
	check_port "$target --to-ports: ... with a port of the range" 6000 6999 "$port"
done
crowd_rule RUSTMASQ --random
check "RUSTMASQ --random: the mapping is not independent of the endpoint" \
	test "$(discover 40004)" != "Endpoint Independent Mapping"

done_testing
