#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# The flow watch's event "packet" reports each packet right before and right after conntrack, with the state that
# conntrack gave it; in namespaces without conntrack both have the state "none". The network is that of setup_lan, with
# IPv6:
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

# --- Expected and recorded events, a line each

# both_events IN:OUT TUPLE STATE DIRECTION ID: prints the expected events before and after conntrack, for a packet that
# has no state before. The other arguments are those of the event after conntrack. "-" stands for no device.
both_events() {
	one_event before "$1" "$2" none - 0
	one_event after "$@"
}

# one_event WHEN IN:OUT TUPLE STATE DIRECTION ID: prints one expected event. WHEN is "before" or "after" conntrack.
one_event() {
	local hook=PREROUTING
	[[ $2 != -:* ]] || hook=OUTPUT
	echo "when=$1 tuple=$3 state=$4 dir=$5 id=$6 in=${2%:*} out=${2#*:} hook=$hook"
}

# events_in HOST PATTERN: prints the recorded events there that match, in that form.
events_in() {
	events packet "^netns=$(netns "$1") .*$2" | while read -r line; do
		fields "$line" when tuple state dir id in out hook
		echo
	done
}

# events_recorded COUNT HOST PATTERN: succeeds if so many of these were recorded.
events_recorded() { [[ $(events_in "$2" "$3" | wc -l) == "$1" ]]; }

# flow_id PATTERN: prints the id of the one conntrack entry that matches.
flow_id() { list_flows | grep -E -e "$1" | sed -E 's/^id=([0-9]+) .*/\1/'; }

# reply_port PATTERN: prints the destination port of its reply tuple.
reply_port() { list_flows | grep -E -e "$1" | sed -E 's/.* reply=[^ ]*:([0-9]+) .*/\1/'; }

record_events packet

# --- New and established

request='172.18.0.2:4000->203.0.113.2:53' answer='203.0.113.2:53->203.0.113.1:6000'
seen=$(probe lan UDP 203.0.113.2 53 sourceport=4000)
check_equal "IPv4: an answer comes back" 203.0.113.1:6000 "$seen"
id=$(flow_id "original=$request")
check_equal "IPv4: the request is new, its answer established" \
	"$(both_events lan0:- $request new original "$id"; both_events wan0:- $answer established reply "$id")" "$(events_in router proto=udp)"
forget_events
seen=$(probe lan UDP 203.0.113.2 53 sourceport=4000)
check_equal "IPv4: the next request and its answer are established" \
	"$(both_events lan0:- $request established original "$id"; both_events wan0:- $answer established reply "$id")" "$(events_in router proto=udp)"
check_equal "IPv4: the lengths are those of the packets" "len=30 len=30 len=45 len=45" \
	"$(events packet "^netns=$(netns router) .*proto=udp" | grep -o 'len=[0-9]*' | xargs)"
forget_flows

request='[fd00:18::2]:4000->[2001:db8:1::2]:54' answer='[2001:db8:1::2]:54->[2001:db8:1::1]:6000'
seen=$(probe lan UDP6 '[2001:db8:1::2]' 54 sourceport=4000)
check_equal "IPv6: an answer comes back" '[2001:0db8:0001:0000:0000:0000:0000:0001]:6000' "$seen"
id=$(flow_id 'proto=udp original=\[')
check_equal "IPv6: the request is new, its answer established" \
	"$(both_events lan0:- "$request" new original "$id"; both_events wan0:- "$answer" established reply "$id")" "$(events_in router proto=udp)"
check_equal "IPv6: the lengths are those of the packets" "len=50 len=50 len=95 len=95" \
	"$(events packet "^netns=$(netns router) .*proto=udp" | grep -o 'len=[0-9]*' | xargs)"
forget_flows

# A packet of the loopback device has its state when it comes in.
request='127.0.0.1:4000->127.0.0.1:53' answer='127.0.0.1:53->127.0.0.1:4000'
seen=$(probe router UDP 127.0.0.1 53 sourceport=4000)
id=$(flow_id "original=$request")
check_equal "loopback: packets get their state on the way out and have it on the way in" \
	"$(
		both_events -:lo $request new original "$id"
		one_event before lo:- $request new original "$id"
		one_event after lo:- $request new original "$id"
		both_events -:lo $answer established reply "$id"
		one_event before lo:- $answer established reply "$id"
		one_event after lo:- $answer established reply "$id"
	)" "$(events_in router proto=udp)"
forget_flows

# The query identifier takes the place of the client's port, in requests and answers.
ns_exec lan ping -q -c 1 -W 5 -e 4005 203.0.113.2 > "$scratch/ping" || bail "ping"
id=$(flow_id "proto=icmp ")
request='172.18.0.2:4005->203.0.113.2:0' answer="203.0.113.2:0->203.0.113.1:$(reply_port "proto=icmp ")"
check_equal "IPv4: ping: the request is new, its answer established" \
	"$(both_events lan0:- $request new original "$id"; both_events wan0:- "$answer" established reply "$id")" \
	"$(events_in router 'proto=icmp ')"
