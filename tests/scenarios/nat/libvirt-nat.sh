#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Front ends: legacy nft
# Kernels: plain
#
# RUSTMASQ replaces MASQUERADE in the rules that libvirt makes for a NAT network, or the module serves MASQUERADE itself,
# beside the owner's own chains. Two virtual machines are connected to a bridge: "guest" serves hosts outside through
# forwarded ports, "desk" is a client only. Without one of the rules, the part that needs it does not work.
#
#     guest                                 router                          outside
#     eth0 ---------------- vnet0 \                        wan0 ------------- eth0
#     192.168.2.10               virbr0 192.168.2.1   203.0.113.1/24    203.0.113.2/24
#     desk                       /                                      203.0.113.3
#     eth0 ---------------- vnet1
#     192.168.2.20
#
# No host outside has a route to 192.168.2.0/24, except where the scenario tries to get in.
# shellcheck source-path=SCRIPTDIR source=../../lib/conversation.sh
. "$(dirname "$0")/../../lib/conversation.sh"

# --- The network

setup_ns guest desk router outside
ip -n router link add virbr0 type bridge || bail "a bridge"
setup_device router virbr0 192.168.2.1/24
setup_link guest eth0 192.168.2.10/24 router vnet0 -
setup_link desk eth0 192.168.2.20/24 router vnet1 -
setup_link router wan0 203.0.113.1/24 outside eth0 203.0.113.2/24
ip -n router -batch - <<-END || bail "the bridge's ports"
	link set vnet0 master virbr0
	link set vnet1 master virbr0
END
ip -n outside addr add 203.0.113.3/24 dev eth0
for name in guest desk; do ip -n $name route add default via 192.168.2.1; done
enable_forwarding router
# No rate limit may drop an ICMP error.
ns_exec router sh -c 'echo 0 > /proc/sys/net/ipv4/icmp_ratelimit'

# --- The rules

# The chains that libvirt makes for a network of mode "nat", in its order.
libvirt_filter=$(cat <<-'END'
	:LIBVIRT_INP -
	:LIBVIRT_OUT -
	:LIBVIRT_FWI -
	:LIBVIRT_FWO -
	:LIBVIRT_FWX -
	-A INPUT -j LIBVIRT_INP
	-A FORWARD -j LIBVIRT_FWX
	-A FORWARD -j LIBVIRT_FWI
	-A FORWARD -j LIBVIRT_FWO
	-A OUTPUT -j LIBVIRT_OUT
	-A LIBVIRT_INP -i virbr0 -p udp -m udp --dport 53 -j ACCEPT
	-A LIBVIRT_INP -i virbr0 -p tcp -m tcp --dport 53 -j ACCEPT
	-A LIBVIRT_INP -i virbr0 -p udp -m udp --dport 67 -j ACCEPT
	-A LIBVIRT_INP -i virbr0 -p tcp -m tcp --dport 67 -j ACCEPT
	-A LIBVIRT_OUT -o virbr0 -p udp -m udp --dport 53 -j ACCEPT
	-A LIBVIRT_OUT -o virbr0 -p tcp -m tcp --dport 53 -j ACCEPT
	-A LIBVIRT_OUT -o virbr0 -p udp -m udp --dport 68 -j ACCEPT
	-A LIBVIRT_OUT -o virbr0 -p tcp -m tcp --dport 68 -j ACCEPT
	-A LIBVIRT_FWI -d 192.168.2.0/24 -o virbr0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
	-A LIBVIRT_FWI -o virbr0 -j REJECT --reject-with icmp-port-unreachable
	-A LIBVIRT_FWO -s 192.168.2.0/24 -i virbr0 -j ACCEPT
	-A LIBVIRT_FWO -i virbr0 -j REJECT --reject-with icmp-port-unreachable
	-A LIBVIRT_FWX -i virbr0 -o virbr0 -j ACCEPT
END
)
libvirt_nat_return=$(cat <<-'END'
	-A LIBVIRT_PRT -s 192.168.2.0/24 -d 224.0.0.0/24 -j RETURN
	-A LIBVIRT_PRT -s 192.168.2.0/24 -d 255.255.255.255/32 -j RETURN
END
)
# With iptables-nft they are as libvirt writes them, and the module serves them.
masquerade=RUSTMASQ
if [[ $IPTABLES == iptables-nft ]]; then
	masquerade=MASQUERADE
	wait_until unload_module || bail "the module is held"
	remove_other_masquerade || bail "MASQUERADE is held"
	modprobe rustmasq masquerade=1 || bail "the module"
