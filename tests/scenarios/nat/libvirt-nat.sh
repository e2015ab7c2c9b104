#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Front ends: legacy nft
#
# A household as libvirt sets it up, with RUSTMASQ where it has MASQUERADE, and with
# chains of the owner's in front of libvirt's: two guests at a bridge, one of which
# serves the world through ports of the router.
#
#     guest                                 router                          outside
#     eth0 ---------------- vnet0 \                        wan0 ------------- eth0
#     192.168.2.10               virbr0 192.168.2.1   203.0.113.1/24    203.0.113.2/24
#     desk                       /                                      203.0.113.3
#     eth0 ---------------- vnet1
#     192.168.2.20
#
# Nobody outside knows a way to 192.168.2.0/24, but for one who tries what is not
# his business.
# shellcheck source-path=SCRIPTDIR source=../../lib/conversation.sh
. "$(dirname "$0")/../../lib/conversation.sh"

# --- Who is there

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
# Who is refused is told so each time.
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
not_for_all=$(cat <<-'END'
	-A LIBVIRT_PRT -s 192.168.2.0/24 -d 224.0.0.0/24 -j RETURN
	-A LIBVIRT_PRT -s 192.168.2.0/24 -d 255.255.255.255/32 -j RETURN
END
)
libvirt_nat=$(cat <<-'END'
	-A LIBVIRT_PRT -s 192.168.2.0/24 ! -d 192.168.2.0/24 -p tcp -j RUSTMASQ --to-ports 32768-65535
	-A LIBVIRT_PRT -s 192.168.2.0/24 ! -d 192.168.2.0/24 -p udp -j RUSTMASQ --to-ports 32768-65535
	-A LIBVIRT_PRT -s 192.168.2.0/24 ! -d 192.168.2.0/24 -j RUSTMASQ
END
)
# A port range each way: any of its ports, and the one at the same distance from 32020.
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
# What the world may, what the guest that serves may (nothing that nobody asked for), what
# the router itself lets in; and a host that no translation is wanted for.
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

# load_rules: the owner's rules, then libvirt's. What may be missing: $without (a pattern of lines).
without='^$'
load_rules() {
	grep -vE -e "$without" <<-END | ns_exec router "$IPTABLES-restore" -w || bail "the rules"
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
		$not_for_all
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

# refused_packets RULE: how many packets this rule of OWNER_INP or OWNER_FWD has refused; RULE is a part of its line.
refused_packets() {
	ns_exec router "$IPTABLES" -w -t filter -S -v | sed -nE "/$1/s/.* -c ([0-9]+) .*/\1/p"
}
refuses() { [[ $(refused_packets "$1") -gt 0 ]]; }

# --- Services

peers_start conversation.py
peers serve guest TCP 192.168.2.10 22 SSH-2.0-OpenSSH_9.2
peers serve guest TCP 192.168.2.10 110 +OK POP3
peers serve guest TCP 192.168.2.10 143 '* OK IMAP4rev1'
peers serve guest TCP 192.168.2.10 2525 220 house.example ESMTP
peers serve guest UDP 192.168.2.10 514 mute
for port in 8000 8001 8002 8003; do peers serve guest TCP 192.168.2.10 $port this is $port; done
# What nobody outside is to reach.
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
	# It does not answer the first request.
	ns_exec $name bash -c "printf '\0\1none\0octet\0' > /dev/udp/${address[$name]}/69"
done
ns_start guest dnsmasq --keep-in-foreground --conf-file=/dev/null --no-resolv --no-hosts --user=root --pid-file= \
	--listen-address=192.168.2.10 --bind-interfaces --address=/www.house.example/192.0.2.77 2> "$scratch/dnsmasq"
wait_until listening guest TCP 53 || bail "a DNS server: $(cat "$scratch/dnsmasq")"

# get HOST SERVER PORT OWN-PORT: what a TFTP client gets as `file`.
get() {
	rm -f got
	ns_exec "$1" tftp -4 -m octet -R "$4:$4" "$2" "$3" -c get file got > /dev/null 2>&1
	cat got 2> /dev/null
}

# Which of its ports a TFTP server took is its own affair.
tftp_tracks() {
	check_equal "$1" "$(LC_ALL=C sort <<< "$2")" "$(list_conntrack | sed -E 's/\b5000[0-9]\b/50000/g')"
}

# --- Without the rules

without=RUSTMASQ load_rules
check_said "without RUSTMASQ, the desk's questions are not answered" silence vain-ask desk UDP 203.0.113.2 7 :2000 hello
check_tracked "... as they leave with an address that nobody knows" \
	"udp src=192.168.2.20 dst=203.0.113.2 sport=2000 dport=7 [UNREPLIED] src=203.0.113.2 dst=192.168.2.20 sport=7 dport=2000"
without=DNAT load_rules
check_said "without DNAT, the router itself refuses" "reset: 32001 32003 32004 32005 32006 32007 32010 32020" \
	scan outside TCP 203.0.113.1 32001 32003-32007 32010 32020
without='^$' load_rules

# --- From outside

# service NAME PORT REAL-PORT OWN-PORT BANNER
services=
service() {
	check_said "$1 ($2 to $3): the guest's server is there" connected open "$2" outside TCP 203.0.113.1 "$2" ":$4"
	check_said "... and says so" "$5" hear "$2"
	check_said "... and sees the client as it is" "203.0.113.2:$4 hello" say "$2" hello
	services+="tcp ESTABLISHED src=203.0.113.2 dst=203.0.113.1 sport=$4 dport=$2"
	services+=" src=192.168.2.10 dst=203.0.113.2 sport=$3 dport=$4 [ASSURED]"$'\n'
}
service ssh 32001 22 1001 SSH-2.0-OpenSSH_9.2
service pop3 32004 110 1004 "+OK POP3"
service imap 32005 143 1005 "* OK IMAP4rev1"
service smtp 32006 2525 1006 "220 house.example ESMTP"
for n in 0 3; do service "port $n of a range" 3202$n 800$n 102$n "this is 800$n"; done
for protocol in TCP UDP; do
	check_said "DNS by $protocol (32003 to 53): the name is known" 192.0.2.77 \
		resolve outside $protocol 203.0.113.1 32003 :1003 www.house.example
done
peers tell outside UDP 203.0.113.1 32007 :1007 '<34>a line'
check_heard "syslog (32007 to 514): the line is heard" "203.0.113.2:1007 <34>a line" guest UDP 514
check_tracked "conntrack has each of these, and nothing else" "${services}$(cat <<-'END'
	tcp ESTABLISHED src=203.0.113.2 dst=203.0.113.1 sport=1003 dport=32003 src=192.168.2.10 dst=203.0.113.2 sport=53 dport=1003 [ASSURED]
	udp src=203.0.113.2 dst=203.0.113.1 sport=1003 dport=32003 src=192.168.2.10 dst=203.0.113.2 sport=53 dport=1003
	udp src=203.0.113.2 dst=203.0.113.1 sport=1007 dport=32007 [UNREPLIED] src=192.168.2.10 dst=203.0.113.2 sport=514 dport=1007
END
)"
end_conversations

