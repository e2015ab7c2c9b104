# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0
#
# The library of scenarios about the TFTP helper, in the network that helpers.sh draws.

# shellcheck source-path=SCRIPTDIR source-path=SCRIPTDIR/../../lib source=helpers.sh
. "$(dirname "${BASH_SOURCE[0]}")/helpers.sh"

# shellcheck disable=SC2034 # helpers.sh uses them
HELPERS="$(compared && echo "tftp ")rustmasq-tftp" protocol=udp helper_ports=69,6969,32002

# start_tftp_peers: starts the tool that sends and receives TFTP packets.
start_tftp_peers() { start_observer tftp.py peers; }
