#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Kernels: plain
#
# The flow viewer, `rustmasq watch`, shows each flow that its options select, as it happens and with the tuples that
# conntrack has. However it ends, it leaves no trace instance behind. Without the module or tracefs, or with wrong
# options, it prints the reason in one line.
. "$(dirname "$0")/../../lib/lib.sh"

viewer=(/usr/sbin/rustmasq watch)
instances=/sys/kernel/tracing/instances

# --- Viewers. Each has a name, by which these have its process, and whether it should have a trace instance.

declare -A pid alive

# start_viewer NAME COMMAND...: starts a viewer, and waits until it watches. Its standard output goes to $scratch/NAME,
# its standard error to $scratch/NAME.said.
start_viewer() {
	"${@:2}" > "$scratch/$1" 2> "$scratch/$1.said" &
	pid[$1]=$!
	alive[$1]=yes
	servers+=($!)
	wait_until watching "$1" || bail "$1 does not watch: $(< "$scratch/$1.said")"
}
# Starts no process, because wait_until calls it again and again.
watching() {
	local line
	IFS= read -r line < "$scratch/$1.said" && [[ $line == "rustmasq: watching" ]]
}

# instance NAME: prints the folder of its trace instance.
instance() { printf '%s' "$instances/rustmasq-watch-${pid[$1]}"; }

# check_instances WHAT: checks that there are the instances of the viewers that are alive, and no others.
check_instances() {
	local name
	check_equal "$1" "$(for name in "${!alive[@]}"; do instance "$name" && echo; done | sort)" \
		"$(find "$instances" -mindepth 1 -maxdepth 1 | sort)"
}

# check_ends NAME HOW STATUS: checks that it ends with the status and removes its instance.
check_ends() {
	local status
	wait_until ended "${pid[$1]}" || kill -KILL "${pid[$1]}"
	wait "${pid[$1]}" 2> /dev/null
	status=$?
	unset "alive[$1]"
	check_equal "$2: the viewer ends with status $3" "$3" "$status"
	check_fails "$2: ... and leaves no instance" test -e "$(instance "$1")"
}
# ended PID: succeeds if there is no such process or it is a zombie, which it is until the shell waits for it.
ended() {
	local stat
	! IFS= read -r stat < "/proc/$1/stat" || [[ $stat == *') Z '* ]]
}

# ports_shown NAME: prints the source ports of the flows that the viewer showed, in their order. Waits for the last flow
# first: flows before it that the viewer has not shown by then are left out.
ports_shown() {
	wait_until grep -q ":$last->" "$scratch/$1" || bail "$1 does not show the last flow: $(< "$scratch/$1")"
	awk 'NR > 1 { sub(/->.*/, "", $6); sub(/.*:/, "", $6); print $6 }' "$scratch/$1" | paste -sd ' '
}

# row ADDRESS:PORT: prints the line that the viewer "people" showed for the flow from there.
row() { awk -v from="$1->" 'index($6, from) == 1' "$scratch/people"; }

# object ADDRESS PORT: prints the line of the viewer "json" for it.
object() { grep -F "\"original\": {\"source\": {\"address\": \"$1\", \"port\": $2}" "$scratch/json"; }

# --- Flows. Each has a source port, or query identifier, of its own.

# send_datagram HOST ADDRESS PORT SOURCE-PORT: sends one datagram.
send_datagram() { ns_exec "$1" socat -u - "UDP:$2:$3,sourceport=$4" <<< x; }

# check_shows_another NAME: checks that the viewer shows another flow.
check_shows_another() {
	last=$((last + 1))
	send_datagram lan 203.0.113.2 53 $last
	check "the viewer \"$1\" shows another flow" wait_until grep -qE "(:|: )$last\b" "$scratch/$1"
}

setup_lan
setup_lan_ipv6
setup_ns odd
setup_link odd eth0 10.9.0.2/24 router odd0 10.9.0.1/24
ip -n router link set odd0 down
ip -n router link set odd0 name $'a=b>|\e[7m' up || bail "a device with an odd name"
serve server TCP 80
add_rule -p udp --sport 40001 -j RUSTMASQ --to-ports 50001 || bail "a rule"
add_rule -p udp --sport 40009 -j RUSTMASQ --to-ports 50009 || bail "a rule"
add_rule -s 172.18.0.2 -j RUSTMASQ || bail "a rule"
add_rule6 -s fd00:18::2 -j RUSTMASQ || bail "a rule"
# Flows should not expire before the checks, on a slow machine either.
ns_exec router sh -c 'cd /proc/sys/net/netfilter && echo 600 > nf_conntrack_udp_timeout && echo 600 > nf_conntrack_icmp_timeout' ||
	bail "the timeouts of conntrack"
