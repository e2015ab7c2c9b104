#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Kernels: plain
#
# The control connection of FTP is a stream. However it is cut into segments, and whatever is in it, it arrives unharmed
# but for rewritten addresses, it goes on, and the port that it announces is opened. The kernel's own helper looks at
# the start of each segment alone, and stalls the connection when it cannot read a line. Each case shows both.
# shellcheck source-path=SCRIPTDIR source=../../lib/ftp.sh
. "$(dirname "$0")/../../lib/ftp.sh"

setup_two_routers
modprobe nf_nat_ftp || bail "the kernel's own helper"
suppress_resets lan 40021
suppress_resets server 2121
start_ftp_peers
after_case=(peers forget r1 r2)
# How many stalls of the kernel's helper each case shows. A stall takes a second, and they are of one kind.
stalls_shown=$(scaled 20)
# What becomes of a text that arrives and opens its port.
opens="arrives, opens"

# --- The client's commands

# Without NAT, nothing has to be rewritten.
a_command() {
	local port="203.0.113.2:0>172.18.0.2:40500" numbers=172,18,0,2,158,52 line='PORT 172,18,0,2,158,52\r\n'
	check_stream "PORT" client "$line" "$port" "$opens" "$opens"
	check_stream "... in lower case" client "port $numbers\r\n" "$port" "$opens" "$opens"
	check_stream "... one octet in each segment" client "$(in_octets "$line")" "$port" "stalls" "$opens"
	check_stream "... cut in its word" client "PO | RT $numbers\r\n" "$port" "stalls" "$opens"
	check_stream "... cut in a number" client "PORT 172,18,0,2,1 | 58,52\r\n" "$port" "stalls" "$opens"
	check_stream "... cut before its end" client "PORT $numbers | \r\n" "$port" "stalls" "$opens"
	check_stream "... cut in its end" client "PORT $numbers\r | \n" "$port" "$opens" "$opens"
	check_stream "... behind another line" client "NOOP\r\n$line" "$port" "arrives" "$opens"
	check_stream "... before another line" client "${line}NOOP\r\n" "$port" "$opens" "$opens"
	check_stream "... behind the end of a line" client "NO | OP\r\n$line" "$port" "arrives" "$opens"
	check_stream "two of them: the second counts" client "PORT 172,18,0,2,158,53\r\n$line" "$port" \
		"arrives, opens 203.0.113.2:0>172.18.0.2:40501 / 203.0.113.2:0>172.18.0.2:40501" "$opens"
	check_stream "two blanks" client "PORT\x20\x20$numbers\r\n" "$port" "stalls" "$opens"
	check_stream "a tab" client "PORT\t$numbers\r\n" "$port" "stalls" "$opens"
	check_stream "a blank at the end" client "PORT $numbers\x20\r\n" "$port" "stalls" "$opens"
	check_stream "LF alone" client "PORT $numbers\n" "$port" "stalls" "$opens"
	check_stream "leading zeros" client 'PORT 172,018,000,002,158,052\r\n' "$port" "$opens" "$opens"
	check_stream "telnet's interrupt and synch before it" client "\xff\xf4\xff\xf2$line" "$port" "arrives" "$opens"
	check_stream "telnet's negotiation before it" client "\xff\xfd\x06$line" "$port" "arrives" "$opens"
	check_stream "a long line before it" client "SITE $(printf 'x%.0s' {1..600})\r\n$line" "$port" "arrives" "$opens"
	check_stream "octets 0 in a line before it" client "SITE \x00\x00\r\n$line" "$port" "arrives" "$opens"

	check_stream "EPRT" client 'EPRT |1|172.18.0.2|40500|\r\n' "$port" "$opens" "$opens"
	check_stream "... with another delimiter" client 'EPRT !1!172.18.0.2!40500!\r\n' "$port" "$opens" "$opens"
	check_stream "... one octet in each segment" client "$(in_octets 'EPRT |1|172.18.0.2|40500|\r\n')" "$port" \
		"stalls" "$opens"
}

a_command_over_IPv6() {
	local port="[2001:db8:1::2]:0>[fd00:18::2]:40500" line='EPRT |2|fd00:18::2|40500|\r\n'
	v=6
	check_stream "EPRT" client "$line" "$port" "$opens" "$opens"
	check_stream "... with zeros" client 'EPRT |2|FD00:0018:0:0:0:0:0:0002|40500|\r\n' "$port" "$opens" "$opens"
	check_stream "... one octet in each segment" client "$(in_octets "$line")" "$port" "stalls" "$opens"
	check_stream "... behind another line" client "NOOP\r\n$line" "$port" "arrives" "$opens"
}

