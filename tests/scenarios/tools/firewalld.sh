#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Front ends: nft
#
# firewalld masquerades by the module with masquerade=1, with both of its backends: in a zone with masquerade, in a rich
# rule for IPv6, after a reload. Its rules look as they do with the kernel's own.
. "$(dirname "$0")/../../lib/tools.sh"

setup_drop_in
start_dbus

# start_firewalld BACKEND: starts it, with the WAN in the zone "external", which masquerades.
start_firewalld() {
	sed -i "s/^FirewallBackend=.*/FirewallBackend=$1/" /etc/firewalld/firewalld.conf
	start_tool firewalld firewalld --nofork --nopid
	wait_until ns_exec router firewall-cmd --quiet --state || bail "firewalld: $(cat "$scratch/firewalld")"
	ns_exec router firewall-cmd --quiet --zone=trusted --change-interface=lan0 || bail "the LAN's zone"
	ns_exec router firewall-cmd --quiet --zone=external --change-interface=wan0 || bail "the WAN's zone"
	ns_exec router firewall-cmd --quiet --zone=external --add-rich-rule='rule family=ipv6 masquerade' || bail "a rich rule"
}

# masquerades BACKEND: prints the rules that masquerade, as the front end shows them.
masquerades() {
	if [[ $1 == nftables ]]; then
		ns_exec router nft list table inet firewalld
	else
		ns_exec router iptables-save -t nat
		ns_exec router ip6tables-save -t nat
	fi | grep -i masquerade
}

for backend in nftables iptables; do
	what="firewalld, $backend"
	start_firewalld $backend
	masquerades $backend > "$scratch/theirs"
	check_equal "$what: without the module, the server sees the router" 203.0.113.1 "$(probe_ip lan 4 | sed 's/:.*//')"
	stop_tool
	unload_all
	load_modules ours
	start_firewalld $backend
	check_rules "$what"
	masquerades $backend > "$scratch/ours"
	check_shown "$what"
	check_masqueraded "$what, IPv4" '^203.0.113.1:' probe_ip lan 4
	check_masqueraded "$what, IPv6" '^.2001:0db8:0001:0000:0000:0000:0000:0001.:' probe_ip lan 6
	ns_exec router firewall-cmd --quiet --runtime-to-permanent || bail "saving"
	ns_exec router firewall-cmd --quiet --reload || bail "reloading"
	check_rules "$what, reloaded"
	check_masqueraded "$what, reloaded, IPv4" '^203.0.113.1:' probe_ip lan 4
	ns_exec router firewall-cmd --quiet --zone=external --remove-masquerade || bail "no masquerade"
	ns_exec router conntrack -F 2> /dev/null
	before=$(our_counter flows_masqueraded)
	check_equal "$what: without masquerade in the zone, no answer comes back" "" "$(probe_briefly lan UDP 203.0.113.2 5000)"
	check_equal "$what: ... because nothing is translated" "$before" "$(our_counter flows_masqueraded)"
	stop_tool
	check_no_rules "$what"
	unload_all
	rm -rf /etc/firewalld/zones/*
done

done_testing
