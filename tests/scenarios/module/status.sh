#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Kernels: plain
#
# `rustmasq status` names each fault with its cure, as long as it is there: each is made, named, cured as it says, and
# gone. Without a fault it says that all is well, and without privileges what it could not see. The network is that of
# setup_lan.
. "$(dirname "$0")/../../lib/lib.sh"

setup_lan

# read_status COMMAND...: runs `rustmasq status` by the command, and sets `shown` and `status`.
read_status() {
	shown=$("$@" rustmasq status 2>&1)
	status=$?
}

# check_well WHAT: checks that there is no fault.
check_well() {
	read_status env
	check_equal "$1: all is well" "0 all is well" "$status $(tail -n 1 <<< "$shown")"
}

# check_fault WHAT PATTERN CURE [COMMAND...]: checks that the only fault matches, and has the cure.
check_fault() {
	read_status "${@:4}" env
	check_match "$1: it is named" "^WRONG +$2\$" "$(grep '^WRONG' <<< "$shown")"
	cure=$(sed -nE 's/^  cure +[^ ]+ +//p' <<< "$shown")
	check_match "$1: ... with its cure" "^$3\$" "$cure"
	check_equal "$1: ... and the status is 1" 1 "$status"
}

# apply_cure HOST: does as the last fault's cure says, on that host.
apply_cure() {
	local -a words
	read -ra words <<< "$cure"
	ns_exec "$1" "${words[@]}" > /dev/null || bail "the cure $cure"
}

# --- Without rules and without the module

wait_until unload_module || bail "the module can be removed"
read_status env
check_match "without the module, that is named" "WRONG +- +the module rustmasq is not loaded"$'\n'"  cure +- +modprobe rustmasq" "$shown"
check_match "without a rule, that is named" "WRONG +- +no rule names RUSTMASQ or a helper of it" "$shown"
check_equal "... and the status is 1" 1 "$status"
add_rule -o wan0 -p udp -j RUSTMASQ --to-ports 2000-3000 || bail "a rule"
check_well "with a rule"
check_match "the rule is shown" $'\n'"namespace +router"$'\n'"  rule +iptables-legacy +-t nat -A POSTROUTING -o wan0 -p udp -j RUSTMASQ --to-ports 2000-3000"$'\n' "$shown"
check_match "... the addresses of its device" "  device +wan0 +203.0.113.1( |"$'\n'")" "$shown"
check_match "... the kernel and the module" "^kernel +$(uname -r)"$'\n'"module +[0-9.]+"$'\n' "$shown"
check_match "... conntrack's table and its counters" "  conntrack +flows +[0-9]+ of [0-9]+"$'\n'"  counter +insert_failed +[0-9]+"$'\n'"  counter +drop +[0-9]+" "$shown"
check_fails "... and no event" grep '^event' <<< "$shown"
echo 1 > /sys/kernel/tracing/events/rustmasq/packet/enable
check_well "with an event"
check_match "an event that is on is shown" "event +packet +in /sys/kernel/tracing" "$shown"
echo 0 > /sys/kernel/tracing/events/rustmasq/packet/enable

# --- Faults

check_fault "no extension" "- +iptables does not find its extension libxt_RUSTMASQ.so" "make install, or set XTABLES_LIBDIR to its folder" \
	env XTABLES_LIBDIR=/nonexistent
check_well "the extension is found"

ns_exec router sh -c 'echo 0 > /proc/sys/net/ipv4/ip_forward'
check_fault "no forwarding" "router +net.ipv4.ip_forward is 0: packets of other hosts are not forwarded" "sysctl net.ipv4.ip_forward=1"
apply_cure router
check_well "forwarding is on"

add_rule6 -o wan0 -j RUSTMASQ || bail "a rule"
ns_exec router sh -c 'echo 0 > /proc/sys/net/ipv6/conf/all/forwarding'
check_fault "no forwarding of IPv6" "router +net.ipv6.conf.all.forwarding is 0: .*" "sysctl net.ipv6.conf.all.forwarding=1"
apply_cure router
check_well "forwarding of IPv6 is on"

