#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# The watch's event "packet": each packet right before and right after conntrack,
# and what conntrack said of it. The network is setup_lan's, with IPv6 beside:
#
#     lan                 router                     server
#     lan0 ------------ lan0  wan0 ---------------- eth0
#     172.18.0.2       172.18.0.1   203.0.113.1      203.0.113.2
#     fd00:18::2       fd00:18::1   2001:db8:1::1    2001:db8:1::2
#
# Only the router tracks connections.
. "$(dirname "$0")/../../lib/lib.sh"
. "$(dirname "$0")/../../lib/events.sh"

setup_lan
setup_lan_ipv6
serve server UDP 53
serve server UDP6 54
serve router UDP 53
add_rule -o wan0 -p udp -j RUSTMASQ --to-ports 6000 || bail "rule"
add_rule6 -o wan0 -p udp -j RUSTMASQ --to-ports 6000 || bail "rule"
add_rule -o wan0 -p icmp -j RUSTMASQ --to-ports 1000-1999 || bail "rule"
add_rule6 -o wan0 -p icmpv6 -j RUSTMASQ --to-ports 1000-1999 || bail "rule"

# --- What is expected, a line a packet and place

# twice PLACE TUPLE STATE DIRECTION ID: the two lines of a packet that conntrack has
# not seen before. PLACE is IN:OUT.
twice() {
	once before "$1" "$2" none - 0
	once after "$@"
}

# once WHEN PLACE TUPLE STATE DIRECTION ID
once() {
	local hook=PREROUTING
	[[ $2 != -:* ]] || hook=OUTPUT
	echo "when=$1 tuple=$3 state=$4 dir=$5 id=$6 in=${2%:*} out=${2#*:} hook=$hook"
}

# in_router PATTERN: the events of matching packets there, in that form.
in_router() { in_host router "$1"; }
in_host() {
	events packet "^netns=$(netns "$1") .*$2" | while read -r line; do
		fields "$line" when tuple state dir id in out hook
		echo
	done
}

# lines COUNT HOST PATTERN: so many events are there.
lines() { [[ $(in_host "$2" "$3" | wc -l) == "$1" ]]; }

# id PATTERN: the name of the one flow in conntrack that matches.
id() { list_flows | grep -E -e "$1" | sed -E 's/^id=([0-9]+) .*/\1/'; }

# reply_port PATTERN: the port that its answers go to.
reply_port() { list_flows | grep -E -e "$1" | sed -E 's/.* reply=[^ ]*:([0-9]+) .*/\1/'; }

record_events packet

# --- New and established

there='172.18.0.2:4000->203.0.113.2:53' back='203.0.113.2:53->203.0.113.1:6000'
seen=$(probe lan UDP 203.0.113.2 53 sourceport=4000)
check_equal "IPv4: an answer comes" 203.0.113.1:6000 "$seen"
id=$(id "original=$there")
check_equal "IPv4: the first packet is new, the answer is not" \
	"$(twice lan0:- $there new original "$id"; twice wan0:- $back established reply "$id")" "$(in_router proto=udp)"
forget_events
seen=$(probe lan UDP 203.0.113.2 53 sourceport=4000)
check_equal "IPv4: neither is the next question" \
	"$(twice lan0:- $there established original "$id"; twice wan0:- $back established reply "$id")" "$(in_router proto=udp)"
check_equal "IPv4: the lengths are those of the packets" "len=30 len=30 len=45 len=45" \
	"$(events packet "^netns=$(netns router) .*proto=udp" | grep -o 'len=[0-9]*' | xargs)"
forget_flows

there='[fd00:18::2]:4000->[2001:db8:1::2]:54' back='[2001:db8:1::2]:54->[2001:db8:1::1]:6000'
seen=$(probe lan UDP6 '[2001:db8:1::2]' 54 sourceport=4000)
check_equal "IPv6: an answer comes" '[2001:0db8:0001:0000:0000:0000:0000:0001]:6000' "$seen"
id=$(id 'proto=udp original=\[')
check_equal "IPv6: the first packet is new, the answer is not" \
	"$(twice lan0:- "$there" new original "$id"; twice wan0:- "$back" established reply "$id")" "$(in_router proto=udp)"
check_equal "IPv6: the lengths are those of the packets" "len=50 len=50 len=95 len=95" \
	"$(events packet "^netns=$(netns router) .*proto=udp" | grep -o 'len=[0-9]*' | xargs)"
forget_flows

# Nothing is new about a packet of the loopback device when it comes in.
there='127.0.0.1:4000->127.0.0.1:53' back='127.0.0.1:53->127.0.0.1:4000'
seen=$(probe router UDP 127.0.0.1 53 sourceport=4000)
id=$(id "original=$there")
check_equal "loopback: tracked on the way out, known on the way in" \
	"$(
		twice -:lo $there new original "$id"
		once before lo:- $there new original "$id"
		once after lo:- $there new original "$id"
		twice -:lo $back established reply "$id"
		once before lo:- $back established reply "$id"
		once after lo:- $back established reply "$id"
	)" "$(in_router proto=udp)"