fi
libvirt_nat=$(cat <<-END
	-A LIBVIRT_PRT -s 192.168.2.0/24 ! -d 192.168.2.0/24 -p tcp -j $masquerade --to-ports 32768-65535
	-A LIBVIRT_PRT -s 192.168.2.0/24 ! -d 192.168.2.0/24 -p udp -j $masquerade --to-ports 32768-65535
	-A LIBVIRT_PRT -s 192.168.2.0/24 ! -d 192.168.2.0/24 -j $masquerade
END
)
# The last two rules forward to a port range: one port to any port of the range, and each port to the one with the same
# offset.
owner_dnat=$(cat <<-'END'
	-A PREROUTING -j OWNER_PRE
	-A OWNER_PRE -d 203.0.113.1/32 -p tcp --dport 32001 -j DNAT --to-destination 192.168.2.10:22
	-A OWNER_PRE -d 203.0.113.1/32 -p udp --dport 32002 -j DNAT --to-destination 192.168.2.10:69
	-A OWNER_PRE -d 203.0.113.1/32 -p tcp --dport 32003 -j DNAT --to-destination 192.168.2.10:53
	-A OWNER_PRE -d 203.0.113.1/32 -p udp --dport 32003 -j DNAT --to-destination 192.168.2.10:53
	-A OWNER_PRE -d 203.0.113.1/32 -p tcp --dport 32004 -j DNAT --to-destination 192.168.2.10:110
	-A OWNER_PRE -d 203.0.113.1/32 -p tcp --dport 32005 -j DNAT --to-destination 192.168.2.10:143
	-A OWNER_PRE -d 203.0.113.1/32 -p tcp --dport 32006 -j DNAT --to-destination 192.168.2.10:2525
	-A OWNER_PRE -d 203.0.113.1/32 -p udp --dport 32007 -j DNAT --to-destination 192.168.2.10:514
	-A OWNER_PRE -d 203.0.113.1/32 -p tcp --dport 32010 -j DNAT --to-destination 192.168.2.10:8000-8003
	-A OWNER_PRE -d 203.0.113.1/32 -p tcp --dport 32020:32023 -j DNAT --to-destination 192.168.2.10:8000-8003/32020
END
)
# Packets from outside may reach the forwarded ports only, not the router. The guest may not start flows to high UDP
# ports outside. Nobody may send mail directly.
owner_filter=$(cat <<-'END'
	:OWNER_INP -
	:OWNER_FWD -
	-A INPUT -j OWNER_INP
	-A FORWARD -j OWNER_FWD
	-A OWNER_INP -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
	-A OWNER_INP -i wan0 -p tcp -j REJECT --reject-with tcp-reset
	-A OWNER_INP -i wan0 -j REJECT --reject-with icmp-port-unreachable
	-A OWNER_FWD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
	-A OWNER_FWD -d 192.168.2.10/32 -i wan0 -m conntrack --ctstate DNAT -j ACCEPT
	-A OWNER_FWD -s 192.168.2.10/32 -o wan0 -p udp -m udp --dport 1024:65535 -j REJECT --reject-with icmp-admin-prohibited
	-A OWNER_FWD -o wan0 -p tcp -m tcp --dport 25 -j REJECT --reject-with tcp-reset
END
)

# load_rules: replaces the router's rules by the owner's and libvirt's, except lines that match $omitted, and removes
# its flows.
omitted='^$'
load_rules() {
	grep -vE -e "$omitted" <<-END | ns_exec router "$IPTABLES-restore" -w || bail "the rules"
		*raw
		-A PREROUTING -p udp -m udp --dport 32002 -j CT --helper rustmasq-tftp
		-A PREROUTING -i virbr0 -p udp -m udp --dport 69 -j CT --helper rustmasq-tftp
		COMMIT
		*mangle
		:LIBVIRT_PRT -
		-A POSTROUTING -j LIBVIRT_PRT
		-A LIBVIRT_PRT -o virbr0 -p udp -m udp --dport 68 -j CHECKSUM --checksum-fill
		COMMIT
		*nat
		:OWNER_PRE -
		:OWNER_PRT -
		:LIBVIRT_PRT -
		$owner_dnat
		-A POSTROUTING -j OWNER_PRT
		-A OWNER_PRT -d 203.0.113.3/32 -p tcp -m tcp --dport 7000 -j ACCEPT
		-A POSTROUTING -j LIBVIRT_PRT
		$libvirt_nat_return
		$libvirt_nat
		COMMIT
		*filter
		$owner_filter
		$libvirt_filter
		COMMIT
	END
	ns_exec router conntrack -F 2> /dev/null
}
load_rules