ns_exec router sh -c 'echo 1 > /proc/sys/net/ipv4/conf/wan0/rp_filter'
check_well "strict reverse path filtering that dropped nothing"
# An address of the LAN comes from the other side. The server must know the router's link-layer address before: strict
# filtering drops its question, too.
ns_exec server ping -q -c 1 203.0.113.1 > /dev/null || bail "the router answers"
ip -n server addr add 172.18.9.9/32 dev eth0
ns_exec server socat -u - UDP:203.0.113.1:9,bind=172.18.9.9 <<< x
dropped() { ns_exec router nstat -asz TcpExtIPReversePathFilter | grep -qE 'IPReversePathFilter +[1-9]'; }
wait_until dropped || bail "nothing is dropped"
check_fault "reverse path filtering" "router +rp_filter is strict and dropped [1-9][0-9]* packets" "sysctl net.ipv4.conf.wan0.rp_filter=2"
apply_cure router
check_well "loose reverse path filtering"

maximum=$(< /proc/sys/net/netfilter/nf_conntrack_max)
for port in {1..20}; do ns_exec router socat -u - "UDP:203.0.113.2:$port,sourceport=5000" <<< x; done
echo 20 > /proc/sys/net/netfilter/nf_conntrack_max
check_fault "conntrack is full" "router +conntrack is full: (19|2[0-9]) of 20 flows" "sysctl net.netfilter.nf_conntrack_max=80"
# shellcheck disable=SC2086 # words
$cure > /dev/null
check_well "conntrack has room"
echo "$maximum" > /proc/sys/net/netfilter/nf_conntrack_max

add_rule -o lan0 -j MASQUERADE || bail "a rule"
check_fault "a rule of MASQUERADE" "router +a rule of MASQUERADE forgets flows of RUSTMASQ, too, when .*: -t nat -A POSTROUTING -o lan0 -j MASQUERADE" \
	"replace it: iptables -t nat -D POSTROUTING -o lan0 -j MASQUERADE and the same with -j RUSTMASQ"
ns_exec router "$IPTABLES" -w -t nat -D POSTROUTING -o lan0 -j MASQUERADE
add_rule -o lan0 -j RUSTMASQ
check_well "the rule is replaced"

ns_exec router iptables-legacy -w -t raw -A PREROUTING -p udp --dport 69 -j CT --helper rustmasq-tftp || bail "a rule"
check_well "a rule of the helper, without a filter"
ns_exec router iptables-legacy -w -P FORWARD DROP
check_fault "a filter that drops RELATED packets" "router +iptables drops the answers of TFTP servers: .*" \
	"iptables -A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT"
read -ra words <<< "$cure"
ns_exec router iptables-legacy -w "${words[@]:1}" || bail "the cure"
check_well "the filter accepts RELATED packets"

ns_exec router iptables-legacy -w -P INPUT DROP
check_well "a filter of the router's own packets, without a rule of the helper for its requests"
ns_exec router iptables-legacy -w -t raw -A OUTPUT -p udp --dport 69 -j CT --helper rustmasq-tftp || bail "a rule"
check_fault "a filter that drops the router's own RELATED packets" \
	"router +iptables drops the answers of TFTP servers: the chain INPUT accepts no RELATED packets" \
	"iptables -A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT"
read -ra words <<< "$cure"
ns_exec router iptables-legacy -w "${words[@]:1}" || bail "the cure"
check_well "the filter accepts the router's own RELATED packets"
ns_exec router iptables-legacy -w -P FORWARD ACCEPT
ns_exec router iptables-legacy -w -P INPUT ACCEPT

# The comment looks like options, and like another rule.
ns_exec router iptables-legacy -w -t nat -A POSTROUTING -m comment \
	--comment $'"a\n-A POSTROUTING -j MASQUERADE' -j RETURN || bail "a rule"
check_well "a rule with an odd comment"

# --- Helpers and their flows

check_match "a helper without a flow is shown" $'\n'"  helper +rustmasq-tftp +0 flows"$'\n' "$shown"
for port in 40001 40002; do ns_exec lan socat -u - "UDP:203.0.113.2:69,sourceport=$port" <<< x; done
ns_exec router nft -f - <<- 'END' || bail "rules of nft"
	table inet own {
		ct helper mine {
			type "rustmasq-tftp" protocol udp
		}
		ct helper other {
			type "tftp" protocol udp
		}
	}
