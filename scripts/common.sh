#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Settings and functions that the scripts share. Source this file from a bash
# that runs with "set -euo pipefail".

# Everything fetched or built lives here; removing it only costs time.
CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/rustmasq

# The toolchain of the kernel, which has to be the module's as well. RUSTC is a
# full path, because a rustup proxy earlier in PATH has no library source.
# shellcheck disable=SC2034 # other scripts use it
LLVM_SUFFIX=-22
RUSTC=${RUSTC:-/usr/bin/rustc}
BINDGEN_VERSION=0.72.1
# shellcheck disable=SC2034
BINDGEN=$CACHE/bindgen-$BINDGEN_VERSION/bin/bindgen
CARGO_FUZZ_VERSION=0.13.2
# shellcheck disable=SC2034
CARGO_FUZZ=$CACHE/cargo-fuzz-$CARGO_FUZZ_VERSION/bin/cargo-fuzz
RUFF_VERSION=0.17.5
# The hash of the wheel for x86-64 and glibc.
# shellcheck disable=SC2034
RUFF_SHA256=40ca8afaac309b41a5b2e09e4e7beb1f824826b93c25697c4d74f573324fba4e
# shellcheck disable=SC2034
RUFF=$CACHE/ruff-$RUFF_VERSION/bin/ruff

# The PATH of an unprivileged user often lacks the folders of depmod and others.
export PATH=$PATH:/usr/sbin:/sbin

# say TEXT...: prints a line for the user, on stderr, because stdout belongs to
# a script's result.
say() {
	printf 'rustmasq: %s\n' "$*" >&2
}

# die TEXT...: says TEXT and ends the script with status 1.
die() {
	say "$@"
	exit 1
}

# have_command NAME: succeeds if PATH has the program NAME.
have_command() {
	command -v "$1" >/dev/null
}

# with_lock NAME COMMAND...: runs COMMAND, a program or a function, while it
# holds the lock NAME. The kernel releases the lock when this shell ends, however
# it ends.
with_lock() {
	local fd
	mkdir -p "$CACHE/lock"
	exec {fd}>"$CACHE/lock/$1"
	if ! flock --nonblock "$fd"; then
		say "waiting for another script that holds the lock $1"
		flock "$fd"
	fi
	# COMMAND does not inherit the descriptor, so that a daemon that it
	# starts does not hold the lock for ever. A "||" here would turn
	# "set -e" off inside COMMAND.
	"${@:2}" {fd}>&-
	exec {fd}>&-
}

# alive WHAT LOG [TOTAL PATTERN] COMMAND...
#
# Runs a long COMMAND, a program or a function, with its output in the file LOG,
# and shows that it is alive: on a terminal by one line that is redrawn, elsewhere
# by a line every 30 s. WHAT names the work. With the number TOTAL, the line shows
# the progress, too: how many lines of LOG match PATTERN (of grep -E), of about
# TOTAL. Ctrl-C, or a signal to the script alone, ends COMMAND and all of its
# children. If COMMAND fails, the end of LOG is shown and its status returned.
alive() {
	local what=$1 log=$2 total='' pattern='' job status=0
	shift 2
	if [[ $1 =~ ^[0-9]+$ ]]; then
		total=$1 pattern=$2
		shift 2
	fi
	mkdir -p "$(dirname "$log")"

	# With job control, the command gets a process group of its own, which can
	# be signalled as a whole. Without it, bash would make the command ignore
	# Ctrl-C.
	set -m
	"$@" >"$log" 2>&1 </dev/null &
	job=$!
	set +m

	local signal
	for signal in INT TERM HUP; do
		# shellcheck disable=SC2064 # $job is meant to be expanded now
		trap "alive_interrupted $job $signal" "$signal"
	done
	alive_watch "$job"
	wait "$job" || status=$?
	trap - INT TERM HUP

	if ((status == 0)); then
		alive_draw "done"
		return
	fi
	alive_draw "FAILED"
	say "the end of $log:"
	tail -n 30 "$log" | sed 's/^/    /' >&2
	return "$status"
}

