# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0
#
# The library of scenarios about the flow watch: a trace buffer of their own, its events, and conntrack's entries in the
# events' form. Needs lib.sh.

tracing=/sys/kernel/tracing
buffer=$tracing/instances/scenario

# record_events EVENT...: records these events of the module from now on, and no others.
record_events() {
	local event
	stop_recording
	modprobe rustmasq || bail "the module"
	mkdir "$buffer" || bail "a trace buffer"
	for event; do
		echo 1 > "$buffer/events/rustmasq/$event/enable" || bail "event $event"
	done
}

# stop_recording: stops, and forgets the recorded events.
stop_recording() { [[ ! -e $buffer ]] || rmdir "$buffer"; }

# forget_events: forgets the recorded events.
forget_events() { : > "$buffer/trace"; }

# forget_flows: forgets the recorded events and the router's flows.
forget_flows() {
	ns_exec router conntrack -F 2> /dev/null
	forget_events
}

# events EVENT [PATTERN]: prints the recorded events that match, a line each, without time and task.
events() {
	local lines line
	mapfile -t lines < "$buffer/trace"
	for line in "${lines[@]}"; do
		[[ $line =~ ": $1: "(.*) ]] || continue
		line=${BASH_REMATCH[1]}
		[[ ${2:-} && ! $line =~ $2 ]] || printf '%s\n' "$line"
	done
}

# pick_fields EVENT NAME...: sets `taken` to these fields of the event's line, in this order.
pick_fields() {
	local name
	taken=
	for name in "${@:2}"; do
		[[ " $1 " =~ " $name="([^ ]*)" " ]] && taken+="${taken:+ }$name=${BASH_REMATCH[1]}"
	done
}

# fields EVENT NAME...: prints these fields.
fields() {
	pick_fields "$@"
	printf '%s' "$taken"
}

# field NAME EVENT: prints the value of one field.
field() {
	pick_fields "$2" "$1"
	printf '%s' "${taken#*=}"
}

# netns HOST: prints the inode number of its namespace, which events show.
netns() { stat -L -c %i "/run/netns/$1"; }

# as_endpoints: translates the output of `conntrack -L` or /proc/net/nf_conntrack into the events' form, a line for each
# flow: id=ID proto=PROTOCOL original=A:P->B:P reply=A:P->B:P untranslated=A:P->B:P, the last one the reply tuple
# without NAT. An ICMP identifier takes the place of the client's port.
as_endpoints() {
	awk '
	function end(address, port) { return (address ~ /:/ ? "[" address "]" : address) ":" port + 0 }
	function tuple(n) {
		if (!(n in type)) return end(src[n], sport[n]) "->" end(dst[n], dport[n])
		# The types of requests.
		if (type[n] ~ /^(8|13|15|17|128)$/) return end(src[n], query[n]) "->" end(dst[n], 0)
		return end(src[n], 0) "->" end(dst[n], query[n])
	}
	{
		n = id = 0
		split("", type); split("", sport); split("", dport)
		for (i = 1; i <= NF; i++) {
			split($i, word, "=")
			if (word[1] == "src") src[++n] = word[2]
			else if (word[1] == "dst") dst[n] = word[2]
			else if (word[1] == "sport") sport[n] = word[2]
			else if (word[1] == "dport") dport[n] = word[2]
			else if (word[1] == "type") type[n] = word[2]
			# The ICMP identifier follows the code, the id of the flow comes last.
			else if (word[1] == "id" && $(i - 1) ~ /^code=/) query[n] = word[2]
			else if (word[1] == "id") id = word[2]
		}
		original = tuple(1)
		split(original, half, "->")
		protocol = $1 ~ /^ipv/ ? $3 : $1
		print "id=" id, "proto=" protocol, "original=" original, "reply=" tuple(2), "untranslated=" half[2] "->" half[1]
	}'
}

# list_flows: prints the router's conntrack entries of both families in that form.
list_flows() {
	{
		tracked -f ipv4 -o id
		tracked -f ipv6 -o id
	} | as_endpoints
}

# --- The hooks behind the events

# hooks_everywhere COUNT: succeeds if the module has COUNT hooks in every namespace.
hooks_everywhere() {
	local name hooks others ours='[rustmasq]'
	# shellcheck disable=SC2154 # lib.sh's
	for name in '' "${hosts[@]}"; do
		hooks=$(${name:+ns_enter "$name"} nft list hooks)
		others=${hooks//"$ours"/}
		((${#hooks} - ${#others} == $1 * ${#ours})) || return 1
	done
}
no_hooks_anywhere() { hooks_everywhere 0; }

# --- Flows to watch

# setup_two_flows: makes the network of setup_lan with IPv6, servers, and rules of MASQUERADE.
setup_two_flows() {
	setup_lan
	setup_lan_ipv6
	serve server UDP 53
	serve server UDP6 54
	add_rule -o wan0 -p udp -j MASQUERADE --to-ports 6000-6999 || bail "rule"
	add_rule6 -o wan0 -p udp -j MASQUERADE --to-ports 6000-6999 || bail "rule"
	me=$(netns router)
	number=4000
	outside='[2001:0db8:0001:0000:0000:0000:0000:0001]'
}

# probe_both: succeeds if a flow of each family, from port $number, gets its answer.
probe_both() {
	[[ $(probe lan UDP 203.0.113.2 53 "sourceport=$number") == 203.0.113.1:* &&
		$(probe lan UDP6 '[2001:db8:1::2]' 54 "sourceport=$number") == "$outside":* ]]
}

# both_seen: succeeds if an event for each of them was recorded.
both_seen() {
	[[ $(events flow_confirm "^netns=$me .*original=[^ ]*:$number->" | wc -l) == 2 ]]
}

# check_flows_seen WHAT: checks that two new flows work and are recorded.
check_flows_seen() {
	number=$((number + 1))
	check "$1: flows work" probe_both
	check "$1: ... and are seen" both_seen
}

trap 'stop_recording; cleanup' EXIT
