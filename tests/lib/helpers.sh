# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0
#
# The library of scenarios about helpers: a network with two routers in a row, and a way to run each case with ours and
# with the kernel's helper and to compare the two. tftp.sh and ftp.sh set what depends on the protocol:
#
# HELPERS        the helpers to run cases with; the others are compared with the first one, the kernel's own
# protocol       the transport
# helper_ports   the servers' ports, to which rules assign a helper
# within         rules of the filter about packets from within (none: all of them pass)
# shellcheck disable=SC2154

# shellcheck source-path=SCRIPTDIR source-path=SCRIPTDIR/../../lib source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# --- The network. Both routers let in packets of flows from within and related to them, and nothing else.
#
#     lan              r1                      r2                        server
#     lan0 --------- lan0  wan0 ----------- lan0  wan0 ---------------- eth0
#     172.18.0.2/16   .0.1  192.0.2.2/24      .2.1  203.0.113.1/24      203.0.113.2/24, .3
#     fd00:18::2/64   ::1   fd00:2::2/64      ::1   2001:db8:1::1/64    2001:db8:1::2/64, ::3

# The IP version of the current step, and the addresses by version, in a form that a port can follow.
v=4
# shellcheck disable=SC2034 # for scenarios
declare -A client=([4]=172.18.0.2 [6]='[fd00:18::2]') \
	r1=([4]=192.0.2.2 [6]='[fd00:2::2]') \
	r2_within=([4]=192.0.2.1 [6]='[fd00:2::1]') \
	r2=([4]=203.0.113.1 [6]='[2001:db8:1::1]') \
	server=([4]=203.0.113.2 [6]='[2001:db8:1::2]') \
	other=([4]=203.0.113.3 [6]='[2001:db8:1::3]') \
	iptables=([4]=$IPTABLES [6]=$IP6TABLES)