# refused_packets RULE: prints how many packets this rule of OWNER_INP or OWNER_FWD has refused. RULE is a part of its
# line.
refused_packets() {
	ns_exec router "$IPTABLES" -w -t filter -S -v | sed -nE "/$1/s/.* -c ([0-9]+) .*/\1/p"
}
has_refused() { [[ $(refused_packets "$1") -gt 0 ]]; }

# --- Services

peers_start conversation.py
peers serve guest TCP 192.168.2.10 22 SSH-2.0-OpenSSH_9.2
peers serve guest TCP 192.168.2.10 110 +OK POP3
peers serve guest TCP 192.168.2.10 143 '* OK IMAP4rev1'
peers serve guest TCP 192.168.2.10 2525 220 house.example ESMTP
peers serve guest UDP 192.168.2.10 514 mute
for port in 8000 8001 8002 8003; do peers serve guest TCP 192.168.2.10 $port this is $port; done
# These must not be reachable from outside.
peers serve guest TCP 192.168.2.10 9000
peers serve guest UDP 192.168.2.10 9000
peers serve router TCP 0.0.0.0 9000
peers serve router UDP 0.0.0.0 9000
peers serve desk UDP 224.0.0.251 5353 mute
peers serve desk UDP 0.0.0.0 68 mute
for port in 7 25 7000; do peers serve outside TCP 0.0.0.0 $port; done
for port in 7 5000; do peers serve outside UDP 0.0.0.0 $port; done

served=$scratch/served
mkdir "$served" "$scratch/own"
echo "for everybody" > "$served/file"
cd "$scratch/own" || bail "a folder"
chmod -R a+rwX "$scratch"
declare -A address=([guest]=192.168.2.10 [outside]=203.0.113.2)
for name in guest outside; do
	ns_start $name in.tftpd --foreground --listen -4 --user root --secure --port-range 50000:50009 "$served"
	wait_until listening $name UDP 69 || bail "a TFTP server"
	# in.tftpd does not answer the first request.
	ns_exec $name bash -c "printf '\0\1none\0octet\0' > /dev/udp/${address[$name]}/69"
done
ns_start guest dnsmasq --keep-in-foreground --conf-file=/dev/null --no-resolv --no-hosts --user=root --pid-file= \
	--listen-address=192.168.2.10 --bind-interfaces --address=/www.house.example/192.0.2.77 2> "$scratch/dnsmasq"
wait_until listening guest TCP 53 || bail "a DNS server: $(cat "$scratch/dnsmasq")"

# tftp_get HOST SERVER PORT CLIENT-PORT: fetches `file` with a TFTP client and prints what arrived.
tftp_get() {
	rm -f got
	ns_exec "$1" tftp -4 -m octet -R "$4:$4" "$2" "$3" -c get file got > /dev/null 2>&1
	cat got 2> /dev/null
}

# check_tracked_tftp WHAT LINES: does what check_tracked does. The server's port, one of its range, becomes 50000.
check_tracked_tftp() {
	check_equal "$1" "$(LC_ALL=C sort <<< "$2")" "$(list_conntrack | sed -E 's/\b5000[0-9]\b/50000/g')"
}

# --- Without some of the rules

omitted=$masquerade load_rules
check_said "without $masquerade, the desk gets no answer" silence vain-ask desk UDP 203.0.113.2 7 :2000 hello
check_tracked "without $masquerade, its packets leave with its own address" \
	"udp src=192.168.2.20 dst=203.0.113.2 sport=2000 dport=7 [UNREPLIED] src=203.0.113.2 dst=192.168.2.20 sport=7 dport=2000"