# None of these announces a port.
a_malformed_command() {
	local line
	for line in 'PORT\r\n' 'PORT \r\n' 'PORT 172,18,0,2,158\r\n' 'PORT 172,18,0,2,256,1\r\n' \
		'PORT 172,18,0,2,-1,1\r\n' 'PORT 172,18,0,2,158,52,1\r\n' 'PORT 172.18.0.2.158.52\r\n' 'PORT 172,18,0,2,158,52x\r\n' \
		'EPRT |1|172.18.0.2|99999|\r\n' 'EPRT |1|172.18.0.2|40500\r\n' 'EPRT |3|172.18.0.2|40500|\r\n' \
		'EPRT |2|fd00:18::2|40500|\r\n' 'EPRT |1|172.18.0|40500|\r\n' 'EPRT 1\r\n'; do
		check_stream "$line" client "$line" none "stalls" "arrives"
	done
}

# --- The server's replies

a_reply() {
	local port="172.18.0.2:0>203.0.113.2:40600" numbers=203,0,113,2,158,152
	local line="227 Entering Passive Mode ($numbers).\r\n"
	check_stream "227" server "$line" "$port" "$opens" "$opens"
	check_stream "... one octet in each segment" server "$(in_octets "$line")" "$port" "stalls" "$opens"
	check_stream "... cut in a number" server "227 Entering (203,0,113,2,1 | 58,152)\r\n" "$port" "stalls" "$opens"
	check_stream "... without brackets" server "227 Entering Passive Mode $numbers\r\n" "$port" "$opens" "$opens"
	check_stream "... behind another reply" server "200 done\r\n$line" "$port" "arrives" "$opens"
	check_stream "... of several lines" server "227-Entering ($numbers)\r\n227 done\r\n" "$port" "arrives" "$opens"
	check_stream "... at the end of several lines" server "227-Entering\r\n227 Passive Mode ($numbers)\r\n" "$port" \
		"arrives" "$opens"
	check_stream "229" server '229 Entering (|||40600|)\r\n' "$port" "$opens" "$opens"
	check_stream "... one octet in each segment" server "$(in_octets '229 Entering (|||40600|)\r\n')" "$port" \
		"stalls" "$opens"
	check_stream "... with another delimiter" server '229 Entering (!!!40600!)\r\n' "$port" "$opens" "$opens"
	v=6
	check_stream "229" server '229 Entering (|||40600|)\r\n' "[fd00:18::2]:0>[2001:db8:1::2]:40600" \
		"$opens" "$opens"
}

a_malformed_reply() {
	local line
	for line in '227 Entering\r\n' '227 (203,0,113,2,158)\r\n' '227 (203,0,113,2,256,1)\r\n' '229 Entering\r\n' \
		'229 (|||40600)\r\n' '229 (|||99999|)\r\n' '229 (40600)\r\n'; do
		check_stream "$line" server "$line" none "stalls" "arrives"
	done
	# A line of another reply is text, whatever it looks like.
	check_stream "227 in the text of another reply" server \
		'211-Status\r\n | 227 Entering (203,0,113,2,158,152)\r\n | 211 End\r\n' \
		"172.18.0.2:0>203.0.113.2:40600" "$opens" "arrives"
}

# --- Segments that come again, overlap, or come too early, sent by a tiny TCP

# open_tiny_control ADDRESS PORT: does what open_control does, with a tiny TCP as the client.
open_tiny_control() {
	peers listen server 21
	peers tiny client "lan@${client[$v]}" 40021 "$1" "$2"
	seen=$said
	log_in
}

# open_two_tiny: does so with two of them.
open_two_tiny() {
	peers tiny both "lan@${client[$v]}" 40021 "${server[$v]}" 2121
	seen=$said
	log_in
}

# check_opened WHAT KERNEL OURS: checks the tuple that both routers expect.
check_opened() {
	peers tuples r1 r2
	check_equal "$helper: $case: $1" "$(by_helper "$2 / $2" "$3 / $3")" "$said"
}

