#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# A TFTP helper expects one flow after each request, from the server that was asked to the client's port; that flow
# passes both routers and is translated, and r2 rejects any other flow. Without a helper, r2 rejects the answer. The
# cases go packet by packet, with the kernel's own helper and with ours, in the network that tests/lib/helpers.sh draws.
# shellcheck source-path=SCRIPTDIR source=../../lib/tftp.sh
. "$(dirname "$0")/../../lib/tftp.sh"

setup_two_routers
modprobe nf_nat_tftp || bail "the kernel's own helper"
start_tftp_peers

# masquerade: makes both routers masquerade both families, which most cases need.
masquerade() { for v in 4 6; do translate -j MASQUERADE; done; }

after_case=(peers forget r1 r2)

# send_request PORT [WORD...]: sends a request of the client from that port. Sets `seen` to the source that the server
# saw.
send_request() {
	local words=("${@:2}")
	((${#words[@]})) || words=(read boot octet)
	peers open server 69
	peers send lan "$1" "${server[$v]}" 69 "${words[@]}"
	peers hear server 69
	seen=${said% "${words[*]}"}
	[[ $seen != "$said" ]] || not_ok "$helper: $case: the server receives the request" "$said"
}

# send_answer PORT ENDPOINT WORD...: sends an answer of the server, or of $sender, from that port to the client's
# address and port as the server saw them.
send_answer() { peers send "${sender:-server}" "$1" "${2%:*}" "${2##*:}" "${@:3}"; }

# check_arrives HOST PORT WHAT EXPECTED: checks the next packet that HOST receives at that port.
check_arrives() {
	peers hear "$1" "$2"
	check_case "$3" "$4" "$said"
}

# check_stopped PORT WHAT: checks that r2 rejected the packet that the server, or $sender, sent from that port, and that
# the client received none.
check_stopped() {
	local address
	strip_brackets "${r2[$v]}" address
	peers hear "${sender:-server}" "$1"
	check_case "$2" "${refused[$v]} from $address" "$said"
	peers hear lan 40001 0
	check_case "... and the client does not receive it" nothing "$said"
}

# check_expectation_counts WHAT COUNTS: checks the numbers of expectations, first of r1, then of r2.
check_expectation_counts() {
	peers counts r1 r2
	check_case "$1" "$2" "$said"
}

# --- Without a helper, r2 rejects the answer

masquerade
helper=none
for v in 4 6; do
	case="a request, IPv$v"
	send_request 40001
	check_case "the server receives it from r2" "${r2[$v]}:40001" "$seen"
	check_expectation_counts "no answer is expected" "0 0"
	send_answer 5001 "$seen" data 1 100
	check_stopped 5001 "r2 rejects the answer"
	"${after_case[@]}"
done

# --- A transfer, packet by packet

# expectation FROM TO MASTER: prints an expectation as the peers' command `expected` prints it.
expectation() {
	local full="255.255.255.255" none="0.0.0.0"
	[[ $v == 4 ]] || full="[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]" none="[::]"
	echo "$1:0>$2 mask $full:0>$full:65535 master $3 class 0 flags 0 helper $helper" \
		"nat reply $none:40001>$none:0 call nat-follow-master"
}

# transfer VERB: checks a transfer, by "read" or "write".
transfer() {
	local answer=(data 1 100) reply=(ack 1) there=${server[$v]} router seen shown
	local status=expected+confirmed+dst-nat+src-nat-done+dst-nat-done
	local -A source translated_source address
	[[ $1 == read ]] || { answer=(ack 0) reply=(data 1 100); }
	# The source of the request when it arrives at each router, and when it leaves it.
	source=([r1]=${client[$v]}:40001 [r2]=${r1[$v]}:40001)
	translated_source=([r1]=${r1[$v]}:40001 [r2]=${r2[$v]}:40001)

	strip_brackets "$there" "address[server]"
	strip_brackets "${r1[$v]}" "address[r1]"
	strip_brackets "${r2[$v]}" "address[r2]"

	zero_filter_counts
	send_request 40001 "$1" boot octet
	check_case "the server receives the request from r2" "${translated_source[r2]}" "$seen"
	for router in r1 r2; do
		peers expected $router
		check_case "$router expects the answer at the request's translated source" \
			"$(expectation "$there" "${translated_source[$router]}" "${source[$router]}>$there:69")" "$said"
	done
	shown="src=${address[server]} dst=${address[r2]} sport=0 dport=40001 .*"
	shown+=" master-src=${address[r1]} master-dst=${address[server]} sport=40001 dport=69 class=0 helper=$helper"
	check_match "$helper: $case: conntrack(8) shows the expectation" "^(300|29[0-9]) proto=17 $shown" \
		"$(ns_exec r2 conntrack -L expect -f "ipv$v" 2> /dev/null)"
	check_match "$helper: $case: procfs shows the expectation, which lasts five minutes at most" \
		"^(300|29[0-9]) l3proto = (2|10) proto=17 src=[^ ]+ dst=[^ ]+ sport=0 dport=40001 $helper$" \
		"$(ns_exec r2 cat /proc/net/nf_conntrack_expect)"
	note_conntrack "after the request"

	send_answer 5001 "$seen" "${answer[@]}"
	check_arrives lan 40001 "the answer reaches the client" "$there:5001 ${answer[*]}"
	check_expectation_counts "no expectation is left" "0 0"
	for router in r1 r2; do
		peers flows $router
		check_case "$router: the flow of the answer was expected, has the request's flow as its master, and is translated" \
			"$there:5001>${translated_source[$router]} ${source[$router]}>$there:5001 $status master ${source[$router]}>$there:69" \
			"$(grep ':5001>' <<< "$said")"
	done
	peers send lan 40001 "$there" 5001 "${reply[@]}"
	check_arrives server 5001 "the client's reply reaches the server" "$seen ${reply[*]}"
	send_answer 5001 "$seen" "${answer[@]}"
	check_arrives lan 40001 "the server's next packet reaches the client" "$there:5001 ${answer[*]}"
	for router in r1 r2; do
		check_case "$router let in the first packet as RELATED, the next as ESTABLISHED" "1 1 0" "$(filter_counts $router)"
		peers events $router
		check_case "$router: one expectation was created and removed" \
			"new $there:0>${translated_source[$router]}"$'\n'"gone $there:0>${translated_source[$router]}" "$said"
	done
	note_conntrack "at the end"
}

read_a_file() { transfer read; }
write_a_file_over_IPv6() { v=6 && transfer write; }

# --- Flows that are not the expected one

unexpected_flows() {
	local seen
	send_request 40001
	sender=server@${other[$v]}
	send_answer 5001 "$seen" data 1 1
	check_stopped 5001 "r2 rejects an answer from another host"
	sender=server
	send_answer 5001 "${r2[$v]}:40002" data 1 2
	check_stopped 5001 "r2 rejects an answer to another port"
	check_expectation_counts "the server's answer is expected as before" "1 1"
	send_answer 5001 "$seen" data 1 3
	check_arrives lan 40001 "... and reaches the client" "${server[$v]}:5001 data 1 3"
	send_answer 5002 "$seen" data 1 4
	check_stopped 5002 "r2 rejects a second flow from the server"
	send_answer 5001 "$seen" data 2 5
	check_arrives lan 40001 "the first flow goes on" "${server[$v]}:5001 data 2 5"
	note_conntrack "at the end"
}

# A packet from the server to the client, in the request's own flow, is no request, even if it has the form of one. The
# kernel's own helper takes it for one and expects another flow; ours does not.
the_server_sends_a_request() {
	local seen
	send_request 40001
	send_answer 5001 "$seen" data 1 1
	check_arrives lan 40001 "the answer reaches the client" "${server[$v]}:5001 data 1 1"
	send_answer 69 "$seen" read boot octet
	check_arrives lan 40001 "the server's request reaches the client" "${server[$v]}:69 read boot octet"
	send_answer 5002 "$seen" data 1 2
	if [[ $helper == tftp ]]; then
		peers hear lan 40001
		check_equal "$helper: $case: it lets in a second flow from the server" "${server[$v]}:5002 data 1 2" "$said"
	else
		peers hear server 5002
		check_equal "$helper: $case: it lets in no second flow" "${refused[$v]} from ${r2[$v]}" "$said"
	fi
}

# The client's host reports that its port is closed when the server sends to it.
an_ICMP_error() {
	local seen
	send_request 40001
	peers close lan 40001
	send_answer 69 "$seen" error 1
	check_arrives server 69 "the client's ICMP error reaches the server" "ICMP 3 3 from ${r2[$v]}"
	check_expectation_counts "the expectation stays" "1 1"
	note_conntrack "at the end"
}

# --- Several requests

repeated_requests() {
	local seen expectation
	send_request 40001
	expectation="${server[$v]}:0>$seen"
	send_request 40001
	check_case "the server receives the second one from the same port" "${expectation#*>}" "$seen"
	check_expectation_counts "... one answer is expected" "1 1"
	peers events r2
	check_case "... by a new expectation" "new $expectation gone $expectation new $expectation" "${said//$'\n'/ }"
	send_answer 69 "$seen" error 0
	check_arrives lan 40001 "an answer from port 69 reaches the client" "${server[$v]}:69 error 0"
	check_expectation_counts "... and does not use up the expectation" "1 1"
	send_answer 5001 "$seen" data 1 1
	check_arrives lan 40001 "the expected answer reaches the client" "${server[$v]}:5001 data 1 1"
	send_answer 5002 "$seen" data 1 2
	check_stopped 5002 "... and r2 rejects another one"
	send_request 40001
	send_answer 5002 "$seen" data 1 3
	check_arrives lan 40001 "repeated during the transfer: a second answer reaches the client" "${server[$v]}:5002 data 1 3"
	send_answer 5001 "$seen" data 2 4
	check_arrives lan 40001 "... and the first transfer goes on" "${server[$v]}:5001 data 2 4"
	note_conntrack "at the end"
}

requests_from_two_ports() {
	local seen first second
	send_request 40001
	first=$seen
	send_request 40002
	second=$seen
	check_expectation_counts "two answers are expected" "2 2"
	note_conntrack "after the request"
	send_answer 5002 "$second" data 1 2
	check_arrives lan 40002 "the answer to the second request reaches the client" "${server[$v]}:5002 data 1 2"
	send_answer 5003 "$second" data 1 3
	check_stopped 5003 "... and r2 rejects another one"
	send_answer 5001 "$first" data 1 1
	check_arrives lan 40001 "the answer to the first request reaches the client" "${server[$v]}:5001 data 1 1"
	check_expectation_counts "no expectation is left" "0 0"
	note_conntrack "at the end"
}

requests_to_two_servers() {
	local seen
	send_request 40001
	peers send lan 40001 "${other[$v]}" 69 read boot octet
	check_arrives server 69 "both servers receive a request from the same port" "$seen read boot octet"
	check_expectation_counts "two answers are expected" "2 2"
	note_conntrack "after the request"
	sender=server@${other[$v]}
	send_answer 5001 "$seen" data 1 2
	check_arrives lan 40001 "the second server's answer reaches the client" "${other[$v]}:5001 data 1 2"
	sender=server
	send_answer 5001 "$seen" data 1 1
	check_arrives lan 40001 "the first server's answer reaches the client" "${server[$v]}:5001 data 1 1"
	note_conntrack "at the end"
}

# send_marker: sends a packet and waits until it arrives. A packet that was sent before it, and has not arrived by then,
# was dropped.
send_marker() {
	peers open server 7
	peers send lan 40009 "${server[$v]}" 7 ack 0
	check_arrives server 7 "(a packet that is sent later arrives)" "${r2[$v]}:40009 ack 0"
}

# Both answers would come from the same host to the same port, so only one can be expected at a time.
requests_to_two_ports_of_one_server() {
	local seen
	send_request 40001
	peers open server 6969
	peers send lan 40001 "${server[$v]}" 6969 read boot octet
	send_marker
	peers hear server 6969 0
	check_case "the second request is dropped" nothing "$said"
	note_conntrack "after the request"
	send_answer 5001 "$seen" data 1 1
	check_arrives lan 40001 "the answer to the first request reaches the client" "${server[$v]}:5001 data 1 1"
	peers send lan 40001 "${server[$v]}" 6969 read boot octet
	check_arrives server 6969 "the second request, repeated, reaches the server" "$seen read boot octet"
	send_answer 5002 "$seen" data 1 2
	check_arrives lan 40001 "... and its answer reaches the client" "${server[$v]}:5002 data 1 2"
	note_conntrack "at the end"
}

twenty_requests_at_once() {
	local port seen places=() numbers=
	for ((port = 41001; port <= 41020; port++)); do
		send_request $port read "file$port" octet
		places[port]=$seen
	done
	check_expectation_counts "twenty answers are expected" "20 20"
	note_conntrack "after the request"
	# The last request is answered first.
	for ((port = 41020; port > 41000; port--)); do
		send_answer 5001 "${places[port]}" data $((port - 41000)) 100
		peers hear lan $port
		[[ $said != "${server[$v]}:5001 data $((port - 41000)) 100" ]] || numbers+=" $((port - 41000))"
	done
	check_case "each request gets its own answer" " 20 19 18 17 16 15 14 13 12 11 10 9 8 7 6 5 4 3 2 1" "$numbers"
	check_expectation_counts "no expectation is left" "0 0"
	note_conntrack "at the end"
}

# --- Expectations without an answer

# set_udp_timeout SECONDS: sets both routers' timeout of new UDP flows.
set_udp_timeout() {
	local router
	for router in r1 r2; do
		ns_exec "$router" sh -c "echo $1 > /proc/sys/net/netfilter/nf_conntrack_udp_timeout" || bail "the timeout of UDP"
	done
}

# has_no_flows ROUTER: succeeds if it has none. Conntrack removes expired flows when they are listed.
has_no_flows() {
	peers flows "$1"
	[[ ! $said ]]
}

the_server_does_not_answer() {
	local seen
	set_udp_timeout 1
	send_request 40001
	check_expectation_counts "an answer is expected" "1 1"
	set_udp_timeout 30
	check "$helper: $case: the request's flow ends at r1" wait_until has_no_flows r1
	check "$helper: $case: ... and at r2" wait_until has_no_flows r2
	check_expectation_counts "the expectation ends with it" "0 0"
	send_answer 5001 "$seen" data 1 1
	check_stopped 5001 "r2 rejects an answer that comes later"
}

the_flow_of_the_request_is_deleted() {
	local seen router
	send_request 40001
	for router in r1 r2; do
		check "$helper: $case: $router deletes it" ns_exec $router conntrack -D -p udp --orig-port-dst 69
	done
	check_expectation_counts "the expectation is gone" "0 0"
	send_answer 5001 "$seen" data 1 1
	check_stopped 5001 "r2 rejects the answer"
}

expect_max=/proc/sys/net/netfilter/nf_conntrack_expect_max
the_expectation_table_is_full() {
	local seen maximum
	maximum=$(< $expect_max)
	send_request 40001
	echo 1 > $expect_max
	peers send lan 40002 "${server[$v]}" 69 read boot octet
	send_marker
	echo "$maximum" > $expect_max
	peers hear server 69 0
	check_case "a request whose answer cannot be expected is dropped" nothing "$said"
	check_expectation_counts "the answer to the earlier request is expected as before" "1 1"
	send_answer 5001 "$seen" data 1 1
	check_arrives lan 40001 "... and reaches the client" "${server[$v]}:5001 data 1 1"
	note_conntrack "at the end"
}

# --- The router as a client and as a server

the_router_sends_a_request() {
	zero_filter_counts
	peers open server 69
	peers send r1 40001 "${server[$v]}" 69 read boot octet
	check_arrives server 69 "the server receives the request" "${r2[$v]}:40001 read boot octet"
	note_conntrack "after the request"
	send_answer 5001 "${r2[$v]}:40001" data 1 1
	check_arrives r1 40001 "the answer reaches the router" "${server[$v]}:5001 data 1 1"
	check_case "... as RELATED" "0 1 0" "$(filter_counts r1)"
	note_conntrack "at the end"
}

the_router_is_the_server() {
	peers open r1@172.18.0.1 69
	peers send lan 40001 172.18.0.1 69 read boot octet
	check_arrives r1@172.18.0.1 69 "the router receives the request" "172.18.0.2:40001 read boot octet"
	note_conntrack "after the request"
	peers send r1@172.18.0.1 5001 172.18.0.2 40001 data 1 1
	check_arrives lan 40001 "the answer reaches the client" "172.18.0.1:5001 data 1 1"
	peers flows r1
	check_match "$helper: $case: ... in a flow that was expected" "172.18.0.1:5001>[^ ]+ [^ ]+ expected\+" "$said"
	note_conntrack "at the end"
}

# --- NAT of all kinds

# check_translation KIND PORTS ADDRESS PORT RULE...: sends a request to ADDRESS and PORT with both routers' rules
# replaced by RULE, and at r2 also $dnat. Checks that the server sees the rule's address and a port from PORTS, and that
# its answer reaches the client from ADDRESS.
check_translation() {
	local from=${r2[$v]} router
	case="$1, IPv$v"
	translate "${@:5}"
	[[ $5 != none ]] || from=${client[$v]}
	peers open server 69
	peers send lan 40001 "$3" "$4" read boot octet
	peers hear server 69
	seen=${said%% *}
	check_equal "$helper: $case: the server sees the address that the rules give" "$from" "${seen%:*}"
	check_port "$helper: $case: ... and a port that they allow" "${2%-*}" "${2#*-}" "${seen##*:}"
	send_answer 5001 "$seen" data 1 100
	check_arrives lan 40001 "the answer reaches the client from the address of its request" "$3:5001 data 1 100"
	peers send lan 40001 "$3" 5001 ack 1
	peers hear server 5001
	check_equal "$helper: $case: the client's reply reaches the server" "$seen ack 1" "$said"
	check_expectation_counts "no expectation is left" "0 0"
	for router in r1 r2; do
		# Which port of a range NAT chooses is chance.
		peers flows $router
		note_result "$router" "$(sed -E 's/:500[0-9]{2}\b/:RANGE/g' <<< "$said")"
	done
	"${after_case[@]}"
}

each_kind_of_NAT() {
	local to=("${server[4]}" 69) ports=(-p udp --to-ports 50000-50099)
	check_translation "no NAT" 40001-40001 "${to[@]}" none
	check_translation "SNAT" 40001-40001 "${to[@]}" -j SNAT --to-source ADDRESS
	check_translation "SNAT with ports" 50000-50099 "${to[@]}" -p udp -j SNAT --to-source ADDRESS:50000-50099
	check_translation "MASQUERADE with ports" 50000-50099 "${to[@]}" -j MASQUERADE "${ports[@]}"
	check_translation "RUSTMASQ" 40001-40001 "${to[@]}" -j RUSTMASQ
	check_translation "RUSTMASQ with ports" 50000-50099 "${to[@]}" -j RUSTMASQ "${ports[@]}"
	check_translation "RUSTMASQ with mappings" 40001-40001 "${to[@]}" -j RUSTMASQ --full-cone
	v=6 to=("${server[6]}" 69)
	check_translation "no NAT" 40001-40001 "${to[@]}" none
	check_translation "SNAT with ports" 50000-50099 "${to[@]}" -p udp -j SNAT --to-source ADDRESS:50000-50099
	check_translation "RUSTMASQ with ports" 50000-50099 "${to[@]}" -j RUSTMASQ "${ports[@]}"
	check_translation "RUSTMASQ with mappings" 40001-40001 "${to[@]}" -j RUSTMASQ --port-restricted-cone
	masquerade
}

# r2 forwards its port 32002 to the server's port 69. No rule translates packets from the server's other ports.
a_server_behind_DNAT() {
	local to=("${r2_within[4]}" 32002) dnat="-A PREROUTING -i lan0 -p udp --dport 32002 -j DNAT --to-destination "
	dnat+=${server[4]}:69
	check_translation "DNAT" 40001-40001 "${to[@]}" none
	check_translation "DNAT behind MASQUERADE" 40001-40001 "${to[@]}" -j MASQUERADE
	check_translation "DNAT behind RUSTMASQ with ports" 50000-50099 "${to[@]}" -p udp -j RUSTMASQ --to-ports 50000-50099
	v=6 to=("${r2_within[6]}" 32002) dnat=${dnat/"${server[4]}"/"${server[6]}"}
	check_translation "DNAT behind RUSTMASQ" 40001-40001 "${to[@]}" -j RUSTMASQ
	dnat=
	masquerade
}

with_each_helper \
	read_a_file write_a_file_over_IPv6 \
	unexpected_flows the_server_sends_a_request an_ICMP_error \
	repeated_requests requests_from_two_ports requests_to_two_servers requests_to_two_ports_of_one_server \
	twenty_requests_at_once \
	the_server_does_not_answer the_flow_of_the_request_is_deleted the_expectation_table_is_full \
	the_router_sends_a_request the_router_is_the_server \
	each_kind_of_NAT a_server_behind_DNAT

done_testing
