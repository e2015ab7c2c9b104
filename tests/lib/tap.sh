# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0
#
# Results of a test as TAP lines, "ok - ..." and "not ok - ...", and a plan, "1..N": what all tests share, in the
# guest and on the host. tests/run counts the results, and compares their number with the plan.

set -u

# Programs need not load a locale each.
export LC_ALL=C

# Tests that repeat something do EFFORT percent of what they could; `make soak` does all of it.
EFFORT=${EFFORT:-5}
# What is random is made from this seed, and can be had again.
# shellcheck disable=SC2034 # for scenarios
SEED=${SEED:-1350}

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# scaled N: EFFORT percent of N, at least 1.
scaled() {
	local part=$(($1 * EFFORT / 100))
	echo $((part > 0 ? part : 1))
}

# --- Saying what happened

# A character for each result. A file, as subshells have results, too.
results=$scratch/results
: > "$results"

ok() {
	printf 'ok - %s\n' "$*"
	printf . >> "$results"
}

# not_ok WHAT [EXPLANATION]
not_ok() {
	printf 'not ok - %s\n' "$1"
	printf . >> "$results"
	[[ ! ${2:-} ]] || printf '%s\n' "$2" | sed 's/^/    # /'
}

# check WHAT COMMAND...: the command succeeds.
check() {
	local output
	if output=$("${@:2}" 2>&1); then ok "$1"; else not_ok "$1" "${*:2}: $output"; fi
}

# check_fails WHAT COMMAND...: the command fails.
check_fails() {
	local output
	if output=$("${@:2}" 2>&1); then not_ok "$1" "${*:2} succeeded: $output"; else ok "$1"; fi
}

# check_equal WHAT EXPECTED GOT
check_equal() {
	if [[ $2 == "$3" ]]; then ok "$1"; else not_ok "$1" "expected '$2', got '$3'"; fi
}

# check_match WHAT PATTERN GOT: GOT matches the extended regular expression.
check_match() {
	if [[ $3 =~ $2 ]]; then ok "$1"; else not_ok "$1" "expected a match of '$2', got '$3'"; fi
}

# check_port WHAT FIRST LAST PORT: PORT lies within FIRST to LAST.
check_port() {
	if [[ $4 =~ ^[0-9]+$ ]] && (($4 >= $2 && $4 <= $3)); then
		ok "$1"
	else
		not_ok "$1" "expected a port from $2 to $3, got '$4'"
	fi
}

# For what must work before anything can be checked.
bail() {
	not_ok "${0##*/} could be set up" "$*"
	exit 1
}

# done_testing: prints the plan. The last line of every test: one that ends without it has not run to its end.
done_testing() {
	local status=$? counted
	counted=$(< "$results")
	echo "1..${#counted}"
	return $status
}

# skip_all REASON: there is nothing that could be tested here.
skip_all() {
	ok "${0##*/} # skip $1"
	done_testing
	exit 0
}

# run_tap WHAT COMMAND...: passes on the results of a tool, WHAT, that prints TAP itself, and checks that it ran to its
# end.
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