forget_flows

# An identifier is the client's, in questions and answers.
ns_exec lan ping -q -c 1 -W 5 -e 4005 203.0.113.2 > "$scratch/ping" || bail "ping"
id=$(id "proto=icmp ")
there='172.18.0.2:4005->203.0.113.2:0' back="203.0.113.2:0->203.0.113.1:$(reply_port "proto=icmp ")"
check_equal "IPv4: ping: the question is new, the answer is not" \
	"$(twice lan0:- $there new original "$id"; twice wan0:- "$back" established reply "$id")" \
	"$(in_router 'proto=icmp ')"
forget_flows
ns_exec lan ping -q -c 1 -W 5 -e 4005 2001:db8:1::2 > "$scratch/ping" || bail "ping"
id=$(id proto=icmpv6)
there='[fd00:18::2]:4005->[2001:db8:1::2]:0' back="[2001:db8:1::2]:0->[2001:db8:1::1]:$(reply_port proto=icmpv6)"
check_equal "IPv6: ping: the question is new, the answer is not" \
	"$(twice lan0:- "$there" new original "$id"; twice wan0:- "$back" established reply "$id")" \
	"$(in_router 'proto=icmpv6 .*len=104 .* in=.an0')"
forget_flows

# --- Related

# datagram TARGET: to a port where nobody listens.
datagram() { ns_exec lan socat -u - "$1,sourceport=4000" <<< x; }

datagram UDP:203.0.113.2:9
check "IPv4: an error comes back" wait_until lines 2 router 'proto=icmp '
check_equal "IPv4: ... related to the flow that it is about" \
	"$(twice wan0:- '203.0.113.2:0->203.0.113.1:0' related reply "$(id 'original=172.18.0.2:4000->')")" \
	"$(in_router 'proto=icmp ')"
forget_flows
datagram 'UDP6:[2001:db8:1::2]:9'
check "IPv6: an error comes back" wait_until lines 2 router 'proto=icmpv6 tuple=\[2001:db8:1::2]:0->\[2001:db8:1::1]:0 .*(none|related)'
check_equal "IPv6: ... related to the flow that it is about" \
	"$(once after wan0:- '[2001:db8:1::2]:0->[2001:db8:1::1]:0' related reply "$(id 'proto=udp original=')")" \
	"$(in_router 'proto=icmpv6.*related')"
forget_flows

# --- Invalid

# raw PROTOCOL [ADDRESS]: what stands in stdin, behind an IP header.
raw() { ns_exec lan socat -u - "IP${2:+6}-SENDTO:${2:-203.0.113.2}:$1"; }

ns_exec router sh -c 'echo 0 > /proc/sys/net/netfilter/nf_conntrack_tcp_loose'
there='172.18.0.2:4001->203.0.113.2:80'
ns_exec lan hping3 -q -c 1 -A -s 4001 -p 80 203.0.113.2 > "$scratch/hping" 2>&1
check_equal "TCP out of nowhere is invalid" "$(twice lan0:- $there invalid - 0)" "$(in_router "tuple=$there")"
forget_flows
ns_exec lan hping3 -q -c 1 -S -b -s 4001 -p 80 203.0.113.2 > "$scratch/hping" 2>&1
check_equal "so is a SYN with a bad checksum" "$(twice lan0:- $there invalid - 0)" "$(in_router "tuple=$there")"
forget_flows
printf '\x0f\xa1\x00\x50\x00\x00\x00\x00\x00' | raw 6
check "half a TCP header" wait_until lines 2 router proto=tcp
check_equal "... is invalid, whatever its ports" "$(twice lan0:- $there invalid - 0)" "$(in_router proto=tcp)"
forget_flows
printf '\x0f' | raw 6
check "a byte of a TCP header" wait_until lines 2 router proto=tcp
check_equal "... is invalid, and has no ports" \
	"$(twice lan0:- '172.18.0.2:0->203.0.113.2:0' invalid - 0)" "$(in_router proto=tcp)"
forget_flows
printf '\x0f\xa1\x00\x50\x00\x00\x00\x00\x00' | raw 6 '[2001:db8:1::2]'
check "IPv6: half a TCP header" wait_until lines 2 router proto=tcp
check_equal "... is invalid, whatever its ports" \
	"$(twice lan0:- '[fd00:18::2]:4001->[2001:db8:1::2]:80' invalid - 0)" "$(in_router proto=tcp)"
forget_flows

# --- Untracked

