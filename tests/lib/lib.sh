# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0
#
# What scenarios share; runs in the guest. A scenario makes its own network of
# namespaces, sends real packets through it, and says by check and its kin what
# was to be seen, in TAP lines ("ok - ...", "not ok - ..."), which tests/run counts.

# shellcheck source-path=SCRIPTDIR source-path=SCRIPTDIR/../../lib source=tap.sh
. "$(dirname "${BASH_SOURCE[0]}")/tap.sh"

# The front end that adds rules; tests/run repeats some scenarios with the other.
IPTABLES=${IPTABLES:-iptables-legacy}
# shellcheck disable=SC2034 # for scenarios
IP6TABLES=${IPTABLES/iptables/ip6tables}

# The debug kernel takes its time: anything is waited for so many times longer there, and what is many are fewer.
slow=1
[[ ! -e /sys/kernel/debug/kmemleak ]] || slow=4

# The kernel's own code, which ours is compared with, is tried on the plain kernel alone: on the debug one
# it would find out nothing of ours.
compared() { ((slow == 1)); }

mkfifo "$scratch/silence"
exec {silence}<> "$scratch/silence"
hosts=()
servers=()
checkout=$(readlink -f "$(dirname "${BASH_SOURCE[0]}")/../..")
tools=$checkout/tests/tools

# --- Waiting

# pause SECONDS: as sleep, but without a process.
pause() { ! read -r -t "$1" -u "$silence"; }

# wait_until COMMAND...: until it succeeds, for 20 s at most ($slow times that); then fails.
wait_until() {
	local end=$((SECONDS + 20 * slow))
	until "$@" > /dev/null 2>&1; do
		((SECONDS < end)) || return 1
		pause 0.05
	done
}

# --- Networks

# No duplicate address detection, in any namespace: tests have no time for it.
echo 1 > /proc/sys/net/core/devconf_inherit_init_net
echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad

# setup_ns NAME...: a network namespace each, with a loopback device.
setup_ns() {
	local name
	hosts+=("$@")
	ip -batch - <<< "$(printf 'netns add %s\n' "$@")" || bail "namespaces $*"
	for name; do ip -n "$name" link set lo up || bail "namespace $name"; done
}

# ns_enter HOST COMMAND...: the shell, one made for this, becomes that command there. By busybox, which needs no
# libraries: what starts so often starts in half the time. The command's path is for busybox to not take its own.
ns_enter() {
	hash "$2" || exit 127
	exec busybox nsenter --net="/run/netns/$1" "${BASH_CMDS[$2]:-$2}" "${@:3}"
}

# ns_exec HOST COMMAND...: runs it there.
ns_exec() { (ns_enter "$@"); }

# setup_link HOST DEVICE ADDRESS/LENGTH HOST DEVICE ADDRESS/LENGTH: a cable between them.
setup_link() {
	setup_device "${@:1:3}" "link add $2 type veth peer name $5 netns $4"
	setup_device "${@:4}"
}

# setup_device HOST DEVICE ADDRESS/LENGTH [FIRST]: gives it the address ("-": none) and turns it on; a command of
# ip's may go before.
setup_device() {
	local address=''
	[[ $3 == - ]] || address="addr add $3 dev $2"
	[[ $3 != *:* ]] || address+=" nodad"
	ip -n "$1" -batch - <<< "${4:-}"$'\n'"$address"$'\n'"link set $2 up" || bail "device $2 of $1"
}

# enable_forwarding HOST: makes it a router.
enable_forwarding() {
	ns_exec "$1" sh -c 'echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding'
}

# setup_lan: the common case. A host in a LAN, a router, a server outside that knows
# no way back to the LAN:
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

# setup_lan_ipv6: the same addresses for setup_lan's network in IPv6:
#
#     fd00:18::2/64   fd00:18::1   2001:db8:1::1    2001:db8:1::2/64
setup_lan_ipv6() {
	ip -n lan addr add fd00:18::2/64 dev lan0 nodad
	ip -n router addr add fd00:18::1/64 dev lan0 nodad
	ip -n router addr add 2001:db8:1::1/64 dev wan0 nodad
	ip -n server addr add 2001:db8:1::2/64 dev eth0 nodad
	ip -n lan route add default via fd00:18::1
}

# add_rule ARGUMENT...: adds a rule to the router's chain POSTROUTING of table nat.
add_rule() {
	ns_exec router "$IPTABLES" -w -t nat -A POSTROUTING "$@"
}

# add_rule6 ARGUMENT...: the same for IPv6.
add_rule6() {
	ns_exec router "$IP6TABLES" -w -t nat -A POSTROUTING "$@"
}

# flush_rules: removes all rules of the router's tables nat, and what it tracks.
flush_rules() {
	ns_exec router "$IPTABLES" -w -t nat -F
	ns_exec router "$IP6TABLES" -w -t nat -F
	ns_exec router conntrack -F 2> /dev/null
}

# nat_table ARGUMENT...: runs $program, an iptables of either family, for the router's table nat.
# shellcheck disable=SC2154 # the scenario sets it
nat_table() { ns_exec router "$program" -w -t nat "$@"; }

# tracked ARGUMENT...: the router's conntrack entries that match, one a line.
tracked() {
	ns_exec router conntrack -L "$@" 2> /dev/null
}

