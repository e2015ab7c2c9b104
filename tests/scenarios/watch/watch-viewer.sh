#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# rustmasq-watch shows each flow that it is asked for, as it happens and as
# conntrack has it. However it ends, it leaves no trace instance behind.
. "$(dirname "$0")/../../lib/lib.sh"

viewer=$checkout/rust/cli/rustmasq-watch
instances=/sys/kernel/tracing/instances

# --- Readers

# By their names: their processes, and whether they are to have an instance.
declare -A pid alive

# begin NAME COMMAND...: starts a reader, and waits until it watches. What it shows is
# in $scratch/NAME, what it says otherwise in $scratch/NAME.said.
begin() {
	"${@:2}" > "$scratch/$1" 2> "$scratch/$1.said" &
	pid[$1]=$!
	alive[$1]=yes
	servers+=($!)
	wait_until watching "$1" || bail "$1 does not watch: $(< "$scratch/$1.said")"
}
# By the shell alone: what waits must not be in the way of what is waited for.
watching() {
	local line
	IFS= read -r line < "$scratch/$1.said" && [[ $line == "rustmasq-watch: watching" ]]
}

instance() { printf '%s' "$instances/rustmasq-watch-${pid[$1]}"; }

# instances_are WHAT: those of the readers that live, and no others.
instances_are() {
	local name
	check_equal "$1" "$(for name in "${!alive[@]}"; do instance "$name" && echo; done | sort)" \
		"$(find "$instances" -mindepth 1 -maxdepth 1 | sort)"
}

# ends NAME HOW STATUS: it ended, and how.
ends() {
	local status
	wait_until gone "${pid[$1]}" || kill -KILL "${pid[$1]}"
	wait "${pid[$1]}" 2> /dev/null
	status=$?
	unset "alive[$1]"
	check_equal "$2: it ends with status $3" "$3" "$status"
	check_fails "$2: ... and leaves no instance" test -e "$(instance "$1")"
}
# Not yet waited for, it is a zombie.
gone() {
	local stat
	! IFS= read -r stat < "/proc/$1/stat" || [[ $stat == *') Z '* ]]
}

# ports_shown NAME: the source ports of the flows that it showed, in their order. The
# last one is awaited first: what came before it and is not there, will not come.
ports_shown() {
	wait_until grep -q ":$last->" "$scratch/$1" || bail "the last flow, by $1: $(< "$scratch/$1")"
	awk 'NR > 1 { sub(/->.*/, "", $6); sub(/.*:/, "", $6); print $6 }' "$scratch/$1" | paste -sd ' '
}

# row ADDRESS:PORT: what people see of the flow from there.
row() { awk -v from="$1->" 'index($6, from) == 1' "$scratch/people"; }

# object ADDRESS PORT: what machines read of it.
object() { grep -F "\"original\": {\"source\": {\"address\": \"$1\", \"port\": $2}" "$scratch/json"; }

# --- Flows. Each has a source port, or query identifier, of its own.

# send_datagram HOST ADDRESS PORT SOURCE-PORT: one datagram.
send_datagram() { ns_exec "$1" socat -u - "UDP:$2:$3,sourceport=$4" <<< x; }

# another NAME: the reader is alive and shows another flow.
another() {
	last=$((last + 1))
	send_datagram lan 203.0.113.2 53 $last
	check "$1 goes on" wait_until grep -qE "(:|: )$last\b" "$scratch/$1"
}

setup_lan
setup_lan_ipv6
setup_ns odd
setup_link odd eth0 10.9.0.2/24 router odd0 10.9.0.1/24
ip -n router link set odd0 down
ip -n router link set odd0 name $'a=b>|\e[7m' up || bail "an odd device"
serve server TCP 80
add_rule -p udp --sport 40001 -j RUSTMASQ --to-ports 50001 || bail "a rule"
add_rule -p udp --sport 40009 -j RUSTMASQ --to-ports 50009 || bail "a rule"
add_rule -s 172.18.0.2 -j RUSTMASQ || bail "a rule"
add_rule6 -s fd00:18::2 -j RUSTMASQ || bail "a rule"
# They are to be there when conntrack is asked, on a slow machine, too.
ns_exec router sh -c 'cd /proc/sys/net/netfilter && echo 600 > nf_conntrack_udp_timeout && echo 600 > nf_conntrack_icmp_timeout' ||
	bail "patience of conntrack"
last=40009

begin people "$viewer"
begin json "$viewer" --json
begin some "$viewer" --protocol tcp --protocol 17 --address 172.18.0.2 --address fd00:18::/64
begin ports "$viewer" --port 50001 --port 50009 --port 40003
begin moved "$viewer" --protocol udp --port 53 --address 203.0.113.1/31 --moved-only
instances_are "each reader has an instance"

