#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Data connections of FTP pass two routers, active and passive ones, whatever NAT these do: none, NAT of the client,
# DNAT of the server, and both. The announced address and port become those that the other end can reach. The cases go
# line by line, with the kernel's own helper and with ours. Without a helper no data connection passes.
# shellcheck source-path=SCRIPTDIR source=../../lib/ftp.sh
. "$(dirname "$0")/../../lib/ftp.sh"

setup_two_routers
modprobe nf_nat_ftp || bail "the kernel's own helper"
ip -n lan -batch - <<-END || bail "the second client"
	addr add 172.18.0.3/16 dev lan0
	addr add fd00:18::3/64 dev lan0 nodad preferred_lft 0
END
start_ftp_peers
after_case=(peers forget r1 r2)

# check_data WHAT WHO PORT PLACE EXPECTED: checks who accepts a data connection from there to PLACE, and from
# where he sees it come.
check_data() {
	peers data "$2" "$3" "${4%:*}" "${4##*:}"
	check_match "$helper: $case: $1" "$5" "$said"
}

# check_announced ADDRESS WHAT EXPECTED: checks the place that the last line names, and sets `reached` to it.
check_announced() {
	peers announced "$1" "$said"
	reached=$said
	check_equal "$helper: $case: $2" "$3" "$reached"
}

# transfer_actively KIND ADDRESS PORT: lets the client announce its port 40500, and the server connect to what it hears.
transfer_actively() {
	peers listen lan 40500
	peers say client "$(announce "$1" "${client[$v]}" 40500)"
	check_announced - "$1 tells the server where it can reach the client" "${seen%:*}:40500"
	check_data "... and its data connection arrives, from the server that the client knows" server 20 "$reached" \
		"^lan:40500 from ${2//[/\\[}:20$"
	peers say server '200 done\r\n'
	check_equal "$helper: $case: ... the reply after it arrives" '200 done\r\n' "$said"
}

# transfer_passively KIND ADDRESS PORT: lets the server announce its port 40600, and the client connect to what it
# hears.
transfer_passively() {
	local from=${seen%:*}
	peers say client 'EPSV\r\n'
	peers listen server 40600
	peers say server "$(announce "$1" "${server[$v]}" 40600)"
	check_announced "$2" "$1 tells the client where it can reach the server" "$2:40600"
	check_data "... and its data connection arrives, from the client that the server knows" lan 0 "$reached" \
		"^server:40600 from ${from//[/\\[}:[0-9]+$"
	peers say client 'NOOP\r\n'
	check_equal "$helper: $case: ... the command after it arrives" 'NOOP\r\n' "$said"
}

# transfer_every_way ADDRESS PORT: opens a control connection there, and does all of this in it, twice: lines that were
# made longer or shorter come before others.
transfer_every_way() {
	local kinds=(EPRT 229) kind
	[[ $v == 6 ]] || kinds=(EPRT PORT 229 227)
	open_control "$1" "$2"
	for kind in "${kinds[@]}" "${kinds[@]}"; do
		if [[ $kind == [EP]* ]]; then transfer_actively "$kind" "$1"; else transfer_passively "$kind" "$1"; fi
	done
	peers counts r1 r2
	check_equal "$helper: $case: no expectation is left" "0 0" "$said"
}

# check_every_way KIND PORTS FROM ADDRESS PORT RULE...: does so with both routers' rules replaced by RULE, and at r2
# also $dnat. Checks that the server sees the client at the address FROM, with a port from PORTS.
check_every_way() {
	case="$1, IPv$v"
	translate "${@:6}"
	[[ $rules_of == both ]] || ns_exec r2 "${iptables[$v]}" -w -t nat -F POSTROUTING
	transfer_every_way "$4" "$5"
	check_equal "$helper: $case: the server sees the address that the rules give" "$3" "${seen%:*}"
	check_port "$helper: $case: ... and a port that they allow" "${2%-*}" "${2#*-}" "${seen##*:}"
	"${after_case[@]}"
}

