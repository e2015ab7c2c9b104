#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# The flow watch reports each flow by two events, one when conntrack has just created it and one right before conntrack
# confirms it, with the tuples that conntrack has, for every kind of NAT and without NAT. With the events off nothing is
# recorded. The network:
#
#     lan                 router                     server
#     lan0 ------------ lan0  wan0 ---------------- eth0
#     172.18.0.2       172.18.0.1   203.0.113.1      203.0.113.2
#     fd00:18::2       fd00:18::1   2001:db8:1::1    2001:db8:1::2
#
# Router and server route 198.51.100.0/24 and 2001:db8:2::/64 to each other: addresses to translate to and from.
. "$(dirname "$0")/../../lib/lib.sh"
. "$(dirname "$0")/../../lib/events.sh"

setup_lan
setup_lan_ipv6
mkdir "$scratch/files"
echo hello > "$scratch/files/hello"
# The server can answer the LAN without NAT.
ip -n server route add default via 203.0.113.1
ip -n server route add default via 2001:db8:1::1
ip -n router route add default via 203.0.113.2
ip -n router route add default via 2001:db8:1::2
# Each flow is to be the only one.
delay_sctp_heartbeats lan router server
for name in TCP UDP SCTP; do
	serve server $name 80
	serve server ${name}6 81
done
ns_start server dnsmasq --keep-in-foreground --user=root --pid-file= --port=0 --enable-tftp --tftp-root="$scratch/files"
ns_start server python3 -m pyftpdlib -p 21 -d "$scratch/files" 2> /dev/null
serve router UDP 80
serve router UDP6 81
me=$(netns router)

# both_iptables ARGUMENT...: runs the router's iptables of both families.
both_iptables() {
	ns_exec router "$IPTABLES" -w "$@" || bail "rule $*"
	ns_exec router "$IP6TABLES" -w "$@" || bail "rule $*"
}

# --- Flows, of which some run at the same time, and checks of all of them afterwards

number=20000
patience=30
what=() moved=() devices=() jobs=() ended=()

