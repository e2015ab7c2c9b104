# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0
#
# The library of scenarios that run each case twice, with MASQUERADE and with RUSTMASQ, and compare all that can be
# observed. Only a random port may differ, within its range: tests/tools/compare.py masks it.
# shellcheck source-path=SCRIPTDIR source-path=SCRIPTDIR/../../lib source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# --- The network: that of setup_lan with IPv6, a second client, and several addresses on router and server. The server
# has no route to the LAN.
#
#     lan                   router                       server
#     lan0 -------------- lan0  wan0 ------------------ eth0
#     172.18.0.2/16, .3   172.18.0.1  203.0.113.1/24     203.0.113.2/24, .3
#                                     203.0.113.9/24
#                                     198.51.100.1/24    198.51.100.2/24
#                                                        192.0.2.9/32, via 198.51.100.2
#     fd00:18::2/64, ::3  fd00:18::1  2001:db8:1::1/64   2001:db8:1::2/64, ::3
#                                     2001:db8:2::1/64   2001:db8:2::2/64

# The IP version of the current step, and the addresses by version.
v=4
# shellcheck disable=SC2034 # for scenarios
declare -A client=([4]=172.18.0.2 [6]=fd00:18::2) second=([4]=172.18.0.3 [6]=fd00:18::3) \
	inside=([4]=172.18.0.1 [6]=fd00:18::1) outside=([4]=203.0.113.1 [6]=2001:db8:1::1) \
	server=([4]=203.0.113.2 [6]=2001:db8:1::2) other=([4]=203.0.113.3 [6]=2001:db8:1::3) \
	iptables=([4]=$IPTABLES [6]=$IP6TABLES)

# setup_two_clients: makes this network.
setup_two_clients() {
	local name
	modprobe nf_conntrack_netlink || bail "modules"
	setup_lan
	delay_sctp_heartbeats lan router server
	setup_lan_ipv6
	ip -n lan -batch - <<-END || bail "the LAN's addresses"
		addr add 172.18.0.3/16 dev lan0
		addr add fd00:18::3/64 dev lan0 nodad preferred_lft 0
	END
	ip -n router -batch - <<-END || bail "the router's addresses"
		addr add 203.0.113.9/24 dev wan0
		addr add 198.51.100.1/24 dev wan0
		addr add 2001:db8:2::1/64 dev wan0 nodad
		route add 192.0.2.9 via 198.51.100.2
	END
	ip -n server -batch - <<-END || bail "the server's addresses"
		addr add 203.0.113.3/24 dev eth0
		addr add 198.51.100.2/24 dev eth0
		addr add 192.0.2.9/32 dev eth0
		addr add 2001:db8:1::3/64 dev eth0 nodad preferred_lft 0
		addr add 2001:db8:2::2/64 dev eth0 nodad
	END
	for name in lan router server; do
		# ICMP errors without a rate limit, no redirects, and no TIME_WAIT sockets: TCP ports are free again at
		# once.
		ns_exec $name sh -c 'echo 0 > /proc/sys/net/ipv4/icmp_ratelimit; echo 0 > /proc/sys/net/ipv6/icmp/ratelimit
			echo 0 > /proc/sys/net/ipv4/tcp_max_tw_buckets
			echo 0 | tee /proc/sys/net/ipv4/conf/*/send_redirects /proc/sys/net/ipv6/conf/*/accept_redirects' > /dev/null
	done
	ns_exec router sh -c 'echo 1 > /proc/sys/net/netfilter/nf_conntrack_events'
	# IPv6 sends redirects all the same, once a second.
	ns_exec router "$IP6TABLES" -w -t raw -A OUTPUT -p ipv6-icmp --icmpv6-type redirect -j DROP || bail "rule"
	# Fills the neighbour tables, so that no first packet waits for an address, or is lost.
	for name in lan@172.18.0.1 lan@fd00:18::1 server@203.0.113.1 server@2001:db8:1::1; do
		ns_exec "${name%%@*}" ping -q -c 1 -W 5 "${name#*@}" > /dev/null || bail "no way from $name"
	done
}

