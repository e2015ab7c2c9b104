#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Front ends: legacy nft
#
# Who moved my five-tuple? A connection that no nat rule matches has its source
# port changed, because another one, translated by a rule, has taken its tuple.
#
#     lan                 router                     server
#     lan0 ------------ lan0  wan0 ---------------- eth0
#     172.18.0.2       172.18.0.1   203.0.113.1      203.0.113.2
#
#     thief   172.18.0.2:54321  -> 203.0.113.1:12345, by a rule
#             203.0.113.1:54321 -> 203.0.113.1:12345, by a rule
#     plain   203.0.113.1:12345, without one
#
# In three orders: the thief first, the thief while the plain one's first packet is
# on its way, the plain one first.
. "$(dirname "$0")/../../lib/lib.sh"
. "$(dirname "$0")/../../lib/events.sh"

setup_lan
me=$(netns router)

# --- Connections that last, and say what the server sees of them

declare -A clients

# serve_on PORT: says what it sees as the source, and then all that it hears.
serve_on() {
	# shellcheck disable=SC2016 # socat's shell expands it
	ns_start server socat "TCP-LISTEN:$1,fork,reuseaddr" 'SYSTEM:echo "$SOCAT_PEERADDR:$SOCAT_PEERPORT"; exec cat' \
		2> "$scratch/server-$1"
	wait_until listening server TCP "$1" || bail "no server on port $1"
}

# connect NAME HOST SOURCE-PORT [OPTION,...]: to the server's port $port, in the background.
connect() {
	open_connection "$1" "$2" "TCP:203.0.113.2:$port,sourceport=$3,reuseaddr${4:+,$4}"
	clients[$1]=$connection
}

# hears NAME: the next line that comes to the client.
hears() {
	local line=
	IFS= read -r -t "$patience" -u "${from_connection[$1]}" line
	printf '%s' "$line"
}

# is_echoed NAME TEXT: it goes there and back.
is_echoed() {
	echo "$2" >&"${to_connection[$1]}"
	[[ $(hears "$1") == "$2" ]]
}

# part NAME...: these clients go. With their ports, which a socket keeps for a
# while: what comes next takes another port of the server.
port=8000
part() {
	local name write read
	for name; do
		write=${to_connection[$name]} read=${from_connection[$name]}
		kill "${clients[$name]}" 2> /dev/null
		wait "${clients[$name]}" 2> /dev/null
		exec {write}>&- {read}<&-
		unset "clients[$name]" "to_connection[$name]" "from_connection[$name]"
	done
}

# scene: a server on a port of its own, no flows, no events.
scene() {
	port=$((port + 1))
	serve_on $port
	ns_exec router conntrack -F 2> /dev/null
	forget_events
}

# entry_with_mark MARK: the router's conntrack entry that CONNMARK gave it: 1 is the plain
# one, 2 the thief. Earlier scenes' connections may still take their leave.
entry_with_mark() { tracked -p tcp --orig-port-dst $port --mark "$1"; }

# replies_to MARK: where conntrack expects the answers: ADDRESS:PORT.
replies_to() {
	entry_with_mark "$1" | sed -E 's/.* src=203.0.113.2 dst=([^ ]*) sport=[0-9]+ dport=([0-9]+) .*/\1:\2/'
}

# begun SOURCE: the event of a flow's first packet from there.
begun() { events flow_new "original=$1->203.0.113.2:$port "; }
# confirmed MARK: the event of the flow's confirmation.
confirmed() { events flow_confirm "->203.0.113.2:$port reply=.* mark=0x$1( |$)"; }

# check_watched WHAT MARK MOVED SOURCE OUTSIDE: the watch tells of this flow, from its
# SOURCE, that it leaves as OUTSIDE.
check_watched() {
	local event server=203.0.113.2:$port
	event=$(confirmed "$2")
	check_equal "$1: the watch says what moved" \
		"netns=$me proto=tcp original=$4->$server reply=$server->$5 untranslated=$server->$4 moved=$3 out=wan0 hook=POSTROUTING" \
		"$(fields "$event" netns proto original reply untranslated moved out hook)"
	check_equal "$1: ... and saw the flow begin, once" \
		"netns=$me id=$(field id "$event") original=$4->$server mark=0x0" \
		"$(fields "$(begun "$4")" netns id original mark)$([[ $(begun "$4" | wc -l) == 1 ]] || echo " more than once")"
}

