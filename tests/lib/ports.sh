# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0
#
# The library of scenarios about the choice of ports: many clients in the LAN, whose first packets reach a server that
# counts and drops them. The network is that of setup_lan with IPv6, and the clients are
#
#     10.1.0.1-250, 10.1.1.1-250, ...   and   fd00:1::1 to fd00:1::9999
#
# All addresses in 10.9.0.0/16 and 2001:db8:9::/64 are servers, too.
# shellcheck source-path=SCRIPTDIR source-path=SCRIPTDIR/../../lib source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# The IP version of the current step, its protocol, and the server by version.
v=4 protocol=udp
declare -A server_of=([4]=203.0.113.2 [6]=2001:db8:1::2) router_of=([4]=203.0.113.1 [6]=2001:db8:1::1)

# The family of what does not depend on the front end: each of them tests it with one.
# shellcheck disable=SC2034 # Scenarios use it.
own_family=4
# shellcheck disable=SC2034
[[ $IPTABLES != *-nft ]] || own_family=6

# setup_crowd: makes this network.
setup_crowd() {
	local name words echo_request
	modprobe -a nf_conntrack nf_conntrack_netlink sctp || bail "modules"
	setup_lan
	setup_lan_ipv6
	ip -n lan -batch - <<-END || bail "the clients"
		route add local 10.1.0.0/16 dev lo
		route add local fd00:1::/64 dev lo
	END
	ip -n router -batch - <<-END || bail "the routes to the clients"
		route add 10.1.0.0/16 via 172.18.0.2
		route add fd00:1::/64 via fd00:18::2
		route add 10.9.0.0/16 via ${server_of[4]}
		route add 2001:db8:9::/64 via ${server_of[6]}
	END
	ns_exec lan sh -c 'echo 1 > /proc/sys/net/ipv6/ip_nonlocal_bind; echo 0 0 > /proc/sys/net/ipv4/ping_group_range'
	# Flows stay while they are counted.
	for name in udp_timeout icmp_timeout icmpv6_timeout tcp_timeout_syn_sent sctp_timeout_{cookie_wait,closed}; do
		ns_exec router tee "/proc/sys/net/netfilter/nf_conntrack_$name" > /dev/null <<< 600 || bail "$name"
	done
	for name in "lan 172.18.0.1" "lan fd00:18::1" "router ${server_of[4]}" "router ${server_of[6]}"; do
		ns_exec "${name% *}" ping -q -c 1 -W 5 "${name#* }" > /dev/null || bail "ping ${name#* } from ${name% *}"
	done
	# The server counts the packets of its clients, and answers none of them.
	for v in 6 4; do
		echo_request=(icmp --icmp-type echo-request)
		[[ $v == 4 ]] || echo_request=(icmpv6 --icmpv6-type echo-request)
		host_table server -t raw -N counted
		host_table server -t raw -A counted -j DROP || bail "the server's counter"
		for name in udp tcp sctp "${echo_request[*]}"; do
			read -r -a words <<< "$name"
			host_table server -t raw -A PREROUTING -s "${router_of[$v]}" -p "${words[@]}" -j counted ||
				bail "the server's rule for $name"
		done
	done
}

# host_table HOST ARGUMENT...: runs iptables of the family $v on a host.
host_table() {
	local program=$IPTABLES
	[[ $v == 4 ]] || program=$IP6TABLES
	ns_exec "$1" "$program" -w "${@:2}"
}

# arrived: prints how many packets the server has counted, of the family $v.
arrived() { host_table server -t raw -nvxL counted | awk '/DROP/ { print $1 }'; }

# client_range FIRST LAST: prints the addresses of clients by their numbers, from 1 on, as flows.py takes them.
client_range() {
	local net first last names=""
	if [[ $v == 6 ]]; then
		echo "fd00:1::$1-$2"
		return
	fi
	for ((net = ($1 - 1) / 250; net <= ($2 - 1) / 250; net++)); do
		first=$(($1 - 250 * net)) last=$(($2 - 250 * net))
		names+=,10.1.$net.$((first > 1 ? first : 1))-$((last < 250 ? last : 250))
	done
	echo "${names#,}"
}