# start_compare_peers: starts the tool that sends, receives and observes.
start_compare_peers() {
	peers_start compare.py
	peers routers_are 203.0.113.1 203.0.113.9 198.51.100.1 172.18.0.1 2001:db8:1::1 2001:db8:2::1 fd00:18::1
}

# --- Cases: functions that send packets, and check what arrives

# The observations by "VARIANT CASE PROPERTY".
declare -A noted=()
properties=(delivered source port client original reply flags counters statistics events)
variant='' case='' target='' wrong='' mask=() sabotage=()
# How many seconds a host waits for a packet, where cases say so.
patience=5

# note_property PROPERTY TEXT: adds an observation to the property of this run.
note_property() { noted[$variant $case $1]+="$2"$'\n'; }

# set_rules RULE...: replaces the rules in POSTROUTING of the router's tables nat, and zeroes their counters. The word
# TARGET in a rule stands for the target of this run. A rule that begins with 4 or 6 is for that family alone; one that
# begins with PREROUTING goes there.
set_rules() {
	local family rule text waiting=()
	for family in 4 6; do
		text=$'*nat\n'
		for rule; do
			case $rule in
			[46]\ *) [[ ${rule%% *} == "$family" ]] || continue
				rule=${rule#* } ;;
			esac
			[[ $family == 4 ]] || rule=${rule/-p icmp/-p ipv6-icmp}
			[[ $rule == PREROUTING* ]] || rule="POSTROUTING $rule"
			if [[ $wrong ]]; then rule=${rule/TARGET*/$wrong}; else rule=${rule/TARGET/$target}; fi
			text+="-A $rule"$'\n'
		done
		ns_exec router "${iptables[$family]}-restore" -w <<< "${text}COMMIT" &
		waiting+=($!)
	done
	for rule in "${waiting[@]}"; do wait "$rule" || bail "rules: $*"; done
	[[ ! ${sabotage[*]} ]] || wrong_rule -I
	peers anew router "${mask[@]}"
}

# note_counters: notes what the rules counted.
note_counters() {
	local family line waiting
	ns_exec router "${iptables[6]}-save" -c -t nat > "$scratch/counters6" &
	waiting=$!
	ns_exec router "${iptables[4]}-save" -c -t nat > "$scratch/counters4"
	wait $waiting
	for family in 4 6; do
		while IFS= read -r line; do
			case $line in
			:POSTROUTING*) note_property counters "IPv$family, policy: ${line##* }" ;;
			*" -A POSTROUTING "*) note_property counters "IPv$family: ${line%% *}" ;;
			esac
		done < "$scratch/counters$family"
	done
}

# wrong_rule -I|-D: inserts or deletes the rule in `sabotage`: HOST PROGRAM TABLE CHAIN RULE...
wrong_rule() {
	ns_exec "${sabotage[0]}" "${sabotage[1]}" -w -t "${sabotage[2]}" "$1" "${sabotage[@]:3}"
}

# look_at_conntrack: sets `looked` to the state of the router's conntrack. run_case calls it after a case. A case that
# removes something at its end calls it before.
looked=''
look_at_conntrack() { peers look router && looked=$said; }

# run_case VARIANT TARGET CASE: runs a case with TARGET and notes everything under VARIANT.
run_case() {
	local line property
	variant=$1 target=$2 case=$3 v=4 mask=()
	for property in "${properties[@]}"; do unset "noted[$variant $case $property]"; done
	looked=''
	if [[ $1 == wrong ]]; then patience=1; else patience=5; fi
	"$case"
	[[ $looked ]] || look_at_conntrack
	while IFS= read -r line; do
		[[ ! $line ]] || note_property "${line%% *}" "${line#* }"
	done <<< "$looked"
	note_counters
}

# find_difference VARIANT VARIANT [PROPERTY]: sets `differing` to the properties in which two runs of the case differ.
# PROPERTY does not count.
find_difference() {
	local property
	differing=''
	for property in "${properties[@]}"; do
		[[ $property != "${3-}" ]] || continue
		[[ ${noted[$1 $case $property]-} == "${noted[$2 $case $property]-}" ]] || differing+="${differing:+ }$property"
	done
}