# alive_watch JOB: draws the line until JOB has ended.
alive_watch() {
	local every=30 next
	[[ -t 2 ]] && every=1
	SECONDS=0 next=$every
	while kill -0 "$1" 2>/dev/null; do
		if ((SECONDS >= next)); then
			alive_draw
			next=$((SECONDS + every))
		fi
		sleep 0.1
	done
}

# alive_draw [END]: draws the line, for the last time if END is given. It uses
# the variables of its caller `alive`.
alive_draw() {
	local end=${1:-} steps='' line time
	time=$(printf '%d:%02d' $((SECONDS / 60)) $((SECONDS % 60)))
	if [[ $total && ! $end ]]; then
		steps=" $(grep -cE -- "$pattern" "$log" || true) of about $total,"
	fi
	line="$what:${end:+ $end,}$steps $time"
	if [[ ! -t 2 ]]; then
		say "$line"
	else
		# Return to the start of the line, and erase the previous one.
		printf '\r\033[Krustmasq: %s' "$line" >&2
		[[ ! $end ]] || printf '\n' >&2
	fi
}

# alive_interrupted JOB SIGNAL: passes SIGNAL on to the whole group of JOB, waits
# until JOB ends, and ends this shell by the same signal, as its caller expects.
# JOB may take a while, as apt does during an installation; a second signal kills
# it.
alive_interrupted() {
	# shellcheck disable=SC2064 # $1 is meant to be expanded now
	trap "kill -KILL -- -$1 2>/dev/null || true" INT TERM HUP
	[[ ! -t 2 ]] || printf '\n' >&2
	say "interrupted; waiting for the running command to end (interrupt again to kill it)"
	kill -s "$2" -- "-$1" 2>/dev/null || true
	while kill -0 "$1" 2>/dev/null; do
		sleep 0.1
	done
	# Processes of the group may have ignored SIGNAL.
	kill -KILL -- "-$1" 2>/dev/null || true
	trap - INT TERM HUP
	kill -s "$2" "$BASHPID"
}

# need_space KILOBYTES WHAT: dies unless the disk of the cache has KILOBYTES
# left for WHAT.
need_space() {
	local free
	mkdir -p "$CACHE"
	free=$(df --output=avail -k "$CACHE" | tail -n 1)
	((free >= $1)) || die "$2 needs about $(($1 >> 20)) GB under $CACHE," \
		"and $((free >> 20)) GB are free there." \
		"Make room, or set XDG_CACHE_HOME to a folder on a larger disk."
}

# stock_kernel RELEASE VERSION: prints the folder of the cache for Debian's kernel
# RELEASE of the package version VERSION. The name also tells how its tree is made.
stock_kernel() {
	local scripts key
	scripts=$(dirname "${BASH_SOURCE[0]}")
	key=$(sha256sum <"$scripts/rust-metadata")
	printf '%s/stock/%s-%s-%s\n' "$CACHE" "$1" "$2" "${key:0:12}"
}

# kernel_too_old RELEASE: succeeds, and prints why, if rustmasq cannot be built for this
# kernel because it is too old.
kernel_too_old() {
	local version=${1%%[!0-9.]*}
	[[ $(printf '%s\n' "$version" 7.3 | sort -V | head -n 1) != 7.3 ]] || return 1
	printf 'Linux %s lacks Rust interfaces that rustmasq uses: it needs 7.3 or newer\n' "$version"
}

# enter_options: sets `enter` to the command that makes a namespace of mounts, as root or
# as the root of a user namespace, and `user` to the options of chroot that take the rights
# of root away where they are real and the user has others.
# shellcheck disable=SC2034 # other scripts use it
enter_options() {
	enter=(unshare --mount) user=()
	if ((EUID != 0)); then
		if unshare --user --map-root-user --mount true 2>/dev/null; then
			enter=(unshare --user --map-root-user --mount)
		elif have_command sudo; then
			enter=(sudo unshare --mount)
			user=(--userspec="$(id -u):$(id -g)")
		else
			die "work in a root file system of its own needs root, sudo, or user namespaces"
		fi
	fi
	# In a chroot, whose / is no mount, unshare cannot change how mounts propagate.
	"${enter[@]}" true 2>/dev/null || enter+=(--propagation unchanged)
}
