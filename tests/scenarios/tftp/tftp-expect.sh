#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# What a TFTP helper expects after a request, which flow comes of it, and which
# does not: packet by packet, with the kernel's own helper and with ours, in the
# network of two routers that tests/lib/tftp.sh draws.
# shellcheck source-path=SCRIPTDIR source=../../lib/tftp.sh
. "$(dirname "$0")/../../lib/tftp.sh"

setup_two_routers
modprobe nf_nat_tftp || bail "the kernel's own helper"
start_tftp_peers

# Where nothing else is said, both routers masquerade.
masquerade() { for v in 4 6; do translate -j MASQUERADE; done; }

after_case=(peers forget r1 r2)

# send_request PORT [WORD...]: of the client, from that port. Sets `seen` to where the server saw it come from.
send_request() {
	local words=("${@:2}")
	((${#words[@]})) || words=(read boot octet)
	peers open server 69
	peers send lan "$1" "${server[$v]}" 69 "${words[@]}"
	peers hear server 69
	seen=${said% "${words[*]}"}
	[[ $seen != "$said" ]] || not_ok "$helper: $case: the server was asked" "$said"
}

# send_answer PORT PLACE WORD...: of the server, from that port, to where it saw a client.
# $sender is the one who answers, if it is not the server.
send_answer() { peers send "${sender:-server}" "$1" "${2%:*}" "${2##*:}" "${@:3}"; }

# check_arrives WHO PORT WHAT EXPECTED: what came there is that.
check_arrives() {
	peers hear "$1" "$2"
	check_case "$3" "$4" "$said"
}

# stopped PORT WHAT: r2 told the server, or $sender, that no packet from that port comes in, and the client heard none.
stopped() {
	local address
	strip_brackets "${r2[$v]}" address
	peers hear "${sender:-server}" "$1"
	check_case "$2" "${refused[$v]} from $address" "$said"
	peers hear lan 40001 0
	check_case "... and nobody hears it" nothing "$said"
}

# check_expectation_counts WHAT COUNTS: so many answers at r1 and r2.
check_expectation_counts() {
	peers counts r1 r2
	check_case "$1" "$2" "$said"
}

# --- Without a helper, the filter is in the way

masquerade
helper=none
for v in 4 6; do
	case="a request, IPv$v"
	send_request 40001
	check_case "it reaches the server" "${r2[$v]}:40001" "$seen"
	check_expectation_counts "no answer is expected" "0 0"
	send_answer 5001 "$seen" data 1 100
	stopped 5001 "the answer is stopped"
	"${after_case[@]}"
done

# --- A transfer, packet by packet

# expectation FROM TO MASTER: the line that says so.
expectation() {
	local full="255.255.255.255" none="0.0.0.0"
	[[ $v == 4 ]] || full="[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]" none="[::]"
	echo "$1:0>$2 mask $full:0>$full:65535 master $3 class 0 flags 0 helper $helper" \
		"nat reply $none:40001>$none:0 call nat-follow-master"
}

# transfer VERB: a file is read or written.
transfer() {
	local answer=(data 1 100) reply=(ack 1) there=${server[$v]} router seen shown
	local status=expected+confirmed+dst-nat+src-nat-done+dst-nat-done
	local -A asker asked address
	[[ $1 == read ]] || { answer=(ack 0) reply=(data 1 100); }
	# Where each router gets the request from, and where it sends it from.
	asker=([r1]=${client[$v]}:40001 [r2]=${r1[$v]}:40001)
	asked=([r1]=${r1[$v]}:40001 [r2]=${r2[$v]}:40001)

	strip_brackets "$there" "address[server]"
	strip_brackets "${r1[$v]}" "address[r1]"
	strip_brackets "${r2[$v]}" "address[r2]"

	zero_filter_counts
	send_request 40001 "$1" boot octet
	check_case "r2 asks the server" "${asked[r2]}" "$seen"
	for router in r1 r2; do
		peers expected $router
		check_case "$router expects the answer where it sent the request from" \
			"$(expectation "$there" "${asked[$router]}" "${asker[$router]}>$there:69")" "$said"
	done
	shown="src=${address[server]} dst=${address[r2]} sport=0 dport=40001 .*"
	shown+=" master-src=${address[r1]} master-dst=${address[server]} sport=40001 dport=69 class=0 helper=$helper"
	check_match "$helper: $case: conntrack(8) shows it" "^(300|29[0-9]) proto=17 $shown" \
		"$(ns_exec r2 conntrack -L expect -f "ipv$v" 2> /dev/null)"
	check_match "$helper: $case: procfs shows it, for five minutes at most" \
		"^(300|29[0-9]) l3proto = (2|10) proto=17 src=[^ ]+ dst=[^ ]+ sport=0 dport=40001 $helper$" \
		"$(ns_exec r2 cat /proc/net/nf_conntrack_expect)"
	note_conntrack "asked"

	send_answer 5001 "$seen" "${answer[@]}"
	check_arrives lan 40001 "the answer reaches the client" "$there:5001 ${answer[*]}"
	check_expectation_counts "nothing more is expected" "0 0"
	for router in r1 r2; do
		peers flows $router
		check_case "$router: the data's flow is expected, the request is its master, and it is translated" \
			"$there:5001>${asked[$router]} ${asker[$router]}>$there:5001 $status master ${asker[$router]}>$there:69" \
			"$(grep ':5001>' <<< "$said")"
	done
	peers send lan 40001 "$there" 5001 "${reply[@]}"
	check_arrives server 5001 "the client's reply reaches the server" "$seen ${reply[*]}"
	send_answer 5001 "$seen" "${answer[@]}"
	check_arrives lan 40001 "the next answer comes, too" "$there:5001 ${answer[*]}"
	for router in r1 r2; do
		check_case "$router let the first packet in as RELATED, the next as ESTABLISHED" "1 1 0" "$(filter_counts $router)"
		peers events $router
		check_case "$router: one expectation came and went" \
			"new $there:0>${asked[$router]}"$'\n'"gone $there:0>${asked[$router]}" "$said"
	done
	note_conntrack "done"
}

read_a_file() { transfer read; }
write_a_file_by_IPv6() { v=6 && transfer write; }

# --- Which flows are not the one

strangers() {
	local seen
	send_request 40001
	sender=server@${other[$v]}
	send_answer 5001 "$seen" data 1 1
	stopped 5001 "another host's answer is stopped"
	sender=server
	send_answer 5001 "${r2[$v]}:40002" data 1 2
	stopped 5001 "one to another port is stopped"
	check_expectation_counts "the server's is expected as before" "1 1"
	send_answer 5001 "$seen" data 1 3
	check_arrives lan 40001 "... and comes" "${server[$v]}:5001 data 1 3"
	send_answer 5002 "$seen" data 1 4
	stopped 5002 "a second flow from the server is stopped"
	send_answer 5001 "$seen" data 2 5
	check_arrives lan 40001 "the first goes on" "${server[$v]}:5001 data 2 5"
	note_conntrack "done"
}

# In the flow of the request itself the server may say what it wants; it makes no requests. The kernel's
# own helper thinks it does.
the_server_asks() {
	local seen
	send_request 40001
	send_answer 5001 "$seen" data 1 1
	check_arrives lan 40001 "its answer comes" "${server[$v]}:5001 data 1 1"
	send_answer 69 "$seen" read boot octet
	check_arrives lan 40001 "what looks like a request comes" "${server[$v]}:69 read boot octet"
	send_answer 5002 "$seen" data 1 2
	if [[ $helper == tftp ]]; then
		peers hear lan 40001
		check_equal "$helper: $case: it opens a second way in" "${server[$v]}:5002 data 1 2" "$said"
	else
		peers hear server 5002
		check_equal "$helper: $case: it opens nothing" "${refused[$v]} from ${r2[$v]}" "$said"
	fi
}

# An error about what the server said to a port that is closed by now.
ICMP() {
	local seen
	send_request 40001
	peers close lan 40001
	send_answer 69 "$seen" error 1
	check_arrives server 69 "the client's error passes the helper" "ICMP 3 3 from ${r2[$v]}"
	check_expectation_counts "what is expected stays" "1 1"
	note_conntrack "done"
}

# --- Several requests

repeated() {
	local seen expectation
	send_request 40001
	expectation="${server[$v]}:0>$seen"
	send_request 40001
	check_case "from the same port" "${expectation#*>}" "$seen"
	check_expectation_counts "... one answer is expected" "1 1"
	peers events r2
	check_case "... anew" "new $expectation gone $expectation new $expectation" "${said//$'\n'/ }"
	send_answer 69 "$seen" error 0
	check_arrives lan 40001 "an answer from the port that was asked" "${server[$v]}:69 error 0"
	check_expectation_counts "... is not the one that is expected" "1 1"
	send_answer 5001 "$seen" data 1 1
	check_arrives lan 40001 "that comes" "${server[$v]}:5001 data 1 1"
	send_answer 5002 "$seen" data 1 2
	stopped 5002 "... once"
	send_request 40001
	send_answer 5002 "$seen" data 1 3
	check_arrives lan 40001 "repeated while the transfer goes on: a second one comes" "${server[$v]}:5002 data 1 3"
	send_answer 5001 "$seen" data 2 4
	check_arrives lan 40001 "... and the first goes on" "${server[$v]}:5001 data 2 4"
	note_conntrack "done"
}

from_two_ports() {
	local seen first second
	send_request 40001
	first=$seen
	send_request 40002
	second=$seen
	check_expectation_counts "two answers are expected" "2 2"
	note_conntrack "asked"
	send_answer 5002 "$second" data 1 2
	check_arrives lan 40002 "the second's comes" "${server[$v]}:5002 data 1 2"
	send_answer 5003 "$second" data 1 3
	stopped 5003 "... once"
	send_answer 5001 "$first" data 1 1
	check_arrives lan 40001 "the first's comes" "${server[$v]}:5001 data 1 1"
	check_expectation_counts "all is over" "0 0"
	note_conntrack "done"
}

to_two_servers() {
	local seen
	send_request 40001
	peers send lan 40001 "${other[$v]}" 69 read boot octet
	check_arrives server 69 "both are asked from one port" "$seen read boot octet"
	check_expectation_counts "two answers are expected" "2 2"
	note_conntrack "asked"
	sender=server@${other[$v]}
	send_answer 5001 "$seen" data 1 2
	check_arrives lan 40001 "the second's comes" "${other[$v]}:5001 data 1 2"
	sender=server
	send_answer 5001 "$seen" data 1 1
	check_arrives lan 40001 "the first's comes" "${server[$v]}:5001 data 1 1"
	note_conntrack "done"
}

# send_marker: arrives after what was sent before it, if that arrives at all.
send_marker() {
	peers open server 7
	peers send lan 40009 "${server[$v]}" 7 ack 0
	check_arrives server 7 "(what is sent next arrives)" "${r2[$v]}:40009 ack 0"
}

# Both answers would come from the same host to the same port: one at a time.
to_two_ports_of_a_server() {
	local seen
	send_request 40001
	peers open server 6969
	peers send lan 40001 "${server[$v]}" 6969 read boot octet
	send_marker
	peers hear server 6969 0
	check_case "the second request is dropped" nothing "$said"
	note_conntrack "asked"
	send_answer 5001 "$seen" data 1 1
	check_arrives lan 40001 "the first's answer comes" "${server[$v]}:5001 data 1 1"
	peers send lan 40001 "${server[$v]}" 6969 read boot octet
	check_arrives server 6969 "the second request, repeated, arrives" "$seen read boot octet"
	send_answer 5002 "$seen" data 1 2
	check_arrives lan 40001 "... and its answer comes" "${server[$v]}:5002 data 1 2"
	note_conntrack "done"
}

twenty_requests_at_once() {
	local port seen places=() numbers=
	for ((port = 41001; port <= 41020; port++)); do
		send_request $port read "file$port" octet
		places[port]=$seen
	done
	check_expectation_counts "twenty answers are expected" "20 20"
	note_conntrack "asked"
	# The last to ask is the first to be answered.
	for ((port = 41020; port > 41000; port--)); do
		send_answer 5001 "${places[port]}" data $((port - 41000)) 100
		peers hear lan $port
		[[ $said != "${server[$v]}:5001 data $((port - 41000)) 100" ]] || numbers+=" $((port - 41000))"
	done
	check_case "each client has its own" " 20 19 18 17 16 15 14 13 12 11 10 9 8 7 6 5 4 3 2 1" "$numbers"
	check_expectation_counts "all is over" "0 0"
	note_conntrack "done"
}

# --- Expectations that nothing comes of

udp_timeout() {
	local router
	for router in r1 r2; do
		ns_exec "$router" sh -c "echo $1 > /proc/sys/net/netfilter/nf_conntrack_udp_timeout" || bail "the time-out of UDP"
	done
}

# Who looks for flows removes those whose time is over.
has_no_flows() {
	peers flows "$1"
	[[ ! $said ]]
}

no_answer() {
	local seen
	udp_timeout 1
	send_request 40001
	check_expectation_counts "an answer is expected" "1 1"
	udp_timeout 30
	check "$helper: $case: the request's flow ends" wait_until has_no_flows r1
	check "$helper: $case: ... at r2 as well" wait_until has_no_flows r2
	check_expectation_counts "the expectation ends with it" "0 0"
	send_answer 5001 "$seen" data 1 1
	stopped 5001 "an answer now is too late"
}

the_request_is_forgotten() {
	local seen router
	send_request 40001
	for router in r1 r2; do
		check "$helper: $case: $router forgets it" ns_exec $router conntrack -D -p udp --orig-port-dst 69
	done
	check_expectation_counts "nothing is expected any more" "0 0"
	send_answer 5001 "$seen" data 1 1
	stopped 5001 "the answer is stopped"
}

table=/proc/sys/net/netfilter/nf_conntrack_expect_max
the_table_is_full() {
	local seen most
	most=$(< $table)
	send_request 40001
	echo 1 > $table
	peers send lan 40002 "${server[$v]}" 69 read boot octet
	send_marker
	echo "$most" > $table
	peers hear server 69 0
	check_case "a request whose answer cannot be expected is dropped" nothing "$said"
	check_expectation_counts "the other's is expected as before" "1 1"
	send_answer 5001 "$seen" data 1 1
	check_arrives lan 40001 "... and comes" "${server[$v]}:5001 data 1 1"
	note_conntrack "done"
}

# --- The router itself

the_router_asks() {
	zero_filter_counts
	peers open server 69
	peers send r1 40001 "${server[$v]}" 69 read boot octet
	check_arrives server 69 "the server hears it" "${r2[$v]}:40001 read boot octet"
	note_conntrack "asked"
	send_answer 5001 "${r2[$v]}:40001" data 1 1
	check_arrives r1 40001 "the answer comes" "${server[$v]}:5001 data 1 1"
	check_case "... as RELATED" "0 1 0" "$(filter_counts r1)"
	note_conntrack "done"
}

the_router_is_asked() {
	peers open r1@172.18.0.1 69
	peers send lan 40001 172.18.0.1 69 read boot octet
	check_arrives r1@172.18.0.1 69 "it hears it" "172.18.0.2:40001 read boot octet"
	note_conntrack "asked"
	peers send r1@172.18.0.1 5001 172.18.0.2 40001 data 1 1
	check_arrives lan 40001 "the answer comes" "172.18.0.1:5001 data 1 1"
	peers flows r1
	check_match "$helper: $case: ... in a flow that was expected" "172.18.0.1:5001>[^ ]+ [^ ]+ expected\+" "$said"
	note_conntrack "done"
}

# --- NAT of all kinds

# translated KIND PORTS ADDRESS PORT RULE...: asked there, the server sees a port of those; its answer comes
# to the client from the address that was asked. $dnat is a rule in front of it, at r2.
translated() {
	local from=${r2[$v]} router
	case="$1, IPv$v"
	translate "${@:5}"
	[[ $5 != none ]] || from=${client[$v]}
	peers open server 69
	peers send lan 40001 "$3" "$4" read boot octet
	peers hear server 69
	seen=${said%% *}
	check_equal "$helper: $case: the server sees the address that the rules give" "$from" "${seen%:*}"
	check_port "$helper: $case: ... and such a port" "${2%-*}" "${2#*-}" "${seen##*:}"
	send_answer 5001 "$seen" data 1 100
	check_arrives lan 40001 "the answer comes from whom the client asked" "$3:5001 data 1 100"
	peers send lan 40001 "$3" 5001 ack 1
	peers hear server 5001
	check_equal "$helper: $case: the client's reply arrives" "$seen ack 1" "$said"
	check_expectation_counts "nothing more is expected" "0 0"
	for router in r1 r2; do
		# A port that a range gave is chance.
		peers flows $router
		note_result "$router" "$(sed -E 's/:500[0-9]{2}\b/:RANGE/g' <<< "$said")"
	done
	"${after_case[@]}"
}

NAT_of_each_kind() {
	local to=("${server[4]}" 69) ports=(-p udp --to-ports 50000-50099)
	translated "no NAT" 40001-40001 "${to[@]}" none
	translated "SNAT" 40001-40001 "${to[@]}" -j SNAT --to-source ADDRESS
	translated "SNAT with ports" 50000-50099 "${to[@]}" -p udp -j SNAT --to-source ADDRESS:50000-50099
	translated "MASQUERADE with ports" 50000-50099 "${to[@]}" -j MASQUERADE "${ports[@]}"
	translated "RUSTMASQ" 40001-40001 "${to[@]}" -j RUSTMASQ
	translated "RUSTMASQ with ports" 50000-50099 "${to[@]}" -j RUSTMASQ "${ports[@]}"
	v=6 to=("${server[6]}" 69)
	translated "no NAT" 40001-40001 "${to[@]}" none
	translated "SNAT with ports" 50000-50099 "${to[@]}" -p udp -j SNAT --to-source ADDRESS:50000-50099
	translated "RUSTMASQ with ports" 50000-50099 "${to[@]}" -j RUSTMASQ "${ports[@]}"
	masquerade
}

# The server's port 69 is port 32002 of r2. No rule says where to what comes from the server's other
# ports should go.
behind_DNAT() {
	local to=("${r2_within[4]}" 32002) dnat="-A PREROUTING -i lan0 -p udp --dport 32002 -j DNAT --to-destination "
	dnat+=${server[4]}:69
	translated "DNAT" 40001-40001 "${to[@]}" none
	translated "DNAT behind MASQUERADE" 40001-40001 "${to[@]}" -j MASQUERADE
	translated "DNAT behind RUSTMASQ with ports" 50000-50099 "${to[@]}" -p udp -j RUSTMASQ --to-ports 50000-50099
	v=6 to=("${r2_within[6]}" 32002) dnat=${dnat/"${server[4]}"/"${server[6]}"}
	translated "DNAT behind RUSTMASQ" 40001-40001 "${to[@]}" -j RUSTMASQ
	dnat=
	masquerade
}

with_each_helper \
	read_a_file write_a_file_by_IPv6 \
	strangers the_server_asks ICMP \
	repeated from_two_ports to_two_servers to_two_ports_of_a_server twenty_requests_at_once \
	no_answer the_request_is_forgotten the_table_is_full \
	the_router_asks the_router_is_asked \
	NAT_of_each_kind behind_DNAT

done_testing
