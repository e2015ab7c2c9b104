#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# How our TFTP helper is turned on: by rules of iptables, by objects of nftables, and
# by the module's parameter; how the module comes, is held, and goes, with flows and
# expectations alive.
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

# request_boot_file: of the client, to port $to (69); what r1 expects then is in $said. Sets `seen` to where the server
# saw it come from.
request_boot_file() {
	peers open server "${to:-69}"
	peers send lan 40001 "${server[$v]}" "${to:-69}" read boot octet
	peers hear server "${to:-69}"
	seen=${said% read boot octet}
	[[ $seen != "$said" ]] || not_ok "$helper: $case: the server was asked" "$said"
	peers expected r1
}

# check_works [WHAT]: a request, which the helper gets to see, and its answer.
check_works() {
	local seen
	request_boot_file
	check_match "$helper: $case: ${1:-it works}: an answer is expected" "helper $helper( |$)" "$said"
	peers send server 5001 "${seen%:*}" "${seen##*:}" data 1 100
	peers hear lan 40001
	check_equal "$helper: $case: ... and comes" "${server[$v]}:5001 data 1 100" "$said"
	"${after_case[@]}"
}

# idle WHAT: the helper does not see the request.
idle() {
	local seen address
	request_boot_file
	check_equal "$helper: $case: $1: no answer is expected" "" "$said"
	peers send server 5001 "${seen%:*}" "${seen##*:}" data 1 100
	peers hear server 5001
	strip_brackets "${r1[$v]}" address
	check_equal "$helper: $case: ... nor let in" "${refused[$v]} from $address" "$said"
	"${after_case[@]}"
}

# busy: no way to unload the module.
busy() {
	check_match "$helper: $case: it is in use, rmmod says" "in use" "$(rmmod rustmasq 2>&1)"
	check_fails "$helper: $case: modprobe -r cannot unload it" modprobe -r rustmasq
	check "$helper: $case: it is there" module_loaded
}

# --- Rules and objects

# raw_rule FRONT ARGUMENT...: of r1's table raw.
raw_rule() { ns_exec r1 "$1" -w -t raw "${@:2}"; }

rules_of() {
	local front=$1
	case="a rule of $front"
	wait_until unload_module || not_ok "$helper: $case: the module can be unloaded before"
	check "$helper: $case: it is added" raw_rule "$front" -A PREROUTING -p udp --dport 69 -j CT --helper "$helper"
	check "$helper: $case: ... and loads the module" module_loaded
	check_works
	busy
	raw_rule "$front" -F
	check "$helper: $case: it can be unloaded when the rule is gone" wait_until unload_module
}

nft_object() {
	case="an object of nftables"
	check "$helper: $case: it is added" ns_exec r1 nft -f - <<-END
		table inet helpers {
			ct helper name {
				type "$helper" protocol udp
			}
		}
	END
	check "$helper: $case: ... and loads the module" module_loaded
	busy
	ns_exec r1 nft -f - <<-END || not_ok "$helper: $case: a rule names it"
		table inet helpers {
			chain before {
				type filter hook prerouting priority filter
				udp dport 69 ct helper set "name"
			}
		}
	END
	for v in 4 6; do check_works "it works, IPv$v"; done
	v=4
	ns_exec r1 nft delete table inet helpers
	check "$helper: $case: it can be unloaded when that is gone" wait_until unload_module
}

rules_of iptables-legacy
rules_of iptables-nft
v=6
rules_of ip6tables-legacy
rules_of ip6tables-nft
v=4
nft_object
case="a rule for TCP"
check_fails "$helper: $case: there is no such helper" \
	raw_rule "$IPTABLES" -A PREROUTING -p tcp --dport 69 -j CT --helper "$helper"
check "$helper: $case: it holds nothing" wait_until unload_module

# --- Going

# live: a transfer from port 5001, and an answer that is expected still, in a flow of its own.
live() {
	request_boot_file
	peers send server 5001 "${seen%:*}" "${seen##*:}" data 1 100
	peers hear lan 40001
	peers send lan 40002 "${server[$v]}" 69 read other octet
	peers hear server 69
	peers expected r1
	check_match "$helper: $case: a second answer is expected" "$helper" "$said"
}

