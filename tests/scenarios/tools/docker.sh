#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Front ends: nft
#
# Docker masquerades by the module with masquerade=1: what containers send, on the default bridge and on a network with
# IPv6. Its rules look as they do with the kernel's own.
. "$(dirname "$0")/../../lib/tools.sh"

setup_drop_in
mkdir -p "$scratch/root/bin"
cp /usr/bin/bash-static "$scratch/root/bin/bash"

# start_docker: starts the daemon, which makes the default bridge, and a network with IPv6.
start_docker() {
	start_tool dockerd sh -c 'mount -t cgroup2 cgroup2 /sys/fs/cgroup && exec dockerd --storage-driver vfs \
		--data-root /tmp/docker --experimental --ip6tables'
	wait_until docker info > /dev/null 2>&1 || bail "dockerd: $(tail "$scratch/dockerd")"
	tar -c -C "$scratch/root" . | docker import - shell > /dev/null || bail "an image"
	docker network create --ipv6 --subnet fd00:33::/64 six > /dev/null || bail "a network"
}

# stop_docker: ends it, without its rules, which it leaves behind.
stop_docker() {
	docker network rm six > /dev/null
	stop_tool
	ns_exec router nft flush ruleset
	ip -n router link del docker0
}

# masquerades: prints the rules that masquerade, as iptables shows them.
masquerades() {
	{
		ns_exec router iptables-save -t nat
		ns_exec router ip6tables-save -t nat
	} | grep MASQUERADE | sed -E 's/br-[0-9a-f]+/br/'
}

# ask NETWORK ADDRESS PORT: a container asks the server.
ask() {
	docker run --rm --network "$1" shell /bin/bash -c \
		"exec 3<> /dev/tcp/$2/$3; echo x >&3; read -r -t 5 answer <&3; echo \"\$answer\""
}
serve server TCP 5000
serve server TCP6 5006

what=Docker
start_docker
masquerades > "$scratch/theirs"
check_match "$what: without the module, the server sees the router" '^203.0.113.1:' "$(ask bridge 203.0.113.2 5000)"
stop_docker
unload_all
load_modules ours
start_docker
check_rules "$what"
masquerades > "$scratch/ours"
check_shown "$what"
check_masqueraded "$what, IPv4" '^203.0.113.1:' ask bridge 203.0.113.2 5000
check_masqueraded "$what, IPv6" '^.2001:0db8:0001:0000:0000:0000:0000:0001.:' ask six 2001:db8:1::2 5006
stop_docker
check_no_rules "$what"
unload_all

done_testing
