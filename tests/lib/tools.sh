# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0
#
# The library of scenarios with tools that masquerade by rules of their own. They run on the router.
# shellcheck disable=SC2154

# shellcheck source-path=SCRIPTDIR source-path=SCRIPTDIR/../../lib source=drop-in.sh
. "$(dirname "${BASH_SOURCE[0]}")/drop-in.sh"

# Such programs take long to start.
slow=$((slow * 4))

# start_tool WHAT PROGRAM ARGUMENT...: starts the program on the router. Sets `tool`. It writes to $scratch/WHAT.
start_tool() {
	ns_start router "${@:2}" > "$scratch/$1" 2>&1
	tool=$!
}

# stop_tool: ends it.
stop_tool() {
	kill "$tool"
	wait "$tool"
}

# start_dbus: starts the system's message bus.
start_dbus() {
	[[ ! -S /run/dbus/system_bus_socket ]] || return
	mkdir -p /run/dbus
	dbus-daemon --system --fork --nopidfile || bail "dbus"
}

# check_masqueraded WHAT PATTERN COMMAND...: does what `check_seen_source` does, for a flow that our module masquerades.
check_masqueraded() { check_seen_source "$1" 1 "${@:2}"; }

# check_rules WHAT: checks that our module serves rules, and the kernel's own none.
check_rules() {
	check_match "$1: the module serves the tool's rules" '^[1-9]' "$(users rustmasq)"
	check_match "$1: ... and the kernel's own none" '^[-0][-0]$' "$(users xt_MASQUERADE)$(users nft_masq)"
}

# check_shown WHAT: checks that the rules in $scratch/ours look like those in $scratch/theirs, and that there are some.
check_shown() {
	check "$1: its rules are shown" test -s "$scratch/theirs"
	check_equal "$1: ... as ever" "" "$(diff "$scratch/theirs" "$scratch/ours")"
}

# check_no_rules WHAT: checks that the tool has removed its rules.
unused() { [[ $(users rustmasq) == 0 ]]; }
check_no_rules() { check "$1: without it, no rule is left" wait_until unused; }