omitted=DNAT load_rules
check_said "without DNAT, the router refuses connections to the forwarded ports" \
	"reset: 32001 32003 32004 32005 32006 32007 32010 32020" \
	scan outside TCP 203.0.113.1 32001 32003-32007 32010 32020
omitted='^$' load_rules

# --- From outside

# check_service NAME PORT GUEST-PORT CLIENT-PORT BANNER: connects to a forwarded port, and checks what both ends see.
# Adds the flow to `services`.
services=
check_service() {
	check_said "$1 ($2 to $3): the client is connected to the guest's server" \
		connected open "$2" outside TCP 203.0.113.1 "$2" ":$4"
	check_said "$1 ($2 to $3): the client receives the server's banner" "$5" hear "$2"
	check_said "$1 ($2 to $3): the server sees the client's own address" "203.0.113.2:$4 hello" say "$2" hello
	services+="tcp ESTABLISHED src=203.0.113.2 dst=203.0.113.1 sport=$4 dport=$2"
	services+=" src=192.168.2.10 dst=203.0.113.2 sport=$3 dport=$4 [ASSURED]"$'\n'
}
check_service ssh 32001 22 1001 SSH-2.0-OpenSSH_9.2
check_service pop3 32004 110 1004 "+OK POP3"
check_service imap 32005 143 1005 "* OK IMAP4rev1"
check_service smtp 32006 2525 1006 "220 house.example ESMTP"
for n in 0 3; do check_service "port $n of a range" 3202$n 800$n 102$n "this is 800$n"; done
for protocol in TCP UDP; do
	check_said "DNS by $protocol (32003 to 53): the name is resolved" 192.0.2.77 \
		resolve outside $protocol 203.0.113.1 32003 :1003 www.house.example
done
peers tell outside UDP 203.0.113.1 32007 :1007 '<34>a line'
check_heard "syslog (32007 to 514): the line arrives" "203.0.113.2:1007 <34>a line" guest UDP 514
check_tracked "services: conntrack has exactly these flows" "${services}$(cat <<-'END'
	tcp ESTABLISHED src=203.0.113.2 dst=203.0.113.1 sport=1003 dport=32003 src=192.168.2.10 dst=203.0.113.2 sport=53 dport=1003 [ASSURED]
	udp src=203.0.113.2 dst=203.0.113.1 sport=1003 dport=32003 src=192.168.2.10 dst=203.0.113.2 sport=53 dport=1003
	udp src=203.0.113.2 dst=203.0.113.1 sport=1007 dport=32007 [UNREPLIED] src=192.168.2.10 dst=203.0.113.2 sport=514 dport=1007
END
)"
end_conversations

for n in 1 2 3; do
	check_said "a port forwarded to a range, connection $n: the client is connected" \
		connected open $n outside TCP 203.0.113.1 32010 ":101$n"
	check_said_like "a port forwarded to a range, connection $n: a server of the range answers" \
		'^this is 800[0-3]$' hear $n
	check_match "a port forwarded to a range, connection $n: conntrack has that server's port" \
		"dport=32010 src=192.168.2.10 dst=203.0.113.2 sport=${said##* } dport=101$n " "$(list_conntrack)"
done
end_conversations

check_equal "TFTP (32002 to 69): the client gets the file" "for everybody" "$(tftp_get outside 203.0.113.1 32002 2001)"
check_tracked_tftp "TFTP (32002 to 69): conntrack has exactly these flows" "$(cat <<-'END'
	udp src=203.0.113.2 dst=203.0.113.1 sport=2001 dport=32002 [UNREPLIED] src=192.168.2.10 dst=203.0.113.2 sport=69 dport=2001
	udp src=192.168.2.10 dst=203.0.113.2 sport=50000 dport=2001 src=203.0.113.2 dst=203.0.113.1 sport=2001 dport=50000
END
)"
check_match "TFTP (32002 to 69): the flow has the helper rustmasq-tftp" \
	"dport=32002 .* helper=rustmasq-tftp" "$(tracked -p udp --orig-port-src 2001)"
end_conversations

# --- From inside

check_equal "TFTP to outside: the desk gets the file" "for everybody" "$(tftp_get desk 203.0.113.2 69 40069)"
check_tracked_tftp "TFTP to outside: conntrack has exactly these flows" "$(cat <<-'END'
	udp src=192.168.2.20 dst=203.0.113.2 sport=40069 dport=69 [UNREPLIED] src=203.0.113.2 dst=203.0.113.1 sport=69 dport=40069
	udp src=203.0.113.2 dst=203.0.113.1 sport=50000 dport=40069 src=192.168.2.20 dst=203.0.113.2 sport=40069 dport=50000
