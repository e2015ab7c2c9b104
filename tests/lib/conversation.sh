# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0
#
# The library of scenarios with many conversations between clients and servers (tests/tools/conversation.py), and with
# checks of the router's conntrack entries.

# shellcheck source-path=SCRIPTDIR source-path=SCRIPTDIR/../../lib source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# check_said WHAT ANSWER COMMAND...: checks the peers' answer to a command.
check_said() {
	peers "${@:3}"
	check_equal "$1" "$2" "$said"
}

# check_said_like WHAT PATTERN COMMAND...: checks that it matches the extended regular expression.
check_said_like() {
	peers "${@:3}"
	check_match "$1" "$2" "$said"
}

# end_conversations: closes all connections and removes the router's flows.
end_conversations() {
	peers hang_up
	ns_exec router conntrack -F 2> /dev/null
}

# check_heard WHAT EXPECTED HOST PROTOCOL PORT: checks that the server receives exactly that, within 20 s (times $slow).
check_heard() {
	local end=$((SECONDS + 20 * slow)) all=
	while ((SECONDS < end)); do
		peers heard "${@:3}"
		all+=${all:+$'\n'}$said
		all=${all%$'\n'}
		[[ $all != "$2" ]] || break
		pause 0.05
	done
	check_equal "$1" "$2" "$all"
}

# list_conntrack: prints the router's /proc/net/nf_conntrack, sorted, without timeouts, use counts, and marks and zones
# of 0. A source port that NAT moved into $range (FIRST-LAST) becomes MOVED, an ICMP identifier that it changed OTHER.
range=32768-65535
list_conntrack() {
	ns_exec router cat /proc/net/nf_conntrack | awk -v first="${range%-*}" -v last="${range#*-}" '
	{
		line = $3
		state = $6 ~ /^[A-Z]/ ? $6 : ""
		if (state != "") line = line " " state
		port = ""
		ports = ids = 0
		for (i = 6; i <= NF; i++) {
			if ($i == state || $i ~ /^(mark|zone)=0$/ || $i ~ /^use=/) continue
			if ($i ~ /^id=/ && ++ids == 1) id = $i
			else if ($i ~ /^id=/ && $i != id) $i = "id=OTHER"
			if ($i ~ /^sport=/ && port == "") port = substr($i, 7)
			if ($i ~ /^dport=/ && ++ports == 2) {
				now = substr($i, 7)
				if (now != port && now + 0 >= first && now + 0 <= last) $i = "dport=MOVED"
			}
			line = line " " $i
		}
		print line
	}' | LC_ALL=C sort
}

# check_tracked WHAT LINES: checks that the router tracks exactly these flows, in the form of list_conntrack.
check_tracked() {
	check_equal "$1" "$(LC_ALL=C sort <<< "$2")" "$(list_conntrack)"
}
