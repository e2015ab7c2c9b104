#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Front ends: legacy nft
# Kernels: plain
#
# With masquerade=1 the module serves MASQUERADE of iptables and the statement `masquerade` of nftables, in any order of
# loading: flows get its ports, its counters count them, and what is shown does not change. Rules stay with the module
# that served them first. Without the parameter, and after the module has gone, all rules are the kernel's.
#
#     lan                 router                     server
#     lan0 ------------ lan0  wan0 ---------------- eth0
#     172.18.0.2/16   172.18.0.1   203.0.113.1    203.0.113.2/24
#     fd00:18::2      fd00:18::1   2001:db8:1::1  2001:db8:1::2
. "$(dirname "$0")/../../lib/lib.sh"

setup_lan
setup_lan_ipv6
modprobe -a nf_tables nf_conntrack_netlink || bail "modules"
serve server UDP 5000
serve server UDP6 5006
declare -A server_of=([4]=UDP:203.0.113.2:5000 [6]="UDP6:[2001:db8:1::2]:5006")

# users MODULE: prints how many rules hold a module, "-" if it is not loaded.
users() {
	local count=-
	[[ ! -e /sys/module/$1/refcnt ]] || read -r count < "/sys/module/$1/refcnt"
	echo "$count"
}
# masqueraded: prints how many flows RUSTMASQ's counter has.
masqueraded() { ns_exec router grep -w flows_masqueraded /proc/net/rustmasq | tr -dc 0-9; }

# unload_all: unloads all that masquerades.
unload_all() {
	ns_exec router "$IPTABLES" -w -t nat -F
	ns_exec router "$IP6TABLES" -w -t nat -F
	ns_exec router nft destroy table inet own
	wait_until unload_masquerades || bail "the modules are held: $(lsmod | grep -iE "masq")"
}
unload_masquerades() {
	local module
	for module in xt_MASQUERADE nft_masq rustmasq; do
		[[ ! -e /sys/module/$module/refcnt ]] || rmmod $module
	done
	[[ $(users rustmasq)$(users xt_MASQUERADE)$(users nft_masq) == --- ]]
}

# check_served WHAT OURS IPV: checks that a new flow is masqueraded to a port of 7000 to 7009, and whether our counter
# counts it (1 or 0).
check_served() {
	local before after
	ns_exec router conntrack -F 2> /dev/null
	[[ ! -e /sys/module/rustmasq ]] && before=0 || before=$(masqueraded)
	check_match "$1, IPv$3: the server sees a port of the range" ':700[0-9]$' \
		"$(echo x | ns_exec lan socat -t 5 -T 5 - "${server_of[$3]}")"
	[[ ! -e /sys/module/rustmasq ]] && after=0 || after=$(masqueraded)
	check_equal "$1, IPv$3: RUSTMASQ's counter counts $2" "$2" $((after - before))
}

# --- iptables, in each order of loading. "ours" is loaded with masquerade=1.

declare -A load=([ours]="modprobe rustmasq masquerade=1" [theirs]="modprobe xt_MASQUERADE" [nft]="modprobe nft_masq"
	[off]="modprobe rustmasq")

# add_masquerade: adds a rule for each family.
add_masquerade() {
	add_rule -o wan0 -p udp -j MASQUERADE --to-ports 7000-7009 || bail "a rule"
	add_rule6 -o wan0 -p udp -j MASQUERADE --to-ports 7000-7009 || bail "a rule for IPv6"
}
shown="-A POSTROUTING -o wan0 -p udp -j MASQUERADE --to-ports 7000-7009"

