#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Packets that a TFTP helper had better not trust: truncated, garbled, in pieces, too
# long, and requests as they should be among them. All of them go on to the server;
# ours expects an answer to the requests, and the kernel's own to much more.
# shellcheck source-path=SCRIPTDIR source=../../lib/tftp.sh
. "$(dirname "$0")/../../lib/tftp.sh"
hostile=$(scaled 10000)

setup_two_routers
modprobe nf_nat_tftp || bail "the kernel's own helper"

# left ROUTER: expectations that were made and never removed.
left() {
	local sum=0 field
	while read -r -a field; do
		# The columns expect_create and expect_delete, of each CPU.
		((sum += 0x${field[14]} - 0x${field[15]}))
	done < <(ns_exec "$1" tail -n +2 /proc/net/stat/nf_conntrack)
	echo $sum
}

for helper in $HELPERS; do
	# A few will do for the one that is not ours.
	count=$hostile
	[[ $helper != tftp ]] || count=$((hostile > 200 ? 200 : hostile))
	for router in r1 r2; do assign_helper $router "$helper"; done
	what="$helper: all arrive, and answers are expected where they should be"
	if result=$("$tools/tftp_hostile.py" "$helper" "$count" "$SEED"); then ok "$what"; else not_ok "$what" "$result"; fi
	echo "# $helper: ${result##*$'\n'}"
	if [[ $helper == tftp ]]; then
		check_match "$helper: many that are no requests open the way in" "[1-9][0-9]+ of these are none;" "$result"
		# Thus what is checked of ours is not true of any helper.
		check_fails "$helper: what ours expects is something else" "$tools/tftp_hostile.py" other 100 "$SEED"
	else
		check_match "$helper: nothing else opens the way in" " 0 of these are none;" "$result"
	fi
	for router in r1 r2; do
		unassign_helper $router
		check_equal "$helper: nothing is left at $router" 0 "$(left $router)"
	done
done

done_testing