for n in 1 2 3; do
	check_said "a range of ports: $n" connected open $n outside TCP 203.0.113.1 32010 ":101$n"
	check_said_like "... one of them answers" '^this is 800[0-3]$' hear $n
	check_match "... as conntrack has it" "dport=32010 src=192.168.2.10 dst=203.0.113.2 sport=${said##* } dport=101$n " \
		"$(list_conntrack)"
done
end_conversations

check_equal "TFTP (32002 to 69): the file is got" "for everybody" "$(get outside 203.0.113.1 32002 2001)"
tftp_tracks "... from where the request went to" "$(cat <<-'END'
	udp src=203.0.113.2 dst=203.0.113.1 sport=2001 dport=32002 [UNREPLIED] src=192.168.2.10 dst=203.0.113.2 sport=69 dport=2001
	udp src=192.168.2.10 dst=203.0.113.2 sport=50000 dport=2001 src=203.0.113.2 dst=203.0.113.1 sport=2001 dport=50000
END
)"
check_match "... by our helper" "dport=32002 .* helper=rustmasq-tftp" "$(tracked -p udp --orig-port-src 2001)"
end_conversations

# --- From within

check_equal "TFTP to outside: the file is got" "for everybody" "$(get desk 203.0.113.2 69 40069)"
tftp_tracks "... from the port that answered" "$(cat <<-'END'
	udp src=192.168.2.20 dst=203.0.113.2 sport=40069 dport=69 [UNREPLIED] src=203.0.113.2 dst=203.0.113.1 sport=69 dport=40069
	udp src=203.0.113.2 dst=203.0.113.1 sport=50000 dport=40069 src=192.168.2.20 dst=203.0.113.2 sport=40069 dport=50000
END
)"
check_equal "... from a port that moves, too" "for everybody" "$(get desk 203.0.113.2 69 2069)"
end_conversations