goes_on() {
	peers send lan 40001 "${server[$v]}" 5001 ack 1
	peers hear server 5001
	check_equal "$helper: $case: $1: the transfer goes on" "$seen ack 1" "$said"
	peers send server 5001 "${seen%:*}" "${seen##*:}" data 2 100
	peers hear lan 40001
	check_equal "$helper: $case: ... to the client as well" "${server[$v]}:5001 data 2 100" "$said"
}

unloading_with_flows() {
	local seen
	case="unloading"
	raw_rule "$IPTABLES" -A PREROUTING -p udp --dport 69 -j CT --helper "$helper" || bail "the rule"
	live
	raw_rule "$IPTABLES" -F
	check "$helper: $case: flows do not hold it" wait_until unload_module
	peers expected r1
	check_equal "$helper: $case: nothing is expected any more" "" "$said"
	goes_on "without the module"
	peers send lan 40001 "${server[$v]}" 69 read boot octet
	peers hear server 69
	check_equal "$helper: $case: the flow that had the helper goes on, too" "$seen read boot octet" "$said"
	peers expected r1
	check_equal "$helper: $case: ... without" "" "$said"

	raw_rule "$IPTABLES" -A PREROUTING -p udp --dport 69 -j CT --helper "$helper" || bail "the rule"
	goes_on "with the module again"
	peers send lan 40001 "${server[$v]}" 69 read boot octet
	peers hear server 69
	peers expected r1
	check_equal "$helper: $case: the old flow does not get it back" "" "$said"
	"${after_case[@]}"
	check_works "a new one does"
	raw_rule "$IPTABLES" -F
	wait_until unload_module || not_ok "$helper: $case: it goes for good"
}

# A namespace goes with its rule, its flows, and what they expect.
a_namespace_goes() {
	local seen
	case="a namespace goes"
	setup_ns passing
	setup_link passing up0 198.51.100.1/24 server down0 198.51.100.2/24
	ns_exec passing "$IPTABLES" -w -t raw -A OUTPUT -p udp --dport 69 -j CT --helper "$helper" || bail "the rule"
	peers open server 69
	peers send passing 40001 198.51.100.2 69 read boot octet
	peers hear server 69
	peers expected passing
	check_match "$helper: $case: it expects an answer" "helper $helper" "$said"
	peers leave passing
	ip netns del passing
	hosts=(lan r1 r2 server)
	check "$helper: $case: ... and holds the module no longer when it is gone" wait_until unload_module
	"${after_case[@]}"
}

unloading_with_flows
a_namespace_goes

# --- Side by side

case="beside the kernel's own"
raw_rule "$IPTABLES" -A PREROUTING -p udp --dport 69 -j CT --helper tftp || bail "the kernel's own helper"
modprobe nf_nat_tftp
raw_rule "$IPTABLES" -A PREROUTING -p udp --dport 6969 -j CT --helper rustmasq-tftp || bail "ours"
to=6969 check_works "ours works"
helper=tftp check_works "the kernel's own works"
raw_rule "$IPTABLES" -F
wait_until unload_module || not_ok "$case: the module can be unloaded"

# --- By the module's parameter

case="the parameter"
for value in -1 65536 69x 6.9 ""; do
	check_fails "$helper: $case: it cannot be '$value'" modprobe rustmasq "tftp_port=$value"
	check_fails "$helper: $case: ... and nothing is loaded" module_loaded
done

modprobe rustmasq || bail "the module"
idle "without it, a request without a rule"
check "$helper: $case: without it, nothing holds the module" unload_module

modprobe rustmasq tftp_port=69 || bail "the module with its parameter"
for v in 4 6; do check_works "without a rule, IPv$v"; done
v=4
to=6969 idle "to another port"

# The router's own requests.
peers open server 69
peers send r1 40001 "${server[4]}" 69 read boot octet
peers hear server 69
peers expected r1
check_match "$helper: $case: the router's own request: an answer is expected" "helper $helper" "$said"
peers send server 5001 "${r1[4]}" 40001 data 1 100
peers hear r1 40001
check_equal "$helper: $case: ... and comes" "${server[4]}:5001 data 1 100" "$said"
"${after_case[@]}"

