#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Front ends: legacy
#
# With masquerade=1 the module accepts and refuses the same rules of MASQUERADE and of the statement `masquerade` as the
# kernel's own modules, with the same errors, and reports them in the same binary form. Random rules, many of them
# malformed, are sent to both.
. "$(dirname "$0")/../../lib/drop-in.sh"

setup_drop_in

# compare_rules KIND COUNT: sends random rules of iptables (legacy) or nftables (nft) to the kernel's module and to ours.
compare_rules() {
	local kind=$1 count=$2
	modprobe -a xt_MASQUERADE nft_masq ip_tables iptable_nat ip6_tables ip6table_nat
	send_rules "$kind" "$count" > "$scratch/theirs" 2>&1
	unload_all
	load_modules ours
	send_rules "$kind" "$count" > "$scratch/ours" 2>&1
	check_equal "$kind: $count random rules: accepted, refused and listed as the kernel's" "" \
		"$(diff "$scratch/theirs" "$scratch/ours" | head -n 20)"
	check_equal "$kind: ... all were sent" "$count" "$(grep -c "^[0-9]* family" "$scratch/ours")"
	check "$kind: ... some were accepted" grep -q ": accepted" "$scratch/ours"
	check "$kind: ... some were refused" grep -q ": EINVAL" "$scratch/ours"
	echo "# $kind: $(grep -c ": accepted" "$scratch/ours") of $count accepted, seed $SEED"
	unload_all
}

# send_rules KIND COUNT: prints what becomes of each.
send_rules() {
	setup_ns rules
	ns_exec rules "$tools/masquerade_rules.py" "$1" "$2" "$SEED"
	ip netns del rules
	hosts=(lan router server)
}
for kind in legacy nft; do compare_rules $kind "$(scaled 10000)"; done

done_testing