ns_exec router "$IPTABLES" -w -t raw -A PREROUTING -p udp --dport 9 -j CT --notrack || bail "rule"
ns_exec router "$IP6TABLES" -w -t raw -A PREROUTING -p udp --dport 9 -j CT --notrack || bail "rule"
datagram UDP:203.0.113.2:9
there='172.18.0.2:4000->203.0.113.2:9'
check_equal "IPv4: what is not to be tracked is untracked before conntrack, too" \
	"$(once before lan0:- $there untracked - 0; once after lan0:- $there untracked - 0)" "$(in_router proto=udp)"
datagram 'UDP6:[2001:db8:1::2]:9'
there='[fd00:18::2]:4000->[2001:db8:1::2]:9'
check_equal "IPv6: what is not to be tracked is untracked before conntrack, too" \
	"$(once before lan0:- "$there" untracked - 0; once after lan0:- "$there" untracked - 0)" "$(in_router 'proto=udp tuple=.fd00')"
forget_flows
# A neighbour's answer is to no query that would have an identifier: its flags are none.
ip -n lan neigh flush dev lan0
ns_exec lan ping -q -6 -c 1 -W 5 fd00:18::1 > "$scratch/ping" || bail "ping"
check_equal "IPv6: conntrack leaves neighbours alone" \
	"$(twice -:lan0 '[fd00:18::1]:0->[fd00:18::2]:0' untracked - 0)" \
	"$(in_router 'proto=icmpv6 tuple=\[fd00:18::1]:[0-9]*->\[fd00:18::2]:[0-9]* len=72 .* out=lan0')"
forget_flows

# --- A template of conntrack's is no flow

ns_exec router "$IPTABLES" -w -t raw -A PREROUTING -p udp --dport 53 -j CT --helper tftp || bail "rule"
there='172.18.0.2:4002->203.0.113.2:53' back='203.0.113.2:53->203.0.113.1:6000'
seen=$(probe lan UDP 203.0.113.2 53 sourceport=4002)
id=$(id "original=$there")
check_equal "a packet that has a template only is none of a flow" \
	"$(twice lan0:- $there new original "$id"; twice wan0:- $back established reply "$id")" "$(in_router proto=udp)"
ns_exec router "$IPTABLES" -w -t raw -F
forget_flows

# --- Where nothing is tracked

record_events flow_new flow_confirm packet
forget_flows
seen=$(probe lan UDP 203.0.113.2 53 sourceport=4003)
check_equal "without conntrack nobody looks at a packet" \
	"$(twice -:lan0 '172.18.0.2:4003->203.0.113.2:53' none - 0; twice lan0:- '203.0.113.2:53->172.18.0.2:4003' none - 0)" \
	"$(in_host lan proto=udp)"
check_equal "... and there is no flow" "" "$(events 'flow_[a-z]*' "^netns=($(netns lan)|$(netns server)) ")"
check_equal "... while the router has one" 1 "$(events flow_confirm "^netns=$(netns router) " | wc -l)"
check_match "the watch looks at the LAN's packets" 'rustmasq' "$(ns_exec lan nft list hooks)"
check_fails "... and does not turn conntrack on" grep -q nf_conntrack <(ns_exec lan nft list hooks)

# A fragment that is not the first has no ports, nor an identifier.
forget_flows
ns_exec lan ping -q -c 1 -W 5 -e 4004 -s 3000 203.0.113.2 > "$scratch/ping" || bail "ping"
check_equal "IPv4: the router saw the whole packet" \
	"$(twice lan0:- '172.18.0.2:4004->203.0.113.2:0' new original "$(id 'original=172.18.0.2:4004')")" \
	"$(in_router tuple=172)"
check_equal "... and its length" "len=3028 len=3028" \
	"$(events packet "^netns=$(netns router) .*tuple=172" | grep -o 'len=[0-9]*' | xargs)"
check_equal "IPv4: the server saw fragments, with the identifier in the first" "$(
	twice eth0:- "203.0.113.1:$(reply_port original=172.18.0.2:4004)->203.0.113.2:0" none - 0
	twice eth0:- '203.0.113.1:0->203.0.113.2:0' none - 0
	twice eth0:- '203.0.113.1:0->203.0.113.2:0' none - 0
)" "$(in_host server 'tuple=203.0.113.1')"
forget_flows
ns_exec lan ping -q -c 1 -W 5 -e 4004 -s 3000 2001:db8:1::2 > "$scratch/ping" || bail "ping"
check_equal "IPv6: the server saw fragments, with the identifier in the first" "$(
	twice eth0:- "[2001:db8:1::1]:$(reply_port 'original=\[fd00:18::2\]:4004')->[2001:db8:1::2]:0" none - 0
	twice eth0:- '[2001:db8:1::1]:0->[2001:db8:1::2]:0' none - 0
	twice eth0:- '[2001:db8:1::1]:0->[2001:db8:1::2]:0' none - 0
)" "$(in_host server 'tuple=\[2001:db8:1::1\][^ ]* len=(1[0-9]{3}|160) ')"

done_testing
