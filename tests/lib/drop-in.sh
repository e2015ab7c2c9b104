# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0
#
# The library of scenarios about masquerade=1: modules that masquerade, loaded in any order, and who serves a flow.
# shellcheck disable=SC2154

# shellcheck source-path=SCRIPTDIR source-path=SCRIPTDIR/../../lib source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# setup_drop_in: makes the network, with servers. No module that masquerades is loaded afterwards.
#
#     lan                 router                     server
#     lan0 ------------ lan0  wan0 ---------------- eth0
#     172.18.0.2/16   172.18.0.1   203.0.113.1    203.0.113.2/24
#     fd00:18::2      fd00:18::1   2001:db8:1::1  2001:db8:1::2
setup_drop_in() {
	setup_lan
	setup_lan_ipv6
	modprobe -a nf_tables nf_conntrack_netlink || bail "modules"
	serve server UDP 5000
	serve server UDP6 5006
	unload_all
}

# probe_ip HOST IPV [PROTOCOL [OPTION,...]]: does what `probe` does, of the server's address of that family.
probe_ip() {
	if [[ $2 == 4 ]]; then
		probe "$1" "${3:-UDP}" 203.0.113.2 5000 "${4:-}"
	else
		probe "$1" "${3:-UDP}6" "[2001:db8:1::2]" 5006 "${4:-}"
	fi
}

# load_modules STEP...: loads modules in this order: "ours" with masquerade=1, or "off" without; "theirs" is the kernel's
# for iptables, "nft" that for nftables.
load_modules() {
	local step
	for step; do
		case $step in
			ours) modprobe rustmasq masquerade=1 ;;
			off) modprobe rustmasq ;;
			theirs) modprobe xt_MASQUERADE ;;
			nft) modprobe nft_masq ;;
		esac || bail "loading '$step'"
	done
}

# users MODULE: prints how many rules hold a module, "-" if it is not loaded.
users() {
	local count=-
	[[ ! -e /sys/module/$1/refcnt ]] || read -r count < "/sys/module/$1/refcnt"
	echo "$count"
}
# unload_all: removes all rules, and unloads all that masquerades.
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

# check_seen_source WHAT OURS PATTERN COMMAND...: checks that the command, which makes a flow, prints a source that matches the
# pattern, as the server saw it, and whether our counter counts the flow (1 or 0).
check_seen_source() {
	local before after
	ns_exec router conntrack -F 2> /dev/null
	[[ ! -e /sys/module/rustmasq ]] && before=0 || before=$(our_counter flows_masqueraded)
	check_match "$1: the server sees the source that it should" "$3" "$("${@:4}" 2> /dev/null)"
	[[ ! -e /sys/module/rustmasq ]] && after=0 || after=$(our_counter flows_masqueraded)
	check_equal "$1: RUSTMASQ's counter counts $2" "$2" $((after - before))
}

# check_served WHAT OURS IPV: does so for a flow that is masqueraded to a port of 7000 to 7009.
check_served() { check_seen_source "$1, IPv$3" "$2" ':700[0-9]$' probe_ip lan "$3"; }