# Which routers have the rule: both, or r1.
rules_of=both
each_kind_of_NAT() {
	local to=("${server[4]}" 21) ports=(-p tcp --to-ports 50000-50099)
	check_every_way "no NAT" 40001-40001 "${client[4]}" "${to[@]}" none
	check_every_way "SNAT with ports" 50000-50099 "${r2[4]}" "${to[@]}" -p tcp -j SNAT --to-source ADDRESS:50000-50099
	check_every_way "RUSTMASQ" 40001-40001 "${r2[4]}" "${to[@]}" -j RUSTMASQ
	check_every_way "RUSTMASQ with ports" 50000-50099 "${r2[4]}" "${to[@]}" -j RUSTMASQ "${ports[@]}"
	check_every_way "RUSTMASQ with mappings" 40001-40001 "${r2[4]}" "${to[@]}" -j RUSTMASQ --full-cone
	v=6 to=("${server[6]}" 21)
	check_every_way "no NAT" 40001-40001 "${client[6]}" "${to[@]}" none
	check_every_way "RUSTMASQ with ports" 50000-50099 "${r2[6]}" "${to[@]}" -j RUSTMASQ "${ports[@]}"
	check_every_way "RUSTMASQ with mappings" 40001-40001 "${r2[6]}" "${to[@]}" -j RUSTMASQ --port-restricted-cone
	rules_of=r1
	v=4 to=("${server[4]}" 21)
	check_every_way "RUSTMASQ at r1 alone" 40001-40001 "${r1[4]}" "${to[@]}" -j RUSTMASQ
	rules_of=both
}

# r2 forwards its port 2021 to the server's port 21.
a_server_behind_DNAT() {
	local to=("${r2_within[4]}" 2021) dnat="-A PREROUTING -i lan0 -p tcp --dport 2021 -j DNAT --to-destination "
	dnat+=${server[4]}:21
	check_every_way "DNAT" 40001-40001 "${client[4]}" "${to[@]}" none
	check_every_way "DNAT and RUSTMASQ" 40001-40001 "${r2[4]}" "${to[@]}" -j RUSTMASQ
	rules_of=r1
	check_every_way "DNAT behind RUSTMASQ with ports" 50000-50099 "${r1[4]}" "${to[@]}" \
		-p tcp -j RUSTMASQ --to-ports 50000-50099
	v=6 to=("${r2_within[6]}" 2021) dnat=${dnat/"${server[4]}"/"${server[6]}"}
	check_every_way "DNAT behind RUSTMASQ" 40001-40001 "${r1[6]}" "${to[@]}" -j RUSTMASQ
	rules_of=both
}

# Two hosts of the LAN announce the same port, which r1's address has only once.
two_clients_with_one_port() {
	local host who from reached first
	local -A second=([4]=172.18.0.3 [6]='[fd00:18::3]')
	for v in 4 6; do
		case="two clients with one port, IPv$v"
		translate -j RUSTMASQ
		first='' from=40001
		for host in "${client[$v]}" "${second[$v]}"; do
			who=lan@$host
			peers listen "$who" 40500
			open_control "${server[$v]}" 21
			peers say client "$(announce EPRT "$host" 40500)"
			peers announced - "$said"
			if [[ ! $first ]]; then
				first=$said from=40002
				check_equal "$helper: $case: the first one's port is announced as it is" "${r2[$v]}:40500" "$first"
				peers keep
			fi
		done
		reached=$said
		check_equal "$helper: $case: the second one's is announced at the same address" "${r2[$v]}" "${reached%:*}"
		check_port "$helper: $case: ... with another port" 1024 65535 "${reached##*:}"
		check "$helper: $case: ... than the first one's" test "$reached" != "$first"
		check_data "the first one's data connection arrives" server 20 "$first" \
			"^lan@${client[$v]//[/\\[}:40500 from ${server[$v]//[/\\[}:20$"
		check_data "... and so does the second one's" server 20 "$reached" \
			"^lan@${second[$v]//[/\\[}:40500 from ${server[$v]//[/\\[}:20$"
		"${after_case[@]}"
	done
	v=4
}

# --- Without a helper

helper=none
for v in 4 6; do
	case="no NAT, IPv$v"
	open_control "${server[$v]}" 21
	peers listen lan 40500
	peers say client "$(announce EPRT "${client[$v]}" 40500)"
	peers data server 20 "${client[$v]}" 40500
	check_equal "$helper: $case: an active data connection is refused" refused "$said"
	peers listen server 40600
	peers say server "$(announce 229 "${server[$v]}" 40600)"
	peers data lan 0 "${server[$v]}" 40600
	check_equal "$helper: $case: a passive data connection is refused" refused "$said"
	"${after_case[@]}"
done
v=4
translate -j RUSTMASQ
case="RUSTMASQ, IPv4"
open_control "${server[$v]}" 21
line=$(announce PORT "${client[4]}" 40500)
check_line client "$line" "a command is not changed" "$line"
"${after_case[@]}"

with_each_helper each_kind_of_NAT a_server_behind_DNAT two_clients_with_one_port

done_testing
