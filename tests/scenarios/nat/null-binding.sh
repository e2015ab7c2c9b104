#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Kernels: plain
#
# A flow that no rule matches gets a null binding. NAT still changes its source port if a translated flow already has
# its reply tuple, and the flow watch reports that. Without a translated flow, the port is kept.
#
#     lan                 router                     server
#     lan0 ------------ lan0  wan0 ---------------- eth0
#     172.18.0.2       172.18.0.1   203.0.113.1      203.0.113.2
#
#     translated   172.18.0.2:54321  -> 203.0.113.1:12345, by a rule
#                  203.0.113.1:54321 -> 203.0.113.1:12345, by a rule
#     unmatched    203.0.113.1:12345, without a rule
#
# Three orders are tested: the translated flow comes first, it comes while the unmatched flow's first packet is between
# the hooks, or the unmatched flow comes first.
. "$(dirname "$0")/../../lib/lib.sh"
. "$(dirname "$0")/../../lib/events.sh"

setup_lan
router_netns=$(netns router)

# --- Connections that stay open, with a server that reports the source that it sees

declare -A clients

# serve_on PORT: starts a server that sends the source that it sees, and then echoes.
serve_on() {
	# shellcheck disable=SC2016 # socat's shell expands it
	ns_start server socat "TCP-LISTEN:$1,fork,reuseaddr" 'SYSTEM:echo "$SOCAT_PEERADDR:$SOCAT_PEERPORT"; exec cat' \
		2> "$scratch/server-$1"
	wait_until listening server TCP "$1" || bail "no server on port $1"
}

# connect NAME HOST SOURCE-PORT [OPTION,...]: connects to the server's port $port, in the background.
connect() {
	open_connection "$1" "$2" "TCP:203.0.113.2:$port,sourceport=$3,reuseaddr${4:+,$4}"
	clients[$1]=$connection
}

# receive_from NAME: prints the next line that the client receives.
receive_from() {
	local line=
	IFS= read -r -t "$patience" -u "${from_connection[$1]}" line
	printf '%s' "$line"
}

# is_echoed NAME TEXT: succeeds if the client sends the text and receives it back.
is_echoed() {
	echo "$2" >&"${to_connection[$1]}"
	[[ $(receive_from "$1") == "$2" ]]
}

# close_clients NAME...: ends these clients. A socket keeps its ports for a while, so the next case uses another port of
# the server.
port=8000
close_clients() {
	local name write read
	for name; do
		write=${to_connection[$name]} read=${from_connection[$name]}
		kill "${clients[$name]}" 2> /dev/null
		wait "${clients[$name]}" 2> /dev/null
		exec {write}>&- {read}<&-
		unset "clients[$name]" "to_connection[$name]" "from_connection[$name]"
	done
}

# begin_case: starts a server on a new port, and removes all flows and events.
begin_case() {
	port=$((port + 1))
	serve_on $port
	ns_exec router conntrack -F 2> /dev/null
	forget_events
}

# entry_with_mark MARK: prints the router's conntrack entry with the mark: 1 is the unmatched flow, 2 the translated
# one. The port excludes connections of earlier cases, which may still be closing.
entry_with_mark() { tracked -p tcp --orig-port-dst $port --mark "$1"; }

# reply_destination MARK: prints where conntrack expects the flow's replies to go: ADDRESS:PORT.
reply_destination() {
	entry_with_mark "$1" | sed -E 's/.* src=203.0.113.2 dst=([^ ]*) sport=[0-9]+ dport=([0-9]+) .*/\1:\2/'
}

# new_flow_events SOURCE: prints the events of flows from this source that began.
new_flow_events() { events flow_new "original=$1->203.0.113.2:$port "; }
# confirm_events MARK: prints the events of the flow's confirmation.
confirm_events() { events flow_confirm "->203.0.113.2:$port reply=.* mark=0x$1( |$)"; }

# check_watched WHAT MARK MOVED SOURCE OUTSIDE: checks that the flow watch reports that the flow from SOURCE leaves as
# OUTSIDE, and what NAT changed.
check_watched() {
	local event server=203.0.113.2:$port
	event=$(confirm_events "$2")
	check_equal "$1: the watch reports what NAT changed" \
		"netns=$router_netns proto=tcp original=$4->$server reply=$server->$5 untranslated=$server->$4 moved=$3 out=wan0 hook=POSTROUTING" \
		"$(fields "$event" netns proto original reply untranslated moved out hook)"
	check_equal "$1: the watch reports once that the flow began" \
		"netns=$router_netns id=$(field id "$event") original=$4->$server mark=0x0" \
		"$(fields "$(new_flow_events "$4")" netns id original mark)$([[ $(new_flow_events "$4" | wc -l) == 1 ]] || echo " more than once")"
}

# --- The marks

