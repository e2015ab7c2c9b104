#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Hostile streams, made at random: after each piece of one, our FTP helper expects what a model of it says, and nothing
# else, and the stream arrives unharmed. The model reads whole lines, and shares no grammar with the helper. The full
# effort is 10,000 streams.
# shellcheck source-path=SCRIPTDIR source=../../lib/ftp.sh
. "$(dirname "$0")/../../lib/ftp.sh"

setup_two_routers
assign_helper r1 rustmasq-ftp
count=$(($(scaled 20000) / slow))
((count <= 10000)) || count=10000
what="$count streams: the helper expects what the model says, and each stream arrives"
if result=$("$tools/ftp_streams.py" "$count" "$SEED"); then ok "$what"; else not_ok "$what" "$result"; fi
echo "# seed $SEED: ${result##*$'\n'}"
check_match "... some of them announce ports" " [1-9][0-9]+ ports were expected$" "$result"

done_testing
