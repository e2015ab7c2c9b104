#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# A rule of iptables, an object of nftables or the module's parameter turns on our TFTP helper; rules and objects load
# the module and hold it, but flows and expectations do not keep it from being unloaded. Without any of these, a request
# creates no expectation, and r1 rejects the answer.
#
#     lan            r1 (masquerades, filters,      r2 (routes)         server
#     172.18.0.2     and has the helper)                                203.0.113.2
# shellcheck source-path=SCRIPTDIR source=../../lib/tftp.sh
. "$(dirname "$0")/../../lib/tftp.sh"

setup_two_routers
ns_exec r2 "$IPTABLES" -w -F outside
ns_exec r2 "$IP6TABLES" -w -F outside
for v in 4 6; do
	translate -j MASQUERADE
	ns_exec r2 "${iptables[$v]}" -w -t nat -F
done
v=4
start_tftp_peers

helper=rustmasq-tftp

after_case=(peers forget r1)

# request_boot_file: sends a request of the client to the server's port $to (69). Sets `seen` to the source that the
# server saw, and `said` to what r1 expects then.
request_boot_file() {
	peers open server "${to:-69}"
	peers send lan 40001 "${server[$v]}" "${to:-69}" read boot octet
	peers hear server "${to:-69}"
	seen=${said% read boot octet}
	[[ $seen != "$said" ]] || not_ok "$helper: $case: the server receives the request" "$said"
	peers expected r1
}

# check_works [WHAT]: checks that the helper expects an answer to a request, and that the answer reaches the client.
check_works() {
	local seen
	request_boot_file
	check_match "$helper: $case: ${1:-the helper works}: an answer is expected" "helper $helper( |$)" "$said"
	peers send server 5001 "${seen%:*}" "${seen##*:}" data 1 100
	peers hear lan 40001
	check_equal "$helper: $case: ... and reaches the client" "${server[$v]}:5001 data 1 100" "$said"
	"${after_case[@]}"
}

# check_idle WHAT: checks that the helper ignores a request, so that r1 rejects the answer.
check_idle() {
	local seen address
	request_boot_file
	check_equal "$helper: $case: $1: no answer is expected" "" "$said"
	peers send server 5001 "${seen%:*}" "${seen##*:}" data 1 100
	peers hear server 5001
	strip_brackets "${r1[$v]}" address
	check_equal "$helper: $case: ... and r1 rejects it" "${refused[$v]} from $address" "$said"
	"${after_case[@]}"
}

# --- Rules and objects

check_rule iptables-legacy 69 check_works
check_rule iptables-nft 69 check_works
v=6
check_rule ip6tables-legacy 69 check_works
check_rule ip6tables-nft 69 check_works
v=4
check_nft_object 69 check_works
case="a rule for TCP"
check_fails "$helper: $case: it cannot be added, as there is no such helper" \
	raw_table "$IPTABLES" -A PREROUTING -p tcp --dport 69 -j CT --helper "$helper"
check "$helper: $case: the module can be unloaded" wait_until unload_module

# --- Unloading with flows and expectations

# start_transfer: starts a transfer from the server's port 5001, and sends a second request, which stays unanswered.
start_transfer() {
	request_boot_file
	peers send server 5001 "${seen%:*}" "${seen##*:}" data 1 100
	peers hear lan 40001
	peers send lan 40002 "${server[$v]}" 69 read other octet
	peers hear server 69
	peers expected r1
	check_match "$helper: $case: a second answer is expected" "$helper" "$said"
}

# check_transfer_continues WHEN: checks that packets of the transfer pass in both directions.
check_transfer_continues() {
	peers send lan 40001 "${server[$v]}" 5001 ack 1
	peers hear server 5001
	check_equal "$helper: $case: $1: the transfer's next packet reaches the server" "$seen ack 1" "$said"
	peers send server 5001 "${seen%:*}" "${seen##*:}" data 2 100
	peers hear lan 40001
	check_equal "$helper: $case: ... and the one after it the client" "${server[$v]}:5001 data 2 100" "$said"
}