# strip_brackets ADDRESS VARIABLE: sets the variable to the address without brackets.
strip_brackets() {
	local stripped=${1#[}
	printf -v "$2" %s "${stripped%]}"
}

# setup_two_routers: makes this network.
setup_two_routers() {
	local router
	setup_ns lan r1 r2 server
	setup_link lan lan0 172.18.0.2/16 r1 lan0 172.18.0.1/16
	setup_link r1 wan0 192.0.2.2/24 r2 lan0 192.0.2.1/24
	setup_link r2 wan0 203.0.113.1/24 server eth0 203.0.113.2/24
	ip -n lan -batch - <<-END || bail "the LAN's addresses"
		addr add fd00:18::2/64 dev lan0 nodad
		route add default via 172.18.0.1
		route add default via fd00:18::1
	END
	ip -n r1 -batch - <<-END || bail "r1's addresses"
		addr add fd00:18::1/64 dev lan0 nodad
		addr add fd00:2::2/64 dev wan0 nodad
		route add default via 192.0.2.1
		route add default via fd00:2::1
	END
	ip -n r2 -batch - <<-END || bail "r2's addresses"
		addr add fd00:2::1/64 dev lan0 nodad
		addr add 2001:db8:1::1/64 dev wan0 nodad
		route add 172.18.0.0/16 via 192.0.2.2
		route add fd00:18::/64 via fd00:2::2
	END
	# The server has a route back, for cases without NAT. It uses the address of the other host as a source only
	# when told to.
	ip -n server -batch - <<-END || bail "the server's addresses"
		addr add 203.0.113.3/24 dev eth0
		addr add 2001:db8:1::2/64 dev eth0 nodad
		addr add 2001:db8:1::3/64 dev eth0 nodad preferred_lft 0
		route add default via 203.0.113.1
		route add default via 2001:db8:1::1
	END
	for router in r1 r2; do
		enable_forwarding $router
		for v in 4 6; do setup_firewall $router; done
	done
	for v in 4 6; do translate none; done
	v=4
}

# setup_firewall ROUTER: filters what comes from outside, for family $v, and rejects the rest without a rate limit.
# `refused` is the ICMP error that a client then sees.
# shellcheck disable=SC2034 # for scenarios
declare -A refused=([4]="ICMP 3 13" [6]="ICMP 1 1")
setup_firewall() {
	local neighbours='' reject=icmp-admin-prohibited
	[[ $v == 4 ]] || neighbours="-A INPUT -p ipv6-icmp -j ACCEPT" reject=icmp6-adm-prohibited
	ns_exec "$1" sh -c 'echo 0 > /proc/sys/net/ipv4/icmp_ratelimit; echo 0 > /proc/sys/net/ipv6/icmp/ratelimit'
	ns_exec "$1" "${iptables[$v]}-restore" -w <<-END || bail "the filter of $1"
		*filter
		:outside -
		$neighbours
		-A INPUT -i wan0 -j outside
		-A FORWARD -i wan0 -j outside
		${within:-}
		-A outside -m conntrack --ctstate ESTABLISHED -j ACCEPT
		-A outside -p $protocol -m conntrack --ctstate RELATED -j ACCEPT
		-A outside -m conntrack --ctstate RELATED -j ACCEPT
		-A outside -j REJECT --reject-with $reject
		COMMIT
	END
}

# filter_counts ROUTER: prints how many packets its filter let in as ESTABLISHED, how many of $protocol as RELATED, and
# how many it rejected, since zero_filter_counts.
filter_counts() {
	ns_exec "$1" "${iptables[$v]}" -w -L outside -v | awk -v protocol="$protocol" '
		/ESTABLISHED/ { established = $1 } $0 ~ protocol " .* RELATED" { related = $1 } /REJECT/ { refused = $1 }
		END { print established, related, refused }'
}
zero_filter_counts() {
	ns_exec r1 "${iptables[$v]}" -w -Z outside
	ns_exec r2 "${iptables[$v]}" -w -Z outside
}

# --- Rules

# assign_helper ROUTER HELPER: adds rules that assign the helper to flows to the servers' ports.
assign_helper() {
	local version
	for version in 4 6; do
		ns_exec "$1" "${iptables[$version]}-restore" -w <<-END || bail "rules with the helper $2"
			*raw
			-A PREROUTING -p $protocol -m multiport --dports $helper_ports -j CT --helper $2
			-A OUTPUT -p $protocol -m multiport --dports $helper_ports -j CT --helper $2
			COMMIT
		END
	done
}

unassign_helper() {
	ns_exec "$1" "$IPTABLES" -w -t raw -F
	ns_exec "$1" "$IP6TABLES" -w -t raw -F
}

# translate ARGUMENT...: replaces the rules in both routers' table nat by one for packets that leave, or by none
# ("none"). ADDRESS in it stands for the router's own address. r2 gets the rule $dnat, if set, before it.
translate() {
	local router own rule before
	for router in r1 r2; do
		local -n address=$router
		own=${address[$v]} rule="-A POSTROUTING -o wan0 $*" before=
		[[ $rule == *ADDRESS:* ]] || strip_brackets "$own" own
		[[ $1 != none ]] || rule=
		[[ $router == r1 ]] || before=${dnat:-}
		ns_exec "$router" "${iptables[$v]}-restore" -w <<-END || bail "rule $*"
			*nat
			$before
			${rule//ADDRESS/$own}
			COMMIT
		END
	done
}

# --- Peers: client, server and others

# start_observer TOOL ARGUMENT...: starts the tool that acts for the peers and observes both routers.
start_observer() {
	local router
	peers_start "$@"
	for router in r1 r2; do
		# Only flows that were created with this on report their expectations.
		ns_exec "$router" sh -c 'echo 1 > /proc/sys/net/netfilter/nf_conntrack_events'
		peers events "$router"
	done
}

# --- Cases, with each helper

declare -A noted=()
helper='' function='' case=''
# The command to run after each case.
after_case=(:)

# note_result WHAT LINES: notes something that must be the same with each helper.
note_result() { noted[$helper $function]+="$case: $1: ${2//helper $helper/helper NAME}"$'\n'; }

# note_conntrack WHEN: notes the flows and expectations of both routers.
note_conntrack() {
	local router
	for router in r1 r2; do
		peers flows $router && note_result "$1, the flows of $router" "$said"
		peers expected $router && note_result "$1, what $router expects" "$said"
	done
}

# check_case WHAT EXPECTED GOT: does what check_equal does, with the helper and the case in WHAT, and notes GOT.
check_case() {
	note_result "$1" "$3"
	check_equal "$helper: $case: $1" "$2" "$3"
}

# run_with_each_helper FUNCTION...: runs cases with each helper, with v=4 at first. Results show the function's name
# with blanks for underscores. A function may set `case` to be more precise.
run_with_each_helper() {
	local router
	for helper in $HELPERS; do
		for router in r1 r2; do assign_helper "$router" "$helper"; done
		for function; do
			case=${function//_/ } v=4
			"$function"
			"${after_case[@]}"
		done
		for router in r1 r2; do unassign_helper "$router"; done
	done
}

# with_each_helper FUNCTION...: does so, and compares what the cases noted.
with_each_helper() {
	run_with_each_helper "$@"
	for helper in $HELPERS; do
		[[ $helper != "${HELPERS%% *}" ]] || continue
		for function; do compare_helpers "${HELPERS%% *}" "$helper"; done
	done
}

# compare_helpers HELPER HELPER: checks that both had the same noted for the case.
compare_helpers() {
	local difference
	if difference=$(diff <(echo "${noted[$1 $function]-}") <(echo "${noted[$2 $function]-}")); then
		ok "${function//_/ }: the same with $1 and with $2"
	else
		not_ok "${function//_/ }: the same with $1 and with $2" "$difference"
	fi
}

# --- What turns our helper on, at r1

# raw_table FRONT-END ARGUMENT...: runs it on r1's table raw.
raw_table() { ns_exec r1 "$1" -w -t raw "${@:2}"; }

# check_bad_ports PARAMETER: checks that the module is not loaded with a parameter that is no port.
check_bad_ports() {
	local value
	for value in -1 65536 69x 6.9 ""; do
		check_fails "$helper: $case: it cannot be '$value'" modprobe rustmasq "$1=$value"
		check_fails "$helper: $case: ... and nothing is loaded" module_loaded
	done
}

# check_module_held: checks that nothing can unload the module.
check_module_held() {
	check_match "$helper: $case: rmmod says that the module is in use" "in use" "$(rmmod rustmasq 2>&1)"
	check_fails "$helper: $case: modprobe -r cannot unload it, either" modprobe -r rustmasq
	check "$helper: $case: the module is still loaded" module_loaded
}

# check_rule FRONT-END PORT COMMAND...: checks a rule that assigns the helper, while it exists and when it is gone.
# COMMAND checks that the helper works.
check_rule() {
	local front=$1
	case="a rule of $front"
	wait_until unload_module || not_ok "$helper: $case: the module can be unloaded before"
	check "$helper: $case: it can be added" \
		raw_table "$front" -A PREROUTING -p "$protocol" --dport "$2" -j CT --helper "$helper"
	check "$helper: $case: ... and loads the module" module_loaded
	"${@:3}"
	check_module_held
	raw_table "$front" -F
	check "$helper: $case: the module can be unloaded when the rule is gone" wait_until unload_module
}

# check_nft_object PORT COMMAND...: does the same for an object of nftables.
check_nft_object() {
	case="an object of nftables"
	check "$helper: $case: it can be added" ns_exec r1 nft -f - <<-END
		table inet helpers {
			ct helper name {
				type "$helper" protocol $protocol
			}
		}
	END
	check "$helper: $case: ... and loads the module" module_loaded
	check_module_held
	ns_exec r1 nft -f - <<-END || not_ok "$helper: $case: a rule can name it"
		table inet helpers {
			chain before {
				type filter hook prerouting priority filter
				$protocol dport $1 ct helper set "name"
			}
		}
	END
	for v in 4 6; do "${@:2}" "the helper works, IPv$v"; done
	v=4
	ns_exec r1 nft delete table inet helpers
	check "$helper: $case: the module can be unloaded when the object is gone" wait_until unload_module
}
