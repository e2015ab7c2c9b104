#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Front ends: legacy nft
#
# Flows that conntrack knew before there was a rule go on as they are: a
# one-way stream, which stays "new" to NAT as long as nobody answers, and an
# ICMP error about such a flow.
. "$(dirname "$0")/../../lib/lib.sh"

setup_lan
# Something that turns conntrack on, and NAT off.
ns_exec router "$IPTABLES" -w -A FORWARD -m conntrack --ctstate INVALID -j DROP || bail "filter rule"

received() { cat "$scratch/stream" 2> /dev/null; }
has_received() { [[ $(received) == *"$1"* ]]; }
send_syslog() { ns_exec lan socat -u - UDP:203.0.113.2:514,sourceport=514 <<< "$1"; }

ns_start server socat -u UDP-RECV:514 "OPEN:$scratch/stream,creat,append" 2> /dev/null
wait_until listening server UDP 514 || bail "no server"
send_syslog before
check "a one-way stream arrives without a rule" wait_until has_received before
check_match "conntrack has confirmed it, without NAT" "src=203.0.113.2 dst=172.18.0.2" "$(tracked -p udp)"
add_rule -j RUSTMASQ || bail "rule"
send_syslog after
check "the stream goes on when there is a rule" wait_until has_received after
check_match "... with the tuples that it had" "src=203.0.113.2 dst=172.18.0.2" "$(tracked -p udp)"
ns_exec router conntrack -F 2> /dev/null
send_syslog anew
check "forgotten, it begins anew" wait_until has_received anew
check_match "... with the router's address" "src=203.0.113.2 dst=203.0.113.1" "$(tracked -p udp)"

done_testing