END
check_well "with flows of the helper, and an object of nftables"
check_match "flows of a helper are counted" $'\n'"  helper +rustmasq-tftp +2 flows"$'\n' "$shown"
check_equal "an object of nftables for the helper is shown" \
	"ct helper nft inet own mine" "$(awk '/ct helper/ { $1 = $1; print }' <<< "$shown")"
check_equal "... and both are in --json" "{'rustmasq-tftp': 2} inet own mine" "$(rustmasq status --json | python3 -I -S -c '
import json, sys
place, = json.load(sys.stdin)["namespaces"]
object, = place["nft_helpers"]
print(place["helpers"], object["family"], object["table"], object["name"])')"
ns_exec router nft delete table inet own

# --- A terminal of 60 columns

# shellcheck disable=SC2016 # for that shell
folded=$(script -qec 'stty rows 24 cols 60 && rustmasq status' /dev/null < /dev/null | tr -d '\r')
check_equal "on a narrow terminal no line is longer" "" "$(awk 'length > 60' <<< "$folded")"
# Numbers may have changed meanwhile.
words_of() { tr -s ' ' '\n' | grep -v '^[0-9]*$' | sort; }
read_status env
check_equal "... and no word is lost" "$(words_of <<< "$shown")" "$(words_of <<< "$folded")"

ns_exec router nft -f - <<- 'END' || bail "rules of nft"
	table ip nat {
		chain POSTROUTING {
			type nat hook postrouting priority 77
			counter
		}
	}
END
check_fault "a table that iptables cannot list" "router +iptables-nft cannot list the table nat, which another program changed" \
	"move the rules that iptables does not know from the table: nft list table ip nat"
ns_exec router nft delete table ip nat
check_well "the table is gone"

# --- JSON, and without privileges

check_equal "--json has the same" "router 203.0.113.1 0 0" "$(rustmasq status --json | python3 -I -S -c '
import json, sys
status = json.load(sys.stdin)
place, = status["namespaces"]
print(place["namespace"], place["devices"]["wan0"][0], len(status["faults"]), len(status["unseen"]))')"
install /usr/sbin/rustmasq /run/rustmasq-copy || bail "a copy of the program"
shown=$(setpriv --reuid nobody --regid nogroup --clear-groups /run/rustmasq-copy status 2>&1)
status=$?
rm /run/rustmasq-copy
check_match "without privileges it tells what it did not see" "not seen +- +the network namespaces of other users: run it as root" "$shown"
check_match "... not the trace events, either" "not seen +- +the trace events: Permission denied" "$shown"
check_match "... but the module" "module +[0-9.]+"$'\n' "$shown"
check_equal "... and the status is 2" 2 "$status"

# --- With masquerade=1

ns_exec router iptables-legacy -w -P FORWARD ACCEPT
ns_exec router iptables-legacy -w -P INPUT ACCEPT
ns_exec router iptables-legacy -w -t raw -F
flush_rules
wait_until unload_module || bail "the module can be removed"
wait_until remove_other_masquerade || bail "MASQUERADE can be removed"
add_rule -o wan0 -j MASQUERADE || bail "a rule"
modprobe rustmasq masquerade=1 || bail "the module"
check_fault "a rule from before" "- +xt_MASQUERADE of the kernel serves 1 rules that are older than the module" \
	"restart the tool that wrote them, or: iptables-save \\| iptables-restore"
flush_rules
check_well "no rule yet, with masquerade=1"
add_rule -o wan0 -j MASQUERADE || bail "a rule"
ns_exec router nft 'table inet own { chain out { type nat hook postrouting priority 200; masquerade; }; }' || bail "a rule"
check_well "rules with masquerade=1"
check_match "the parameter is shown" $'\n'"parameter +masquerade +serves rules of MASQUERADE"$'\n' "$shown"
check_match "... the rule of iptables" $'\n'"  rule +iptables-legacy +-t nat -A POSTROUTING -o wan0 -j MASQUERADE"$'\n' "$shown"
check_match "... the rule of nftables" $'\n'"  rule +nft +masquerade in inet own out"$'\n' "$shown"
ns_exec router nft delete table inet own
flush_rules
wait_until unload_module || bail "the module can be removed"

done_testing