check_unload_with_flows() {
	local seen
	case="unloading"
	raw_table "$IPTABLES" -A PREROUTING -p udp --dport 69 -j CT --helper "$helper" || bail "the rule"
	start_transfer
	raw_table "$IPTABLES" -F
	check "$helper: $case: flows do not hold the module" wait_until unload_module
	peers expected r1
	check_equal "$helper: $case: its expectations are gone" "" "$said"
	check_transfer_continues "without the module"
	peers send lan 40001 "${server[$v]}" 69 read boot octet
	peers hear server 69
	check_equal "$helper: $case: a request in the flow that had the helper reaches the server" "$seen read boot octet" "$said"
	peers expected r1
	check_equal "$helper: $case: ... and no answer is expected" "" "$said"

	raw_table "$IPTABLES" -A PREROUTING -p udp --dport 69 -j CT --helper "$helper" || bail "the rule"
	check_transfer_continues "with the module again"
	peers send lan 40001 "${server[$v]}" 69 read boot octet
	peers hear server 69
	peers expected r1
	check_equal "$helper: $case: the old flow does not get the helper back" "" "$said"
	"${after_case[@]}"
	check_works "a new flow gets it"
	raw_table "$IPTABLES" -F
	wait_until unload_module || not_ok "$helper: $case: the module can be unloaded at the end"
}

# Removes a namespace together with its rule, its flows and their expectations.
check_namespace_removal() {
	local seen
	case="removal of a namespace"
	setup_ns passing
	setup_link passing up0 198.51.100.1/24 server down0 198.51.100.2/24
	ns_exec passing "$IPTABLES" -w -t raw -A OUTPUT -p udp --dport 69 -j CT --helper "$helper" || bail "the rule"
	peers open server 69
	peers send passing 40001 198.51.100.2 69 read boot octet
	peers hear server 69
	peers expected passing
	check_match "$helper: $case: an answer is expected there" "helper $helper" "$said"
	peers leave passing
	ip netns del passing
	hosts=(lan r1 r2 server)
	check "$helper: $case: the namespace holds the module no longer when it is gone" wait_until unload_module
	"${after_case[@]}"
}

check_unload_with_flows
check_namespace_removal

# --- Both helpers side by side

case="beside the kernel's own helper"
raw_table "$IPTABLES" -A PREROUTING -p udp --dport 69 -j CT --helper tftp || bail "the kernel's own helper"
modprobe nf_nat_tftp
raw_table "$IPTABLES" -A PREROUTING -p udp --dport 6969 -j CT --helper rustmasq-tftp || bail "our helper"
to=6969 check_works "our helper works"
helper=tftp check_works "the kernel's own helper works"
raw_table "$IPTABLES" -F
wait_until unload_module || not_ok "$case: the module can be unloaded"

# --- By the module's parameter

case="the parameter tftp_port"
check_bad_ports tftp_port

modprobe rustmasq || bail "the module"
check_idle "not given, and no rule"
check "$helper: $case: not given: nothing holds the module" unload_module

modprobe rustmasq tftp_port=69 || bail "the module with its parameter"
for v in 4 6; do check_works "a request without a rule, IPv$v"; done
v=4
to=6969 check_idle "a request to another port"

# The router's own requests.
peers open server 69
peers send r1 40001 "${server[4]}" 69 read boot octet
peers hear server 69
peers expected r1
check_match "$helper: $case: the router's own request: an answer is expected" "helper $helper" "$said"
peers send server 5001 "${r1[4]}" 40001 data 1 100
peers hear r1 40001
check_equal "$helper: $case: ... and reaches the router" "${server[4]}:5001 data 1 100" "$said"
"${after_case[@]}"

# The destination port after DNAT decides, which is the server's own.
for ports in 32002:69 69:6969; do
	raw_table "$IPTABLES" -t nat -A PREROUTING -i lan0 -p udp --dport "${ports%:*}" \
		-j DNAT --to-destination "${server[4]}:${ports#*:}"
