#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Tests qemu/run from the host: exit statuses, output, shares.

cd "$(dirname "$(readlink -f "$0")")/../.." || exit
# shellcheck source=tests/lib/tap.sh
. tests/lib/tap.sh

# expect WHAT STATUS PATTERN COMMAND...: runs the command and checks its status and its stderr: one line that matches
# PATTERN, or nothing ("").
expect() {
	local what=$1 status=$2 pattern=$3 got lines err=$scratch/err-$BASHPID
	shift 3
	"$@" > "$scratch/out" 2> "$err"
	got=$?
	lines=$(wc -l < "$err")
	if [[ $got != "$status" ]]; then
		explain "$what" "status $got, not $status"
	elif [[ ! $pattern && $lines != 0 ]]; then
		explain "$what" "something on stderr"
	elif [[ $pattern && $lines != 1 ]]; then
		explain "$what" "$lines lines on stderr, not one"
	elif [[ $pattern ]] && ! grep -qE -- "$pattern" "$err"; then
		explain "$what" "stderr does not match '$pattern'"
	else
		ok "$what: status $status${pattern:+, \"$(cut -c 1-100 "$err")\"}"
	fi
	# Removes the kernel log that qemu/run kept.
	grep -oE '/[^ ]*rustmasq-console-[^ )]*' "$err" | xargs -r rm -f
}

# explain WHAT TEXT: prints a failed result with stderr, the file $err.
explain() {
	not_ok "$1" "$2"$'\n'"$(sed 's/^/stderr: /' "$err")"
}

# --- Failures before the guest boots

mkdir "$scratch/bin"
ln -s "$(python3 -c 'import sys; print(sys.executable)')" "$scratch/bin/python3"
expect "no QEMU" 125 "no QEMU" env PATH="$scratch/bin" qemu/run true
expect "no kernel" 125 "the plain kernel is missing" env -u KDIR XDG_CACHE_HOME="$scratch" qemu/run true
expect "no kernel in KDIR" 125 "no kernel: $scratch/" env KDIR="$scratch" qemu/run true
expect "unknown option" 125 "unrecognized arguments: --frobnicate" qemu/run --frobnicate -- true
expect "no time limit" 125 "argument --timeout: invalid" qemu/run --timeout 0 true
expect "no such share" 125 "--share /nonexistent: no such directory" qemu/run --share /nonexistent true
expect "a share over the guest's own" 125 "the guest has its own /usr" qemu/run --share /usr true
expect "a system without its files" 125 "--system $scratch: $scratch/vmlinuz is missing" qemu/run --system "$scratch" true
expect "a system with the debug kernel" 125 "exclude each other" qemu/run --system "$scratch" --debug true
expect "icount on two CPUs" 125 "--icount counts on one CPU" qemu/run --icount --cpus 2 true
expect "Secure Boot of the test kernel" 125 "--secure-boot needs --stock" qemu/run --secure-boot "$scratch" true
expect "a shell without a terminal" 125 "no terminal for a shell" qemu/run < /dev/null

# --- The command's status and output

# A guest with one thread boots with half of the work.
guest=(qemu/run --one-thread)
SECONDS=0
# shellcheck disable=SC2016 # meant for the guest's shell
expect "COMMAND's own status, and both its outputs" 7 "^to stderr$" \
	qemu/run sh -c 'echo "to stdout, from $PWD"; echo "to stderr" >&2; exit 7'
check_equal "... and starts in the caller's folder" "to stdout, from $PWD" "$(< "$scratch/out")"
# The seconds in which each of three guests boots at the same time, on a busy machine, too.
limit=$((SECONDS > 3 ? 6 * SECONDS : 20))
expect "a command that does not exist" 127 "no-such-command: no such command" "${guest[@]}" no-such-command
expect "a command that a signal ends" 137 "" "${guest[@]}" sh -c 'kill -9 $$'

# 8 MB of binary data, through a pipe whose other end a background process keeps open.
mkdir "$scratch/share dir" "$scratch/share"
expect "a path that cannot be shared" 125 "white space" qemu/run --share "$scratch/share dir" true
sum=$("${guest[@]}" --share "$scratch/share" sh -c "head -c 8000000 /dev/urandom > '$scratch/share/random'
	sleep 1000 & cat '$scratch/share/random'" | sha256sum)
came_through() {
	[[ $sum == "$(sha256sum < "$scratch/share/random")" && $(stat -c %s "$scratch/share/random") == 8000000 ]]
}
check "8 MB come through a pipe unchanged, and a share can be written to" came_through
is_read_only() {
	touch "$scratch/share/x" && "${guest[@]}" sh -c "! touch '$PWD/Makefile'" 2> /dev/null
}
check "the checkout is read-only" is_read_only
needs_no_checkout() {
	"${guest[@]}" sh -c "umount -l '$PWD' && cd / && setpriv --reuid 65534 --regid 65534 --clear-groups sh -c \\
		'iptables-legacy -j RUSTMASQ --help | grep -q full-cone && rustmasq --version'"
}
check "users of the guest who cannot read the checkout have the program and the extension" needs_no_checkout
ends_with_its_reader() {
	[[ $("${guest[@]}" yes 2> "$scratch/err" | head -n 2) == $'y\ny' && ! -s $scratch/err ]]
}
check "the guest ends when nobody reads its output" ends_with_its_reader

# --- Ends of the guest

expect "a panic" 126 "the kernel complained: .*panic" "${guest[@]}" sh -c 'echo c > /proc/sysrq-trigger; sleep 100'
expect "a warning, whatever COMMAND's status" 126 "the kernel complained: .*WARNING: a test" \
	"${guest[@]}" sh -c 'echo "WARNING: a test" > /dev/kmsg'
expect "a guest that reboots" 125 "the guest ended before COMMAND did" \
	"${guest[@]}" sh -c 'echo b > /proc/sysrq-trigger; sleep 100'
# These wait at the same time.
expect "COMMAND out of time" 124 "timed out: COMMAND was still running after $limit s" \
	"${guest[@]}" --timeout $limit sleep 1000 &
expect "a guest that hangs at boot" 124 "timed out: the guest was still booting after 5 s" \
	"${guest[@]}" --timeout 5 --append rootwait --append root=/dev/none true &
expect "a guest that stops with a panic" 126 "the kernel complained: .*panic" \
	"${guest[@]}" --timeout $limit --append panic=0 sh -c 'echo c > /proc/sysrq-trigger; sleep 100' &
wait

done_testing