last=40009

start_viewer people "${viewer[@]}"
start_viewer json "${viewer[@]}" --json
start_viewer some "${viewer[@]}" --protocol tcp --protocol 17 --address 172.18.0.2 --address fd00:18::/64
start_viewer ports "${viewer[@]}" --port 50001 --port 50009 --port 40003
start_viewer moved "${viewer[@]}" --protocol udp --port 53 --address 203.0.113.1/31 --moved-only
check_instances "each viewer has a trace instance"

before=$(date +%s)
send_datagram lan 203.0.113.2 53 40001
probe lan TCP 203.0.113.2 80 sourceport=40002 > /dev/null
ns_exec lan ping -q -c 1 -W 5 -e 40003 203.0.113.2 > /dev/null
send_datagram router 203.0.113.2 53 40004
send_datagram lan '[2001:db8:1::2]' 53 40005
send_datagram odd 10.9.0.1 9 40006
# A flow in the initial namespace, in which this runs, and one in a namespace without a name. A rule makes both track
# connections.
tracking=(-w -A OUTPUT -m conntrack --ctstate INVALID -j ACCEPT)
"$IPTABLES" "${tracking[@]}" || bail "a rule in the initial namespace"
socat -u - UDP:127.0.0.1:9,sourceport=40007 <<< x
"$IPTABLES" "${tracking[@]/-A/-D}"
# shellcheck disable=SC2016 # for that shell
nameless=$(unshare -n bash -c 'ip link set lo up && "$@" && stat -L -c %i /proc/self/ns/net &&
	socat -u - UDP:127.0.0.1:9,sourceport=40008 <<< x' - "$IPTABLES" "${tracking[@]}")
# NAT has already given this port to the first flow.
send_datagram router 203.0.113.2 53 50001
# Two lines that are no events.
echo "one" > "$(instance people)/trace_marker"
echo "two" > "$(instance people)/trace_marker"
send_datagram lan 203.0.113.2 53 $last
mapfile -t entries < <(tracked -f ipv4 -o id; tracked -f ipv6 -o id)

check_equal "without options all flows are shown" \
	"40001 40002 40003 40004 40005 40006 40007 40008 50001 40009" "$(ports_shown people)"
check_equal "--protocol selects by name and number, with --address before NAT" "40001 40002 40005 40009" "$(ports_shown some)"
check_equal "--port selects by port after NAT and by query identifier" "40001 40003 50001 40009" "$(ports_shown ports)"
check_equal "--moved-only selects, with --port before NAT and --address after it" "40001 50001 40009" "$(ports_shown moved)"

# --- The table for people

begins='^[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3} +'
header=$(head -n 1 "$scratch/people")
check_match "the table has a header" '^TIME +NAMESPACE +PROTO +IN +OUT +ORIGINAL +BECAME +MOVED$' "$header"
check_match "the table shows a masqueraded flow" \
	"${begins}router +udp +lan0 +wan0 +172.18.0.2:40001->203.0.113.2:53 +203.0.113.1:50001->203.0.113.2:53 +source-address,source-port$" \
	"$(row 172.18.0.2:40001)"
check_match "... a ping" \
	"${begins}router +icmp +lan0 +wan0 +172.18.0.2:40003->203.0.113.2:0 +203.0.113.1:40003->203.0.113.2:0 +source-address$" \
	"$(row 172.18.0.2:40003)"
check_match "... a flow that NAT did not change" \
	"${begins}router +udp +- +wan0 +203.0.113.1:40004->203.0.113.2:53 +203.0.113.1:40004->203.0.113.2:53 +nothing$" \
	"$(row 203.0.113.1:40004)"
check_match "... an IPv6 flow" \
	"${begins}router +udp +lan0 +wan0 +\[fd00:18::2\]:40005->\[2001:db8:1::2\]:53 +\[2001:db8:1::1\]:40005->\[2001:db8:1::2\]:53 +source-address$" \
	"$(row '[fd00:18::2]:40005')"
check_match "... a device whose name has an escape sequence, escaped" "${begins}router +udp +a=b>\|\\\\x1b\[7m +- " "$(row 10.9.0.2:40006)"
check_match "... the namespace of process 1" "${begins}init +udp +- +lo " "$(row 127.0.0.1:40007)"
check_match "... a namespace without a name" "${begins}$nameless +udp +- +lo " "$(row 127.0.0.1:40008)"
check_match "... a flow that lost its port to another one, marked" \
	"${begins}router +udp +- +wan0 +203.0.113.1:50001->203.0.113.2:53 +203.0.113.1:[0-9]+->203.0.113.2:53 +!! source-port,source-port-alone,taken-by=172.18.0.2:40001$" \
	"$(row 203.0.113.1:50001)"
# position LINE TEXT: prints how many characters of the line precede the text.
position() {
	local text=${1%%"$2"*}
	printf %s ${#text}
}
row=$(row 172.18.0.2:40001)
for column in ORIGINAL=172.18.0.2:40001 BECAME=203.0.113.1:50001 MOVED=source-address; do
	check_equal "${column%%=*} is above its column" "$(position "$header" "${column%%=*}")" "$(position "$row" "${column#*=}")"
done
check_equal "a column that was widened stays so" "$(position "$(row 127.0.0.1:40008)" 127.0.0.1)" \
	"$(position "$(row 172.18.0.2:$last)" 172.18.0.2)"
check_equal "the viewer reports lines that are no events, once" 1 "$(grep -c 'cannot be understood: .*one' "$scratch/people.said")"
check_equal "... and reports nothing else" "rustmasq: watching" "$(grep -v 'understood: .*one' "$scratch/people.said")"

# --- JSON for programs

wait_until object 172.18.0.2 $last || bail "--json does not show the last flow"
# Protocol, tuples and id of the router's flows, from conntrack and from the JSON.
for entry in "${entries[@]}"; do
	grep -oE '\b(icmp|tcp|udp|(src|dst|sport|dport|id)=[^ ]+)' <<< "$entry" | cut -d = -f 2 | paste -sd ' '
done | sort > "$scratch/conntrack"
python3 -I -S -c '
import json, sys
for flow in map(json.loads, sys.stdin):
    words = []
    for ends, client in (flow["original"], "source"), (flow["reply"], "destination"):
        words += [ends["source"]["address"], ends["destination"]["address"]]
        words += [ends[client]["port"]] if flow["proto"] == "icmp" else [ends["source"]["port"], ends["destination"]["port"]]
    if flow["namespace"] == "router":
        print(flow["proto"], *words, flow["id"])' < "$scratch/json" | sort > "$scratch/flows"
check_equal "--json shows all flows" 10 "$(wc -l < "$scratch/json")"
check_equal "conntrack has eight flows of the router" 8 "$(wc -l < "$scratch/conntrack")"
check "--json has conntrack's ids and tuples" diff "$scratch/conntrack" "$scratch/flows"

json_tuple() { printf '{"source": {"address": "%s", "port": %s}, "destination": {"address": "%s", "port": %s}}' "$@"; }
check_equal "--json has all fields" \
	"{\"event\": \"begin\", \"time\": T, \"netns\": $(stat -L -c %i /run/netns/router), \"namespace\": \"router\", \"id\": N, \"proto\": \"udp\", \"original\": $(
		json_tuple 172.18.0.2 40001 203.0.113.2 53), \"reply\": $(
		json_tuple 203.0.113.2 53 203.0.113.1 50001), \"untranslated\": $(
		json_tuple 203.0.113.2 53 172.18.0.2 40001), \"moved\": [\"source-address\", \"source-port\"], \"in\": \"lan0\", \"out\": \"wan0\", \"hook\": \"POSTROUTING\", \"status\": [\"SRC_NAT\", \"SRC_NAT_DONE\", \"DST_NAT_DONE\"], \"mark\": 0, \"icmp\": {\"type\": 0, \"code\": 0}, \"zone\": {\"original\": 0, \"reply\": 0}, \"source\": \"own\", \"taken_by\": null}" \
	"$(object 172.18.0.2 40001 | sed -E 's/"time": [0-9]+\.[0-9]+,/"time": T,/; s/"id": [0-9]+,/"id": N,/')"
