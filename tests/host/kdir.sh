#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Tests how the Makefile finds its kernel: it refuses a tree KDIR= that it cannot build against, with a line that names
# the reason, and asks for the test kernel only when a recipe needs it.

cd "$(dirname "$(readlink -f "$0")")/../.." || exit
# shellcheck source=tests/lib/tap.sh
. tests/lib/tap.sh

# check_kdir_refused WHAT PATTERN DIR: checks that make fails with a line that matches.
check_kdir_refused() {
	local output
	if output=$(make KDIR="$3" module 2>&1); then
		not_ok "$1 is refused"
	elif grep -qE "KDIR=$3 cannot be used: .*$2" <<< "$output"; then
		ok "$1 is refused: $(grep -oE "$2" <<< "$output" | head -n 1)"
	else
		not_ok "$1 is refused with its reason" "$output"
	fi
}

tree=$scratch/tree
# configured OPTION...: makes a tree that looks built, with these options.
configured() {
	rm -rf "$tree"
	mkdir -p "$tree/include/config" "$tree/rust"
	printf 'CONFIG_%s\n' "$@" > "$tree/include/config/auto.conf"
	touch "$tree/Makefile" "$tree/rust/libkernel.rmeta" "$tree/Module.symvers"
}

rustc=$("${RUSTC:-/usr/bin/rustc}" --version)
base=(RUST=y "RUSTC_VERSION_TEXT=\"$rustc\"" MODULES=y INET=y IPV6=y EVENT_TRACING=y NETFILTER=y
	NETFILTER_XTABLES=m NF_CONNTRACK=m NF_NAT=m)

check_kdir_refused "a folder that is not there" "no such folder" "$scratch/nothing"
check_kdir_refused "a folder that is no kernel tree" "not a configured kernel tree" "$scratch"
configured MODULES=y
check_kdir_refused "a kernel without Rust" "CONFIG_RUST is not set" "$tree"
configured "${base[@]}"
rm "$tree/rust/libkernel.rmeta"
check_kdir_refused "a header package" "no Rust metadata" "$tree"
configured "${base[@]/"$rustc"/rustc 1.0.0}"
check_kdir_refused "another compiler's kernel" 'built by "rustc 1.0.0"' "$tree"
configured "${base[@]}"
check_kdir_refused "a kernel without NF_NAT_MASQUERADE" "lacks CONFIG_NF_NAT_MASQUERADE" "$tree"
configured "${base[@]}" NF_NAT_MASQUERADE=y
rm "$tree/Module.symvers"
check_kdir_refused "a tree that was not built to its end" "no Module.symvers" "$tree"

# make remembers its first answer to where the test kernel is. On a fresh machine there is none until a recipe has built
# it, so no recipe before may ask.
# shellcheck disable=SC2016 # make expands it
flavour=$(make --no-print-directory KDIR= --eval='first:; @true' --eval='second: first; @: $(info $(flavor kernel))' second)
check_equal "a recipe that needs no kernel does not ask for it" recursive "$flavour"

done_testing
