#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# What a TFTP helper expects after a request, which flow comes of it, and which
# does not: packet by packet, with the kernel's own helper and with ours, in the
# network of two routers that tests/lib/tftp.sh draws.
# shellcheck source-path=SCRIPTDIR source=../../lib/tftp.sh
. "$(dirname "$0")/../../lib/tftp.sh"

two_routers
modprobe nf_nat_tftp || bail "the kernel's own helper"
tftp_on

# Where nothing else is said, both routers masquerade.
masquerade() { for v in 4 6; do translate -j MASQUERADE; done; }

tidy() { play forget r1 r2; }

# request PORT [WORD...]: of the client, from that port. Sets `seen` to where the server saw it come from.
request() {
	local words=("${@:2}")
	((${#words[@]})) || words=(read boot octet)
	play open server 69
	play send lan "$1" "${server[$v]}" 69 "${words[@]}"
	play hear server 69
	seen=${said% "${words[*]}"}
	[[ $seen != "$said" ]] || not_ok "$helper: $case: the server was asked" "$said"
}

# answer PORT PLACE WORD...: of the server, from that port, to where it saw a client.
# $sender is the one who answers, if it is not the server.
answer() { play send "${sender:-server}" "$1" "${2%:*}" "${2##*:}" "${@:3}"; }

# heard WHO PORT WHAT EXPECTED: what came there is that.
heard() {
	play hear "$1" "$2"
	equal "$3" "$4" "$said"
}

# stopped PORT WHAT: r2 told the server, or $sender, that no packet from that port comes in, and the client heard none.
stopped() {
	local address
	bare "${r2[$v]}" address
	play hear "${sender:-server}" "$1"
	equal "$2" "${refused[$v]} from $address" "$said"
	play hear lan 40001 0
	equal "... and nobody hears it" nothing "$said"
}

# expected WHAT COUNTS: so many answers at r1 and r2.
expected() {
	play counts r1 r2
	equal "$1" "$2" "$said"
}

# --- Without a helper, the filter is in the way

masquerade
helper=none
for v in 4 6; do
	case="a request, IPv$v"
	request 40001
	equal "it reaches the server" "${r2[$v]}:40001" "$seen"
	expected "no answer is expected" "0 0"
	answer 5001 "$seen" data 1 100
	stopped 5001 "the answer is stopped"
	tidy
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

	bare "$there" "address[server]"
	bare "${r1[$v]}" "address[r1]"
	bare "${r2[$v]}" "address[r2]"

	filtered_anew
	request 40001 "$1" boot octet
	equal "r2 asks the server" "${asked[r2]}" "$seen"
	for router in r1 r2; do
		play expected $router
		equal "$router expects the answer where it sent the request from" \
			"$(expectation "$there" "${asked[$router]}" "${asker[$router]}>$there:69")" "$said"
	done
	shown="src=${address[server]} dst=${address[r2]} sport=0 dport=40001 .*"
	shown+=" master-src=${address[r1]} master-dst=${address[server]} sport=40001 dport=69 class=0 helper=$helper"
	check_match "$helper: $case: conntrack(8) shows it" "^(300|29[0-9]) proto=17 $shown" \
		"$(on r2 conntrack -L expect -f "ipv$v" 2> /dev/null)"
	check_match "$helper: $case: procfs shows it, for five minutes at most" \
		"^(300|29[0-9]) l3proto = (2|10) proto=17 src=[^ ]+ dst=[^ ]+ sport=0 dport=40001 $helper$" \
		"$(on r2 cat /proc/net/nf_conntrack_expect)"
	look "asked"

	answer 5001 "$seen" "${answer[@]}"
	heard lan 40001 "the answer reaches the client" "$there:5001 ${answer[*]}"
	expected "nothing more is expected" "0 0"
	for router in r1 r2; do
		play flows $router
		equal "$router: the data's flow is expected, the request is its master, and it is translated" \
			"$there:5001>${asked[$router]} ${asker[$router]}>$there:5001 $status master ${asker[$router]}>$there:69" \
			"$(grep ':5001>' <<< "$said")"
	done
	play send lan 40001 "$there" 5001 "${reply[@]}"
	heard server 5001 "the client's reply reaches the server" "$seen ${reply[*]}"
	answer 5001 "$seen" "${answer[@]}"
	heard lan 40001 "the next answer comes, too" "$there:5001 ${answer[*]}"
	for router in r1 r2; do
		equal "$router let the first packet in as RELATED, the next as ESTABLISHED" "1 1 0" "$(filtered $router)"
		play events $router
		equal "$router: one expectation came and went" \
			"new $there:0>${asked[$router]}"$'\n'"gone $there:0>${asked[$router]}" "$said"
	done
	look "done"
}

read_a_file() { transfer read; }
write_a_file_by_IPv6() { v=6 && transfer write; }

# --- Which flows are not the one

strangers() {
	local seen
	request 40001
	sender=server@${other[$v]}
	answer 5001 "$seen" data 1 1
	stopped 5001 "another host's answer is stopped"
	sender=server
	answer 5001 "${r2[$v]}:40002" data 1 2
	stopped 5001 "one to another port is stopped"
	expected "the server's is expected as before" "1 1"
	answer 5001 "$seen" data 1 3
	heard lan 40001 "... and comes" "${server[$v]}:5001 data 1 3"
	answer 5002 "$seen" data 1 4
	stopped 5002 "a second flow from the server is stopped"
	answer 5001 "$seen" data 2 5
	heard lan 40001 "the first goes on" "${server[$v]}:5001 data 2 5"
	look "done"
}

# In the flow of the request itself the server may say what it wants; it makes no requests. The kernel's
# own helper thinks it does.
the_server_asks() {
	local seen
	request 40001
	answer 5001 "$seen" data 1 1
	heard lan 40001 "its answer comes" "${server[$v]}:5001 data 1 1"
	answer 69 "$seen" read boot octet
	heard lan 40001 "what looks like a request comes" "${server[$v]}:69 read boot octet"
	answer 5002 "$seen" data 1 2
	if [[ $helper == tftp ]]; then
		play hear lan 40001
		check_equal "$helper: $case: it opens a second way in" "${server[$v]}:5002 data 1 2" "$said"
	else
		play hear server 5002
		check_equal "$helper: $case: it opens nothing" "${refused[$v]} from ${r2[$v]}" "$said"
	fi
}

# An error about what the server said to a port that is closed by now.
ICMP() {
	local seen
	request 40001
	play close lan 40001
	answer 69 "$seen" error 1
	heard server 69 "the client's error passes the helper" "ICMP 3 3 from ${r2[$v]}"
	expected "what is expected stays" "1 1"
	look "done"
}

# --- Several requests

repeated() {
	local seen expectation
	request 40001
	expectation="${server[$v]}:0>$seen"
	request 40001
	equal "from the same port" "${expectation#*>}" "$seen"
	expected "... one answer is expected" "1 1"
	play events r2
	equal "... anew" "new $expectation gone $expectation new $expectation" "${said//$'\n'/ }"
	answer 69 "$seen" error 0
	heard lan 40001 "an answer from the port that was asked" "${server[$v]}:69 error 0"
	expected "... is not the one that is expected" "1 1"
	answer 5001 "$seen" data 1 1
	heard lan 40001 "that comes" "${server[$v]}:5001 data 1 1"
	answer 5002 "$seen" data 1 2
	stopped 5002 "... once"
	request 40001
	answer 5002 "$seen" data 1 3
	heard lan 40001 "repeated while the transfer goes on: a second one comes" "${server[$v]}:5002 data 1 3"
	answer 5001 "$seen" data 2 4
	heard lan 40001 "... and the first goes on" "${server[$v]}:5001 data 2 4"
	look "done"
}

from_two_ports() {
	local seen first second
	request 40001
	first=$seen
	request 40002
	second=$seen
	expected "two answers are expected" "2 2"
	look "asked"
	answer 5002 "$second" data 1 2
	heard lan 40002 "the second's comes" "${server[$v]}:5002 data 1 2"
	answer 5003 "$second" data 1 3
	stopped 5003 "... once"
	answer 5001 "$first" data 1 1
	heard lan 40001 "the first's comes" "${server[$v]}:5001 data 1 1"
	expected "all is over" "0 0"
	look "done"
}

to_two_servers() {
	local seen
	request 40001
	play send lan 40001 "${other[$v]}" 69 read boot octet
	heard server 69 "both are asked from one port" "$seen read boot octet"
	expected "two answers are expected" "2 2"
	look "asked"
	sender=server@${other[$v]}
	answer 5001 "$seen" data 1 2
	heard lan 40001 "the second's comes" "${other[$v]}:5001 data 1 2"
	sender=server
	answer 5001 "$seen" data 1 1
	heard lan 40001 "the first's comes" "${server[$v]}:5001 data 1 1"
	look "done"
}

# marker: arrives after what was sent before it, if that arrives at all.
marker() {
	play open server 7
	play send lan 40009 "${server[$v]}" 7 ack 0
	heard server 7 "(what is sent next arrives)" "${r2[$v]}:40009 ack 0"
}

# Both answers would come from the same host to the same port: one at a time.
to_two_ports_of_a_server() {
	local seen
	request 40001
	play open server 6969
	play send lan 40001 "${server[$v]}" 6969 read boot octet
	marker
	play hear server 6969 0
	equal "the second request is dropped" nothing "$said"
	look "asked"
	answer 5001 "$seen" data 1 1
	heard lan 40001 "the first's answer comes" "${server[$v]}:5001 data 1 1"
	play send lan 40001 "${server[$v]}" 6969 read boot octet
	heard server 6969 "the second request, repeated, arrives" "$seen read boot octet"
	answer 5002 "$seen" data 1 2
	heard lan 40001 "... and its answer comes" "${server[$v]}:5002 data 1 2"
	look "done"
}

twenty_at_once() {
	local port seen places=() numbers=
	for ((port = 41001; port <= 41020; port++)); do
		request $port read "file$port" octet
		places[port]=$seen
	done
	expected "twenty answers are expected" "20 20"
	look "asked"
	# The last to ask is the first to be answered.
	for ((port = 41020; port > 41000; port--)); do
		answer 5001 "${places[port]}" data $((port - 41000)) 100
		play hear lan $port
		[[ $said != "${server[$v]}:5001 data $((port - 41000)) 100" ]] || numbers+=" $((port - 41000))"
	done
	equal "each client has its own" " 20 19 18 17 16 15 14 13 12 11 10 9 8 7 6 5 4 3 2 1" "$numbers"
	expected "all is over" "0 0"
	look "done"
}

# --- Expectations that nothing comes of

udp_timeout() {
	local router
	for router in r1 r2; do
		on "$router" sh -c "echo $1 > /proc/sys/net/netfilter/nf_conntrack_udp_timeout" || bail "the time-out of UDP"
	done
}

# Who looks for flows removes those whose time is over.
forgotten() {
	play flows "$1"
	[[ ! $said ]]
}

no_answer() {
	local seen
	udp_timeout 1
	request 40001
	expected "an answer is expected" "1 1"
	udp_timeout 30
	check "$helper: $case: the request's flow ends" wait_until forgotten r1
	check "$helper: $case: ... at r2 as well" wait_until forgotten r2
	expected "the expectation ends with it" "0 0"
	answer 5001 "$seen" data 1 1
	stopped 5001 "an answer now is too late"
}

the_request_is_forgotten() {
	local seen router
	request 40001
	for router in r1 r2; do
		check "$helper: $case: $router forgets it" on $router conntrack -D -p udp --orig-port-dst 69
	done
	expected "nothing is expected any more" "0 0"
	answer 5001 "$seen" data 1 1
	stopped 5001 "the answer is stopped"
}

table=/proc/sys/net/netfilter/nf_conntrack_expect_max
the_table_is_full() {
	local seen most
	most=$(< $table)
	request 40001
	echo 1 > $table
	play send lan 40002 "${server[$v]}" 69 read boot octet
	marker
	echo "$most" > $table
	play hear server 69 0
	equal "a request whose answer cannot be expected is dropped" nothing "$said"
	expected "the other's is expected as before" "1 1"
	answer 5001 "$seen" data 1 1
	heard lan 40001 "... and comes" "${server[$v]}:5001 data 1 1"
	look "done"
}

# --- The router itself

the_router_asks() {
	filtered_anew
	play open server 69
	play send r1 40001 "${server[$v]}" 69 read boot octet
	heard server 69 "the server hears it" "${r2[$v]}:40001 read boot octet"
	look "asked"
	answer 5001 "${r2[$v]}:40001" data 1 1
	heard r1 40001 "the answer comes" "${server[$v]}:5001 data 1 1"
	equal "... as RELATED" "0 1 0" "$(filtered r1)"
	look "done"
}

the_router_is_asked() {
	play open r1@172.18.0.1 69
	play send lan 40001 172.18.0.1 69 read boot octet
	heard r1@172.18.0.1 69 "it hears it" "172.18.0.2:40001 read boot octet"
	look "asked"
	play send r1@172.18.0.1 5001 172.18.0.2 40001 data 1 1
	heard lan 40001 "the answer comes" "172.18.0.1:5001 data 1 1"
	play flows r1
	check_match "$helper: $case: ... in a flow that was expected" "172.18.0.1:5001>[^ ]+ [^ ]+ expected\+" "$said"
	look "done"
}

# --- NAT of all kinds

# translated KIND PORTS ADDRESS PORT RULE...: asked there, the server sees a port of those; its answer comes
# to the client from the address that was asked. $dnat is a rule in front of it, at r2.
translated() {
	local from=${r2[$v]} router
	case="$1, IPv$v"
	translate "${@:5}"
	[[ $5 != none ]] || from=${client[$v]}
	play open server 69
	play send lan 40001 "$3" "$4" read boot octet
	play hear server 69
	seen=${said%% *}
	check_equal "$helper: $case: the server sees the address that the rules give" "$from" "${seen%:*}"
	check_port "$helper: $case: ... and such a port" "${2%-*}" "${2#*-}" "${seen##*:}"
	answer 5001 "$seen" data 1 100
	heard lan 40001 "the answer comes from whom the client asked" "$3:5001 data 1 100"
	play send lan 40001 "$3" 5001 ack 1
	play hear server 5001
	check_equal "$helper: $case: the client's reply arrives" "$seen ack 1" "$said"
	expected "nothing more is expected" "0 0"
	for router in r1 r2; do
		# A port that a range gave is chance.
		play flows $router
		note "$router" "$(sed -E 's/:500[0-9]{2}\b/:RANGE/g' <<< "$said")"
	done
	tidy
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
	repeated from_two_ports to_two_servers to_two_ports_of_a_server twenty_at_once \
	no_answer the_request_is_forgotten the_table_is_full \
	the_router_asks the_router_is_asked \
	NAT_of_each_kind behind_DNAT
