# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0
#
# The library of all scenarios, which run in the guest. A scenario builds a network of namespaces, sends real packets
# through it, and checks what arrived. tests/README.md has an example.

# shellcheck source-path=SCRIPTDIR source-path=SCRIPTDIR/../../lib source=tap.sh
. "$(dirname "${BASH_SOURCE[0]}")/tap.sh"

# The iptables front end that adds rules. tests/run repeats some scenarios with the other one.
IPTABLES=${IPTABLES:-iptables-legacy}
# shellcheck disable=SC2034 # for scenarios
IP6TABLES=${IPTABLES/iptables/ip6tables}

# The debug kernel is slow: time limits are multiplied by this, large counts divided by it.
slow=1
[[ ! -e /sys/kernel/debug/kmemleak ]] || slow=4

# compared: succeeds where cases are repeated with the kernel's own code (MASQUERADE, the helper "tftp") to compare it
# with ours. On the debug kernel they are not: it would check the kernel's code, not ours. Nor if COMPARE is "no".
compared() { ((slow == 1)) && [[ ${COMPARE-} != no ]]; }

# Events do not note the names of tasks: for that the kernel would patch the scheduler each time an event is turned on
# or off, and QEMU's emulation once ran into an old breakpoint there.
echo 0 > /sys/kernel/tracing/options/record-cmd

mkfifo "$scratch/silence"
exec {silence}<> "$scratch/silence"
hosts=()
servers=()
checkout=$(readlink -f "$(dirname "${BASH_SOURCE[0]}")/../..")
tools=$checkout/tests/tools

# --- Waiting

# pause SECONDS: sleeps, without starting a process.
pause() { ! read -r -t "$1" -u "$silence"; }

# wait_until COMMAND...: repeats the command until it succeeds. Fails after 20 s (times $slow).
wait_until() {
	local end=$((SECONDS + 20 * slow))
	until "$@" > /dev/null 2>&1; do
		((SECONDS < end)) || return 1
		pause 0.05
	done
}

# --- Networks

# Turns off duplicate address detection in all namespaces: it delays each IPv6 address.
echo 1 > /proc/sys/net/core/devconf_inherit_init_net
echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad

# setup_ns NAME...: makes network namespaces, the hosts of a scenario, and turns their loopback devices on.
setup_ns() {
	local name
	hosts+=("$@")
	ip -batch - <<< "$(printf 'netns add %s\n' "$@")" || bail "namespaces $*"
	for name; do ip -n "$name" link set lo up || bail "namespace $name"; done
}

# ns_enter HOST COMMAND...: replaces this shell by the command, in the host's namespace. busybox halves the time to
# start it, as it loads no libraries. It gets the command's path, or it would run its own applet of that name.
ns_enter() {
	hash "$2" || exit 127
	exec busybox nsenter --net="/run/netns/$1" "${BASH_CMDS[$2]:-$2}" "${@:3}"
}

# ns_exec HOST COMMAND...: runs the command in the host's namespace.
ns_exec() { (ns_enter "$@"); }

# setup_link HOST DEVICE ADDRESS/LENGTH HOST DEVICE ADDRESS/LENGTH: connects two hosts by a veth pair.
setup_link() {
	setup_device "${@:1:3}" "link add $2 type veth peer name $5 netns $4"
	setup_device "${@:4}"
}

# setup_device HOST DEVICE ADDRESS/LENGTH [FIRST]: gives the device the address ("-": none) and turns it on, after
# the command FIRST of ip(8).
setup_device() {
	local address=''
	[[ $3 == - ]] || address="addr add $3 dev $2"
	[[ $3 != *:* ]] || address+=" nodad"
	ip -n "$1" -batch - <<< "${4:-}"$'\n'"$address"$'\n'"link set $2 up" || bail "device $2 of $1"
}

# delay_sctp_heartbeats HOST...: keeps SCTP from sending to further addresses of its peer for half a minute. It verifies
# each of them by a heartbeat, half of the initial timeout after the start, which is another flow.
delay_sctp_heartbeats() {
	local host
	modprobe sctp || bail "SCTP"
	for host; do
		ns_exec "$host" sh -c 'echo 60000 > /proc/sys/net/sctp/rto_initial' || bail "SCTP's timeout on $host"
	done
}

# enable_forwarding HOST: makes the host a router of both families.
enable_forwarding() {
	ns_exec "$1" sh -c 'echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding'
}

# setup_lan: makes the network of most scenarios: a host in a LAN, a router, and a server that has no route back to the
# LAN.
#
#     lan                 router                     server
#     lan0 ------------ lan0  wan0 ---------------- eth0
#     172.18.0.2/16   172.18.0.1   203.0.113.1    203.0.113.2/24
setup_lan() {
	setup_ns lan router server
	setup_link lan lan0 172.18.0.2/16 router lan0 172.18.0.1/16
	setup_link router wan0 203.0.113.1/24 server eth0 203.0.113.2/24
	ip -n lan route add default via 172.18.0.1
	enable_forwarding router
}