overlapping_segments() {
	local port="203.0.113.2:0>172.18.0.2:40500" line='PORT 172,18,0,2,158,52\r\n'
	open_tiny_control "${server[4]}" 21
	peers say client 'NOOP\r\n'
	peers say_again client 4 "OP\r\n$line"
	check_equal "$helper: $case: the part that is new arrives" "$line" "$said"
	check_opened "... and opens its port" - "$port"
	peers forget r1 r2

	open_tiny_control "${server[4]}" 21
	peers say client "$line"
	check_opened "a line opens its port" "$port" "$port"
	peers say_again client 24 "$line"
	check_opened "... and when it is sent again, the same" "$port" "$port"
	peers say client 'NOOP\r\n'
	check_equal "$helper: $case: ... a line after it arrives" 'NOOP\r\n' "$said"
	peers forget r1 r2

	# The server has the first version of these octets, and ignores the second.
	open_tiny_control "${server[4]}" 21
	peers say client 'SITE 172,18,0,2,158,52\r\n'
	peers say_again client 24 "$line"
	check_equal "$helper: $case: octets that come again with other content do not arrive" '' "$said"
	check_opened "... the kernel's helper opens their port, ours does not" "$port" -
	peers forget r1 r2

	open_tiny_control "${server[4]}" 21
	peers say_again client -6 "$line"
	check_equal "$helper: $case: a segment that comes too early waits" 'stalled ' "$said"
	peers say_again client 30 'NOOP\r\n'
	check_equal "$helper: $case: ... and arrives when the gap is filled" "NOOP\r\n$line" "$said"
	peers say client "$line"
	check_opened "... the next line opens its port" "$port" "$port"
	peers forget r1 r2
}

# The server's segments overlap: the end of a reply comes before its beginning, and again with it.
overlapping_replies() {
	local port="172.18.0.2:0>203.0.113.2:40600" line='227 Entering Passive Mode (203,0,113,2,158,152).\r\n'
	open_two_tiny
	peers say_again server -2 '7 Entering Passive Mode (203,0,113,2,158,152).\r\n'
	check_opened "a line whose beginning is missing" - -
	peers say_again server 50 "$line"
	check_equal "$helper: $case: the whole line arrives" "$line" "$said"
	peers forget r1 r2

	open_two_tiny
	peers say server '200 done\r\n'
	peers say_again server 6 "done\r\n$line"
	check_equal "$helper: $case: the part that is new arrives" "$line" "$said"
	check_opened "... and opens its port" - "$port"
	peers say_again server 50 "$line"
	check_opened "... when it comes again, the same" "$port" "$port"
	peers forget r1 r2
}

# --- Rewriting, which changes the length of a line: at r1 by one octet less, at r2 by two more

# check_noted WHAT AGAIN SACK [UNACKNOWLEDGED]: checks what the client's tiny TCP noted.
check_noted() {
	peers noted client
	check_equal "$helper: $case: $1" "again $2 changed 0 unacknowledged ${4:-0} sack $3" "$said"
}

a_rewritten_command() {
	local line='PORT 172,18,0,2,158,52\r\n' rewritten='PORT 203,0,113,1,158,52\r\n' second='PORT 172,18,0,2,158,53\r\n'
	translate -j RUSTMASQ
	open_tiny_control "${server[4]}" 21
	check_line client "$line" "the server gets r2's address" "$rewritten"
	check_noted "... and acknowledges all" 0 -
	peers say_again client 24 "$line"
	check_case "sent again, it does not arrive a second time" '' "$said"
	check_noted "... and is acknowledged by D-SACK, with the client's numbers" 0 -24,0
	peers say_again client 2 '\r\nNOOP\r\n'
	check_case "a segment that overlaps its end brings what is new" 'NOOP\r\n' "$said"
	check_line server '200 done\r\n' "a reply arrives" '200 done\r\n'
	peers say_again client -6 'SYST\r\n'
	check_case "a segment that comes too early waits" 'stalled ' "$said"
	check_noted "... and is acknowledged by SACK, with the client's numbers" 0 -6,0 12
	peers say_again client 12 'NOOP\r\n'
	check_case "... and arrives when the gap is filled" 'NOOP\r\nSYST\r\n' "$said"
	check_noted "... and is acknowledged" 0 -
	check_line client "$second" "a second command is rewritten" "${rewritten/52\\r/53\\r}"
	peers say_again client 24 "$second"
	check_case "... and does not arrive a second time" '' "$said"
	check_line client 'NOOP\r\n' "a line after it arrives" 'NOOP\r\n'
	check_noted "... and is acknowledged" 0 -
	peers tuples r1 r2
	check_case "the second port alone is open" "203.0.113.2:0>192.0.2.2:40501 / 203.0.113.2:0>203.0.113.1:40501" "$said"
}