END
)"
check_equal "TFTP to outside from a port that NAT changes: the desk gets the file" \
	"for everybody" "$(tftp_get desk 203.0.113.2 69 2069)"
end_conversations

for protocol in TCP UDP; do
	check_said "$protocol to outside: a source port in the range is kept" "203.0.113.1:40000 hello" \
		ask desk $protocol 203.0.113.2 7 :40000 hello
	check_said_like "$protocol to outside: a source port outside the range is replaced" \
		"^203.0.113.1:[0-9]* hello$" \
		ask desk $protocol 203.0.113.2 7 :2000 hello
	port=${said#*:}
	check_port "$protocol to outside: the new port is in the range" 32768 65535 "${port% hello}"
	check_said_like "$protocol to outside: a source port that the desk has already is replaced for the guest" \
		"^203.0.113.1:[0-9]* hello$" \
		ask guest $protocol 203.0.113.2 7 :40000 hello
	port=${said#*:}
	check_port "$protocol to outside: the guest's new port is in the range" 32768 65535 "${port% hello}"
	check "$protocol to outside: the guest's new port is not the desk's" test "${port% hello}" != 40000
done
for name in desk guest; do check_said "ping to outside by $name" "answer from 203.0.113.2" ping $name 203.0.113.2 5; done
check_tracked "flows to outside: conntrack has exactly these" "$(
	for protocol in 'tcp ESTABLISHED' udp; do
		[[ $protocol == udp ]] && end='' || end=' [ASSURED]'
		cat <<-END
			$protocol src=192.168.2.20 dst=203.0.113.2 sport=40000 dport=7 src=203.0.113.2 dst=203.0.113.1 sport=7 dport=40000$end
			$protocol src=192.168.2.20 dst=203.0.113.2 sport=2000 dport=7 src=203.0.113.2 dst=203.0.113.1 sport=7 dport=MOVED$end
			$protocol src=192.168.2.10 dst=203.0.113.2 sport=40000 dport=7 src=203.0.113.2 dst=203.0.113.1 sport=7 dport=MOVED$end
		END
	done
	cat <<-END
		icmp src=192.168.2.20 dst=203.0.113.2 type=8 code=0 id=5 src=203.0.113.2 dst=203.0.113.1 type=0 code=0 id=5
		icmp src=192.168.2.10 dst=203.0.113.2 type=8 code=0 id=5 src=203.0.113.2 dst=203.0.113.1 type=0 code=0 id=OTHER
	END
)"
end_conversations

# Packets between the two, and from the router to many hosts, are not translated.
check_said "the desk reaches the guest with its own address" \
	"192.168.2.20:2000 hello" ask desk UDP 192.168.2.10 9000 :2000 hello
check_tracked "the bridge forwards that without conntrack" ""

# check_sent_to_many WHAT SOURCE-PORT ADDRESS PORT SEEN-PORT: sends from the router to a multicast or broadcast address.
# Checks the source port that the desk sees.
check_sent_to_many() {
	peers shout router virbr0 "192.168.2.1:$2" "$3" "$4" hello
	check_heard "$1" "192.168.2.1:$5 hello" desk UDP "$4"
}
check_sent_to_many "to a multicast group, the router's source port is kept" 5353 224.0.0.251 5353 5353
check_sent_to_many "to all hosts, the router's source port is kept, as DHCP requires" 67 255.255.255.255 68 67
check_match "to all hosts: libvirt's rule fills in the checksum" "-c [1-9]" \
	"$(ns_exec router "$IPTABLES" -w -t mangle -S LIBVIRT_PRT -v | grep CHECKSUM)"
check_tracked "to many hosts: conntrack has exactly these flows, without NAT" "$(cat <<-'END'
	udp src=192.168.2.1 dst=224.0.0.251 sport=5353 dport=5353 [UNREPLIED] src=224.0.0.251 dst=192.168.2.1 sport=5353 dport=5353
	udp src=192.168.2.1 dst=255.255.255.255 sport=67 dport=68 [UNREPLIED] src=255.255.255.255 dst=192.168.2.1 sport=68 dport=67
END
)"