# begin_flow WHAT MOVED IN:OUT HOST PROTOCOL ADDRESS [PORT]: starts a flow in the background from port $number (or with
# that ICMP identifier), and increments it. MOVED and IN:OUT are what its events should say; "-" stands for no device.
begin_flow() {
	what[number]=$1 moved[number]=$2 devices[number]=$3
	gets_answer "${@:4}" &
	jobs[number]=$!
	((${#jobs[@]} < 5)) || finish_jobs
	number=$((number + 1))
}

# finish_jobs: waits for the flows in the background. Sets `ended` to their statuses.
finish_jobs() {
	local each
	for each in "${!jobs[@]}"; do
		wait "${jobs[each]}"
		ended[each]=$?
	done
	jobs=()
}

# gets_answer HOST PROTOCOL ADDRESS [PORT]: succeeds if a flow from port $number gets an answer.
gets_answer() {
	local family='' address=$3
	[[ $3 != *:* ]] || family=6 address=[$3]
	case $2 in
	ICMP) ns_exec "$1" ping -q -c 1 -W 5 -e $number "$3" > /dev/null ;;
	*) [[ $(probe "$1" "$2$family" "$address" "${4:-8$((${family:-0} / 6))}" "sourceport=$number") ]] ;;
	esac
}

# check_all_flows: waits for the answers, and checks the events of all flows since the last call.
check_all_flows() {
	local each
	finish_jobs
	read_flows
	for each in "${!what[@]}"; do
		check_equal "${what[each]}: an answer comes" 0 "${ended[each]}"
		check_flow "${what[each]}" "${moved[each]}" "${devices[each]}" " original=[^ ]*:$each->"
	done
	check_equal "there are no other flows and no other events" "${#what[@]} ${#what[@]} ${#what[@]}" \
		"${#entries[@]} ${#new[@]} ${#confirm[@]}"
	what=() moved=() devices=() ended=()
	forget_flows
}

# read_flows: reads the router's conntrack entries and the recorded events into `entries`, `new` and `confirm`.
read_flows() {
	mapfile -t entries < <(list_flows)
	mapfile -t new < <(events flow_new)
	mapfile -t confirm < <(events flow_confirm)
}

# pick PATTERN LINE...: sets `picked` to the lines that match.
pick() {
	local line
	picked=()
	for line in "${@:2}"; do
		[[ ! $line =~ $1 ]] || picked+=("$line")
	done
}

# check_flow WHAT MOVED IN:OUT PATTERN [NEW]: checks the events that read_flows read of the flow that matches. NEW is
# the status that an expectation gives a flow before it is new.
check_flow() {
	local in=${3%:*} out=${3#*:} icmp=0/0 first=PREROUTING last=POSTROUTING out_of_new=- nat='' entry counts
	pick "$4" "${entries[@]}"
	entry=${picked[0]:-} counts=${#picked[@]}
	[[ $in != - ]] || first=OUTPUT out_of_new=$out
	[[ $out != - ]] || last=INPUT
	[[ $entry != *proto=icmp\ * ]] || icmp=8/0
	[[ $entry != *proto=icmpv6* ]] || icmp=128/0
	[[ $2 != *source* ]] || nat+=' SRC_NAT'
	[[ $2 != *destination* ]] || nat+=' DST_NAT'
	pick "$4" "${new[@]}"
	counts+=" ${#picked[@]}"
	event_has "${picked[0]:-}" netns id proto original in out hook mark icmp
	check_equal "$1: flow_new describes the flow" \
		"netns=$me ${entry%% reply=*} in=$in out=$out_of_new hook=$first mark=0x0 icmp=$icmp${5:+ $5}" "$has"
	pick "$4" "${confirm[@]}"
	counts+=" ${#picked[@]}"
	event_has "${picked[0]:-}" netns id proto original reply untranslated moved in out hook mark icmp
	check_equal "$1: ... and flow_confirm, with conntrack's tuples" \
		"netns=$me $entry moved=$2 in=$in out=$out hook=$last mark=0x0 icmp=$icmp${5:+ EXPECTED}$nat" "$has"
	check_equal "$1: one entry, one event each" "1 1 1" "$counts"
}

# event_has EVENT NAME...: sets `has` to these fields and the status flags EXPECTED, SRC_NAT and DST_NAT.
event_has() {
	local word status
	pick_fields "$1" status
	IFS='|' read -ra status <<< "${taken#*=}"
	pick_fields "$@"
	has=$taken
	for word in "${status[@]}"; do
		case $word in EXPECTED | SRC_NAT | DST_NAT) has+=" $word" ;; esac
	done
}

# begin_untranslated_flows WHAT: starts flows without NAT.
begin_untranslated_flows() {
	local protocol
	for protocol in UDP TCP ICMP SCTP; do
		begin_flow "$1, IPv4, $protocol" nothing lan0:wan0 lan $protocol 203.0.113.2
		begin_flow "$1, IPv6, $protocol" nothing lan0:wan0 lan $protocol 2001:db8:1::2
		begin_flow "$1, IPv4, $protocol, from the router" nothing -:wan0 router $protocol 203.0.113.2
		begin_flow "$1, IPv6, $protocol, from the router" nothing -:wan0 router $protocol 2001:db8:1::2
	done
	begin_flow "$1, IPv4, to the router" nothing lan0:- lan UDP 172.18.0.1
	begin_flow "$1, IPv6, to the router" nothing lan0:- lan UDP fd00:18::1
	begin_flow "$1, IPv4, loopback" nothing -:lo router UDP 127.0.0.1
	begin_flow "$1, IPv6, loopback" nothing -:lo router UDP ::1
}

# --- Without rules of NAT

both_iptables -A FORWARD -m conntrack --ctstate INVALID -j DROP
# Flows should not expire before the checks, on a slow machine either.
# shellcheck disable=SC2016 # the other shell expands it
ns_exec router sh -c 'for file in /proc/sys/net/netfilter/nf_conntrack_*timeout*; do echo 600 > "$file"; done'
record_events flow_new flow_confirm
begin_untranslated_flows "no NAT"
check_all_flows

# --- With rules of which none matches

both_iptables -t nat -A POSTROUTING -p udp --sport 9 -j RUSTMASQ
# The debug kernel is too slow to repeat the flows.
if ((slow == 1)); then
	begin_untranslated_flows "no rule matches"
	check_all_flows
fi

# --- Every kind of NAT

# add_nat_rule CHAIN ARGUMENT...: appends a rule to table nat of $family.
add_nat_rule() {
	local program=$IPTABLES
	[[ $family == 4 ]] || program=$IP6TABLES
	ns_exec router "$program" -w -t nat -A "$@" || bail "rule $*"
}

for family in 4 6; do
	if [[ $family == 4 ]]; then
		server=203.0.113.2 local=127.0.0.1 router=172.18.0.1 port=80 icmp=icmp
		elsewhere=198.51.100.9 own=203.0.113.1 other=172.18.9.9 nft=ip
		endpoint() { printf '%s:%s' "$1" "$2"; }
	else
		server=2001:db8:1::2 local=::1 router=fd00:18::1 port=81 icmp=icmpv6
		elsewhere=2001:db8:2::9 own=2001:db8:1::1 other=fd00:18::9:9 nft=ip6
		endpoint() { printf '[%s]:%s' "$1" "$2"; }
	fi
	version="IPv$family"
	for target in RUSTMASQ $(compared && echo MASQUERADE); do
		add_nat_rule POSTROUTING -p udp --sport $number -j "$target"
		begin_flow "$version, $target, UDP" source-address lan0:wan0 lan UDP $server
		for protocol in TCP UDP SCTP; do
			add_nat_rule POSTROUTING -p ${protocol,,} --sport $number -j "$target" --to-ports 6000-6999
			begin_flow "$version, $target --to-ports, $protocol" 'source-address|source-port' lan0:wan0 lan $protocol $server
		done
	done
	add_nat_rule POSTROUTING -p $icmp -j RUSTMASQ --to-ports 1000-1999
	begin_flow "$version, RUSTMASQ --to-ports, ICMP" 'source-address|source-port' lan0:wan0 lan ICMP $server

	add_nat_rule POSTROUTING -p udp --sport $number -j SNAT --to-source $elsewhere
	begin_flow "$version, SNAT" source-address lan0:wan0 lan UDP $server
	add_nat_rule POSTROUTING -p tcp --sport $number -j SNAT --to-source "$(endpoint $own 6001)"
	begin_flow "$version, SNAT of a flow from the router, whose port alone changes" 'source-port|source-port-alone' -:wan0 router TCP $server
	add_nat_rule PREROUTING -p udp --sport $number -j DNAT --to-destination $server
	begin_flow "$version, DNAT" destination-address lan0:wan0 lan UDP $elsewhere
	add_nat_rule PREROUTING -p tcp --sport $number -j DNAT --to-destination "$(endpoint $server $port)"
	begin_flow "$version, DNAT to another port" 'destination-address|destination-port' lan0:wan0 lan TCP $elsewhere 8080
	add_nat_rule OUTPUT -p tcp --sport $number -j DNAT --to-destination "$(endpoint $server $port)"
	begin_flow "$version, DNAT of a flow from the router" 'destination-address|destination-port' -:wan0 router TCP $elsewhere 8080
	add_nat_rule PREROUTING -p tcp --sport $number -j DNAT --to-destination "$(endpoint $server $port)"
	add_nat_rule POSTROUTING -p tcp --sport $number -j RUSTMASQ --to-ports 6000-6999
	begin_flow "$version, DNAT and RUSTMASQ" 'source-address|source-port|destination-address|destination-port' \
		lan0:wan0 lan TCP $elsewhere 8080
	add_nat_rule PREROUTING -p udp --sport $number -j REDIRECT --to-ports $port
	begin_flow "$version, REDIRECT" 'destination-address|destination-port' lan0:- lan UDP $elsewhere 8080
	add_nat_rule OUTPUT -p udp --sport $number -j REDIRECT --to-ports $port
	begin_flow "$version, REDIRECT on the loopback device" destination-port -:lo router UDP $local 8080
	add_nat_rule INPUT -p udp --sport $number -j SNAT --to-source "$(endpoint $other 6002)"
	begin_flow "$version, SNAT in INPUT" 'source-address|source-port' lan0:- lan UDP $router

	ns_exec router nft "add table $nft other; add chain $nft other post { type nat hook postrouting priority srcnat; };
		add rule $nft other post udp sport $number masquerade to :7000-7999" || bail "nft"
	begin_flow "$version, masquerade of nftables" 'source-address|source-port' lan0:wan0 lan UDP $server
done
check_all_flows

# --- Flows that a helper expected: their NAT is set up before flow_new

flush_rules
both_iptables -t raw -A PREROUTING -p udp --dport 69 -j CT --helper tftp
both_iptables -t raw -A PREROUTING -p tcp --dport 21 -j CT --helper ftp
modprobe -a nf_nat_tftp nf_nat_ftp || bail "the kernel's own helpers"
add_rule -o wan0 -p udp -j RUSTMASQ --to-ports 6000-6999 || bail "rule"
add_rule6 -o wan0 -p udp -j RUSTMASQ --to-ports 6000-6999 || bail "rule"
add_rule -o wan0 -p tcp -j RUSTMASQ || bail "rule"
forget_flows

wait_until listening server UDP 69 || bail "no TFTP server"
wait_until listening server TCP 21 || bail "no FTP server"
# fetch ARGUMENT...: succeeds if curl gets the file.
fetch() { [[ $(ns_exec lan curl -s -m 10 "$@") == hello ]]; }
check "a file arrives by TFTP" fetch tftp://203.0.113.2/hello
check "a file arrives by TFTP, IPv6" fetch 'tftp://[2001:db8:1::2]/hello'
check "a file arrives by active FTP, where the server connects" fetch -P - ftp://203.0.113.2/hello
read_flows
check_flow "IPv4, the TFTP server's answer" 'destination-address|destination-port' wan0:lan0 \
	' original=203\.0\.113\.2:[0-9]+->203\.0\.113\.1:6[0-9]{3} ' 'EXPECTED DST_NAT'
check_flow "IPv6, the TFTP server's answer" 'destination-address|destination-port' wan0:lan0 \
	' original=\[2001:db8:1::2\]:[0-9]+->\[2001:db8:1::1\]:6[0-9]{3} ' 'EXPECTED DST_NAT'
check_flow "IPv4, the FTP server's data connection" destination-address wan0:lan0 \
	' proto=tcp original=203\.0\.113\.2:' 'EXPECTED DST_NAT'
forget_flows
check "a file arrives by passive FTP, where the client connects" fetch ftp://203.0.113.2/hello
read_flows
check_flow "IPv4, the FTP client's data connection" source-address lan0:wan0 \
	' proto=tcp original=[^ ]*->203\.0\.113\.2:[0-9]{3,} ' 'EXPECTED SRC_NAT'

# --- A flow that two namespaces track, and its mark

# CONNMARK sets the mark after flow_new.
both_iptables -t raw -F
ns_exec router "$IPTABLES" -w -t mangle -A PREROUTING -p udp --sport $number -j CONNMARK --set-mark 0x2a || bail "mark"
# The server tracks connections, too.
ns_exec server "$IPTABLES" -w -A INPUT -m conntrack --ctstate INVALID -j DROP || bail "rule"
forget_flows
seen=$(probe lan UDP 203.0.113.2 80 sourceport=$number)
check_match "the server saw the router's address and a port from the rule's range" '^203\.0\.113\.1:6[0-9]{3}$' "$seen"
for event in flow_new flow_confirm; do
	check_equal "two namespaces track a flow: $event comes from each" \
		"netns=$me original=172.18.0.2:$number->203.0.113.2:80 in=lan0
netns=$(netns server) original=$seen->203.0.113.2:80 in=eth0" \
		"$(events $event | while read -r line; do
			fields "$line" netns original in
			echo
		done)"
done
check_equal "... flow_confirm from the server's namespace says that nothing moved" "moved=nothing hook=INPUT" \
	"$(fields "$(events flow_confirm "netns=$(netns server) ")" moved hook)"
check_equal "... and has the id of the conntrack entry there" \
	"$(ns_exec server conntrack -L -p udp -o id 2> /dev/null | grep -o ' id=.*' | tr -d ' ')" \
	"$(fields "$(events flow_confirm "netns=$(netns server) ")" id)"
check_equal "flow_confirm has the mark that the flow has by then" "mark=0x0 mark=0x2a" \
	"$(fields "$(events flow_new "netns=$me ")" mark) $(fields "$(events flow_confirm "netns=$me ")" mark)"

# --- With the events off

record_events
[[ $(probe lan UDP 203.0.113.2 80) ]] || bail "no answer"
check_equal "with the events off nothing is recorded" "" "$(grep -v '^#' "$buffer/trace")"

# --- In a VRF, where packets pass hooks twice, each event still comes once

ip -n router link add red type vrf table 10 || bail "VRF"
ip -n router link set red up
for device in lan0 wan0; do ip -n router link set $device master red; done
ns_exec router "$IPTABLES" -w -t mangle -F
ns_exec server "$IPTABLES" -w -F
record_events flow_new flow_confirm
number=$((number + 1))
forget_flows
[[ $(probe lan UDP 203.0.113.2 80 sourceport=$number) ]] || bail "no answer through the VRF"
check_equal "VRF: flow_new comes once, from the input device" "in=lan0 status=" \
	"$(events flow_new "original=[^ ]*:$number->" | while read -r line; do
		fields "$line" in status
		echo
	done)"
check_equal "VRF: ... and flow_confirm, from the output device" "in=red out=wan0 moved=source-address|source-port" \
	"$(fields "$(events flow_confirm "original=[^ ]*:$number->")" in out moved)"

done_testing
