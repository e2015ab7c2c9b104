#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Among truncated, garbled, fragmented and too long packets, our TFTP helper expects answers to requests alone, which
# have one of two opcodes and a name. It counts the others, and every complete packet reaches the server. The kernel's
# own helper, for comparison, looks at the opcode alone.
# shellcheck source-path=SCRIPTDIR source=../../lib/tftp.sh
. "$(dirname "$0")/../../lib/tftp.sh"
# shellcheck source-path=SCRIPTDIR source=../../lib/events.sh
. "$(dirname "$0")/../../lib/events.sh"
hostile=$(scaled 10000)

setup_two_routers
modprobe nf_nat_tftp || bail "the kernel's own helper"

# count_leftovers ROUTER: prints how many expectations were created and not removed.
count_leftovers() {
	local sum=0 field
	while read -r -a field; do
		# The columns expect_create and expect_delete, of each CPU.
		((sum += 0x${field[14]} - 0x${field[15]}))
	done < <(ns_exec "$1" tail -n +2 /proc/net/stat/nf_conntrack)
	echo $sum
}

for helper in $HELPERS; do
	# Fewer packets suffice for the kernel's own helper.
	count=$hostile
	[[ $helper != tftp ]] || count=$((hostile > 200 ? 200 : hostile))
	for router in r1 r2; do assign_helper $router "$helper"; done
	[[ $helper == tftp ]] || record_events tftp_ignored
	what="$helper: all packets arrive, and answers are expected to the right ones"
	if result=$("$tools/tftp_hostile.py" "$helper" "$count" "$SEED"); then ok "$what"; else not_ok "$what" "$result"; fi
	echo "# $helper: ${result##*$'\n'}"
	if [[ $helper == tftp ]]; then
		check_match "$helper: it expects answers to packets that are no requests" "[1-9][0-9]* of these are none;" "$result"
		# So the check of our helper would fail with a helper that asks for no name.
		check_fails "$helper: ... which the check of our helper notices" "$tools/tftp_hostile.py" other 100 "$SEED"
	else
		check_match "$helper: it expects no answer to any other packet" " 0 of these are none;" "$result"
		check_match "$helper: what it ignores is traced" "^netns=[0-9]+ id=[0-9]+ original=.*->.*:69 len=2 start=000[12]" \
			"$(events tftp_ignored " len=2 ")"
		stop_recording
	fi
	for router in r1 r2; do
		unassign_helper $router
		check_equal "$helper: no expectation is left at $router" 0 "$(count_leftovers $router)"
	done
done

done_testing