# setup_lan_ipv6: adds IPv6 to the network of setup_lan:
#
#     fd00:18::2/64   fd00:18::1   2001:db8:1::1    2001:db8:1::2/64
setup_lan_ipv6() {
	ip -n lan addr add fd00:18::2/64 dev lan0 nodad
	ip -n router addr add fd00:18::1/64 dev lan0 nodad
	ip -n router addr add 2001:db8:1::1/64 dev wan0 nodad
	ip -n server addr add 2001:db8:1::2/64 dev eth0 nodad
	ip -n lan route add default via fd00:18::1
}

# add_rule ARGUMENT...: appends a rule to the chain POSTROUTING of the router's table nat.
add_rule() {
	ns_exec router "$IPTABLES" -w -t nat -A POSTROUTING "$@"
}

# add_rule6 ARGUMENT...: does the same for IPv6.
add_rule6() {
	ns_exec router "$IP6TABLES" -w -t nat -A POSTROUTING "$@"
}

# flush_rules: removes all rules of the router's two tables nat, and its IPv4 conntrack entries.
flush_rules() {
	ns_exec router "$IPTABLES" -w -t nat -F
	ns_exec router "$IP6TABLES" -w -t nat -F
	ns_exec router conntrack -F 2> /dev/null
}

# replace_rules TARGET [OPTION...]: replaces the rules of both families.
replace_rules() {
	flush_rules
	ns_exec router conntrack -F -f ipv6 2> /dev/null
	add_rule -o wan0 -j "$@" || bail "rule with $*"
	add_rule6 -o wan0 -j "$@" || bail "rule with $*, IPv6"
}

# our_counter NAME: prints one of the router's counters in /proc/net/rustmasq.
our_counter() { ns_exec router sed -n "s/^$1 //p" /proc/net/rustmasq; }

# nat_table ARGUMENT...: runs $program, an iptables of either family, on the router's table nat.
# shellcheck disable=SC2154 # the scenario sets it
nat_table() { ns_exec router "$program" -w -t nat "$@"; }

# tracked ARGUMENT...: prints the router's conntrack entries that match the arguments of `conntrack -L`, one a line.
tracked() {
	ns_exec router conntrack -L "$@" 2> /dev/null
}

# conntrack_statistic HOST NAME...: prints the sum of these counters of conntrack over all CPUs.
conntrack_statistic() {
	local IFS='|'
	ns_exec "$1" conntrack -S | grep -oE " (${*:2})=[0-9]+" | awk -F = '{ sum += $2 } END { print sum + 0 }'
}

# open_connection NAME HOST ADDRESS: connects a client on HOST to an address in socat's form, and keeps it in the
# background. Write what it shall send to the descriptor ${to_connection[NAME]}, read what it received from
# ${from_connection[NAME]}. Sets `connection` to its process ID.
declare -A to_connection=() from_connection=()
open_connection() {
	local write read
	mkfifo "$scratch/$1-to" "$scratch/$1-from"
	# Opened for reading and writing: opening a FIFO for one of them waits for the other end.
	exec {write}<> "$scratch/$1-to" {read}<> "$scratch/$1-from"
	rm "$scratch/$1-to" "$scratch/$1-from"
	# shellcheck disable=SC2034 # for scenarios
	to_connection[$1]=$write from_connection[$1]=$read
	ns_enter "$2" socat - "$3" <&"$write" >&"$read" 2> "$scratch/$1-log" &
	# shellcheck disable=SC2034 # for scenarios
	connection=$!
}

# --- Clients and servers. A server answers with the source that it saw: ADDRESS:PORT.

# ns_start HOST COMMAND...: runs the command on the host in the background, until stop_servers. Not through ns_exec: the
# background process would be a shell, and the command would outlive it.
ns_start() {
	ns_enter "$@" &
	servers+=($!)
}

# serve HOST PROTOCOL PORT [ADDRESS]: starts a server. PROTOCOL is socat's word: TCP, TCP6, UDP, SCTP... ADDRESS is the
# one to listen on, where the host has several.
serve() {
	# The server reads the client's line: socat would fail to pass it on to a shell that has ended, and drop the
	# answer.
	# shellcheck disable=SC2016 # socat's shell expands it
	local seen='echo "$SOCAT_PEERADDR:$SOCAT_PEERPORT"; read -r _' log=$scratch/serve-$1-$2-$3
	case $2 in
	UDP) ns_start "$1" "$tools/packets.py" tell "${4:-0.0.0.0}" "$3" > "$log" ;;
	UDP6) ns_start "$1" "$tools/packets.py" tell "${4:-::}" "$3" > "$log" ;;
	*) ns_start "$1" socat "$2-LISTEN:$3,fork,reuseaddr${4:+,bind=$4}" "SYSTEM:$seen" 2> "$log" ;;
	esac
	wait_until listening "$1" "$2" "$3" || bail "no server on $1 for $2 $3"
}

