# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0
#
# The part that all tests share, in the guest and on the host: results as TAP lines ("ok - ...", "not ok - ...") and a
# plan ("1..N"). tests/run counts the results and compares their number with the plan.

set -u

# Programs start faster when they need not load a locale.
export LC_ALL=C

# How much of their full count tests repeat, in percent. `make soak` sets 100.
EFFORT=${EFFORT:-5}
# Random choices derive from this seed, so that a run can be repeated.
# shellcheck disable=SC2034 # for scenarios
SEED=${SEED:-1350}

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# scaled N: prints EFFORT percent of N, at least 1.
scaled() {
	local part=$(($1 * EFFORT / 100))
	echo $((part > 0 ? part : 1))
}

# --- Results

# One character for each result. It is a file because subshells print results, too.
results=$scratch/results
: > "$results"

# ok WHAT: prints a passed result.
ok() {
	printf 'ok - %s\n' "$*"
	printf . >> "$results"
}

# not_ok WHAT [EXPLANATION]: prints a failed result.
not_ok() {
	printf 'not ok - %s\n' "$1"
	printf . >> "$results"
	[[ ! ${2:-} ]] || printf '%s\n' "$2" | sed 's/^/    # /'
}

# check WHAT COMMAND...: passes if the command succeeds.
check() {
	local output
	if output=$("${@:2}" 2>&1); then ok "$1"; else not_ok "$1" "${*:2}: $output"; fi
}

# check_fails WHAT COMMAND...: passes if the command fails.
check_fails() {
	local output
	if output=$("${@:2}" 2>&1); then not_ok "$1" "${*:2} succeeded: $output"; else ok "$1"; fi
}

# check_equal WHAT EXPECTED GOT: passes if both texts are equal.
check_equal() {
	if [[ $2 == "$3" ]]; then ok "$1"; else not_ok "$1" "expected '$2', got '$3'"; fi
}

# check_match WHAT PATTERN GOT: passes if GOT matches the extended regular expression.
check_match() {
	if [[ $3 =~ $2 ]]; then ok "$1"; else not_ok "$1" "expected a match of '$2', got '$3'"; fi
}

# check_port WHAT FIRST LAST PORT: passes if PORT is a number from FIRST to LAST.
check_port() {
	if [[ $4 =~ ^[0-9]+$ ]] && (($4 >= $2 && $4 <= $3)); then
		ok "$1"
	else
		not_ok "$1" "expected a port from $2 to $3, got '$4'"
	fi
}

# bail TEXT: ends the test with a failure, because something failed that the checks need.
bail() {
	not_ok "${0##*/} could be set up" "$*"
	exit 1
}

# done_testing: prints the plan. Every test calls it last: without a plan, tests/run takes the test for one that ended
# early. The status stays that of the command before.
done_testing() {
	local status=$? counted
	counted=$(< "$results")
	echo "1..${#counted}"
	return $status
}

# skip_all REASON: ends the test with one skipped result.
skip_all() {
	ok "${0##*/} # skip $1"
	done_testing
	exit 0
}

# run_tap WHAT COMMAND...: runs a tool that prints TAP itself, passes on its results, and checks them against its plan.
run_tap() {
	local line status plan=none count=0
	while IFS= read -r line; do
		case $line in
		1..*)
			plan=${line#1..}
			continue
			;;
		"ok "* | "not ok "*)
			count=$((count + 1))
			printf . >> "$results"
			;;
		esac
		printf '%s\n' "$line"
	done < <("${@:2}" 2>&1)
	wait $!
	status=$?
	if [[ $status == 0 && $plan == "$count" && $count != 0 ]]; then
		ok "$1 ran to its end"
	else
		not_ok "$1 ran to its end" "status $status, $count results, plan: $plan"
	fi
}
