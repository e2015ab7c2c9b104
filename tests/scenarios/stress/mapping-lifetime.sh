#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Kernels: plain
#
# A mapping without a flow is kept for 300 s, one of TCP for 240 s. Flows from outside keep it if they are answered, or, with
# mappings_refresh_inbound=1, in any case. This waits for eleven minutes, so it is only for the soak. The network of
# setup_lan, and a stranger 203.0.113.3.
. "$(dirname "$0")/../../lib/lib.sh"

(($(scaled 100) == 100)) || skip_all "waits for eleven minutes (make soak)"
setup_lan
ip -n server addr add 203.0.113.3/24 dev eth0
serve server UDP 5000
serve server TCP 5001
add_rule -o wan0 -j RUSTMASQ --full-cone || bail "the rule"
# listed: prints the inside ports of the mappings.
listed() { ns_exec router sed -nE 's/.* inside=[^ ]+ port=([0-9]+) .*/\1/p' /proc/net/rustmasq_mappings | sort | paste -sd ' '; }
# idle PORT: prints for how many seconds the mapping of the inside port has had no use.
idle() { ns_exec router sed -nE "s/.* port=$1 .* unused=([0-9]+)\$/\1/p" /proc/net/rustmasq_mappings; }
# send_in PORT...: a stranger sends to these ports of the router.
send_in() {
	local port
	for port; do echo x | ns_exec server socat -u - "UDP:203.0.113.1:$port,bind=203.0.113.3,sourceport=7777,reuseaddr"; done
}
# is_listed EXPECTED: succeeds if these are listed. Meanwhile the stranger sends to three of them.
is_listed() {
	((SECONDS % 5 != 0)) || send_in 4001 4002
	[[ $(listed) == "$1" ]]
}
# becomes WHAT EXPECTED SECONDS: checks that the list becomes this one in the time.
becomes() {
	local end=$((SECONDS + $3))
	until is_listed "$2" || ((SECONDS > end)); do pause 1; done
	check_equal "$1" "$2" "$(listed)"
}

# 4000 hears nothing from outside, 4001 does not answer, 4002 does, 4003 is TCP.
start() {
	for port in 4000 4001 4002; do
		check_match "UDP port $port is mapped" ":$port\$" "$(probe lan UDP 203.0.113.2 5000 "sourceport=$port,reuseaddr")"
	done
	check_match "TCP port 4003 is mapped" ":4003\$" "$(probe lan TCP 203.0.113.2 5001 "sourceport=4003,reuseaddr")"
	serve lan UDP 4002
	ns_exec router conntrack -F 2> /dev/null
	began=$SECONDS
}

start
becomes "the mapping of TCP ends first" "4000 4001 4002" 260
check "... after 240 s" test $((SECONDS - began)) -ge 238
becomes "then those end to which nobody inside has sent an answer" 4002 90
check "... after 300 s" test $((SECONDS - began)) -ge 298
check "... and the one that answers is fresh" test "$(idle 4002)" -lt 20

flush_rules
stop_servers
wait_until unload_module || bail "the module can be unloaded"
modprobe rustmasq mappings_refresh_inbound=1 || bail "the module"
add_rule -o wan0 -j RUSTMASQ --full-cone || bail "the rule"
serve server UDP 5000
serve server TCP 5001
start
becomes "mappings_refresh_inbound=1: the mapping ends that hears nothing" "4001 4002" 330
check "... after 300 s" test $((SECONDS - began)) -ge 298

done_testing