made=$(object 172.18.0.2 40001 | sed -E 's/.*"time": ([0-9]+).*/\1/')
check "--json: the time of the flow" test "$made" -ge $((before - 1)) -a "$made" -le "$(date +%s)"
check_match "--json: a ping" '"icmp": \{"type": 8, "code": 0\}' "$(object 172.18.0.2 40003)"
check_match "--json: nothing moved, no input device" '"moved": \[\], "in": null, "out": "wan0"' "$(object 203.0.113.1 40004)"
check_match "--json: a device with an odd name, no output device" '"in": "a=b>\|\\u001b\[7m", "out": null, "hook": "INPUT"' \
	"$(object 10.9.0.2 40006)"
check_match "--json: a namespace without a name" "\"netns\": $nameless, \"namespace\": null, " "$(object 127.0.0.1 40008)"

# --- Ends

# The shell makes its background processes ignore SIGINT; the viewer ends by it all the same.
kill -INT "${pid[some]}"
check_ends some "by SIGINT" 0
kill -HUP "${pid[ports]}"
check_ends ports "by SIGHUP" 0

# A viewer that starts removes the instances that killed ones left. Two more should be removed, one with the number of
# another process and one with that of none; two should be kept.
kill -KILL "${pid[moved]}"
wait "${pid[moved]}" 2> /dev/null
kill -STOP "${pid[json]}"
mkdir "$instances/rustmasq-watch-$$" "$instances/rustmasq-watch-4194305" "$instances/rustmasq-watch-x" "$instances/other"
check "by SIGKILL: the viewer leaves its instance" test -d "$(instance moved)"
unset "alive[moved]"
start_viewer nohup nohup "${viewer[@]}"
check "the next viewer removes no instance that is not a viewer's" rmdir "$instances/rustmasq-watch-x" "$instances/other"
check_instances "... and none of a running viewer, but all others"
kill -CONT "${pid[json]}"
kill -HUP "${pid[nohup]}"
check_shows_another nohup
check "a viewer that was stopped for a while shows the flow, too" wait_until object 172.18.0.2 $last
kill -TERM "${pid[nohup]}"
check_ends nohup "by SIGTERM" 0

