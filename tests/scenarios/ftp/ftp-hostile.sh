#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Our FTP helper is hard to abuse: it opens ports for the two ends of the control connection alone, from 1024 on, one at
# a time, and only in a connection that is FTP and can be read: the server has greeted, and the client has sent nothing
# but commands. So neither a web page, nor a TURN client, nor a TLS handshake opens a port of the client (NAT
# slipstreaming). Each case shows what the kernel's own helper does beside it.
# shellcheck source-path=SCRIPTDIR source=../../lib/ftp.sh
. "$(dirname "$0")/../../lib/ftp.sh"

setup_two_routers
modprobe nf_nat_ftp || bail "the kernel's own helper"
start_ftp_peers
after_case=(peers forget r1 r2)
# What becomes of a text that arrives and opens its port.
opens="arrives, opens"

# What the client announces in these cases, and what would be expected then; the same for the server.
command='PORT 172,18,0,2,158,52\r\n' eprt='EPRT |1|172.18.0.2|40500|\r\n'
opened_client="203.0.113.2:0>172.18.0.2:40500"
reply='227 Entering Passive Mode (203,0,113,2,158,152).\r\n'
opened_server="172.18.0.2:0>203.0.113.2:40600"

# --- Whose port, and which

another_host() {
	check_stream "PORT names another host" client 'PORT 172,18,0,3,158,52\r\n' none "arrives" "arrives"
	check_stream "EPRT names another host" client 'EPRT |1|172.18.0.3|40500|\r\n' none "arrives" "arrives"
	check_stream "PORT names the server" client 'PORT 203,0,113,2,158,52\r\n' none "arrives" "arrives"
	check_stream "227 names another host" server '227 Passive (203,0,113,3,158,152)\r\n' none "arrives" "arrives"
	check_stream "227 names the client" server '227 Passive (172,18,0,2,158,152)\r\n' none "arrives" "arrives"
	v=6
	check_stream "EPRT names another host" client 'EPRT |2|fd00:18::3|40500|\r\n' none "arrives" "arrives"
}

a_port_below_1024() {
	local client_port="203.0.113.2:0>172.18.0.2:" server_port="172.18.0.2:0>203.0.113.2:"
	check_stream "PORT with 1023" client 'PORT 172,18,0,2,3,255\r\n' "${client_port}1023" "$opens" "arrives"
	check_stream "PORT with 1024" client 'PORT 172,18,0,2,4,0\r\n' "${client_port}1024" "$opens" "$opens"
	check_stream "PORT with 0" client 'PORT 172,18,0,2,0,0\r\n' "${client_port}0" "$opens" "arrives"
	check_stream "EPRT with 445" client 'EPRT |1|172.18.0.2|445|\r\n' "${client_port}445" "$opens" "arrives"
	check_stream "227 with 22" server '227 Passive (203,0,113,2,0,22)\r\n' "${server_port}22" "$opens" "arrives"
	check_stream "229 with 1023" server '229 Passive (|||1023|)\r\n' "${server_port}1023" "$opens" "arrives"
}

the_other_direction() {
	check_stream "the client sends a reply" client '227 Passive (172,18,0,2,158,52)\r\n' none "arrives" "arrives"
	check_stream "the server sends a command" server 'PORT 203,0,113,2,158,152\r\n' none "arrives" "arrives"
}

# --- In a connection that is not FTP, or not yet

# check_hostile WHAT TEXT KERNEL OURS: checks what the client's text in a new connection opens, as check_stream does.
# The server says $greeting before it, if that is set.
check_hostile() {
	local got sent=${2// | /}
	peers listen server 21
	peers control lan 40001 203.0.113.2 21
	if [[ $greeting ]]; then peers say server "$greeting"; fi
	peers say client "$2"
	got=arrives
	[[ $said == "$sent" ]] || got="becomes $said"
	peers tuples r1 r2
	case $said in
	"- / -") ;;
	"$opened_client / $opened_client") got+=", opens" ;;
	*) got+=", opens $said" ;;
	esac
	check_equal "$helper: $case: $1" "$(by_helper "$3" "$4")" "$got"
	peers forget r1 r2
}

# A browser sends a form to the attacker's server, which may greet like FTP. The form's text is such that the command is
# at the start of a segment.
http="POST /upload HTTP/1.1\r\nHost: 203.0.113.2:21\r\nContent-Type: multipart/form-data; boundary=x\r\n"
http+='Content-Length: 60000\r\n\r\n--x\r\nContent-Disposition: form-data; name="a"\r\n\r\nxxxxxxxx\r\n'
# A TURN client's allocation with a long user name (RFC 8656); a TLS client's greeting with a session ticket.
turn='\x00\x03\x00<!\x12\xa4Babcdefghijkl\x00\x06\x02\x00xxxxxxxx\r\n'
tls='\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03xxxxxxxx\r\n'