# --- Who is who

ns_exec router "$IPTABLES" -w -t mangle -A OUTPUT -p tcp --sport 12345 -j CONNMARK --set-mark 1 || bail "mark"
ns_exec router "$IPTABLES" -w -t mangle -A OUTPUT -p tcp --sport 54321 -j CONNMARK --set-mark 2 || bail "mark"
ns_exec router "$IPTABLES" -w -t mangle -A PREROUTING -p tcp --sport 54321 -j CONNMARK --set-mark 2 || bail "mark"
record_events flow_new flow_confirm

plain() { connect plain router 12345; }
thief() { connect thief "$1" 54321 "${2:-}"; }
declare -A home_of=([lan]=172.18.0.2 [router]=203.0.113.1)
# What the thief's rule moves.
declare -A thieving=([lan]='source-address|source-port' [router]='source-port|source-port-alone')

# set_thief_rule TARGET: the thief's rule.
set_thief_rule() {
	flush_rules
	case $1 in
	RUSTMASQ) add_rule -o wan0 -p tcp --sport 54321 -j RUSTMASQ --to-ports 12345 ;;
	SNAT) add_rule -o wan0 -p tcp --sport 54321 -j SNAT --to-source 203.0.113.1:12345 ;;
	esac || bail "rule with $1"
}

# --- Without a thief

set_thief_rule RUSTMASQ
scene
plain
check_equal "without a thief: the plain connection keeps its port" 203.0.113.1:12345 "$(hears plain)"
check_watched "without a thief" 1 nothing 203.0.113.1:12345 203.0.113.1:12345
part plain

# Whose rules are the thief's, and where from: ours, and the kernel's.
kinds=(RUSTMASQ:lan)
! compared || kinds+=(SNAT:router)

# --- The thief first

for kind in "${kinds[@]}"; do
	target=${kind%:*} place=${kind#*:}
	what="thief first, $target, from $place"
	set_thief_rule "$target"
	scene
	thief "$place"
	check_equal "$what: the thief gets the port" 203.0.113.1:12345 "$(hears thief)"
	plain
	seen=$(hears plain)
	check_match "$what: the server sees the plain one from another port" '^203\.0\.113\.1:[0-9]+$' "$seen"
	check_fails "$what: ... which is not its own" test "$seen" = 203.0.113.1:12345
	check "$what: the thief's connection works" is_echoed thief "hello from the thief"
	check "$what: the plain one works, too" is_echoed plain "hello from the plain one"
	check_match "$what: conntrack says that the plain one is the one from port 12345" \
		"src=203.0.113.1 dst=203.0.113.2 sport=12345 dport=$port .* mark=1 " "$(entry_with_mark 1)"
	check_equal "$what: ... and that its answers go to the port that the server sees" "$seen" "$(replies_to 1)"
	check_equal "$what: ... and the thief's to port 12345" 203.0.113.1:12345 "$(replies_to 2)"
	check_match "$what: the rule counted the thief alone" '^1 ' \
		"$(ns_exec router "$IPTABLES" -w -t nat -L POSTROUTING -n -v -x | grep -w "$target" | sed 's/^ *//')"
	check_watched "$what: thief" 2 "${thieving[$place]}" "${home_of[$place]}:54321" 203.0.113.1:12345
	check_watched "$what: plain" 1 'source-port|source-port-alone' 203.0.113.1:12345 "$seen"
	part thief plain
done

# --- The race

# held: packets that wait.
held() { grep -c '^held' "$scratch/queue"; }
holds() { [[ $(held) == 1 ]]; }
hold() {
	ns_start router "$tools/nfqueue.py" 7 > "$scratch/queue"
	queue=${servers[-1]}
	wait_until grep -q ready "$scratch/queue" || bail "no queue"
}
release() {
	kill -USR1 "$queue"
}
# The chain of mangle comes before that of nat.
ns_exec router "$IPTABLES" -w -t mangle -A POSTROUTING -p tcp --sport 12345 --syn -j NFQUEUE --queue-num 7 ||
	bail "NFQUEUE"
set_thief_rule RUSTMASQ
for theft in nobody lan router conntrack; do
	what="race, $theft"
	scene
	: > "$scratch/queue"
	hold
	plain
	check "$what: the plain one's first packet is held" wait_until holds
	check_equal "$what: conntrack has not confirmed it" "" "$(entry_with_mark 1)"
	check_equal "$what: the watch saw it begin" 1 "$(begun 203.0.113.1:12345 | wc -l)"
	check_equal "$what: ... and not yet confirmed" "" "$(confirmed 1)"
	case $theft in
	nobody) ;;
	conntrack)
		check "$what: an entry is inserted" ns_exec router conntrack -I -p tcp -t 60 --state ESTABLISHED -u ASSURED,SEEN_REPLY -m 2 \
			-s 172.18.0.2 -d 203.0.113.2 --sport 54321 --dport $port \
			-r 203.0.113.2 -q 203.0.113.1 --reply-port-src $port --reply-port-dst 12345
		;;
	*)
		thief "$theft"
		check_equal "$what: the thief gets the port meanwhile" 203.0.113.1:12345 "$(hears thief)"
		check_watched "$what: thief" 2 "${thieving[$theft]}" "${home_of[$theft]}:54321" 203.0.113.1:12345
		;;
	esac
	release
	seen=$(hears plain)
	if [[ $theft == nobody ]]; then
		check_equal "$what: released, the plain one keeps its port" 203.0.113.1:12345 "$seen"
		check_watched "$what: plain" 1 nothing 203.0.113.1:12345 203.0.113.1:12345
	else
		check_match "$what: released, the plain one is seen" '^203\.0\.113\.1:[0-9]+$' "$seen"
		check_fails "$what: ... from a port that is not its own" test "$seen" = 203.0.113.1:12345
		check_equal "$what: conntrack agrees" "$seen" "$(replies_to 1)"
		check_equal "$what: the port is the thief's" 203.0.113.1:12345 "$(replies_to 2)"
		check_watched "$what: plain" 1 'source-port|source-port-alone' 203.0.113.1:12345 "$seen"
	fi
	check "$what: the plain one works" is_echoed plain "hello from the plain one"
	check_equal "$what: only that packet was held" 1 "$(held)"
	case $theft in lan | router)
		check "$what: the thief's connection works" is_echoed thief "hello from the thief"
		part thief
		;;
	esac
	part plain
	stop_servers
