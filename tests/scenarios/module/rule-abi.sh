#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Front ends: legacy nft
#
# The kernel refuses rules in a binary form that iptables never sends. The log names the wrong field, at a limited rate.
# Random whole tables do no harm, whether RUSTMASQ's part is reached or not.
. "$(dirname "$0")/../../lib/lib.sh"

setup_ns router
# The tools below talk to the kernel without iptables, which would load the modules. So iptables loads them first.
modprobe nfnetlink_hook
for program in "$IPTABLES" "$IP6TABLES"; do
	ns_exec router "$program" -w -t nat -A POSTROUTING -j RUSTMASQ || bail "a rule of $program"
	ns_exec router "$program" -w -t nat -F
done
run_tap rule_abi.py ns_exec router "$tools/rule_abi.py" "${IPTABLES#*-}"

# Rules of nftables take longer.
count=$(scaled 10000)
[[ $IPTABLES != *-nft ]] || count=$(scaled 3000)
echo "# seed $SEED"
run_tap rule_abi_fuzz.py ns_exec router "$tools/rule_abi_fuzz.py" "${IPTABLES#*-}" "$count" "$SEED"
check_fails "no hook of conntrack is left" grep -q nf_conntrack <(ns_exec router nft list hooks)

done_testing