# check_order EXPECTED STEP...: loads the modules in this order, adds rules, and checks who serves them.
check_order() {
	local what="order '${*:2}'" step v
	for step in "${@:2}"; do ${load[$step]} || bail "$what: $step"; done
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
modprobe -a xt_MASQUERADE nft_masq || bail "modules"
modprobe rustmasq masquerade=1 || bail "the module"
rmmod xt_MASQUERADE nft_masq
modprobe -a xt_MASQUERADE nft_masq || bail "modules"
add_masquerade
for v in 4 6; do check_served "$what" 1 $v; done
check_equal "$what: the kernel's own serves no rule" 0 "$(users xt_MASQUERADE)"
unload_all

# Rules that were there before.
what="a rule from before"
add_masquerade
theirs=$(users xt_MASQUERADE)
modprobe rustmasq masquerade=1 || bail "the module"
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
modprobe rustmasq masquerade=1 || bail "the module"
check_equal "$what is shown" Y "$(cat /sys/module/rustmasq/parameters/masquerade)"
check_fails "$what cannot be changed afterwards" sh -c 'echo 0 > /sys/module/rustmasq/parameters/masquerade'
unload_all

# --- nftables

# print_own FAMILY STATEMENT...: prints a table in the place of the old one, with a chain for each statement.
print_own() {
	local statement number=0
	printf '%s\n' "table $1 own" "delete table $1 own" "table $1 own {" \
		"map ports { typeof udp dport : udp sport; elements = { 5000 : 7005, 5006 : 7005 }; }"
	for statement in "${@:2}"; do
		printf '%s\n' "chain out$((++number)) {" \
			"type nat hook postrouting priority srcnat + $number; oifname \"wan0\" $statement; }"
	done
	echo "}"
}
# own_table STATEMENT: makes this table, for inet.
own_table() { ns_exec router nft -f - <<< "$(print_own inet "$1")"; }

statements=("meta l4proto udp masquerade to :7000-7009" "meta l4proto udp masquerade to :7003 random"
	"meta l4proto udp masquerade to :7000-7009 random,fully-random,persistent" "masquerade to :udp dport map @ports"
	"meta l4proto udp masquerade to :udp dport map { 5000 : 7004, 5006 : 7004 }")
masquerades=(masquerade "masquerade random" "masquerade fully-random" "masquerade persistent"
	"masquerade random,fully-random,persistent")

# note_forms: prints all statements as nft lists and monitors them, in text and as JSON, and the errors of those that it
# refuses.
note_forms() {
	local family chain monitor
	ns_start router nft monitor > "$scratch/monitored"
	monitor=$!
	wait_until grep -q "table ip before" <(ns_exec router nft "add table ip before; delete table ip before"
		cat "$scratch/monitored")
	for family in inet ip ip6; do
		print_own $family "${statements[@]}" "${masquerades[@]}" > "$scratch/own"
		ns_exec router nft -c -f "$scratch/own"
		ns_exec router nft -f "$scratch/own"
		ns_exec router nft list table $family own
		ns_exec router nft -j list table $family own | sed -E 's/"handle": [0-9]+/"handle": N/g'
		ns_exec router nft destroy table $family own
	done 2>&1
	for chain in "nat hook prerouting priority 0" "filter hook postrouting priority 0" "nat hook input priority 0"; do
		ns_exec router nft "table inet own { chain wrong { type $chain; masquerade; }; }" 2>&1
	done
	wait_until grep -q "delete table ip6 own" "$scratch/monitored"
	kill "$monitor"
	grep -v "before\|generation\|# new" "$scratch/monitored" | sed -E 's/handle [0-9]+//'
}

# check_nft STEP...: loads the modules in this order, and compares.
check_nft() {
	local what="nft, order '$*'" step
	for step; do ${load[$step]} || bail "$step"; done
	note_forms > "$scratch/ours"
	check_equal "$what: what is listed, monitored and refused is the kernel's" "" \
		"$(diff "$scratch/theirs" "$scratch/ours")"
	check_equal "$what: no rule is left" 0 "$(users rustmasq)"
	check "$what: a statement is added" own_table "${statements[0]}"
	for v in 4 6; do check_served "$what" 1 $v; done
	check_equal "$what: it holds the module" 1 "$(users rustmasq)"
}

check_statements() {
	local statement v
	modprobe nft_masq || bail "nft_masq"
	note_forms > "$scratch/theirs"
	check "nft: the kernel's own refuses wrong chains" grep -q "Operation not supported" "$scratch/theirs"
	check_equal "nft: it lists all statements, monitors them, and shows them as JSON" "60 30" \
		"$(grep -c 'wan0" .*masquerade' "$scratch/theirs") $(grep -o '"masquerade"' "$scratch/theirs" | wc -l)"
	unload_all
	check_nft ours
	for statement in "${statements[@]:1}"; do
		check "nft: one table replaces another at once" own_table "$statement"
		for v in 4 6; do check_served "nft: $statement" 1 $v; done
		check_equal "nft: ... and holds the module" 1 "$(users rustmasq)"
	done
	ns_exec router nft flush ruleset
	check_equal "nft: flush ruleset releases the module" 0 "$(users rustmasq)"
	unload_all
	check_nft ours nft
	unload_all
	check_nft nft ours
	unload_all
}
[[ $IPTABLES != iptables-nft ]] || check_statements

# A namespace goes with its rules.
modprobe rustmasq masquerade=1 || bail "the module"
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

# --- Random rules: the answers and the listed forms are the kernel's

count=$(scaled 10000)
kind=${IPTABLES#*-}
setup_ns rules
modprobe -a xt_MASQUERADE nft_masq ip_tables iptable_nat ip6_tables ip6table_nat 2> /dev/null
ns_exec rules "$tools/masquerade_rules.py" "$kind" "$count" "$SEED" > "$scratch/theirs" 2>&1
ip netns del rules
hosts=(lan router server)
unload_all
setup_ns rules
modprobe rustmasq masquerade=1 || bail "the module"
ns_exec rules "$tools/masquerade_rules.py" "$kind" "$count" "$SEED" > "$scratch/ours" 2>&1
check_equal "$kind: $count random rules: accepted, refused and listed as the kernel's" "" \
	"$(diff "$scratch/theirs" "$scratch/ours" | head -n 20)"
check_equal "$kind: ... all were sent" "$count" "$(grep -c "^[0-9]* family" "$scratch/ours")"
check "$kind: ... some were accepted" grep -q ": accepted" "$scratch/ours"
check "$kind: ... some were refused" grep -q ": EINVAL" "$scratch/ours"
echo "# $kind: $(grep -c ": accepted" "$scratch/ours") of $count accepted, seed $SEED"
ip netns del rules
hosts=(lan router server)
unload_all

done_testing
