#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Front ends: legacy nft
#
# A flow that conntrack confirmed before the first rule existed goes on without NAT. The flow here is a one-way UDP
# stream: each of its packets is "new" to conntrack, as nobody answers. After its entry was removed, the rule
# translates it.
. "$(dirname "$0")/../../lib/lib.sh"

setup_lan
# This rule turns conntrack on, but not NAT.
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
check "the stream goes on after the rule was added" wait_until has_received after
check_match "conntrack keeps the stream's tuples" "src=203.0.113.2 dst=172.18.0.2" "$(tracked -p udp)"
ns_exec router conntrack -F 2> /dev/null
send_syslog anew
check "the stream arrives after its entry was removed" wait_until has_received anew
check_match "the stream leaves with the router's address now" "src=203.0.113.2 dst=203.0.113.1" "$(tracked -p udp)"

done_testing
