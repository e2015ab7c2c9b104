# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0
#
# What scenarios share that do a thing many times under traffic: setup_lan's network with
# both families; eight senders in the LAN that keep making flows, each of them a TFTP
# request; and a server that counts what arrives, by what it seems to come from.
# shellcheck source-path=SCRIPTDIR source-path=SCRIPTDIR/../../lib source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
# shellcheck source-path=SCRIPTDIR source-path=SCRIPTDIR/../../lib source=leaks.sh
. "$(dirname "${BASH_SOURCE[0]}")/leaks.sh"

echo "# seed $SEED, $EFFORT % of the rounds"
RANDOM=$SEED

# Where the senders' flows go.
targets=(203.0.113.2 2001:db8:1::2)

setup_traffic() {
	local family
	# What insmod does not load.
	modprobe -a nf_conntrack nf_nat x_tables || bail "conntrack"
	wait_until unload_if_loaded || bail "the module of an earlier scenario can be unloaded"
	# No table is to be full: that would cost packets.
	echo 262144 > /proc/sys/net/netfilter/nf_conntrack_max
	echo 65536 > /proc/sys/net/netfilter/nf_conntrack_expect_max
	setup_lan
	setup_lan_ipv6
	for family in "$IPTABLES 203.0.113.1" "$IP6TABLES 2001:db8:1::1"; do
		# What was counted goes no further: nobody answers.
		ns_exec server "${family% *}-restore" -w <<-END || bail "the server's counters"
			*raw
			-A PREROUTING -p udp --dport 69 -s ${family#* } --sport 10000:29999 -j DROP
			-A PREROUTING -p udp --dport 69 -s ${family#* } -j DROP
			-A PREROUTING -p udp --dport 69 -j DROP
			COMMIT
		END
		# This keeps conntrack on, as any other rule might.
		ns_exec router "${family% *}" -w -A FORWARD -m conntrack --ctstate INVALID || bail "rule with -m conntrack"
	done
	# Flows are not to be many, but to come and go.
	ns_exec router sh -c 'echo 2 > /proc/sys/net/netfilter/nf_conntrack_udp_timeout'
	ns_start router sleep infinity
	inside=/proc/$!/net
	resolve_neighbours
}

# For a neighbour's address.
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

# start_senders HOST,...: the senders come to life there, eight in all, each with 25 flows a second; but not before resume_senders.
start_senders() {
	"$tools/senders.py" 8 25 "$1" "${targets[@]}" > "$scratch/sent" &
	senders=$!
	servers+=("$senders")
	wait_until grep ready "$scratch/sent" || bail "no senders"
	pause_senders
}
resume_senders() { pkill -CONT -P "$senders"; }
pause_senders() { pkill -STOP -P "$senders"; }

# stop_senders: they end. Sets `sent` to how many packets they sent.
stop_senders() {
	kill "$senders"
	wait "$senders"
	sent=$(tail -n 1 "$scratch/sent")
	count_arrivals
	echo "# $sent packets were sent, $masqueraded arrived masqueraded ($ranged with a port of a range), $plain not"
}

# count_arrivals: sets `ranged`, `masqueraded` and `plain` to how many arrived from the router with a port from 10000 to
# 29999, from the router with any, and from the LAN.
count_arrivals() {
	local family packets
	ranged=0 masqueraded=0 plain=0
	for family in "$IPTABLES" "$IP6TABLES"; do
		mapfile -t packets < <(ns_exec server "$family" -w -t raw -nvxL PREROUTING | awk '$3 == "DROP" { print $1 }')
		((ranged += packets[0], masqueraded += packets[0] + packets[1], plain += packets[2]))
	done
}

# quiesce: nothing is under way: no packet, no flow, no module.
quiesce() {
	pause_senders
	ns_exec router conntrack -F 2> /dev/null
	wait_until unload_if_loaded || not_ok "the module can be unloaded"
}

unload_if_loaded() {
	[[ ! -e /sys/module/rustmasq ]] || rmmod rustmasq
}

# count_expectations: sets `pending`, `created` and `deleted` to how many expectations the router has, has made and removed.
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
