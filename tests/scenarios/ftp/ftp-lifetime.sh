#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# CPUs: 2
#
# A rule of iptables, an object of nftables or the module's parameter turns on our FTP helper; rules and objects load
# the module and hold it, but control connections do not keep it from being unloaded, and go on without it. Without any
# of these, a command opens nothing, and r1 rejects the data connection. conntrack(8) shows what is expected, and the
# flow watch that the data connection was.
#
#     lan            r1 (masquerades, filters,      r2 (routes)         server
#     172.18.0.2     and has the helper)                                203.0.113.2
# shellcheck source-path=SCRIPTDIR source=../../lib/ftp.sh
. "$(dirname "$0")/../../lib/ftp.sh"

setup_two_routers
ns_exec r2 "$IPTABLES" -w -F outside
ns_exec r2 "$IP6TABLES" -w -F outside
for v in 4 6; do
	translate -j MASQUERADE
	ns_exec r2 "${iptables[$v]}" -w -t nat -F
done
v=4
start_ftp_peers

helper=rustmasq-ftp

# announce_client_port: opens a control connection to the server's port $to (21), and lets the client announce its port
# 40500. Sets `reached` to what the server hears, and `said` to what r1 expects.
announce_client_port() {
	peers listen server "${to:-21}"
	peers listen lan 40500
	open_control "${server[$v]}" "${to:-21}"
	peers say client "$(announce EPRT "${client[$v]}" 40500)"
	peers announced - "$said"
	reached=$said
	peers expected r1
}

# connect_to_client: opens a data connection to the client's port as the server knows it. Sets `said` to what came of
# it.
connect_to_client() { peers data server 20 "${reached%:*}" "${reached##*:}"; }

# check_ftp_works [WHAT]: checks that the helper opens the client's port.
check_ftp_works() {
	local reached
	announce_client_port
	check_match "$helper: $case: ${1:-the helper works}: a data connection is expected" "helper $helper( |$)" "$said"
	check_equal "$helper: $case: ... at r1's address" "${r1[$v]}:40500" "$reached"
	connect_to_client
	check_equal "$helper: $case: ... and arrives" "lan:40500 from ${server[$v]}:20" "$said"
	peers forget r1
}

# check_ftp_idle WHAT: checks that the helper ignores the command, so that r1 rejects the data connection.
check_ftp_idle() {
	local reached
	announce_client_port
	check_equal "$helper: $case: $1: no data connection is expected" "" "$said"
	check_equal "$helper: $case: ... and the command is not rewritten" "${client[$v]}:40500" "$reached"
	peers data server 20 "${r1[$v]}" 40500
	check_equal "$helper: $case: ... and r1 rejects it" refused "$said"
	peers forget r1
}

# --- Rules and objects

check_rule iptables-legacy 21 check_ftp_works
check_rule iptables-nft 21 check_ftp_works
v=6
check_rule ip6tables-legacy 21 check_ftp_works
check_rule ip6tables-nft 21 check_ftp_works
v=4
check_nft_object 21 check_ftp_works
case="a rule for UDP"
check_fails "$helper: $case: it cannot be added, as there is no such helper" \
	raw_table "$IPTABLES" -A PREROUTING -p udp --dport 21 -j CT --helper "$helper"
check "$helper: $case: the module can be unloaded" wait_until unload_module

# --- What others show

case="what is shown"
raw_table "$IPTABLES" -A PREROUTING -p tcp --dport 21 -j CT --helper "$helper" || bail "the rule"
ns_start r1 conntrack -E expect > "$scratch/expected" 2> "$scratch/conntrack"
/usr/sbin/rustmasq watch --json > "$scratch/watched" 2> "$scratch/watch" &
servers+=($!)
viewer=$!
wait_until grep -q watching "$scratch/watch" || bail "the flow watch"
# The subscription of conntrack(8) cannot be seen: lines are announced until it shows one.
conntrack_shows_ftp() {
	local reached
	announce_client_port
	grep -q "\[NEW\]" "$scratch/expected"
}
check "$helper: $case: conntrack -E expect shows an expectation" wait_until conntrack_shows_ftp
check_match "$helper: $case: ... from the server to r1's port, with the control connection" \
	"proto=6 src=203.0.113.2 dst=192.0.2.2 sport=0 dport=40500 .* master-src=172.18.0.2 .*dport=21 .*helper=$helper" \
	"$(grep -m 1 "\[NEW\]" "$scratch/expected")"