# conntrack_statistic HOST NAME...: the sum of these counters of conntrack, over all CPUs.
conntrack_statistic() {
	local IFS='|'
	ns_exec "$1" conntrack -S | grep -oE " (${*:2})=[0-9]+" | awk -F = '{ sum += $2 } END { print sum + 0 }'
}

# open_connection NAME HOST ADDRESS: a client on HOST that stays connected to socat's ADDRESS, in the background. What
# it is to send goes to ${to_connection[NAME]}, what it heard comes from ${from_connection[NAME]}. Sets `connection` to its process.
declare -A to_connection=() from_connection=()
open_connection() {
	local write read
	mkfifo "$scratch/$1-to" "$scratch/$1-from"
	# Opened for both directions, so that nobody waits for the other end.
	exec {write}<> "$scratch/$1-to" {read}<> "$scratch/$1-from"
	rm "$scratch/$1-to" "$scratch/$1-from"
	# shellcheck disable=SC2034 # for scenarios
	to_connection[$1]=$write from_connection[$1]=$read
	ns_enter "$2" socat - "$3" <&"$write" >&"$read" 2> "$scratch/$1-log" &
	# shellcheck disable=SC2034 # for scenarios
	connection=$!
}

# --- Traffic. A server answers with what it saw as the source: ADDRESS:PORT.

# ns_start HOST COMMAND...: in the background, until stop_servers. Not by ns_exec: what
# runs in the background then is a shell, and the command would outlive it.
ns_start() {
	ns_enter "$@" &
	servers+=($!)
}

# serve HOST PROTOCOL PORT [ADDRESS]: PROTOCOL as socat names it: TCP, TCP6, UDP,
# SCTP...; ADDRESS is the one to answer by, where a host has several.
serve() {
	# What the client said is read: who passes it on would else find nobody there, and give up the answer, too.
	# shellcheck disable=SC2016 # socat's shell expands it
	local seen='echo "$SOCAT_PEERADDR:$SOCAT_PEERPORT"; read -r _' log=$scratch/serve-$1-$2-$3
	case $2 in
	UDP) ns_start "$1" "$tools/packets.py" tell "${4:-0.0.0.0}" "$3" > "$log" ;;
	UDP6) ns_start "$1" "$tools/packets.py" tell "${4:-::}" "$3" > "$log" ;;
	*) ns_start "$1" socat "$2-LISTEN:$3,fork,reuseaddr${4:+,bind=$4}" "SYSTEM:$seen" 2> "$log" ;;
	esac
	wait_until listening "$1" "$2" "$3" || bail "no server on $1 for $2 $3"
}

# listening HOST PROTOCOL PORT: one that was started does. Without a process, as it is asked again and again.
listening() {
	local pid port table tables lines
	printf -v port ':%04X ' "$3"
	case $2 in
	TCP*) tables=(tcp tcp6) ;;
	UDP*) tables=(udp udp6) ;;
	SCTP*) tables=(sctp/eps) port=" $3 " ;;
	esac
	for pid in "${servers[@]}"; do
		[[ /proc/$pid/ns/net -ef /run/netns/$1 ]] || continue
		for table in "${tables[@]}"; do
			mapfile -t lines < "/proc/$pid/net/$table" && [[ ${lines[*]} == *"$port"* ]] && return
		done
	done
	return 1
}

# probe HOST PROTOCOL ADDRESS PORT [OPTION,...]: what the server there saw, or
# nothing if no answer came within `patience` ($slow times that) seconds. That nothing more will be
# asked is kept to ourselves (shut-none): a server would wait for its own answer
# for half a second only, and in SCTP the end of one direction is the end of both.
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

# probe_briefly ...: as probe, where no answer is expected: less patient.
probe_briefly() {
	local patience=1
	probe "$@"
}

# --- Peers: a tool that plays hosts, line by line (tests/tools/peers.py). What it says goes into $said,
# rather than through a process.

said=''

# peers_start TOOL [ARGUMENT...]: one of tests/; it lives until stop_servers.
peers_start() {
	mkfifo "$scratch/lines" "$scratch/answers"
	"$tools/$1" "${@:2}" < "$scratch/lines" > "$scratch/answers" &
	servers+=($!)
	exec {lines}> "$scratch/lines" {answers}< "$scratch/answers"
}

# peers COMMAND...
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

# module_unused: the module is there, and nobody holds it.
module_unused() { [[ $(cat /sys/module/rustmasq/refcnt) == 0 ]]; }

# --- The kernel's own masquerading, whose notifiers would flush our flows too

no_other_masquerade() { ! grep -qE '^(xt_MASQUERADE|nft_masq) ' /proc/modules; }

# --- Leaving

stop_servers() {
	local pid
	for pid in "${servers[@]}"; do
		# A server's children have connections of their own.
		pkill -P "$pid"
		kill "$pid" 2> /dev/null && wait "$pid" 2> /dev/null
	done
	servers=()
}

# remove_ns: all namespaces of setup_ns go.
remove_ns() {
	((${#hosts[@]} == 0)) || ip -force -batch - <<< "$(printf 'netns del %s\n' "${hosts[@]}")"
	hosts=()
}

cleanup() {
	stop_servers
	remove_ns
	rm -rf "$scratch"
}
trap cleanup EXIT