forget_flows
ns_exec lan ping -q -c 1 -W 5 -e 4005 2001:db8:1::2 > "$scratch/ping" || bail "ping"
id=$(flow_id proto=icmpv6)
request='[fd00:18::2]:4005->[2001:db8:1::2]:0' answer="[2001:db8:1::2]:0->[2001:db8:1::1]:$(reply_port proto=icmpv6)"
check_equal "IPv6: ping: the request is new, its answer established" \
	"$(both_events lan0:- "$request" new original "$id"; both_events wan0:- "$answer" established reply "$id")" \
	"$(events_in router 'proto=icmpv6 .*len=104 .* in=.an0')"
forget_flows

# --- Related

# send_unheard TARGET: sends one from the LAN to an address in socat's form. Nobody listens there.
send_unheard() { ns_exec lan socat -u - "$1,sourceport=4000" <<< x; }

send_unheard UDP:203.0.113.2:9
check "IPv4: an ICMP error comes back" wait_until events_recorded 2 router 'proto=icmp '
check_equal "IPv4: ... and is related to the datagram's flow" \
	"$(both_events wan0:- '203.0.113.2:0->203.0.113.1:0' related reply "$(flow_id 'original=172.18.0.2:4000->')")" \
	"$(events_in router 'proto=icmp ')"
forget_flows
send_unheard 'UDP6:[2001:db8:1::2]:9'
check "IPv6: an ICMP error comes back" wait_until events_recorded 2 router 'proto=icmpv6 tuple=\[2001:db8:1::2]:0->\[2001:db8:1::1]:0 .*(none|related)'
check_equal "IPv6: ... and is related to the datagram's flow" \
	"$(one_event after wan0:- '[2001:db8:1::2]:0->[2001:db8:1::1]:0' related reply "$(flow_id 'proto=udp original=')")" \
	"$(events_in router 'proto=icmpv6.*related')"
forget_flows

# --- Invalid

# send_raw PROTOCOL [ADDRESS]: sends the standard input behind an IP header.
send_raw() { ns_exec lan socat -u - "IP${2:+6}-SENDTO:${2:-203.0.113.2}:$1"; }

ns_exec router sh -c 'echo 0 > /proc/sys/net/netfilter/nf_conntrack_tcp_loose'
request='172.18.0.2:4001->203.0.113.2:80'
ns_exec lan hping3 -q -c 1 -A -s 4001 -p 80 203.0.113.2 > "$scratch/hping" 2>&1
check_equal "a TCP segment without a connection is invalid" "$(both_events lan0:- $request invalid - 0)" "$(events_in router "tuple=$request")"
forget_flows
ns_exec lan hping3 -q -c 1 -S -b -s 4001 -p 80 203.0.113.2 > "$scratch/hping" 2>&1
check_equal "a SYN with a bad checksum is invalid" "$(both_events lan0:- $request invalid - 0)" "$(events_in router "tuple=$request")"
forget_flows
printf '\x0f\xa1\x00\x50\x00\x00\x00\x00\x00' | send_raw 6
check "half a TCP header arrives" wait_until events_recorded 2 router proto=tcp
check_equal "... and is invalid, with its ports" "$(both_events lan0:- $request invalid - 0)" "$(events_in router proto=tcp)"
forget_flows
printf '\x0f' | send_raw 6
check "one byte of a TCP header arrives" wait_until events_recorded 2 router proto=tcp
check_equal "... and is invalid, without ports" \
	"$(both_events lan0:- '172.18.0.2:0->203.0.113.2:0' invalid - 0)" "$(events_in router proto=tcp)"
forget_flows
printf '\x0f\xa1\x00\x50\x00\x00\x00\x00\x00' | send_raw 6 '[2001:db8:1::2]'
check "IPv6: half a TCP header arrives" wait_until events_recorded 2 router proto=tcp
check_equal "... and is invalid, with its ports" \
	"$(both_events lan0:- '[fd00:18::2]:4001->[2001:db8:1::2]:80' invalid - 0)" "$(events_in router proto=tcp)"
forget_flows

# --- Untracked

ns_exec router "$IPTABLES" -w -t raw -A PREROUTING -p udp --dport 9 -j CT --notrack || bail "rule"
ns_exec router "$IP6TABLES" -w -t raw -A PREROUTING -p udp --dport 9 -j CT --notrack || bail "rule"
send_unheard UDP:203.0.113.2:9
request='172.18.0.2:4000->203.0.113.2:9'
check_equal "IPv4: a packet that a rule exempts from tracking is untracked before conntrack, too" \
	"$(one_event before lan0:- $request untracked - 0; one_event after lan0:- $request untracked - 0)" "$(events_in router proto=udp)"