# client_number NUMBER: prints the address of one.
client_number() { [[ $v == 4 ]] && echo "10.1.$((($1 - 1) / 250)).$((($1 - 1) % 250 + 1))" || echo "fd00:1::$1"; }

# conntrack_name: prints the protocol's name for conntrack and iptables.
conntrack_name() { [[ $v$protocol == 6icmp ]] && echo icmpv6 || echo "$protocol"; }

# send_crowd FIRST LAST [OPTION...]: clients FIRST to LAST each send the first packet of a flow to the server, from the
# source port 5000. OPTIONs are those of flows.py. Other servers are those of the array `targets`.
targets=()
send_crowd() {
	ns_exec lan "$tools/flows.py" --protocol "$protocol" --first-port 5000 --from "$(client_range "$1" "$2")" "${@:3}" \
		1 "${targets[@]:-${server_of[$v]}}" || not_ok "the clients $1 to $2 sent"
}

# crowd_flows [ARGUMENT...]: prints the router's flows of the family and the protocol, a line each: the client's address, the
# server's, and the port or identifier that the router gave the flow. ARGUMENTs are those of `conntrack -L`.
crowd_flows() {
	tracked -f "ipv$v" -p "$(conntrack_name)" "$@" | awk '{
		from = to = ""
		for (i = 1; i <= NF; i++) {
			split($i, pair, "=")
			if (pair[1] == "src" && from == "") from = pair[2]
			if (pair[1] == "dst" && to == "") to = pair[2]
			if (pair[1] == "dport" || pair[1] == "id" && !/dport=/) port = pair[2]
		}
		print from, to, port
	}'
}

# port_of CLIENT [SERVER]: prints the port of the client with this number towards the server.
port_of() { crowd_flows --orig-src "$(client_number "$1")" | awk -v to="${2:-${server_of[$v]}}" '$2 == to { print $3 }'; }

# forget_all: removes the router's flows of the family.
forget_all() { ns_exec router conntrack -F -f "ipv$v" 2> /dev/null; }

# crowd_rule TARGET [OPTION...]: replaces the router's rules of the family by one for the protocol.
crowd_rule() {
	host_table router -t nat -F
	forget_all
	host_table router -t nat -A POSTROUTING -o wan0 -p "$(conntrack_name)" -j "$@" || bail "rule with $*"
}

# losses: prints conntrack's counters of the router: drop insert_failed.
losses() {
	ns_exec router conntrack -S |
		awk -F '[ =]+' '{ for (i = 1; i < NF; i++) sum[$i] += $(i + 1) } END { print sum["drop"], sum["insert_failed"] }'
}

# For scenarios about the flows of one client:

# step: prints what a step is about.
step() { echo "IPv$v, $protocol"; }

# client_begins COUNT [OPTION...]: the first client begins so many flows, from port 5000 on. Sets `over` to the number of
# packets that were over the limit meanwhile. OPTIONs are those of flows.py.
client_begins() {
	over=$(our_counter flows_over_limit)
	ns_exec lan "$tools/flows.py" --protocol "$protocol" --first-port 5000 --from "$(client_number 1)" "${@:2}" \
		"$1" "${server_of[$v]}" || not_ok "$(step): $1 flows are sent"
	over=$(($(our_counter flows_over_limit) - over))
}

# flows_of CLIENT: prints how many flows the client with this number has.
flows_of() { crowd_flows --orig-src "$(client_number "$1")" | wc -l; }
has_flows() { [[ $(flows_of "$1") == "$2" ]]; }

# check_counted WHAT COUNT [OVER]: checks that the first client has so many flows, and that so many were over the limit.
check_counted() { check_equal "$(step): $1" "$2 flows, ${3-0} over" "$(flows_of 1) flows, $over over"; }

# forget_ports FIRST LAST: removes the first client's flows from these source ports.
forget_ports() {
	local port words=(--orig-port-src)
	[[ $protocol != icmp ]] || words=("--$(conntrack_name)-id")
	for ((port = $1; port <= $2; port++)); do
		ns_exec router conntrack -D -f "ipv$v" -p "$(conntrack_name)" --orig-src "$(client_number 1)" \
			"${words[@]}" "$port" > /dev/null 2>&1 || not_ok "$(step): the flow from $port is removed"
	done
}