announce_client_port
check_match "$helper: $case: conntrack -L expect shows it" "proto=6 src=203.0.113.2 dst=192.0.2.2 .* helper=$helper" \
	"$(ns_exec r1 conntrack -L expect 2> /dev/null)"
check_match "$helper: $case: conntrack -L shows the control connection's helper" "dport=21 .* helper=$helper" \
	"$(ns_exec r1 conntrack -L -p tcp 2> /dev/null)"
connect_to_client
check_equal "$helper: $case: the data connection arrives" "lan:40500 from ${server[4]}:20" "$said"
watched_data() { grep '"namespace": "r1"' "$scratch/watched" | grep '"port": 40500' | grep EXPECTED; }
check "$helper: $case: the flow watch shows it as expected" wait_until watched_data
check_match "$helper: $case: ... and that NAT led it back to the client" \
	'"reply": \{"source": \{"address": "172.18.0.2", "port": 40500' "$(watched_data | head -n 1)"
kill "$viewer"
peers forget r1
raw_table "$IPTABLES" -F
check "$helper: $case: the module can be unloaded" wait_until unload_module

# --- Unloading with a control connection

# check_control_continues WHEN: checks that lines pass in both directions, behind one that was rewritten.
check_control_continues() {
	peers say client 'NOOP\r\n'
	check_equal "$helper: $case: $1: the client's next line arrives" 'NOOP\r\n' "$said"
	peers say server '200 done\r\n'
	check_equal "$helper: $case: $1: the server's next line arrives" '200 done\r\n' "$said"
}

case="unloading"
raw_table "$IPTABLES" -A PREROUTING -p tcp --dport 21 -j CT --helper "$helper" || bail "the rule"
announce_client_port
raw_table "$IPTABLES" -F
check "$helper: $case: control connections do not hold the module" wait_until unload_module
peers expected r1
check_equal "$helper: $case: its expectations are gone" "" "$said"
check_control_continues "without the module"
line=$(announce EPRT "${client[4]}" 40501)
check_line client "$line" "without the module: a command is not rewritten" "$line"
raw_table "$IPTABLES" -A PREROUTING -p tcp --dport 21 -j CT --helper "$helper" || bail "the rule"
check_control_continues "with the module again"
check_line client "$line" "the old connection does not get the helper back" "$line"
peers forget r1
check_ftp_works "a new connection gets it"
raw_table "$IPTABLES" -F
check "$helper: $case: the module can be unloaded at the end" wait_until unload_module

# A namespace goes with its rule, its control connection and the expectation.
case="removal of a namespace"
setup_ns passing
setup_link passing up0 198.51.100.1/24 server down0 198.51.100.2/24
ns_exec passing "$IPTABLES" -w -t raw -A OUTPUT -p tcp --dport 21 -j CT --helper "$helper" || bail "the rule"
peers listen server 21
peers control passing 40001 198.51.100.2 21
peers say server '220 ready\r\n'
peers say client 'USER anonymous\r\n'
peers say client "$(announce PORT 198.51.100.1 40500)"
peers expected passing
check_match "$helper: $case: a data connection is expected there" "helper $helper" "$said"
peers forget r1
peers leave passing
ip netns del passing
hosts=(lan r1 r2 server)
check "$helper: $case: the namespace holds the module no longer when it is gone" wait_until unload_module

# --- Both helpers side by side

case="beside the kernel's own helper"
modprobe nf_nat_ftp || bail "the kernel's own helper"
raw_table "$IPTABLES" -A PREROUTING -p tcp --dport 21 -j CT --helper ftp || bail "the kernel's own helper"
raw_table "$IPTABLES" -A PREROUTING -p tcp --dport 2121 -j CT --helper rustmasq-ftp || bail "our helper"
to=2121 check_ftp_works "our helper works"
helper=ftp check_ftp_works "the kernel's own helper works"
raw_table "$IPTABLES" -F
check "$case: the module can be unloaded" wait_until unload_module

# --- By the module's parameter

case="the parameter ftp_port"
check_bad_ports ftp_port