before=$(date +%s)
send_datagram lan 203.0.113.2 53 40001
probe lan TCP 203.0.113.2 80 sourceport=40002 > /dev/null
ns_exec lan ping -q -c 1 -W 5 -e 40003 203.0.113.2 > /dev/null
send_datagram router 203.0.113.2 53 40004
send_datagram lan '[2001:db8:1::2]' 53 40005
send_datagram odd 10.9.0.1 9 40006
# The namespace that this runs in, and one that has no name; conntrack works where a rule needs it.
tracking=(-w -A OUTPUT -m conntrack --ctstate INVALID -j ACCEPT)
"$IPTABLES" "${tracking[@]}" || bail "a rule of our own"
socat -u - UDP:127.0.0.1:9,sourceport=40007 <<< x
"$IPTABLES" "${tracking[@]/-A/-D}"
# shellcheck disable=SC2016 # for that shell
nameless=$(unshare -n bash -c 'ip link set lo up && "$@" && stat -L -c %i /proc/self/ns/net &&
	socat -u - UDP:127.0.0.1:9,sourceport=40008 <<< x' - "$IPTABLES" "${tracking[@]}")
# Outside, the first flow has this port.
send_datagram router 203.0.113.2 53 50001
# What is no event, twice.
echo "one" > "$(instance people)/trace_marker"
echo "two" > "$(instance people)/trace_marker"
send_datagram lan 203.0.113.2 53 $last
mapfile -t entries < <(tracked -f ipv4 -o id; tracked -f ipv6 -o id)

check_equal "without options all flows are shown" \
	"40001 40002 40003 40004 40005 40006 40007 40008 50001 40009" "$(ports_shown people)"
check_equal "--protocol, by name and number, and --address, before NAT" "40001 40002 40005 40009" "$(ports_shown some)"
check_equal "--port, after NAT, and of a query identifier" "40001 40003 50001 40009" "$(ports_shown ports)"
check_equal "--moved-only, --port before NAT and --address after it" "40001 50001 40009" "$(ports_shown moved)"

# --- What people see

begins='^[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3} +'
header=$(head -n 1 "$scratch/people")
check_match "the header" '^TIME +NAMESPACE +PROTO +IN +OUT +ORIGINAL +BECAME +MOVED$' "$header"
check_match "a masqueraded flow" \
	"${begins}router +udp +lan0 +wan0 +172.18.0.2:40001->203.0.113.2:53 +203.0.113.1:50001->203.0.113.2:53 +source-address,source-port$" \
	"$(row 172.18.0.2:40001)"
check_match "a ping" \
	"${begins}router +icmp +lan0 +wan0 +172.18.0.2:40003->203.0.113.2:0 +203.0.113.1:40003->203.0.113.2:0 +source-address$" \
	"$(row 172.18.0.2:40003)"
check_match "a flow that NAT did not change" \
	"${begins}router +udp +- +wan0 +203.0.113.1:40004->203.0.113.2:53 +203.0.113.1:40004->203.0.113.2:53 +nothing$" \
	"$(row 203.0.113.1:40004)"
check_match "IPv6" \
	"${begins}router +udp +lan0 +wan0 +\[fd00:18::2\]:40005->\[2001:db8:1::2\]:53 +\[2001:db8:1::1\]:40005->\[2001:db8:1::2\]:53 +source-address$" \
	"$(row '[fd00:18::2]:40005')"
check_match "a device's odd name moves no cursor" "${begins}router +udp +a=b>\|\\\\x1b\[7m +- " "$(row 10.9.0.2:40006)"
check_match "the namespace of process 1" "${begins}init +udp +- +lo " "$(row 127.0.0.1:40007)"
check_match "a namespace without a name" "${begins}$nameless +udp +- +lo " "$(row 127.0.0.1:40008)"
check_match "a flow that lost its port to another stands out" \
	"${begins}router +udp +- +wan0 +203.0.113.1:50001->203.0.113.2:53 +203.0.113.1:[0-9]+->203.0.113.2:53 +!! source-port,source-port-alone$" \
	"$(row 203.0.113.1:50001)"
# before LINE TEXT: how many characters are before it in there.
before() {
	local text=${1%%"$2"*}
	printf %s ${#text}
}
row=$(row 172.18.0.2:40001)
for column in ORIGINAL=172.18.0.2:40001 BECAME=203.0.113.1:50001 MOVED=source-address; do
	check_equal "${column%%=*} is above its column" "$(before "$header" "${column%%=*}")" "$(before "$row" "${column#*=}")"
done
check_equal "a column that had to grow stays so" "$(before "$(row 127.0.0.1:40008)" 127.0.0.1)" \
	"$(before "$(row 172.18.0.2:$last)" 172.18.0.2)"
check_equal "what is no event is complained about, once" 1 "$(grep -c 'cannot be understood: .*one' "$scratch/people.said")"
check_equal "... and nothing else" "rustmasq-watch: watching" "$(grep -v 'understood: .*one' "$scratch/people.said")"

# --- What machines read

wait_until object 172.18.0.2 $last || bail "the last flow, in JSON"
# What conntrack says of the router's flows, and the same of JSON.
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
check_equal "conntrack has those of the router" 8 "$(wc -l < "$scratch/conntrack")"
check "--json has conntrack's ids and tuples" diff "$scratch/conntrack" "$scratch/flows"

json_tuple() { printf '{"source": {"address": "%s", "port": %s}, "destination": {"address": "%s", "port": %s}}' "$@"; }
check_equal "--json has all fields" \
	"{\"time\": T, \"netns\": $(stat -L -c %i /run/netns/router), \"namespace\": \"router\", \"id\": N, \"proto\": \"udp\", \"original\": $(
		json_tuple 172.18.0.2 40001 203.0.113.2 53), \"reply\": $(
		json_tuple 203.0.113.2 53 203.0.113.1 50001), \"untranslated\": $(
		json_tuple 203.0.113.2 53 172.18.0.2 40001), \"moved\": [\"source-address\", \"source-port\"], \"in\": \"lan0\", \"out\": \"wan0\", \"hook\": \"POSTROUTING\", \"status\": [\"SRC_NAT\", \"SRC_NAT_DONE\", \"DST_NAT_DONE\"], \"mark\": 0, \"icmp\": {\"type\": 0, \"code\": 0}}" \
	"$(object 172.18.0.2 40001 | sed -E 's/"time": [0-9]+\.[0-9]+,/"time": T,/; s/"id": [0-9]+,/"id": N,/')"
