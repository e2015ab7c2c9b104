# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0
#
# The library of scenarios that repeat something under traffic: the network of setup_lan with both families, eight
# senders in the LAN that keep making flows, each with a TFTP request, and a server that counts arriving packets by
# their source.
# shellcheck source-path=SCRIPTDIR source-path=SCRIPTDIR/../../lib source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
# shellcheck source-path=SCRIPTDIR source-path=SCRIPTDIR/../../lib source=leaks.sh
. "$(dirname "${BASH_SOURCE[0]}")/leaks.sh"

echo "# seed $SEED, $EFFORT % of the rounds"
RANDOM=$SEED

# Where the senders' flows go.
targets=(203.0.113.2 2001:db8:1::2)

# setup_traffic: makes the network, with counters on the server.
setup_traffic() {
	local family
	# insmod does not load the modules that ours needs.
	modprobe -a nf_conntrack nf_nat x_tables || bail "conntrack"
	wait_until unload_if_loaded || bail "the module of an earlier scenario can be unloaded"
	# A full table would drop packets.
	echo 262144 > /proc/sys/net/netfilter/nf_conntrack_max
	echo 65536 > /proc/sys/net/netfilter/nf_conntrack_expect_max
	setup_lan
	setup_lan_ipv6
	for family in "$IPTABLES 203.0.113.1" "$IP6TABLES 2001:db8:1::1"; do
		# The server drops all packets after counting them, and never answers.
		ns_exec server "${family% *}-restore" -w <<-END || bail "the server's counters"
			*raw
			-A PREROUTING -p udp --dport 69 -s ${family#* } --sport 10000:29999 -j DROP
			-A PREROUTING -p udp --dport 69 -s ${family#* } -j DROP
			-A PREROUTING -p udp --dport 69 -j DROP
			COMMIT
		END
		# Conntrack stays on when our rules go, as it does with any other rule that needs it.
		ns_exec router "${family% *}" -w -A FORWARD -m conntrack --ctstate INVALID || bail "rule with -m conntrack"
	done
	# Flows end soon, so that there are never many.
	ns_exec router sh -c 'echo 2 > /proc/sys/net/netfilter/nf_conntrack_udp_timeout'
	ns_start router sleep infinity
	inside=/proc/$!/net
	resolve_neighbours
}

# resolve_neighbours: fills the neighbour tables. The first packet to an unknown neighbour would wait.
resolve_neighbours() {
	local host address
	while read -r host address; do
		ns_exec "$host" ping -q -c 1 -W 5 "$address" > /dev/null || bail "ping $address from $host"
	done <<-END
		lan 172.18.0.1
		lan fd00:18::1
		router 203.0.113.2
		router 2001:db8:1::2
	END
}

# start_senders HOST,...: starts eight senders on these hosts, 25 flows a second each. They send after resume_senders.
start_senders() {
	"$tools/senders.py" 8 25 "$1" "${targets[@]}" > "$scratch/sent" &
	senders=$!
	servers+=("$senders")
	wait_until grep ready "$scratch/sent" || bail "no senders"
	pause_senders
}
resume_senders() { pkill -CONT -P "$senders"; }
pause_senders() { pkill -STOP -P "$senders"; }

# stop_senders: ends the senders and counts. Sets `sent` to the number of packets that they sent.
stop_senders() {
	kill "$senders"
	wait "$senders"
	sent=$(tail -n 1 "$scratch/sent")
	count_arrivals
	echo "# $sent packets were sent, $masqueraded arrived masqueraded ($ranged with a port of a range), $plain not"
}

# count_arrivals: counts the packets that arrived. Sets `ranged` to those from the router with a port from 10000 to
# 29999, `masqueraded` to those from the router with any port, and `plain` to those from the LAN.
count_arrivals() {
	local family packets
	ranged=0 masqueraded=0 plain=0
	for family in "$IPTABLES" "$IP6TABLES"; do
		mapfile -t packets < <(ns_exec server "$family" -w -t raw -nvxL PREROUTING | awk '$3 == "DROP" { print $1 }')
		((ranged += packets[0], masqueraded += packets[0] + packets[1], plain += packets[2]))
	done
}

# quiesce: pauses the senders, removes the router's flows and unloads the module.
quiesce() {
	pause_senders
	ns_exec router conntrack -F 2> /dev/null
	wait_until unload_if_loaded || not_ok "the module can be unloaded"
}

unload_if_loaded() {
	[[ ! -e /sys/module/rustmasq ]] || rmmod rustmasq
}

# count_expectations: counts the router's expectations: sets `pending` to those that exist, `created` and `deleted` to
# those that were made and removed.
count_expectations() {
	local lines fields
	mapfile -t lines < "$inside/nf_conntrack_expect"
	pending=${#lines[@]} created=0 deleted=0
	mapfile -s 1 -t lines < "$inside/stat/nf_conntrack"
	for fields in "${lines[@]}"; do
		read -r -a fields <<< "$fields"
		((created += 0x${fields[14]}, deleted += 0x${fields[15]}))
	done
}
expectations_exist() {
	count_expectations
	((pending > 0))
}

flush_nat_rules() {
	ns_exec router "$IPTABLES" -w -t nat -F
	ns_exec router "$IP6TABLES" -w -t nat -F
}