modprobe rustmasq || bail "the module"
check_ftp_idle "not given, and no rule"
check "$helper: $case: not given: nothing holds the module" unload_module

modprobe rustmasq ftp_port=21 || bail "the module with its parameter"
for v in 4 6; do check_ftp_works "a connection without a rule, IPv$v"; done
v=4
to=2121 check_ftp_idle "a connection to another port"

# The router's own connection.
peers listen server 21
peers listen r1 40500
peers control r1 40001 "${server[4]}" 21
peers say server '220 ready\r\n'
peers say client 'USER anonymous\r\n'
peers say client "$(announce PORT "${r1[4]}" 40500)"
peers data server 20 "${r1[4]}" 40500
check_equal "$helper: $case: the router's own connection: a data connection arrives" "r1:40500 from ${server[4]}:20" \
	"$said"
peers forget r1

# The destination port after DNAT decides, which is the server's own.
for ports in 2021:21 21:2121; do
	raw_table "$IPTABLES" -t nat -A PREROUTING -i lan0 -p tcp --dport "${ports%:*}" \
		-j DNAT --to-destination "${server[4]}:${ports#*:}"
done
peers listen server 21
peers listen server 2121
peers control lan 40001 "${server[4]}" 2021
peers flows r1
check_match "$helper: $case: a connection to port 2021 reaches port 21 by DNAT, and has the helper" \
	"203.0.113.2:2021 203.0.113.2:21>.* helper $helper" "$said"
peers control lan 40002 "${server[4]}" 21
peers flows r1
check_match "$helper: $case: a connection to port 21 reaches port 2121 by DNAT" "203.0.113.2:21 203.0.113.2:2121>" \
	"$said"
check_equal "$helper: $case: ... and has no helper" "" "$(grep ":2121>.*helper" <<< "$said")"
peers forget r1
raw_table "$IPTABLES" -t nat -F PREROUTING

# Rules take precedence over the parameter.
raw_table "$IPTABLES" -A PREROUTING -p tcp --dport 21 -j CT --helper ftp
helper=ftp check_ftp_works "a rule assigns another helper"
raw_table "$IPTABLES" -F
raw_table "$IPTABLES" -A PREROUTING -p tcp --dport 21 -j CT --notrack
peers listen server 21
peers control lan 40001 "${server[4]}" 21
peers flows r1
check_equal "$helper: $case: a rule exempts a connection from tracking" "" "$said"
raw_table "$IPTABLES" -F
peers forget r1
serve server UDP 21
probe lan UDP 203.0.113.2 21 > /dev/null
entry=$(ns_exec r1 conntrack -L -p udp 2> /dev/null)
check_match "$helper: $case: a UDP flow to port 21 is tracked" "dport=21 " "$entry"
check_equal "$helper: $case: ... and has no helper" "" "$(grep helper= <<< "$entry")"

case="unloading with the parameter"
announce_client_port
check "$helper: $case: nothing holds the module" wait_until unload_module
peers expected r1
check_equal "$helper: $case: its expectations are gone" "" "$said"
check_control_continues "without the module"

peers forget r1

# Clients announce ports as fast as the server answers: in old connections, which have no helper any more, and in new ones.
case="unloading in a flood"
ns_start server python3 -m pyftpdlib --interface :: --port 21 > "$scratch/flooded" 2>&1
wait_until listening server TCP 21 || bail "no server: $(< "$scratch/flooded")"
for _ in 1 2; do ns_start lan "$tools/ftp_flood.py" 5 203.0.113.2 21 > "$scratch/flood" 2>&1; done
r1_expects_data() {
	peers expected r1
	[[ $said ]]
}
wanted=$(scaled 60) rounds=0
for ((n = 0; n < wanted; n++)); do
	modprobe rustmasq ftp_port=21 && wait_until r1_expects_data && unload_module && ! r1_expects_data &&
		rounds=$((rounds + 1))
done
check_equal "$helper: $case: each time the module was loaded, expected data, and was unloaded with its expectations" \
	"$wanted" $rounds
[[ ! -s $scratch/flood ]] || not_ok "$helper: $case: the flood goes on" "$(< "$scratch/flood")"
modprobe rustmasq ftp_port=21
stop_servers
check "$helper: $case: the module can be unloaded afterwards" wait_until unload_module

done_testing