made=$(object 172.18.0.2 40001 | sed -E 's/.*"time": ([0-9]+).*/\1/')
check "--json: the time" test "$made" -ge $((before - 1)) -a "$made" -le "$(date +%s)"
check_match "--json: a ping" '"icmp": \{"type": 8, "code": 0\}' "$(object 172.18.0.2 40003)"
check_match "--json: nothing moved, no input device" '"moved": \[\], "in": null, "out": "wan0"' "$(object 203.0.113.1 40004)"
check_match "--json: an odd device, no output device" '"in": "a=b>\|\\u001b\[7m", "out": null, "hook": "INPUT"' \
	"$(object 10.9.0.2 40006)"
check_match "--json: a namespace without a name" "\"netns\": $nameless, \"namespace\": null, " "$(object 127.0.0.1 40008)"

# --- However it ends

# The shell had it ignore this one, for it runs in the background.
kill -INT "${pid[some]}"
ends some "by SIGINT" 0
kill -HUP "${pid[ports]}"
ends ports "by SIGHUP" 0

# A killed one leaves its instance to the next that starts. There are two more to be
# removed, one with the number of another process, one of none; and two to be kept.
kill -KILL "${pid[moved]}"
wait "${pid[moved]}" 2> /dev/null
kill -STOP "${pid[json]}"
mkdir "$instances/rustmasq-watch-$$" "$instances/rustmasq-watch-4194305" "$instances/rustmasq-watch-x" "$instances/other"
check "by SIGKILL: an instance is left" test -d "$(instance moved)"
unset "alive[moved]"
begin nohup nohup "$viewer"
check "the next start removes none of somebody else's" rmdir "$instances/rustmasq-watch-x" "$instances/other"
instances_are "... and none of living readers, but all others"
kill -CONT "${pid[json]}"
kill -HUP "${pid[nohup]}"
another nohup
check "a reader that was stopped goes on" wait_until object 172.18.0.2 $last
kill -TERM "${pid[nohup]}"
ends nohup "by SIGTERM" 0

# Nobody reads its output any more; there is no other flow that it could notice that by.
# shellcheck disable=SC2016 # for that shell
begin head bash -c 'exec "$@" > >(exec head -n 1)' - "$viewer" --json
another people
ends head "\`| head -n 1\`" 0
check_match "... gets a flow at once" "^\{[^"$'\n'"]*\"port\": ${last}[^"$'\n'"]*\}$" "$(< "$scratch/head")"
# shellcheck disable=SC2016 # for that shell
begin full bash -c 'exec "$@" > /dev/full' - "$viewer"
ends full "on a full disk" 1
check_equal "... it says so" "rustmasq-watch: standard output: No space left on device" "$(grep -v watching "$scratch/full.said")"

# --- More than can be read

