#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Front ends: legacy nft
#
# Rules in binary form that no iptables sends: what is not understood is refused,
# and the log names the field, but does not let itself be flooded. Whole tables of
# which anything may be wrong do no harm, whether they come to us or not.
. "$(dirname "$0")/../../lib/lib.sh"

setup_ns router
# These tools speak the kernel's own language; this loads the modules for them.
modprobe nfnetlink_hook
for program in "$IPTABLES" "$IP6TABLES"; do
	ns_exec router "$program" -w -t nat -A POSTROUTING -j RUSTMASQ || bail "a rule of $program"
	ns_exec router "$program" -w -t nat -F
done
run_tap rule_abi.py ns_exec router "$tools/rule_abi.py" "${IPTABLES#*-}"

# Each rule of nftables takes its time.
count=$(scaled 10000)
[[ $IPTABLES != *-nft ]] || count=$(scaled 3000)
echo "# seed $SEED"
run_tap rule_abi_fuzz.py ns_exec router "$tools/rule_abi_fuzz.py" "${IPTABLES#*-}" "$count" "$SEED"
check_fails "no rule left conntrack on" grep -q nf_conntrack <(ns_exec router nft list hooks)

done_testing