# Nobody reads the output after the first flow. The viewer must notice that without a second one.
# shellcheck disable=SC2016 # for that shell
start_viewer head bash -c 'exec "$@" > >(exec head -n 1)' - "${viewer[@]}" --json
check_shows_another people
check_ends head "\`| head -n 1\`" 0
check_match "... which got a flow at once" "^\{[^"$'\n'"]*\"port\": ${last}[^"$'\n'"]*\}$" "$(< "$scratch/head")"
# shellcheck disable=SC2016 # for that shell
start_viewer full bash -c 'exec "$@" > /dev/full' - "${viewer[@]}"
check_ends full "on a full disk" 1
check_equal "... it reports the error" "rustmasq: standard output: No space left on device" "$(grep -v watching "$scratch/full.said")"

# --- More events than the trace buffer holds

# One viewer has a small buffer and is stopped for a while. The others lose nothing.
kill -STOP "${pid[json]}"
echo 8 > "$(instance json)/buffer_size_kb" || bail "a small buffer"
before=$(wc -l < "$scratch/json")
ns_exec lan bash -c "for ((port = 10001; port <= 10200; port++)); do echo x > /dev/udp/203.0.113.2/\$port; done"
kill -CONT "${pid[json]}"
check "when events were lost, the viewer shows the last flow" wait_until grep -q '"port": 10200' "$scratch/json"
lost=$(sed -nE 's/^rustmasq: ([0-9]+) events were lost: .*/\1/p' "$scratch/json.said" | paste -sd +)
check_equal "... and reports how many were lost" 200 $((lost + $(wc -l < "$scratch/json") - before))
check "... and some were lost" test "$lost"
check "a viewer that keeps up shows the last flow" wait_until grep -q ':10200 ' "$scratch/people"
check_equal "... and all 200" 200 "$(grep -cE '[0-9]->203.0.113.2:10[0-9]{3}  ' "$scratch/people")"
check_fails "... and reports no lost events" grep lost "$scratch/people.said"