# r2 forwards its port 2021 to the server's port 21, and r1 masquerades. The client loses the reply at first.
a_rewritten_reply() {
	local dnat="-A PREROUTING -i lan0 -p tcp --dport 2021 -j DNAT --to-destination 203.0.113.2:21"
	local line='227 Entering Passive Mode (203,0,113,2,158,152).\r\n' rewritten
	rewritten=${line/203,0,113,2/192,0,2,1}
	translate -j RUSTMASQ
	open_tiny_control "${r2_within[4]}" 2021
	peers lose client 1
	check_line server "$line" "the client gets r2's address" "$rewritten"
	check_noted "... twice, as it lost it, with the same content" 1 -
	check_line client 'NOOP\r\n' "a command after it arrives" 'NOOP\r\n'
	check_noted "... and is acknowledged" 1 -
	peers lose client 1
	check_line server "200 done\r\n${line/152/153}" "a second reply, behind another one" \
		"$(by_helper "200 done\r\n${line/152/153}" "200 done\r\n${rewritten/152/153}")"
	check_noted "... comes twice with the same content" 2 -
	check_line server '200 done\r\n' "a reply after it arrives" '200 done\r\n'
	check_noted "... once" 2 -
}

# The server loses a segment behind both routers. It compares what comes again with what came first.
a_rewritten_command_that_is_lost() {
	local line='PORT 172,18,0,2,158,52\r\n'
	translate -j RUSTMASQ
	open_two_tiny
	peers lose server 1
	peers say client "$line"
	check_case "it does not arrive" 'stalled ' "$said"
	peers say_again client 24 "$line"
	check_case "it comes again" 'PORT 203,0,113,1,158,52\r\n' "$said"
	peers noted server
	check_case "... with the same content" "again 1 changed 0 unacknowledged 0 sack -" "$said"
}