# Little room, and nobody who reads for a while; it does not concern other readers.
kill -STOP "${pid[json]}"
echo 8 > "$(instance json)/buffer_size_kb" || bail "a small buffer"
before=$(wc -l < "$scratch/json")
ns_exec lan bash -c "for ((port = 10001; port <= 10200; port++)); do echo x > /dev/udp/203.0.113.2/\$port; done"
kill -CONT "${pid[json]}"
check "when events were lost, the last one is shown" wait_until grep -q '"port": 10200' "$scratch/json"
lost=$(sed -nE 's/^rustmasq-watch: ([0-9]+) events were lost: .*/\1/p' "$scratch/json.said" | paste -sd +)
check_equal "... and the lost ones are counted" 200 $((lost + $(wc -l < "$scratch/json") - before))
check "... which there are" test "$lost"
check "a reader that keeps up gets all" wait_until grep -q ':10200 ' "$scratch/people"
check_equal "... 200 flows" 200 "$(grep -cE '[0-9]->203.0.113.2:10[0-9]{3}  ' "$scratch/people")"
check_fails "... and none is lost" grep lost "$scratch/people.said"

# --- Without tracefs at its place, and without the module

# shellcheck disable=SC2016 # for that shell
begin below-debugfs unshare -m bash -c 'umount -l /sys/kernel/tracing && exec "$@"' - "$viewer"
another below-debugfs
kill -QUIT "${pid[below-debugfs]}"
ends below-debugfs "by SIGQUIT" 0
kill -INT "${pid[people]}"
kill -TERM "${pid[people]}"
ends people "by two signals at once" 0

flush_rules
check "the module can be removed while it is watched" wait_until rmmod rustmasq
ends json "the module was removed" 1
check_equal "... it says so" "rustmasq-watch: the event was turned off, as it is when the module rustmasq is removed" \
	"$(tail -n 1 "$scratch/json.said")"
check_equal "nobody said anything but in a line of our own" "" "$(grep -hv '^rustmasq-watch: ' "$scratch"/*.said)"

# --- What is refused

# check_refused PATTERN STATUS COMMAND...: it says a line that matches, and nothing else.
check_refused() {
	local output
	output=$(timeout 20 "${@:3}" 2>&1)
	output+=$'\n'"status $?"
	check_match "refused: $1" "^rustmasq-watch: [^"$'\n'"]*$1[^"$'\n'"]*"$'\n'"status $2$" "$output"
}

# shellcheck disable=SC2016 # for that shell
check_refused "not mounted: mount -t tracefs " 1 \
	unshare -m bash -c 'umount -l /sys/kernel/tracing /sys/kernel/debug; exec "$@"' - "$viewer"
# Read by root: the checkout may be closed to others.
# shellcheck disable=SC2016 # for that shell
check_refused "Permission denied: run it as root" 1 \
	bash -c 'exec setpriv --reuid nobody --regid nogroup --clear-groups python3 -I -S - < "$1"' - "$viewer"
check_refused "load the module \(modprobe rustmasq\)" 1 "$viewer"
instances_are "what is refused leaves no instance"

# Wrong options, all in one process: to start it takes long.
wrong() {
	python3 -I -S -c '
import runpy, sys
main = runpy.run_path(sys.argv[1])["main"]
for words in sys.argv[2:]:
    sys.argv[1:] = words.split(" ")
    print("status", main(), flush=True)' "$viewer" "$@" 2>&1
}
mapfile -t said < <(wrong --prot wan0 --port '--protocol udplite' '--protocol 256' '--address 203.0.113' \
	'--address fd00::/129' '--address fe80::1%lan0' '--port 0' '--port 65536' $'--port 5\n3')
number=0
for pattern in "unrecognized arguments: --prot" "unrecognized arguments: wan0" "argument --port: expected one argument" \
	"'udplite' is none of icmp, tcp, udp, gre, icmpv6, sctp and no number from 0 to 255" "'256' is none of" \
	"'203.0.113' is neither an address, as .*, nor a network, as " "'fd00::/129' is neither" "'fe80::1%lan0' is neither" \
	"'0' is no number from 1 to 65535" "'65536' is no number from" "'5\\\\n3' is no number from"; do
	check_match "refused: $pattern" "^rustmasq-watch: .*$pattern.* \(see rustmasq-watch --help\) status 2$" \
		"${said[number]:-} ${said[number + 1]:-}"
	number=$((number + 2))
done

"$viewer" --help > "$scratch/help" 2>&1
check_equal "--help ends with status 0" 0 $?
exec {nobody}> >(:)
wait $!
check_equal "... even if nobody reads it" 0 "$("$viewer" --help 2>&1 >&$nobody; echo $?)"
# options FILE: all that it names.
options() { sed 's/\\f[A-Z]//g; s/\\//g' "$1" | grep -oE -e '--[a-z-]+' | sort -u | paste -sd ' '; }
check_equal "--help names the options" "--address --help --json --moved-only --port --protocol" "$(options "$scratch/help")"
check_equal "... and so does the manual page" "$(options "$scratch/help")" "$(options "$checkout/rust/cli/rustmasq-watch.8")"

done_testing
