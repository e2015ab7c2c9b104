#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Front ends: legacy nft
#
# Rules in binary form that no iptables sends: what is not understood is refused,
# and the log names the field, but does not let itself be flooded.
. "$(dirname "$0")/../lib.sh"

host router
# blobs.py speaks the kernel's own language; this loads the modules for it.
for program in "$IPTABLES" "$IP6TABLES"; do
	on router "$program" -w -t nat -A POSTROUTING -j RUSTMASQ || bail "a rule of $program"
	on router "$program" -w -t nat -F
done
on router "$here/blobs.py" "${IPTABLES#*-}" > "$scratch/blobs" 2>&1
check_equal "blobs.py ran to its end" 0 $?
cat "$scratch/blobs"