send_unheard 'UDP6:[2001:db8:1::2]:9'
request='[fd00:18::2]:4000->[2001:db8:1::2]:9'
check_equal "IPv6: a packet that a rule exempts from tracking is untracked before conntrack, too" \
	"$(one_event before lan0:- "$request" untracked - 0; one_event after lan0:- "$request" untracked - 0)" "$(events_in router 'proto=udp tuple=.fd00')"
forget_flows
# A neighbour advertisement has flags where a ping has its query identifier. The event must not show them as one.
ip -n lan neigh flush dev lan0
ns_exec lan ping -q -6 -c 1 -W 5 fd00:18::1 > "$scratch/ping" || bail "ping"
check_equal "IPv6: conntrack does not track neighbour discovery" \
	"$(both_events -:lan0 '[fd00:18::1]:0->[fd00:18::2]:0' untracked - 0)" \
	"$(events_in router 'proto=icmpv6 tuple=\[fd00:18::1]:[0-9]*->\[fd00:18::2]:[0-9]* len=72 .* out=lan0')"
forget_flows

# --- A template of conntrack is no flow

ns_exec router "$IPTABLES" -w -t raw -A PREROUTING -p udp --dport 53 -j CT --helper tftp || bail "rule"
request='172.18.0.2:4002->203.0.113.2:53' answer='203.0.113.2:53->203.0.113.1:6000'
seen=$(probe lan UDP 203.0.113.2 53 sourceport=4002)
id=$(flow_id "original=$request")
check_equal "a packet that has only a template before conntrack has the state none" \
	"$(both_events lan0:- $request new original "$id"; both_events wan0:- $answer established reply "$id")" "$(events_in router proto=udp)"
ns_exec router "$IPTABLES" -w -t raw -F
forget_flows

# --- In namespaces without conntrack

record_events flow_new flow_confirm packet
forget_flows
seen=$(probe lan UDP 203.0.113.2 53 sourceport=4003)
check_equal "without conntrack packets have the state none, before and after its place" \
	"$(both_events -:lan0 '172.18.0.2:4003->203.0.113.2:53' none - 0; both_events lan0:- '203.0.113.2:53->172.18.0.2:4003' none - 0)" \
	"$(events_in lan proto=udp)"
check_equal "... and no event reports a flow" "" "$(events 'flow_[a-z]*' "^netns=($(netns lan)|$(netns server)) ")"
check_equal "... while the router reports one" 1 "$(events flow_confirm "^netns=$(netns router) " | wc -l)"
check_match "the watch has hooks in the LAN's namespace" 'rustmasq' "$(ns_exec lan nft list hooks)"
check_fails "... and does not turn conntrack on" grep -q nf_conntrack <(ns_exec lan nft list hooks)

# Only the first fragment has ports or a query identifier.
forget_flows
ns_exec lan ping -q -c 1 -W 5 -e 4004 -s 3000 203.0.113.2 > "$scratch/ping" || bail "ping"
check_equal "IPv4: the router reports the whole packet" \
	"$(both_events lan0:- '172.18.0.2:4004->203.0.113.2:0' new original "$(flow_id 'original=172.18.0.2:4004')")" \
	"$(events_in router tuple=172)"
check_equal "... and its length" "len=3028 len=3028" \
	"$(events packet "^netns=$(netns router) .*tuple=172" | grep -o 'len=[0-9]*' | xargs)"
check_equal "IPv4: the server reports fragments, the first with the identifier" "$(
	both_events eth0:- "203.0.113.1:$(reply_port original=172.18.0.2:4004)->203.0.113.2:0" none - 0
	both_events eth0:- '203.0.113.1:0->203.0.113.2:0' none - 0
	both_events eth0:- '203.0.113.1:0->203.0.113.2:0' none - 0
)" "$(events_in server 'tuple=203.0.113.1')"
forget_flows
ns_exec lan ping -q -c 1 -W 5 -e 4004 -s 3000 2001:db8:1::2 > "$scratch/ping" || bail "ping"
check_equal "IPv6: the server reports fragments, the first with the identifier" "$(
	both_events eth0:- "[2001:db8:1::1]:$(reply_port 'original=\[fd00:18::2\]:4004')->[2001:db8:1::2]:0" none - 0
	both_events eth0:- '[2001:db8:1::1]:0->[2001:db8:1::2]:0' none - 0
	both_events eth0:- '[2001:db8:1::1]:0->[2001:db8:1::2]:0' none - 0
)" "$(events_in server 'tuple=\[2001:db8:1::1\][^ ]* len=(1[0-9]{3}|160) ')"

done_testing