# listening HOST PROTOCOL PORT: succeeds if a server that ns_start started listens there. It starts no process, because
# wait_until calls it again and again.
listening() {
	local pid port table tables lines
	printf -v port ':%04X ' "$3"
	case $2 in
	# Of connections from the port, which may still be there, the other end's port is not 0.
	TCP*) tables=(tcp tcp6) port+="[0-9A-F]+:0000 " ;;
	UDP*) tables=(udp udp6) ;;
	SCTP*) tables=(sctp/eps) port=" $3 " ;;
	esac
	for pid in "${servers[@]}"; do
		[[ /proc/$pid/ns/net -ef /run/netns/$1 ]] || continue
		for table in "${tables[@]}"; do
			mapfile -t lines < "/proc/$pid/net/$table" && [[ ${lines[*]} =~ $port ]] && return
		done
	done
	return 1
}

# probe HOST PROTOCOL ADDRESS PORT [OPTION,...]: sends a line from HOST to a server and prints its answer, the source
# that it saw. Prints nothing if none came within $patience seconds (times $slow). OPTIONs are socat's. The client does
# not close its direction first (shut-none): the server's socat would then wait for the answer for half a second only,
# and in SCTP closing one direction closes both.
patience=10
probe() {
	local answer='' pid limit=$((patience * slow))
	exec {asked}< <(ns_enter "$1" socat -t "$limit" - "$2:$3:$4,shut-none${5:+,$5}" 2> /dev/null <<< x)
	pid=$!
	IFS= read -r -t "$limit" -u "$asked" answer
	exec {asked}<&-
	kill "$pid" 2> /dev/null
	printf '%s' "$answer"
}

# probe_briefly ...: does the same with little patience, where no answer is expected.
probe_briefly() {
	local patience=1
	probe "$@"
}

# --- Peers: a tool that acts for hosts of a scenario. It reads commands, a line each (tests/tools/peers.py).

# The answer to the last command.
said=''

# peers_start TOOL [ARGUMENT...]: starts a tool of tests/tools, until stop_servers.
peers_start() {
	mkfifo "$scratch/lines" "$scratch/answers"
	"$tools/$1" "${@:2}" < "$scratch/lines" > "$scratch/answers" &
	servers+=($!)
	exec {lines}> "$scratch/lines" {answers}< "$scratch/answers"
}

# peers COMMAND...: gives the tool a command and sets `said` to its answer.
peers() {
	local line
	said=
	printf '%s\n' "$*" >&"$lines"
	while IFS= read -r -t $((30 * slow)) -u "$answers" line; do
		[[ $line != . ]] || return 0
		said+=${said:+$'\n'}$line
	done
	said="no answer to: $*"
	return 1
}

# --- The module

module_loaded() { grep -q '^rustmasq ' /proc/modules; }
unload_module() { modprobe -r rustmasq && ! module_loaded; }

# module_unused: succeeds if the module is loaded and has no users.
module_unused() { [[ $(cat /sys/module/rustmasq/refcnt) == 0 ]]; }

# no_other_masquerade: succeeds if the kernel's own masquerading is not loaded. Its notifiers would flush our flows,
# too.
no_other_masquerade() { ! grep -qE '^(xt_MASQUERADE|nft_masq) ' /proc/modules; }

# remove_other_masquerade: unloads it. A namespace that is on its way out, with its rules, may hold it for a moment.
remove_other_masquerade() { wait_until try_to_remove_masquerade; }
try_to_remove_masquerade() {
	modprobe -r xt_MASQUERADE nft_masq
	no_other_masquerade
}

# --- The end

# stop_last COUNT: ends so many of the things that ns_start and peers_start started last.
stop_last() {
	local pid first=$((${#servers[@]} - $1))
	for pid in "${servers[@]:first}"; do
		# A server's children hold connections of their own.
		pkill -P "$pid"
		kill "$pid" 2> /dev/null && wait "$pid" 2> /dev/null
	done
	servers=("${servers[@]:0:first}")
}

# stop_servers: ends all of them.
stop_servers() { stop_last ${#servers[@]}; }

# remove_ns: removes all namespaces that setup_ns made.
remove_ns() {
	((${#hosts[@]} == 0)) || ip -force -batch - <<< "$(printf 'netns del %s\n' "${hosts[@]}")"
	hosts=()
}

# cleanup: removes everything that a scenario made. A scenario with an EXIT trap of its own calls it there.
cleanup() {
	stop_servers
	remove_ns
	rm -rf "$scratch"
}
trap cleanup EXIT
