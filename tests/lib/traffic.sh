# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0
#
# What scenarios share that do a thing many times under traffic: home's network with
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

crowd() {
	local family
	# What insmod does not load.
	modprobe -a nf_conntrack nf_nat x_tables || bail "conntrack"
	wait_until module_out || bail "the module of an earlier scenario can be unloaded"
	# No table is to be full: that would cost packets.
	echo 262144 > /proc/sys/net/netfilter/nf_conntrack_max
	echo 65536 > /proc/sys/net/netfilter/nf_conntrack_expect_max
	home
	home_ipv6
	for family in "$IPTABLES 203.0.113.1" "$IP6TABLES 2001:db8:1::1"; do
		# What was counted goes no further: nobody answers.
		on server "${family% *}-restore" -w <<-END || bail "the server's counters"
			*raw
			-A PREROUTING -p udp --dport 69 -s ${family#* } --sport 10000:29999 -j DROP
			-A PREROUTING -p udp --dport 69 -s ${family#* } -j DROP
			-A PREROUTING -p udp --dport 69 -j DROP
			COMMIT
		END
		# This keeps conntrack on, as any other rule might.
		on router "${family% *}" -w -A FORWARD -m conntrack --ctstate INVALID || bail "rule with -m conntrack"
	done
	# Flows are not to be many, but to come and go.
	on router sh -c 'echo 2 > /proc/sys/net/netfilter/nf_conntrack_udp_timeout'
	start router sleep infinity
	inside=/proc/$!/net
	no_first_packet_waits
}

# For a neighbour's address.
no_first_packet_waits() {
	local host address
	while read -r host address; do
		on "$host" ping -q -c 1 -W 5 "$address" > /dev/null || bail "ping $address from $host"
	done <<-END
		lan 172.18.0.1
		lan fd00:18::1
		router 203.0.113.2
		router 2001:db8:1::2
	END
}

# send_off HOST,...: the senders come to life there, eight in all, each with 25 flows a second; but not before `go_on`.
send_off() {
	"$tools/senders.py" 8 25 "$1" "${targets[@]}" > "$scratch/sent" &
	senders=$!
	servers+=("$senders")
	wait_until grep ready "$scratch/sent" || bail "no senders"
	pause
}
go_on() { pkill -CONT -P "$senders"; }
pause() { pkill -STOP -P "$senders"; }

# call_back: they end. Sets `sent` to how many packets they sent.
call_back() {
	kill "$senders"
	wait "$senders"
	sent=$(tail -n 1 "$scratch/sent")
	arrived
	echo "# $sent packets were sent, $masqueraded arrived masqueraded ($ranged with a port of a range), $plain not"
}

# arrived: sets `ranged`, `masqueraded` and `plain` to how many arrived from the router with a port from 10000 to
# 29999, from the router with any, and from the LAN.
arrived() {
	local family packets
	ranged=0 masqueraded=0 plain=0
	for family in "$IPTABLES" "$IP6TABLES"; do
		mapfile -t packets < <(on server "$family" -w -t raw -nvxL PREROUTING | awk '$3 == "DROP" { print $1 }')
		((ranged += packets[0], masqueraded += packets[0] + packets[1], plain += packets[2]))
	done
}

# quiet: nothing is under way: no packet, no flow, no module.
quiet() {
	pause
	on router conntrack -F 2> /dev/null
	wait_until module_out || not_ok "the module can be unloaded"
}

module_out() {
	[[ ! -e /sys/module/rustmasq ]] || rmmod rustmasq
}

# expected: sets `pending`, `created` and `deleted` to how many expectations the router has, has made and removed.
expected() {
	local lines fields
	mapfile -t lines < "$inside/nf_conntrack_expect"
	pending=${#lines[@]} created=0 deleted=0
	mapfile -s 1 -t lines < "$inside/stat/nf_conntrack"
	for fields in "${lines[@]}"; do
		read -r -a fields <<< "$fields"
		((created += 0x${fields[14]}, deleted += 0x${fields[15]}))
	done
}
some_expected() {
	expected
	((pending > 0))
}

rules_gone() {
	on router "$IPTABLES" -w -t nat -F
	on router "$IP6TABLES" -w -t nat -F
}
