# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0
#
# The library of scenarios about the FTP helper, in the network that helpers.sh draws. From within, new connections pass
# both routers to the servers' ports alone, so that both active and passive transfers need the helper.

# shellcheck source-path=SCRIPTDIR source-path=SCRIPTDIR/../../lib source=helpers.sh
. "$(dirname "${BASH_SOURCE[0]}")/helpers.sh"

# The ports are the servers', and 2021, which r2 forwards to port 21.
# shellcheck disable=SC2034 # helpers.sh uses them
HELPERS="$(compared && echo "ftp ")rustmasq-ftp" protocol=tcp helper_ports=21,2121,2122,2021
# shellcheck disable=SC2034
within="-A FORWARD -i lan0 -p tcp -m multiport --dports $helper_ports -j ACCEPT
		-A FORWARD -i lan0 -p tcp -j outside"

# start_ftp_peers: starts the tool that acts for client and server.
start_ftp_peers() { start_observer ftp.py; }

# suppress_resets HOST PORT: keeps the host's own TCP from resetting the connections of a tiny TCP at that port.
suppress_resets() {
	local version
	for version in 4 6; do
		ns_exec "$1" "${iptables[$version]}" -w -A OUTPUT -p tcp --sport "$2" --tcp-flags RST RST -j DROP ||
			bail "a rule about resets"
	done
}

# --- The control connection

# log_in: lets the server greet the client, which logs in.
log_in() {
	peers say server '220 ready\r\n'
	peers say client 'USER anonymous\r\n'
	peers say server '230 logged in\r\n'
	[[ $said == '230 logged in\r\n' ]] || not_ok "$helper: $case: the control connection is open" "$seen; $said"
}

# open_control ADDRESS PORT: opens one from the port $from (40001) of $who (lan), and logs in. Sets `seen` to the source
# that the server sees.
open_control() {
	peers listen server 21
	peers control "${who:-lan}" "${from:-40001}" "$1" "$2"
	seen=$said
	log_in
}

# numbers ADDRESS PORT: prints them as in PORT and 227.
numbers() { echo "${1//./,},$(($2 / 256)),$(($2 % 256))"; }

# announce KIND ADDRESS PORT: prints the line of that kind (PORT, EPRT, 227, 229) that announces a port, as the peers'
# commands take it.
announce() {
	local family=1 address
	strip_brackets "$2" address
	[[ $address != *:* ]] || family=2
	case $1 in
	PORT) printf '%s\\r\\n' "PORT $(numbers "$address" "$3")" ;;
	EPRT) printf '%s\\r\\n' "EPRT |$family|$address|$3|" ;;
	227) printf '%s\\r\\n' "227 Entering Passive Mode ($(numbers "$address" "$3"))." ;;
	229) printf '%s\\r\\n' "229 Entering Extended Passive Mode (|||$3|)" ;;
	esac
}

# check_line END LINE WHAT EXPECTED: checks what the other end receives.
check_line() {
	peers say "$1" "$2"
	check_case "$3" "$4" "$said"
}

# by_helper KERNEL OURS: prints what is expected of the current helper.
by_helper() { if [[ $helper == ftp ]]; then echo "$1"; else echo "$2"; fi; }

# in_octets TEXT: prints a text for `say`, with each octet in a segment of its own.
in_octets() { sed -E 's/(\\x..|\\.|.)/\1 | /g; s/ \| $//' <<< "${1// /\\x20}"; }

# check_stream WHAT END TEXT TUPLE KERNEL OURS: opens a control connection, lets END send the text, and checks what
# becomes of it: it "arrives" or "stalls", and it "opens" both routers for TUPLE, for another one, or for none. After a
# text that arrived, a line arrives, too. Of the stalls of the kernel's helper a case shows the first $stalls_shown.
stalls_shown=1 stalled_case='' stalls=0
check_stream() {
	local got sent=${3// | /}
	if [[ $helper == ftp && $5 == stalls ]]; then
		[[ $stalled_case == "$case" ]] || stalled_case=$case stalls=0
		((stalls++ < stalls_shown)) || return 0
	fi
	open_control "${server[$v]}" 21
	peers say "$2" "$3"
	case $said in
	"${sent//\\x20/ }") got=arrives ;;
	stalled*) got=stalls ;;
	*) got="becomes $said" ;;
	esac
	peers tuples r1 r2
	case $said in
	"- / -") ;;
	"$4 / $4") got+=", opens" ;;
	*) got+=", opens $said" ;;
	esac
	if [[ $got != stalls* ]]; then
		peers say "$2" '200 OK\r\n'
		[[ $said == '200 OK\r\n' ]] || got+=", and then stalls: $said"
	fi
	check_equal "$helper: $case, IPv$v: $1" "$(by_helper "$5" "$6")" "$got"
	peers forget r1 r2
}