no_FTP() {
	local greeting
	for greeting in '' '220 ready\r\n'; do
		case="no FTP, without a greeting"
		[[ ! $greeting ]] || case="no FTP, with a greeting"
		check_hostile "HTTP" "$http | $command" "$opens" "arrives"
		check_hostile "HTTP, EPRT" "$http | $eprt" "$opens" "arrives"
		check_hostile "HTTP, with commands before" "$http | USER a\r\n | $command" "$opens" "arrives"
		check_hostile "HTTP, behind a command" "NOOP\r\n$http | $command" "$opens" "arrives"
		check_hostile "TURN" "$turn | $command" "$opens" "arrives"
		check_hostile "TLS" "$tls | $command" "$opens" "arrives"
	done
	check_stream "HTTP after a login" client "$http | $command" "$opened_client" "$opens" "arrives"
}

before_the_greeting() {
	local greeting
	greeting=
	check_hostile "the server says nothing" "USER a\r\n | $command" "$opens" "arrives"
	greeting='120 ready in 5 minutes\r\n'
	check_hostile "the server is not ready" "USER a\r\n | $command" "$opens" "arrives"
	greeting='SSH-2.0-OpenSSH_10.0\r\n'
	check_hostile "the server is not FTP's" "USER a\r\n | $command" "$opens" "arrives"
	greeting='220 ready\r\n'
	check_hostile "the server has greeted" "USER a\r\n | $command" "$opens" "$opens"
	greeting='220-welcome\r\nto this server\r\n220 ready\r\n'
	check_hostile "the server has greeted at length" "USER a\r\n | $command" "$opens" "$opens"
}

# After it, the connection is encrypted; these texts are not, to show that nobody reads them.
after_AUTH_TLS() {
	local what
	for what in accepted refused; do
		open_control "${server[$v]}" 21
		peers say client 'AUTH TLS\r\n'
		if [[ $what == accepted ]]; then peers say server '234 go on\r\n'; else peers say server '502 no\r\n'; fi
		peers say client "$command"
		check_equal "$helper: $case: $what: a command arrives" "$command" "$said"
		peers tuples r1 r2
		if [[ $what == refused ]]; then
			check_equal "$helper: $case: $what: ... and opens its port" "$opened_client / $opened_client" "$said"
		else
			check_equal "$helper: $case: $what: ... the kernel's helper opens its port, ours does not" \
				"$(by_helper "$opened_client / $opened_client" "- / -")" "$said"
			peers say server "$reply"
			check_equal "$helper: $case: $what: a reply arrives" "$reply" "$said"
			peers tuples r1 r2
			check_equal "$helper: $case: $what: ... the kernel's helper opens its port, ours does not" \
				"$(by_helper "$opened_server / $opened_server" "- / -")" "$said"
		fi
		peers forget r1 r2
	done
}

# --- How many, and for whom

one_at_a_time() {
	local port
	open_control "${server[$v]}" 21
	for port in {40500..40519}; do peers say client "$(announce PORT 172.18.0.2 "$port")"; done
	peers tuples r1 r2
	check_equal "$helper: $case: of twenty ports the last one is open" \
		"203.0.113.2:0>172.18.0.2:40519 / 203.0.113.2:0>172.18.0.2:40519" "$said"
	peers say server "$reply"
	peers tuples r1 r2
	check_equal "$helper: $case: the server's port takes its place" "$opened_server / $opened_server" "$said"
	"${after_case[@]}"
}

other_connections() {
	local source
	open_control "${server[$v]}" 21
	peers listen lan 40500
	peers listen lan 40501
	peers say client "$command"
	for source in "server@203.0.113.3 20 172.18.0.2 40500" "server@203.0.113.2 20 172.18.0.2 40501"; do
		# shellcheck disable=SC2086 # four words
		peers data $source
		check_equal "$helper: $case: from $source: refused" refused "$said"
	done
	peers data server@203.0.113.2 20 172.18.0.2 40500
	check_equal "$helper: $case: the expected one passes" "lan:40500 from 203.0.113.2:20" "$said"
	peers data server@203.0.113.2 19 172.18.0.2 40500
	check_equal "$helper: $case: a second one does not" refused "$said"
	peers say client "$command"
	peers hang_up
	peers forget r1 r2
	peers listen lan 40500
	peers data server@203.0.113.2 20 172.18.0.2 40500
	check_equal "$helper: $case: without the control connection none passes" refused "$said"
	"${after_case[@]}"
}

run_with_each_helper another_host a_port_below_1024 the_other_direction no_FTP before_the_greeting after_AUTH_TLS \
	one_at_a_time other_connections

done_testing
