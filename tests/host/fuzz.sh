#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# The iptables extension under libFuzzer and AddressSanitizer, on the host, by way of cargo-fuzz:
#
#     command_line   any words after `iptables`, through getopt to the extension
#     rule           any rule from the kernel, to be listed and saved
#
# rust/libxt/fuzz has the targets, what is expected of the extension, and the corpus to start from,
# which is only read here. `scripts/setup --fuzz` installs what it takes. An input that fails is kept.

cd "$(dirname "$(readlink -f "$0")")/../.." || exit
# shellcheck source=tests/lib/tap.sh
. tests/lib/tap.sh
# shellcheck source=scripts/common.sh
. scripts/common.sh

fuzz=rust/libxt/fuzz
built=$PWD/build/fuzz
export RUSTC BINDGEN
# By its seed alone libFuzzer cannot repeat a run: what it learns from comparisons depends on addresses,
# and what it reads again (hence -reload=0) on the time.
repeatable=()
! setarch -R true 2> /dev/null || repeatable=(setarch -R)
# What leaks does not matter: iptables exits after one command line.
export ASAN_OPTIONS=detect_leaks=0

clang() { "clang$LLVM_SUFFIX" "$@"; }

# Debian's rustc can instrument for AddressSanitizer, though only a nightly one would admit to it, but has
# no runtime for it. clang has it, and libFuzzer, too: that spares compiling libfuzzer-sys's own, in C++.
build() {
	PATH=$(dirname "$RUSTC"):$PATH CC="clang$LLVM_SUFFIX" RUSTC_BOOTSTRAP=1 RUST_BACKTRACE=0 \
		RUSTFLAGS="-Zexternal-clangrt -Clinker=clang$LLVM_SUFFIX -Clink-arg=-fsanitize=address" \
		CUSTOM_LIBFUZZER_PATH=$(clang --print-file-name=libclang_rt.fuzzer-x86_64.a) \
		"$CARGO_FUZZ" fuzz build --fuzz-dir "$fuzz" --target-dir "$built"
}

# fuzz TARGET RUNS: as many inputs as EFFORT says.
fuzz() {
	local target=$1 runs program found log
	program=$(echo "$built"/*/release/"$target")
	found=$built/found/$target
	log=$scratch/$target.log
	runs=$(scaled "$2")
	mkdir -p "$found" "$scratch/$target"
	if "${repeatable[@]}" "$program" -seed="$SEED" -reload=0 -runs="$runs" -max_len=512 -timeout=10 \
		-artifact_prefix="$found/" "$scratch/$target" "$fuzz/corpus/$target" > "$log" 2>&1; then
		ok "$target: $runs inputs, coverage $(sed -n 's/.*DONE *cov: \([0-9]*\).*/\1/p' "$log")"
	else
		not_ok "$target: $runs inputs" "$(what_failed "$log")
again by: ASAN_OPTIONS=$ASAN_OPTIONS $program $(sed -n 's/.*Test unit written to //p' "$log")"
	fi
}

# what_failed LOG: without libFuzzer's progress, and of the stack what is ours.
what_failed() {
	grep -vE '^(#[0-9]+\s|INFO: |MS: |0x|artifact_prefix)' "$1" | grep -vE '^ *#[0-9]+ 0x' | head -n 30
	grep -E '^ *#[0-9]+ 0x.* [^ ]*/rust/libxt/' "$1" | sed 's/0x[0-9a-f]* in //' | head -n 10
}

echo "# seed $SEED"
[[ -x $CARGO_FUZZ ]] || bail "no cargo-fuzz: run scripts/setup --fuzz"
build > "$scratch/build.log" 2>&1 || bail "$(tail -n 40 "$scratch/build.log")"
fuzz command_line 2000000
fuzz rule 500000

done_testing