# --- With tracefs at another place, and when the module is unloaded

# shellcheck disable=SC2016 # for that shell
start_viewer below-debugfs unshare -m bash -c 'umount -l /sys/kernel/tracing && exec "$@"' - "${viewer[@]}"
check_shows_another below-debugfs
kill -QUIT "${pid[below-debugfs]}"
check_ends below-debugfs "by SIGQUIT" 0
kill -INT "${pid[people]}"
kill -TERM "${pid[people]}"
check_ends people "by two signals at once" 0

flush_rules
check "the module can be unloaded while a viewer is running" wait_until rmmod rustmasq
check_ends json "when the module is unloaded" 1
check_equal "... it reports that" "rustmasq: the event was turned off, as it is when the module rustmasq is removed" \
	"$(tail -n 1 "$scratch/json.said")"
check_equal "standard error has only lines that start with the program's name" "" "$(grep -hv '^rustmasq: ' "$scratch"/*.said)"

# --- Errors at the start

# check_refused PATTERN STATUS COMMAND...: checks that the command ends with the status and prints one line, which
# matches.
check_refused() {
	local output
	output=$(timeout 20 "${@:3}" 2>&1)
	output+=$'\n'"status $?"
	check_match "refused: $1" "^rustmasq: [^"$'\n'"]*$1[^"$'\n'"]*"$'\n'"status $2$" "$output"
}

# shellcheck disable=SC2016 # for that shell
check_refused "not mounted: mount -t tracefs " 1 \
	unshare -m bash -c 'umount -l /sys/kernel/tracing /sys/kernel/debug; exec "$@"' - "${viewer[@]}"
# A copy: others may not be allowed to read the checkout.
install "${viewer[0]}" /run/rustmasq-copy || bail "a copy of the program"
check_refused "Permission denied: run it as root" 1 \
	setpriv --reuid nobody --regid nogroup --clear-groups /run/rustmasq-copy watch
rm /run/rustmasq-copy
check_refused "load the module \(modprobe rustmasq\)" 1 "${viewer[@]}"
check_instances "a viewer that cannot start leaves no instance"

# check_option_refused OPTIONS PATTERN: checks that these options, divided by blanks, are refused with a line that matches.
check_option_refused() {
	local -a words
	IFS=' ' read -r -d '' -a words < <(printf '%s\0' "$1")
	check_refused "$2.* \(see rustmasq --help\)" 2 "${viewer[@]}" "${words[@]}"
}
check_option_refused --prot "unexpected argument '--prot' found"
check_option_refused wan0 "unexpected argument 'wan0' found"
check_option_refused --port "a value is required for '--port <PORT>'"
check_option_refused "--protocol udplite" "'udplite' is none of icmp, tcp, udp, gre, icmpv6, sctp and no number from 0 to 255"
check_option_refused "--protocol 256" "'256' is none of"
check_option_refused "--address 203.0.113" "'203.0.113' is neither an address, as .*, nor a network, as "
check_option_refused "--address fd00::/129" "'fd00::/129' is neither"
check_option_refused "--address fe80::1%lan0" "'fe80::1%lan0' is neither"
check_option_refused "--port 0" "'0' is no number from 1 to 65535"
check_option_refused "--port 65536" "'65536' is no number from"
check_option_refused $'--port 5\n3' "'5\\\\n3' is no number from"
check_refused "unrecognized subcommand 'wach'" 2 "${viewer[0]}" wach

"${viewer[@]}" --help > "$scratch/help" 2>&1
check_equal "--help ends with status 0" 0 $?
exec {nobody}> >(:)
wait $!
check_equal "... even if nobody reads its output" 0 "$("${viewer[@]}" --help 2>&1 >&$nobody; echo $?)"
# option_names FILE: prints all long options that it mentions.
option_names() { sed 's/\\f[A-Z]//g; s/\\//g' "$1" | grep -oE -e '--[a-z-]+' | sort -u | paste -sd ' '; }
check_equal "--help names the options" "--address --end --help --json --moved-only --port --protocol" "$(option_names "$scratch/help")"
check_equal "... and so does the manual page" "$(option_names "$scratch/help")" \
	"$(option_names /usr/share/man/man8/rustmasq-watch.8)"

done_testing