for protocol in TCP UDP; do
	check_said "$protocol to outside: a port of the range stays" "203.0.113.1:40000 hello" \
		ask desk $protocol 203.0.113.2 7 :40000 hello
	check_said_like "... one that is not does not" "^203.0.113.1:[0-9]* hello$" ask desk $protocol 203.0.113.2 7 :2000 hello
	port=${said#*:}
	check_port "... but is in it" 32768 65535 "${port% hello}"
	check_said_like "... nor the other guest's same port" "^203.0.113.1:[0-9]* hello$" \
		ask guest $protocol 203.0.113.2 7 :40000 hello
	port=${said#*:}
	check_port "... which is in it, too" 32768 65535 "${port% hello}"
	check "... and another one" test "${port% hello}" != 40000
done
for name in desk guest; do check_said "ping to outside by $name" "answer from 203.0.113.2" ping $name 203.0.113.2 5; done
check_tracked "conntrack has each of these, and nothing else" "$(
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

# Between the two, and with the router's neighbours, nothing is translated.
check_said "the guests among themselves" "192.168.2.20:2000 hello" ask desk UDP 192.168.2.10 9000 :2000 hello
check_tracked "... are the bridge's business" ""

# shouts WHAT SOURCE-PORT ADDRESS SEEN...: what desk hears when the router sends to many.
shouts() {
	peers shout router virbr0 "192.168.2.1:$2" "$3" "$4" hello
	check_heard "$1" "192.168.2.1:$5 hello" desk UDP "$4"
}
shouts "to a multicast group, the router keeps its port" 5353 224.0.0.251 5353 5353
shouts "... and to all hosts, as DHCP must" 67 255.255.255.255 68 67
check_match "... where libvirt has the checksum filled in" "-c [1-9]" \
	"$(ns_exec router "$IPTABLES" -w -t mangle -S LIBVIRT_PRT -v | grep CHECKSUM)"
check_tracked "... with entries that are not translated" "$(cat <<-'END'
	udp src=192.168.2.1 dst=224.0.0.251 sport=5353 dport=5353 [UNREPLIED] src=224.0.0.251 dst=192.168.2.1 sport=5353 dport=5353
	udp src=192.168.2.1 dst=255.255.255.255 sport=67 dport=68 [UNREPLIED] src=255.255.255.255 dst=192.168.2.1 sport=68 dport=67
END
)"

# --- What is refused

end_conversations
check_said "TCP from outside: nothing else of the router's is open" "reset: 21 22 23 53 69 110 143 514 2525 8000 8001 8002 8003 \
9000 32000 32002 32007 32008 32009 32011 32019 32024" scan outside TCP 203.0.113.1 \
	21-23 53 69 110 143 514 2525 8000-8003 9000 32000 32002 32007-32009 32011 32019 32024
check_said "UDP from outside: nothing else" "ICMP 3 3 from 203.0.113.1: 22 53 67 68 69 514 9000 32000 32001 32004 32005 32006 \
32008 32010 32020" scan outside UDP 203.0.113.1 22 53 67-69 514 9000 32000-32001 32004-32006 32008 32010 32020
ip -n outside route add 192.168.2.0/24 via 203.0.113.1
check_said "TCP from outside to the guest itself: nothing" "ICMP 3 3 from 203.0.113.1: 22 53 110 143 2525 8000 9000" \
	scan outside TCP 192.168.2.10 22 53 110 143 2525 8000 9000
check_said "UDP: nothing" "ICMP 3 3 from 203.0.113.1: 53 69 514 9000" scan outside UDP 192.168.2.10 53 69 514 9000
check_said "ping: nothing" "ICMP 3 3 from 203.0.113.1" ping outside 192.168.2.10 7
check_said "the desk may not send mail itself" reset ask desk TCP 203.0.113.2 25 :2025 hello
check_said "nor may the guest that serves begin anything" "ICMP 3 13 from 192.168.2.1" \
	ask guest UDP 203.0.113.2 5000 :2050 hello
ip -n desk addr add 192.168.3.20/32 dev eth0
ip -n router route add 192.168.3.20/32 via 192.168.2.20
for protocol in TCP UDP; do
	check_said "nor anybody with another network's address: $protocol" "ICMP 3 3 from 192.168.2.1" \
		ask desk $protocol 203.0.113.2 7 192.168.3.20:2007 hello
done
check_said "... ICMP" "ICMP 3 3 from 192.168.2.1" ping desk 203.0.113.2 8 192.168.3.20
check_tracked "of none of these an entry stays" ""

check_said "what the owner's chain takes first, libvirt's does not translate" "192.168.2.20:2500 hello" \
	ask desk TCP 203.0.113.3 7000 192.168.2.20:2500 hello
check_said "... its neighbour it does" "203.0.113.1:42500 hello" ask desk TCP 203.0.113.2 7000 192.168.2.20:42500 hello
ip -n outside route del 192.168.2.0/24
end_conversations

# --- Each rule is needed

without=RETURN load_rules
peers shout router virbr0 192.168.2.1:5353 224.0.0.251 5353 hello
check "without RETURN, what goes to a multicast group" wait_until ns_exec router grep -q 'sport=5353 dport=5353 ' /proc/net/nf_conntrack
check_tracked "... leaves from another port" \
	"udp src=192.168.2.1 dst=224.0.0.251 sport=5353 dport=5353 [UNREPLIED] src=224.0.0.251 dst=192.168.2.1 sport=5353 dport=MOVED"
without=helper load_rules
rm -f got
ns_start desk tftp -4 -m octet 203.0.113.2 69 -c get file got > /dev/null 2>&1
check "without the helper, the router refuses what comes from outside" wait_until refuses 'OWNER_INP .*port-unreachable'
ns_start outside tftp -4 -m octet 203.0.113.1 32002 -c get file got > /dev/null 2>&1
check "... and what leaves the guest" wait_until refuses 'OWNER_FWD .*admin-prohib'
check_fails "... and nobody gets the file" test -s got

done_testing