# The server's own port is what counts.
for ports in 32002:69 69:6969; do
	raw_rule "$IPTABLES" -t nat -A PREROUTING -i lan0 -p udp --dport "${ports%:*}" \
		-j DNAT --to-destination "${server[4]}:${ports#*:}"
done
peers open server 69
peers send lan 40001 "${r2[4]}" 32002 read boot octet
peers hear server 69
check_equal "$helper: $case: port 69, asked as port 32002, behind DNAT" "${r1[4]}:40001 read boot octet" "$said"
peers expected r1
check_match "$helper: $case: ... an answer is expected" "helper $helper" "$said"
peers send server 5001 "${r1[4]}" 40001 data 1 100
peers hear lan 40001
check_equal "$helper: $case: ... and comes" "${r2[4]}:5001 data 1 100" "$said"
"${after_case[@]}"
peers open server 6969
peers send lan 40001 "${server[4]}" 69 read boot octet
peers hear server 6969
check_equal "$helper: $case: another port, asked as port 69" "${r1[4]}:40001 read boot octet" "$said"
peers flows r1
check_match "$helper: $case: ... has no helper" "^[^ ]+:69 [^ ]+ [^ ]+$" "$said"
"${after_case[@]}"
raw_rule "$IPTABLES" -t nat -F PREROUTING

# Others' choices are respected.
modprobe nf_nat_tftp
raw_rule "$IPTABLES" -A PREROUTING -p udp --dport 69 -j CT --helper tftp
helper=tftp check_works "a rule's helper stays"
raw_rule "$IPTABLES" -F
raw_rule "$IPTABLES" -A PREROUTING -p udp --dport 69 -j CT --notrack
peers open server 69
peers send lan 40001 "${server[4]}" 69 read boot octet
peers hear server 69
check_equal "$helper: $case: what is not tracked arrives" "172.18.0.2:40001 read boot octet" "$said"
peers flows r1
check_equal "$helper: $case: ... and is not tracked" "" "$said"
raw_rule "$IPTABLES" -F
serve server TCP 69
probe lan TCP 203.0.113.2 69 > /dev/null
entry=$(ns_exec r1 conntrack -L -p tcp 2> /dev/null)
check_match "$helper: $case: a flow of TCP to port 69 is tracked" "dport=69 " "$entry"
check_equal "$helper: $case: ... and has no helper" "" "$(grep helper= <<< "$entry")"
"${after_case[@]}"

# Namespaces that come later.
setup_ns late
setup_link late up0 198.51.100.1/24 server down1 198.51.100.3/24
ns_exec late "$IPTABLES" -w -A OUTPUT -m conntrack --ctstate INVALID -j DROP || bail "a rule that makes flows tracked"
peers open server 69
peers send late 40001 198.51.100.3 69 read boot octet
peers hear server 69
peers expected late
check_match "$helper: $case: in a namespace that is younger than the module: an answer is expected" "helper $helper" "$said"
peers leave late
ip netns del late
# shellcheck disable=SC2034 # lib.sh uses it
hosts=(lan r1 r2 server)

# --- Unloading with flows, once more, where no rule was in the way

case="unloading with the parameter"
live
check "$helper: $case: nothing holds the module" wait_until unload_module
peers expected r1
check_equal "$helper: $case: nothing is expected any more" "" "$said"
goes_on "without the module"
"${after_case[@]}"

# Each packet is a request in a flow of its own.
case="unloading in a flood"
printf '\0\1boot\0octet\0' > "$scratch/request"
ns_start lan hping3 --udp --quiet --destport 69 --interval u1000 --data 13 --file "$scratch/request" 203.0.113.2 \
	> "$scratch/flood" 2>&1
expects() {
	peers counts r1
	((said > 0))
}
rounds=0
for _ in {1..5}; do
	modprobe rustmasq tftp_port=69 && wait_until expects && unload_module && ! expects && rounds=$((rounds + 1))
done
check_equal "$helper: $case: it came, worked and went with what it expected, each time" 5 $rounds
modprobe rustmasq tftp_port=69
stop_servers
check "$helper: $case: it can be unloaded afterwards" wait_until unload_module

done_testing