ns_exec router "$IPTABLES" -w -t mangle -A OUTPUT -p tcp --sport 12345 -j CONNMARK --set-mark 1 || bail "mark"
ns_exec router "$IPTABLES" -w -t mangle -A OUTPUT -p tcp --sport 54321 -j CONNMARK --set-mark 2 || bail "mark"
ns_exec router "$IPTABLES" -w -t mangle -A PREROUTING -p tcp --sport 54321 -j CONNMARK --set-mark 2 || bail "mark"
record_events flow_new flow_confirm

connect_unmatched() { connect unmatched router 12345; }
connect_translated() { connect translated "$1" 54321 "${2:-}"; }
declare -A source_of=([lan]=172.18.0.2 [router]=203.0.113.1)
# The parts of the tuple that the rule changes.
declare -A translated_move=([lan]='source-address|source-port' [router]='source-port|source-port-alone')

# set_rule TARGET: sets the rule for the translated flow.
set_rule() {
	flush_rules
	case $1 in
	RUSTMASQ) add_rule -o wan0 -p tcp --sport 54321 -j RUSTMASQ --to-ports 12345 ;;
	SNAT) add_rule -o wan0 -p tcp --sport 54321 -j SNAT --to-source 203.0.113.1:12345 ;;
	esac || bail "rule with $1"
}

# --- Without a translated flow

set_rule RUSTMASQ
begin_case
connect_unmatched
check_equal "without a translated flow: the unmatched flow keeps its port" 203.0.113.1:12345 "$(receive_from unmatched)"
check_watched "without a translated flow" 1 nothing 203.0.113.1:12345 203.0.113.1:12345
close_clients unmatched

# The target of the rule, and the host from which the translated flow comes.
kinds=(RUSTMASQ:lan)
! compared || kinds+=(SNAT:router)

# --- The translated flow first

for kind in "${kinds[@]}"; do
	target=${kind%:*} place=${kind#*:}
	what="translated flow first, $target, from $place"
	set_rule "$target"
	begin_case
	connect_translated "$place"
	check_equal "$what: the translated flow gets the port" 203.0.113.1:12345 "$(receive_from translated)"
	connect_unmatched
	seen=$(receive_from unmatched)
	check_match "$what: the server sees the unmatched flow from the router" '^203\.0\.113\.1:[0-9]+$' "$seen"
	check_fails "$what: the server sees another port than the unmatched flow's own" test "$seen" = 203.0.113.1:12345
	check "$what: the translated flow works" is_echoed translated "hello from the translated flow"
	check "$what: the unmatched flow works" is_echoed unmatched "hello from the unmatched flow"
	check_match "$what: conntrack has port 12345 in the unmatched flow's original tuple" \
		"src=203.0.113.1 dst=203.0.113.2 sport=12345 dport=$port .* mark=1 " "$(entry_with_mark 1)"
	check_equal "$what: conntrack expects the unmatched flow's replies at the port that the server sees" \
		"$seen" "$(reply_destination 1)"
	check_equal "$what: conntrack expects the translated flow's replies at port 12345" \
		203.0.113.1:12345 "$(reply_destination 2)"
	check_match "$what: the rule counted only the translated flow" '^1 ' \
		"$(ns_exec router "$IPTABLES" -w -t nat -L POSTROUTING -n -v -x | grep -w "$target" | sed 's/^ *//')"
	check_watched "$what, translated flow" \
		2 "${translated_move[$place]}" "${source_of[$place]}:54321" 203.0.113.1:12345
	check_watched "$what, unmatched flow" 1 'source-port|source-port-alone' 203.0.113.1:12345 "$seen"
	close_clients translated unmatched
done

# --- The race

# count_held: prints how many packets the queue holds.
count_held() { grep -c '^held' "$scratch/queue"; }
one_is_held() { [[ $(count_held) == 1 ]]; }
# start_queue: starts a program that holds packets until it gets a signal.
start_queue() {
	ns_start router "$tools/nfqueue.py" 7 > "$scratch/queue"
	queue=${servers[-1]}
	wait_until grep -q ready "$scratch/queue" || bail "no queue"
}
release_packets() {
	kill -USR1 "$queue"
}
# POSTROUTING of table mangle comes before that of table nat.
ns_exec router "$IPTABLES" -w -t mangle -A POSTROUTING -p tcp --sport 12345 --syn -j NFQUEUE --queue-num 7 ||
	bail "NFQUEUE"
set_rule RUSTMASQ
for taken_by in nobody lan router conntrack; do
	what="race, port taken by $taken_by"
	begin_case
	: > "$scratch/queue"
	start_queue
	connect_unmatched
	check "$what: the unmatched flow's first packet is held" wait_until one_is_held
	check_equal "$what: conntrack has not confirmed the unmatched flow" "" "$(entry_with_mark 1)"
	check_equal "$what: the watch reports that the unmatched flow began" \
		1 "$(new_flow_events 203.0.113.1:12345 | wc -l)"
	check_equal "$what: the watch does not report a confirmation yet" "" "$(confirm_events 1)"
	case $taken_by in
	nobody) ;;
	conntrack)
		check "$what: conntrack -I inserts a translated flow" \
			ns_exec router conntrack -I -p tcp -t 60 --state ESTABLISHED -u ASSURED,SEEN_REPLY -m 2 \
			-s 172.18.0.2 -d 203.0.113.2 --sport 54321 --dport $port \
			-r 203.0.113.2 -q 203.0.113.1 --reply-port-src $port --reply-port-dst 12345
		;;
	*)
		connect_translated "$taken_by"
		check_equal "$what: the translated flow gets the port meanwhile" \
			203.0.113.1:12345 "$(receive_from translated)"
		check_watched "$what, translated flow" \
			2 "${translated_move[$taken_by]}" "${source_of[$taken_by]}:54321" 203.0.113.1:12345
		;;
	esac
	release_packets
	seen=$(receive_from unmatched)
	if [[ $taken_by == nobody ]]; then
		check_equal "$what: after its release, the unmatched flow keeps its port" 203.0.113.1:12345 "$seen"
		check_watched "$what, unmatched flow" 1 nothing 203.0.113.1:12345 203.0.113.1:12345
	else
		check_match "$what: after its release, the server sees the unmatched flow from the router" \
			'^203\.0\.113\.1:[0-9]+$' "$seen"
		check_fails "$what: the server sees another port than the unmatched flow's own" \
			test "$seen" = 203.0.113.1:12345
		check_equal "$what: conntrack expects the unmatched flow's replies at that port" \
			"$seen" "$(reply_destination 1)"
		check_equal "$what: conntrack expects the translated flow's replies at port 12345" \
			203.0.113.1:12345 "$(reply_destination 2)"
		check_watched "$what, unmatched flow" 1 'source-port|source-port-alone' 203.0.113.1:12345 "$seen"
	fi
	check "$what: the unmatched flow works" is_echoed unmatched "hello from the unmatched flow"
	check_equal "$what: only that packet was held" 1 "$(count_held)"
	case $taken_by in lan | router)
		check "$what: the translated flow works" is_echoed translated "hello from the translated flow"
		close_clients translated
		;;
	esac
	close_clients unmatched
	stop_servers