# explain_difference VARIANT VARIANT: prints how they differ.
explain_difference() {
	local property
	for property in $differing; do
		echo "$property:"
		diff <(printf %s "${noted[$1 $case $property]-}") <(printf %s "${noted[$2 $case $property]-}")
	done
}

# check_same CASE...: runs each case with RUSTMASQ. Where `compared` says so, it runs with MASQUERADE, too, and must be
# the same, in all properties but the one in `except`.
except=''
check_same() {
	local name
	for name; do
		if compared; then run_case MASQUERADE MASQUERADE "$name"; fi
		run_case RUSTMASQ RUSTMASQ "$name"
		! compared || compare_with_masquerade RUSTMASQ "with RUSTMASQ"
	done
}

# check_served_same CASE...: runs cases that ran with MASQUERADE before with rules of the same name, which the module
# serves now, and compares them.
check_served_same() {
	local name
	for name; do
		run_case served MASQUERADE "$name"
		compare_with_masquerade served "where the module serves it"
	done
}

# compare_with_masquerade VARIANT WITH: checks that this run of $name is the same as the one with MASQUERADE.
compare_with_masquerade() {
	find_difference MASQUERADE "$1" "$except"
	if [[ ! $differing ]]; then
		ok "${name//_/ }: the same with MASQUERADE and $2"
	else
		not_ok "${name//_/ }: the same with MASQUERADE and $2" "$(explain_difference MASQUERADE "$1")"
	fi
}

# check_wrong_rule "PROPERTY..." CASE WRONG...: checks that the comparison notices a wrong rule. WRONG is one word that
# replaces TARGET and what follows it in the case's rules, or HOST PROGRAM TABLE CHAIN RULE... for a rule beside them.
# Exactly these properties must differ from those with MASQUERADE.
check_wrong_rule() {
	if (($# == 3)); then
		wrong=$3
		run_case wrong RUSTMASQ "$2"
		wrong=
	else
		sabotage=("${@:3}")
		run_case wrong RUSTMASQ "$2"
		wrong_rule -D 2> /dev/null
		sabotage=()
	fi
	find_difference MASQUERADE wrong
	if [[ $differing == "$1" ]]; then
		ok "a wrong rule is noticed ($1): ${*:3}"
	else
		not_ok "a wrong rule is noticed ($1): ${*:3}" "$(explain_difference MASQUERADE wrong)"
	fi
}

# --- Steps of cases. They check what arrives, except with a wrong rule, which may stop packets.

# must_match WHAT PATTERN GOT: checks that GOT matches the whole pattern.
must_match() {
	[[ $variant == wrong ]] || check_match "$variant: ${case//_/ }: IPv$v, $1" "^$2$" "$3"
}

# must_show_flag FLAG: checks that conntrack(8) shows the flag, such as ASSURED, for the flow of each family.
must_show_flag() {
	local marks
	marks=$(tracked -p udp | grep -o '\[[A-Z]*\]')
	note_property flags "conntrack(8): ${marks//$'\n'/ }"
	must_match "conntrack(8) says $1" "\\[$1\\] \\[$1\\]" "${marks//$'\n'/ }"
}

# must_come_from ADDRESS PATTERN WHAT: checks the source in $said, which is what a host received ("ADDRESS PORT TEXT")
# or accepted a connection from.
must_come_from() {
	local address port text
	read -r address port text <<< "$said"
	note_property delivered "IPv$v, $3: ${text:-$address}"
	note_property source "IPv$v, $3: $address"
	note_property port "IPv$v, $3: $port"
	must_match "$3" "$1 $2.*" "$said"
}

# must_hear WHO PROTOCOL PORT WHAT PATTERN: checks what a client receives.
must_hear() {
	peers hear "$1" "$2" "$3" $((patience * slow))
	note_property client "IPv$v, $4: $said"
	must_match "$4" "$5" "$said"
}