done
ns_exec router "$IPTABLES" -w -t mangle -F POSTROUTING

# --- The plain one first

# rule_packets TARGET: packets at its rule.
rule_packets() { ns_exec router "$IPTABLES" -w -t nat -L POSTROUTING -n -v -x | awk -v target="$1" '$3 == target { print $1 }'; }

for kind in "${kinds[@]}"; do
	target=${kind%:*} place=${kind#*:}
	what="plain first, $target, from $place"
	set_thief_rule "$target"
	scene
	plain
	check_equal "$what: the plain one keeps its port" 203.0.113.1:12345 "$(hears plain)"
	drop=$(conntrack_statistic router drop) failed=$(conntrack_statistic router insert_failed)
	thief "$place" connect-timeout=1
	wait "${clients[thief]}"
	check_match "$what: the thief does not get through" 'timed out' "$(< "$scratch/thief-log")"
	tries=$(rule_packets "$target")
	check "$what: the rule took its first packet, and each repetition ($tries)" test "$tries" -ge 1
	check_equal "$what: conntrack -S counts as many as insert_failed" "$tries" $(($(conntrack_statistic router insert_failed) - failed))
	check_equal "$what: ... and as drop" "$tries" $(($(conntrack_statistic router drop) - drop))
	check_equal "$what: conntrack knows no thief" "" "$(entry_with_mark 2)"
	check_equal "$what: the watch saw each begin" "$tries" "$(begun "${home_of[$place]}:54321" | wc -l)"
	check_equal "$what: ... and wanting the very tuple that the plain one has" \
		"original=${home_of[$place]}:54321->203.0.113.2:$port reply=203.0.113.2:$port->203.0.113.1:12345 moved=${thieving[$place]}" \
		"$(confirmed 2 | while read -r event; do
			fields "$event" original reply moved
			echo
		done | uniq)"
	check "$what: the plain connection works" is_echoed plain "hello from the plain one"
	check_equal "$what: ... with its own port" 203.0.113.1:12345 "$(replies_to 1)"
	check_watched "$what: plain" 1 nothing 203.0.113.1:12345 203.0.113.1:12345
	part thief plain
done

done_testing