# --- Packets that are refused

end_conversations
check_said "TCP from outside: the router refuses all other ports" \
	"reset: 21 22 23 53 69 110 143 514 2525 8000 8001 8002 8003 \
9000 32000 32002 32007 32008 32009 32011 32019 32024" scan outside TCP 203.0.113.1 \
	21-23 53 69 110 143 514 2525 8000-8003 9000 32000 32002 32007-32009 32011 32019 32024
check_said "UDP from outside: the router refuses all other ports" \
	"ICMP 3 3 from 203.0.113.1: 22 53 67 68 69 514 9000 32000 32001 32004 32005 32006 \
32008 32010 32020" scan outside UDP 203.0.113.1 22 53 67-69 514 9000 32000-32001 32004-32006 32008 32010 32020
ip -n outside route add 192.168.2.0/24 via 203.0.113.1
check_said "TCP from outside to the guest's own address: all ports are refused" \
	"ICMP 3 3 from 203.0.113.1: 22 53 110 143 2525 8000 9000" \
	scan outside TCP 192.168.2.10 22 53 110 143 2525 8000 9000
check_said "UDP from outside to the guest's own address: all ports are refused" \
	"ICMP 3 3 from 203.0.113.1: 53 69 514 9000" scan outside UDP 192.168.2.10 53 69 514 9000
check_said "ping from outside to the guest's own address is refused" \
	"ICMP 3 3 from 203.0.113.1" ping outside 192.168.2.10 7
check_said "the desk may not send mail to outside" reset ask desk TCP 203.0.113.2 25 :2025 hello
check_said "the guest may not start a UDP flow to a high port outside" "ICMP 3 13 from 192.168.2.1" \
	ask guest UDP 203.0.113.2 5000 :2050 hello
ip -n desk addr add 192.168.3.20/32 dev eth0
ip -n router route add 192.168.3.20/32 via 192.168.2.20
for protocol in TCP UDP; do
	check_said "$protocol with a source address of another network is refused" "ICMP 3 3 from 192.168.2.1" \
		ask desk $protocol 203.0.113.2 7 192.168.3.20:2007 hello
done
check_said "ping with a source address of another network is refused" \
	"ICMP 3 3 from 192.168.2.1" ping desk 203.0.113.2 8 192.168.3.20
check_tracked "no refused packet leaves a conntrack entry" ""

check_said "a flow that the owner's chain accepts first is not translated" "192.168.2.20:2500 hello" \
	ask desk TCP 203.0.113.3 7000 192.168.2.20:2500 hello
check_said "a flow to another address is translated" \
	"203.0.113.1:42500 hello" ask desk TCP 203.0.113.2 7000 192.168.2.20:42500 hello
ip -n outside route del 192.168.2.0/24
end_conversations

# --- Each rule is needed

omitted=RETURN load_rules
peers shout router virbr0 192.168.2.1:5353 224.0.0.251 5353 hello
check "without RETURN, conntrack tracks what the router sends to a multicast group" \
	wait_until ns_exec router grep -q 'sport=5353 dport=5353 ' /proc/net/nf_conntrack
check_tracked "without RETURN, it leaves from another port" \
	"udp src=192.168.2.1 dst=224.0.0.251 sport=5353 dport=5353 [UNREPLIED] src=224.0.0.251 dst=192.168.2.1 sport=5353 dport=MOVED"
omitted=helper load_rules
rm -f got
ns_start desk tftp -4 -m octet 203.0.113.2 69 -c get file got > /dev/null 2>&1
check "without the helper, the router refuses the server's answer from outside" \
	wait_until has_refused 'OWNER_INP .*port-unreachable'
ns_start outside tftp -4 -m octet 203.0.113.1 32002 -c get file got > /dev/null 2>&1
check "without the helper, the router refuses the guest's answer" wait_until has_refused 'OWNER_FWD .*admin-prohib'
check_fails "without the helper, no client gets the file" test -s got

if [[ $masquerade == MASQUERADE ]]; then
	check "no rule was served by the kernel's own MASQUERADE" no_other_masquerade
	ns_exec router "$IPTABLES" -w -t nat -F
	check "the module can be unloaded" wait_until unload_module
fi

done_testing
