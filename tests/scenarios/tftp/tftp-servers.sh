#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Kernels: plain
#
# Three TFTP servers get odd requests: old firmware's, cut, padded, too long, and mutated ones. Whatever a server
# answers reaches the client behind two routers with our helper, and with the kernel's. Without a helper no answer does.
# Datagrams that open nothing are counted, and traced.
# shellcheck source-path=SCRIPTDIR source=../../lib/tftp.sh
. "$(dirname "$0")/../../lib/tftp.sh"
# shellcheck source-path=SCRIPTDIR source=../../lib/events.sh
. "$(dirname "$0")/../../lib/events.sh"

setup_two_routers
modprobe nf_nat_tftp || bail "the kernel's own helper"
translate -j MASQUERADE
ip -n server addr add 203.0.113.4/24 dev eth0
served=$scratch/served
mkdir "$served"
# netascii changes the line's end.
{ head -c 99 /dev/urandom && echo; } > "$served/boot"
chmod 755 "$scratch"
chmod -R a+rwX "$served"

ns_start server in.tftpd --foreground --listen -4 --user root --create --secure --address 203.0.113.2:69 "$served" \
	2> "$scratch/tftpd"
ns_start server atftpd --daemon --no-fork --user root --group root --maxthread 500 --bind-address 203.0.113.3 \
	"$served" 2> "$scratch/atftpd"
ns_start server dnsmasq --keep-in-foreground --conf-file=/dev/null --user=root --pid-file= --port=0 --bind-interfaces \
	--listen-address=203.0.113.4 --enable-tftp --tftp-max=500 --tftp-root="$served" 2> "$scratch/dnsmasq"

# three_servers: succeeds if each of the servers listens.
three_servers() {
	[[ $(ns_exec server cat /proc/net/udp | grep -c ':0045 ') == 3 ]]
}
wait_until three_servers || bail "three servers: $(cat "$scratch/tftpd" "$scratch/atftpd" "$scratch/dnsmasq")"

first_port=15000
# ask_servers ARGUMENT...: sends requests to the servers, and sets `result` to what the tool found. Fails if an answer
# did not reach the client. No flow of an earlier call is left: it would keep its helper, or none. Ports are new ones.
ask_servers() {
	local router
	for router in r1 r2; do ns_exec $router conntrack -F 2> /dev/null; done
	((first_port += 5000))
	result=$("$tools/tftp_servers.py" "$@" "$SEED" $first_port \
		tftpd-hpa=203.0.113.2 atftpd=203.0.113.3 dnsmasq=203.0.113.4)
}

# count_ignored: prints how many datagrams the helper has ignored, in all namespaces.
count_ignored() { cat /sys/module/rustmasq/parameters/tftp_ignored; }

# check_servers HELPER ARGUMENT...: checks that all answers to these requests reach the client.
check_servers() {
	local what="$1: the answers reach the client ($2)"
	if ask_servers "${@:2}"; then ok "$what"; else not_ok "$what" "$result"; fi
	echo "# $1, $2: ${result//$'\n'/; }"
}

# answers SERVER: prints how many of its answers the client has heard.
answers() { sed -nE "s/^$1: .* ([0-9]+) heard$/\1/p" <<< "$result"; }

if ask_servers listed 1; then not_ok "without a helper no answer reaches the client" "$result"; fi
for server in tftpd-hpa atftpd dnsmasq; do
	check_match "without a helper no answer of $server reaches the client" \
		"^$server: .* [1-9][0-9]* answered, 0 heard$" "$(grep "^$server: " <<< "$result")"
done

for helper in $HELPERS; do
	for router in r1 r2; do assign_helper $router "$helper"; done
	if [[ $helper == tftp ]]; then
		# It also opens what has no name.
		check_servers "$helper" requests 1000
	else
		record_events tftp_ignored
		before=$(count_ignored)
		check_servers "$helper" listed 1000
		ignored=$(sed -nE 's/^([0-9]+) open nothing$/\1/p' <<< "$result")
		# 62 of the list open something, and each server answers most of them, if by an error alone.
		check "$helper: tftpd-hpa's answers are heard" test "$(answers tftpd-hpa)" -ge 50
		check "$helper: atftpd's answers are heard" test "$(answers atftpd)" -ge 50
		check "$helper: dnsmasq's answers are heard" test "$(answers dnsmasq)" -ge 50
		check_equal "$helper: what opens nothing is counted at each router" $((2 * ignored)) $(($(count_ignored) - before))
		check_equal "$helper: ... and traced" $((2 * ignored)) "$(events tftp_ignored | wc -l)"
		check_match "$helper: the trace shows the flow and the start of its datagram" \
			"^netns=$(netns r1) id=[0-9]+ original=172.18.0.2:[0-9]+->203.0.113.2:69 len=8 start=000300$" \
			"$(events tftp_ignored "netns=$(netns r1) .*->203.0.113.2:69 len=8 ")"
		check_match "$helper: the trace shows a datagram without content" "len=0 start=$" "$(events tftp_ignored "len=0 ")"
		stop_recording
		check_servers "$helper" mutated "$(scaled 1000)"
	fi
	for router in r1 r2; do unassign_helper $router; done
done

done_testing
