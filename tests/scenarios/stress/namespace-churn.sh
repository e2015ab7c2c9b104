#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# CPUs: 2
#
# Routers' namespaces can be created and removed many times in the middle of traffic, with their devices, rules, flows
# and expectations: each router translates and expects TFTP servers' answers, and afterwards nothing of it is left. Four
# clients with two senders each get one router after another:
#
#     lan1..4           router1-1, router1-2, ...
#     lanN ------------ lan0  wan0 (a dummy)
#     172.18.0.2/16     .0.1  203.0.113.1/24
#
# Meanwhile the watch's events are turned on and off.
# shellcheck source-path=SCRIPTDIR source=../../lib/traffic.sh
. "$(dirname "$0")/../../lib/traffic.sh"

buffer=/sys/kernel/tracing/instances/churn

# create_router ROUTER LAN DEVICE: creates a router and connects the LAN to it by a new device of that name.
create_router() {
	ip netns add "$1" || return
	ip -n "$2" -batch - <<-END || return
		link add $3 type veth peer name lan0 netns $1
		addr add 172.18.0.2/16 dev $3
		addr add fd00:18::2/64 dev $3 nodad
		link set $3 up
	END
	ip -n "$1" -batch - <<-END || return
		link add wan0 type dummy
		addr add 203.0.113.1/24 dev wan0
		addr add 2001:db8:1::1/64 dev wan0 nodad
		addr add 172.18.0.1/16 dev lan0
		addr add fd00:18::1/64 dev lan0 nodad
		link set lo up
		link set wan0 up
		link set lan0 up
	END
	enable_forwarding "$1"
	# These replace the routes by the router before.
	ip -n "$2" -batch - <<-END
		route replace default via 172.18.0.1 dev $3
		route replace default via fd00:18::1 dev $3
	END
}

# add_router_rules ROUTER FRONT-END: adds its rules, by "legacy" or "nft".
add_router_rules() {
	local front
	for front in "iptables-$2" "ip6tables-$2"; do
		ns_exec "$1" "$front-restore" -w <<-END || return
			*raw
			-A PREROUTING -p udp --dport 69 -j CT --helper rustmasq-tftp
			COMMIT
			*nat
			-A POSTROUTING -o wan0 -p udp -j RUSTMASQ --to-ports 10000-19999
			-A POSTROUTING -o wan0 -j RUSTMASQ
			COMMIT
		END
	done
}

# router_works ROUTER: succeeds when its flows of both families are translated and it expects answers.
router_works() {
	# shellcheck disable=SC2016 # for that shell
	ns_exec "$1" timeout 30 bash -c '
		cd /proc/self/net
		until mapfile -t flows < nf_conntrack && mapfile -t expected < nf_conntrack_expect &&
			[[ ${flows[*]} =~ " dst=203.0.113.1 sport=69 dport=1"[0-9]{4}" " &&
				${flows[*]} =~ " dst=2001:0db8:0001:0000:0000:0000:0000:0001 sport=69 dport=1"[0-9]{4}" " &&
				${expected[*]} =~ rustmasq-tftp ]]
		do sleep 0.1; done'
}

# run_routers NUMBER COUNT: runs so many routers for client NUMBER, one after the other. Prints which of them fail, and
# how.
run_routers() {
	local n router fronts=(legacy nft) trouble
	RANDOM=$((SEED + $1))
	for ((n = 0; n < $2; n++)); do
		router=router$1-$n
		trouble=
		create_router "$router" "lan$1" "lan$n" || trouble="was not created"
		[[ $trouble ]] || add_router_rules "$router" "${fronts[RANDOM % 2]}" || trouble="got no rules"
		[[ $trouble ]] || router_works "$router" || trouble="does not work"
		[[ ! $trouble ]] || echo "$router $trouble"
		ip netns del "$router"
	done
}

# run_all_routers COUNT: runs so many routers in all, those of the four clients at the same time, and toggles the events
# meanwhile.
run_all_routers() {
	local number switch=$buffer/events/rustmasq/enable running=()
	for number in 1 2 3 4; do
		run_routers $number $((($1 + 4 - number) / 4)) > "$scratch/trouble$number" &
		running+=($!)
	done
	while kill -0 "${running[@]}"; do
		echo 1 > $switch
		pause 0.$((3 + RANDOM % 7))
		echo 0 > $switch
	done 2> /dev/null
	wait "${running[@]}"
}

for number in 1 2 3 4; do setup_ns lan$number; done
modprobe rustmasq || bail "the module"
mkdir $buffer || bail "a trace buffer"
trap 'cleanup; rmdir $buffer' EXIT
cat $buffer/trace_pipe > "$scratch/events" &
servers+=($!)
start_senders lan1,lan2,lan3,lan4
resume_senders
run_all_routers 4
pause_senders
wait_until namespaces_at_most 4 || not_ok "the first routers' namespaces are gone"

count=$(scaled 200)
leak_baseline
resume_senders
run_all_routers "$count"
check_equal "$count routers were created, translated and expected answers" "" "$(cat "$scratch"/trouble?)"
pause_senders
check "the watch recorded flows" grep -q flow_confirm "$scratch/events"
check "the routers' namespaces are gone" wait_until namespaces_at_most 4
check_leaks "$count"
check_nothing_left

done_testing
