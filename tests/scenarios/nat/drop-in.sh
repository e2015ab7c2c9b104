#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Front ends: legacy nft
# Kernels: plain
#
# With masquerade=1 the module serves MASQUERADE of iptables, in any order of loading: flows get its ports, its counters
# count them, and what is shown does not change. Rules stay with the module that served them first. Without the parameter,
# and after the module has gone, all rules are the kernel's.
. "$(dirname "$0")/../../lib/drop-in.sh"

setup_drop_in

# add_masquerade: adds a rule for each family.
add_masquerade() {
	add_rule -o wan0 -p udp -j MASQUERADE --to-ports 7000-7009 || bail "a rule"
	add_rule6 -o wan0 -p udp -j MASQUERADE --to-ports 7000-7009 || bail "a rule for IPv6"
}
shown="-A POSTROUTING -o wan0 -p udp -j MASQUERADE --to-ports 7000-7009"

# check_order EXPECTED STEP...: loads the modules in this order, adds rules, and checks who serves them.
check_order() {
	local what="order '${*:2}'" v
	load_modules "${@:2}"
	add_masquerade
	for v in 4 6; do check_served "$what" "$1" $v; done
	check_equal "$what: iptables -S shows the rule" "$shown" \
		"$(ns_exec router "$IPTABLES" -t nat -S POSTROUTING | tail -n 1)"
	check_equal "$what: ip6tables -S shows the rule" "$shown" \
		"$(ns_exec router "$IP6TABLES" -t nat -S POSTROUTING | tail -n 1)"
	if [[ $1 == 1 ]]; then
		check_fails "$what: the module cannot be unloaded" modprobe -r rustmasq
		check_match "$what: the kernel's own serves no rule" '^(-|0)$' "$(users xt_MASQUERADE)"
		ns_exec router "$IPTABLES" -w -t nat -F
		ns_exec router "$IP6TABLES" -w -t nat -F
		check "$what: without rules it can" wait_until rmmod rustmasq
		add_masquerade
		check_served "$what: afterwards the kernel serves rules" 0 4
	fi
	unload_all
}
check_order 1 ours
check_order 1 ours theirs nft
check_order 1 theirs ours
check_order 1 theirs nft ours
check_order 0 off
check_order 0 theirs off

# Another module of the kernel's that is loaded again comes last, too.
what="loaded again"
load_modules theirs nft ours
rmmod xt_MASQUERADE nft_masq
load_modules theirs nft
add_masquerade
for v in 4 6; do check_served "$what" 1 $v; done
check_equal "$what: the kernel's own serves no rule" 0 "$(users xt_MASQUERADE)"
unload_all

# Rules that were there before.
what="a rule from before"
add_masquerade
theirs=$(users xt_MASQUERADE)
load_modules ours
for v in 4 6; do check_served "$what stays with the kernel" 0 $v; done
check_equal "$what: lsmod shows who serves it" "$theirs 0" "$(users xt_MASQUERADE) $(users rustmasq)"
ns_exec router "$IPTABLES-save" -t nat > "$scratch/saved"
ns_exec router "$IPTABLES-restore" -w < "$scratch/saved" || bail "restoring"
check_served "$what: iptables-restore moves it" 1 4
check_served "$what: ... of its family alone" 0 6
unload_all

what="the parameter"
for value in 2 -1 x ""; do
	check_fails "$what cannot be '$value'" modprobe rustmasq "masquerade=$value"
	check_equal "$what: ... and nothing is loaded" - "$(users rustmasq)"
done
load_modules ours
check_equal "$what is shown" Y "$(cat /sys/module/rustmasq/parameters/masquerade)"
check_fails "$what cannot be changed afterwards" sh -c 'echo 0 > /sys/module/rustmasq/parameters/masquerade'
unload_all

# A namespace goes with its rules.
load_modules ours
setup_ns passing
ns_exec passing nft add table inet own
ns_exec passing nft add chain inet own out '{ type nat hook postrouting priority srcnat; }'
ns_exec passing nft add rule inet own out masquerade
ns_exec passing "$IPTABLES" -w -t nat -A POSTROUTING -j MASQUERADE
check_equal "a namespace's rules hold the module" 2 "$(users rustmasq)"
ip netns del passing
hosts=(lan router server)
released() { [[ $(users rustmasq) == 0 ]]; }
check "... until it has gone" wait_until released
unload_all

done_testing