done
peers open server 69
peers send lan 40001 "${r2[4]}" 32002 read boot octet
peers hear server 69
check_equal "$helper: $case: a request to port 32002 reaches port 69 by DNAT" "${r1[4]}:40001 read boot octet" "$said"
peers expected r1
check_match "$helper: $case: ... an answer is expected" "helper $helper" "$said"
peers send server 5001 "${r1[4]}" 40001 data 1 100
peers hear lan 40001
check_equal "$helper: $case: ... and reaches the client" "${r2[4]}:5001 data 1 100" "$said"
"${after_case[@]}"
peers open server 6969
peers send lan 40001 "${server[4]}" 69 read boot octet
peers hear server 6969
check_equal "$helper: $case: a request to port 69 reaches port 6969 by DNAT" "${r1[4]}:40001 read boot octet" "$said"
peers flows r1
check_match "$helper: $case: ... and its flow has no helper" "^[^ ]+:69 [^ ]+ [^ ]+$" "$said"
"${after_case[@]}"
raw_table "$IPTABLES" -t nat -F PREROUTING

# Rules take precedence over the parameter.
modprobe nf_nat_tftp
raw_table "$IPTABLES" -A PREROUTING -p udp --dport 69 -j CT --helper tftp
helper=tftp check_works "a rule assigns another helper"
raw_table "$IPTABLES" -F
raw_table "$IPTABLES" -A PREROUTING -p udp --dport 69 -j CT --notrack
peers open server 69
peers send lan 40001 "${server[4]}" 69 read boot octet
peers hear server 69
check_equal "$helper: $case: a rule exempts a request from tracking: the server receives it" \
	"172.18.0.2:40001 read boot octet" "$said"
peers flows r1
check_equal "$helper: $case: ... and it is not tracked" "" "$said"
raw_table "$IPTABLES" -F
serve server TCP 69
probe lan TCP 203.0.113.2 69 > /dev/null
entry=$(ns_exec r1 conntrack -L -p tcp 2> /dev/null)
check_match "$helper: $case: a TCP flow to port 69 is tracked" "dport=69 " "$entry"
check_equal "$helper: $case: ... and has no helper" "" "$(grep helper= <<< "$entry")"
"${after_case[@]}"

# The parameter holds in namespaces that are created later.
setup_ns late
setup_link late up0 198.51.100.1/24 server down1 198.51.100.3/24
ns_exec late "$IPTABLES" -w -A OUTPUT -m conntrack --ctstate INVALID -j DROP || bail "a rule that makes flows tracked"
peers open server 69
peers send late 40001 198.51.100.3 69 read boot octet
peers hear server 69
peers expected late
check_match "$helper: $case: a namespace created after the module was loaded: an answer is expected" "helper $helper" "$said"
peers leave late
ip netns del late
# shellcheck disable=SC2034 # lib.sh uses it
hosts=(lan r1 r2 server)

# --- Unloading with flows and the parameter, which does not hold the module

case="unloading with the parameter"
start_transfer
check "$helper: $case: nothing holds the module" wait_until unload_module
peers expected r1
check_equal "$helper: $case: its expectations are gone" "" "$said"
check_transfer_continues "without the module"
"${after_case[@]}"

# Each packet of the flood is a request in a flow of its own.
case="unloading in a flood"
printf '\0\1boot\0octet\0' > "$scratch/request"
ns_start lan hping3 --udp --quiet --destport 69 --interval u1000 --data 13 --file "$scratch/request" 203.0.113.2 \
	> "$scratch/flood" 2>&1
r1_expects() {
	peers counts r1
	((said > 0))
}
rounds=0
for _ in {1..5}; do
	modprobe rustmasq tftp_port=69 && wait_until r1_expects && unload_module && ! r1_expects && rounds=$((rounds + 1))
done
check_equal "$helper: $case: each time the module was loaded, expected answers, and was unloaded with its expectations" \
	5 $rounds
modprobe rustmasq tftp_port=69
stop_servers
check "$helper: $case: the module can be unloaded afterwards" wait_until unload_module

done_testing
