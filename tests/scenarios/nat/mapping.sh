#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Kernels: plain
#
# The mapping does not depend on the destination (RFC 4787, REQ-1): a client whose port was not kept towards one server
# has the same other port towards all servers, as with MASQUERADE. tests/lib/ports.sh draws the network.
# shellcheck source-path=SCRIPTDIR source=../../lib/ports.sh
. "$(dirname "$0")/../../lib/ports.sh"

declare -A others=([4]=10.9.0.1-9 [6]=2001:db8:9::1-9)

# mappings: prints a line for each client, in their order: the number of its flows, and the different ports they have.
mappings() {
	crowd_flows | awk '
		{ flows[$1]++ }
		!seen[$1 " " $3]++ { ports[$1] = ports[$1] " " $3 }
		END { for (client in flows) print client, flows[client] ports[client] }' | sort -V | cut -d ' ' -f 2-
}

# send_to_others FIRST LAST: the clients send to nine further servers, one client after the other.
send_to_others() {
	local targets=("${others[$v]}")
	send_crowd "$1" "$2"
}

# check_kept TARGET: of two clients with one port, the first keeps it, and the second gets another one. Both have their
# ports towards nine further servers, too.
check_kept() {
	local what="IPv$v, $protocol, $1" second
	crowd_rule "$1"
	send_crowd 1 2
	second=$(port_of 2)
	check "$what: the second client's port is not kept" test "$second" != 5000
	send_to_others 1 2
	check_equal "$what: both clients have one port towards ten servers" "10 5000,10 $second" "$(mappings | paste -sd ,)"
}

# check_range TARGET RANGE COUNT: so many clients, none of whose ports is in the range, have one port each towards ten
# servers.
check_range() {
	local what="IPv$v, $protocol, $1 --to-ports $2"
	crowd_rule "$1" --to-ports "$2"
	send_crowd 1 "$3"
	send_to_others 1 "$3"
	check_equal "$what: $3 clients have one port each towards ten servers" "$3" \
		"$(mappings | tee "$scratch/mappings" | grep -cE '^10 [0-9]+$')"
	grep -vE '^10 [0-9]+$' "$scratch/mappings" | sed 's/^/# flows, and ports: /'
}

setup_crowd
for target in $(compared && echo MASQUERADE) RUSTMASQ; do
	for v in 4 6; do
		for protocol in udp tcp sctp icmp; do
			check_kept "$target"
		done
		protocol=udp
		check_range "$target" 6000-6999 5
		protocol=tcp
		check_range "$target" 6000-6009 10
	done
done

done_testing