# octets TEXT: prints how many octets a line has.
octets() { echo $((${#1} - 2)); }

# check_two_lost SENDER RECEIVER FIRST SECOND REWRITTEN KERNEL1 KERNEL2 KERNEL3: one end sends two lines that are
# rewritten, and does not wait for an answer to the first. The other end loses all that arrives, and then each line comes
# again, and a third one. Conntrack can adjust the numbers of one rewritten line in a direction at a time. Ours has the
# second one sent again until the first has arrived. The kernel's helper lets both pass, so that what comes again is
# KERNEL1 and KERNEL2, and KERNEL3 after them.
check_two_lost() {
	peers lose "$2" 1
	peers say "$1" "$3"
	check_equal "$helper: $case: the first line is lost" 'stalled ' "$said"
	peers lose "$2" 1
	peers say "$1" "$4"
	check_equal "$helper: $case: ... and so is the second" 'stalled ' "$said"
	peers lose "$2" 0
	peers say_again "$1" $(($(octets "$3") + $(octets "$4"))) "$3"
	check_equal "$helper: $case: the first comes again" "$(by_helper "$6" "stalled $5")" "$said"
	peers say_again "$1" "$(octets "$4")" "$4"
	check_equal "$helper: $case: ... and then the second" "$(by_helper "$7" "${5/52/53}")" "$said"
	peers noted "$2"
	check_equal "$helper: $case: ... with the same content, but for the kernel's helper" \
		"again $(by_helper "2 changed 1" "1 changed 0") unacknowledged 0 sack -" "$said"
	peers say "$1" 'NOOP\r\n'
	check_equal "$helper: $case: ... and a third" "$(by_helper "$8" 'NOOP\r\n')" "$said"
	check_line "$2" 'NOOP\r\n' "the other end's line arrives" 'NOOP\r\n'
}

two_rewritten_commands_that_are_lost() {
	translate -j RUSTMASQ
	open_two_tiny
	check_two_lost client server 'PORT 172,18,0,2,158,52\r\n' 'PORT 172,18,0,2,158,53\r\n' \
		'PORT 203,0,113,1,158,52\r\n' 'stalled ' 'stalled ' 'stalled '
}

# r2 forwards its port 2021 to the tiny TCP of the server.
open_two_tiny_with_both_NATs() {
	local dnat="-A PREROUTING -i lan0 -p tcp --dport 2021 -j DNAT --to-destination ${server[4]}:2121"
	translate -j RUSTMASQ
	peers tiny both "lan@${client[4]}" 40021 "${r2_within[4]}" 2021 "${server[4]}" 2121
	seen=$said
	log_in
}

two_rewritten_replies_that_are_lost() {
	local line='227 Entering Passive Mode (203,0,113,2,158,152).\r\n'
	open_two_tiny_with_both_NATs
	check_two_lost server client "$line" "${line/152/153}" "${line/203,0,113,2/192,0,2,1}" "stalled ${line#22}" \
		"${line/203,0,113,2,158,152/192,0,2,1,158,153}" 'NOOP\r\n'
}

# The client says by SACK that it has what comes behind a gap. It knows the stream by other numbers than the server.
a_gap_behind_a_rewritten_reply() {
	local line='227 Entering Passive Mode (203,0,113,2,158,152).\r\n'
	open_two_tiny_with_both_NATs
	check_line server "$line" "the client gets r2's address" "${line/203,0,113,2/192,0,2,1}"
	peers say_again server -7 '200 done\r\n'
	check_case "a segment that comes too early waits" 'stalled ' "$said"
	peers noted server
	check_case "... and is acknowledged by SACK, with the server's numbers" \
		"again 0 changed 0 unacknowledged 17 sack -10,0" "$said"
	peers say_again server 17 '150 a\r\n'
	check_case "... and arrives when the gap is filled" '150 a\r\n200 done\r\n' "$said"
	peers noted server
	check_case "... and is acknowledged" "again 0 changed 0 unacknowledged 0 sack -" "$said"
	check_line client 'NOOP\r\n' "a command after it arrives" 'NOOP\r\n'
}

# A command and a reply are rewritten at the same time, and both are lost. Each direction has numbers of its own.
a_command_and_a_reply_that_are_lost() {
	local command='PORT 172,18,0,2,158,52\r\n' reply='227 Entering Passive Mode (203,0,113,2,158,152).\r\n'
	open_two_tiny_with_both_NATs
	peers lose server 1
	peers say client "$command"
	check_case "the command is lost" 'stalled ' "$said"
	peers lose client 1
	peers say server "$reply"
	check_case "... and so is the reply" 'stalled ' "$said"
	peers lose client 0
	peers say_again client "$(octets "$command")" "$command"
	check_case "the command comes again" 'PORT 203,0,113,1,158,52\r\n' "$said"
	peers say_again server "$(octets "$reply")" "$reply"
	check_case "... and then the reply" "${reply/203,0,113,2/192,0,2,1}" "$said"
	peers noted server
	check_case "the command's content is the same" "again 1 changed 0 unacknowledged 0 sack -" "$said"
	peers noted client
	check_equal "$helper: $case: ... and so is the reply's" \
		"again $(by_helper 1 0) changed 0 unacknowledged 0 sack -" "$said"
	check_line client 'NOOP\r\n' "a command after them arrives" 'NOOP\r\n'
	check_line server '200 done\r\n' "... and a reply" '200 done\r\n'
}

# The client comes back from the same port, while conntrack remembers the connection, whose lines were rewritten.
the_same_port_again() {
	local end from
	translate -j RUSTMASQ
	for end in client server; do
		# The kernel's helper leaves the server with a connection from the port.
		from=$(by_helper 40002 40003)
		open_control "${server[4]}" 21
		peers say client 'PORT 172,18,0,2,158,52\r\n'
		peers hang_up "$end"
		peers control lan "$from" "${server[4]}" 21
		if [[ $helper == ftp ]]; then
			echo "# $helper: after a reset by the $end: $said"
		else
			check_equal "$helper: $case: after a reset by the $end, it is connected again" "${r2[4]}:$from" "$said"
		fi
		peers forget r1 r2
	done
}

# A command in pieces cannot be rewritten: its start is under way.
a_command_in_pieces_with_NAT() {
	local line='PORT 172,18,0,2,158,52\r\n'
	translate -j RUSTMASQ
	check_stream "one octet in each segment" client "$(in_octets "$line")" none "stalls" "arrives"
	check_stream "cut in a number" client "PORT 172,18,0,2,1 | 58,52\r\n" none "stalls" "arrives"
}

# The kernel's helper writes an address with all its zeros.
a_rewritten_command_over_IPv6() {
	v=6
	translate -j RUSTMASQ
	open_control "${server[$v]}" 21
	peers say client 'EPRT |2|fd00:18::2|40500|\r\n'
	check_equal "$helper: $case: the server gets r2's address" "EPRT |2|$(by_helper \
		2001:0db8:0001:0000:0000:0000:0000:0001 2001:db8:1::1)|40500|\r\n" "$said"
	translate none
}

without_NAT=(a_command a_command_over_IPv6 a_malformed_command a_reply a_malformed_reply overlapping_segments
	overlapping_replies)
run_with_each_helper "${without_NAT[@]}"
with_NAT=(a_rewritten_command a_rewritten_command_that_is_lost two_rewritten_commands_that_are_lost
	two_rewritten_replies_that_are_lost a_command_and_a_reply_that_are_lost a_gap_behind_a_rewritten_reply
	the_same_port_again a_rewritten_reply
	a_command_in_pieces_with_NAT a_rewritten_command_over_IPv6)
run_with_each_helper "${with_NAT[@]}"

done_testing