done
ns_exec router "$IPTABLES" -w -t mangle -F POSTROUTING

# --- The unmatched flow first

# target_packets TARGET: prints how many packets the rule with this target counted.
target_packets() { ns_exec router "$IPTABLES" -w -t nat -L POSTROUTING -n -v -x | awk -v target="$1" '$3 == target { print $1 }'; }

for kind in "${kinds[@]}"; do
	target=${kind%:*} place=${kind#*:}
	what="unmatched flow first, $target, from $place"
	set_rule "$target"
	begin_case
	connect_unmatched
	check_equal "$what: the unmatched flow keeps its port" 203.0.113.1:12345 "$(receive_from unmatched)"
	drop=$(conntrack_statistic router drop) failed=$(conntrack_statistic router insert_failed)
	connect_translated "$place" connect-timeout=1
	wait "${clients[translated]}"
	check_match "$what: the translated flow's client times out" 'timed out' "$(< "$scratch/translated-log")"
	tries=$(target_packets "$target")
	check "$what: the rule counted the first packet and each retransmission ($tries)" test "$tries" -ge 1
	# RUSTMASQ refuses the flow before conntrack would confirm it.
	confirmed=$tries
	[[ $target != RUSTMASQ ]] || confirmed=0
	check_equal "$what: conntrack -S counts $confirmed in insert_failed" \
		"$confirmed" $(($(conntrack_statistic router insert_failed) - failed))
	check_equal "$what: conntrack -S counts as many in drop" "$tries" $(($(conntrack_statistic router drop) - drop))
	check_equal "$what: conntrack has no entry of the translated flow" "" "$(entry_with_mark 2)"
	check_equal "$what: the watch reports as many flows that began" \
		"$tries" "$(new_flow_events "${source_of[$place]}:54321" | wc -l)"
	[[ $target == RUSTMASQ ]] ||
		check_equal "$what: the watch reports that each would have the unmatched flow's reply tuple" \
		"original=${source_of[$place]}:54321->203.0.113.2:$port reply=203.0.113.2:$port->203.0.113.1:12345 moved=${translated_move[$place]}" \
		"$(confirm_events 2 | while read -r event; do
			fields "$event" original reply moved
			echo
		done | uniq)"
	check "$what: the unmatched flow works" is_echoed unmatched "hello from the unmatched flow"
	check_equal "$what: conntrack expects the unmatched flow's replies at its own port" \
		203.0.113.1:12345 "$(reply_destination 1)"
	check_watched "$what, unmatched flow" 1 nothing 203.0.113.1:12345 203.0.113.1:12345
	close_clients translated unmatched
done

done_testing
