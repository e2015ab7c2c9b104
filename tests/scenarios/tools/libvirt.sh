#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Front ends: nft
#
# libvirt's network driver masquerades by the module with masquerade=1, with both of its backends: a NAT network with a
# range of ports, IPv4 and IPv6. Its rules look as they do with the kernel's own.
#
#     machine                router                     server
#     eth0 ----------- vnet0 virbr9   wan0 ----------- eth0
#     192.168.9.2/24        192.168.9.1
#     fd00:9::2/64          fd00:9::1
. "$(dirname "$0")/../../lib/tools.sh"

setup_drop_in
setup_ns machine

# start_network BACKEND: starts the driver and the network, and connects the machine.
start_network() {
	printf 'firewall_backend = "%s"\n' "$1" > /etc/libvirt/network.conf
	start_tool libvirtd libvirtd
	wait_until manage uri > /dev/null || bail "libvirtd: $(cat "$scratch/libvirtd")"
	cat > "$scratch/network.xml" <<-END
		<network>
			<name>house</name>
			<forward mode="nat" dev="wan0"><nat ipv6="yes"><port start="7000" end="7009"/></nat></forward>
			<bridge name="virbr9"/>
			<ip address="192.168.9.1" prefix="24"/>
			<ip family="ipv6" address="fd00:9::1" prefix="64"/>
		</network>
	END
	manage net-create "$scratch/network.xml" > "$scratch/created" 2>&1 ||
		bail "the network: $(cat "$scratch/created" "$scratch/libvirtd")"
	setup_link machine eth0 192.168.9.2/24 router vnet0 -
	ip -n router link set vnet0 master virbr9
	ip -n machine addr add fd00:9::2/64 dev eth0 nodad
	ip -n machine route add default via 192.168.9.1
	ip -n machine route add default via fd00:9::1
	# The bridge and its address get ready by themselves.
	wait_until ns_exec machine ping -q -c 1 -W 1 fd00:9::1 > /dev/null || bail "the bridge"
}
manage() { ns_exec router virsh -q -c network:///system "$@"; }

# stop_network: removes the network, and ends the driver.
stop_network() {
	ip -n machine link del eth0
	manage net-destroy house > /dev/null || bail "destroying the network"
}

# masquerades BACKEND: prints the rules that masquerade, as the front end shows them.
masquerades() {
	if [[ $1 == nftables ]]; then
		ns_exec router nft list ruleset
	else
		ns_exec router iptables-save -t nat
		ns_exec router ip6tables-save -t nat
	fi | grep -i masquerade | sed 's/counter packets [0-9]* bytes [0-9]*/counter/'
}

# ask PROTOCOL IPV: asks the server from the machine's port 2000.
ask() { probe_ip machine "$2" "$1" sourceport=2000,reuseaddr; }
serve server TCP 5000
serve server TCP6 5006

for backend in nftables iptables; do
	what="libvirt, $backend"
	start_network $backend
	masquerades $backend > "$scratch/theirs"
	check_match "$what: without the module, the server sees the router" '^203.0.113.1:700[0-9]$' "$(ask UDP 4)"
	stop_network
	stop_tool
	unload_all
	load_modules ours
	start_network $backend
	check_rules "$what"
	masquerades $backend > "$scratch/ours"
	check_shown "$what"
	for protocol in UDP TCP; do
		check_masqueraded "$what, $protocol, IPv4" '^203.0.113.1:700[0-9]$' ask $protocol 4
		check_masqueraded "$what, $protocol, IPv6" '^.2001:0db8:0001:0000:0000:0000:0000:0001.:700[0-9]$' ask $protocol 6
	done
	stop_network
	check_no_rules "$what"
	stop_tool
	unload_all
done

done_testing
