#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Runs the iptables extension under libFuzzer and AddressSanitizer, on the host, with cargo-fuzz:
#
#     command_line   random words after `iptables`, through getopt to the extension
#     rule           random rules from the kernel, to be listed and saved
#
# rust/libxt/fuzz has the targets, the expectations, and a corpus to start from, which stays unchanged. `scripts/setup
# --fuzz` installs the tools. A failing input is kept in build/fuzz/found.

cd "$(dirname "$(readlink -f "$0")")/../.." || exit
# shellcheck source=tests/lib/tap.sh
. tests/lib/tap.sh
# shellcheck source=scripts/common.sh
. scripts/common.sh

fuzz=rust/libxt/fuzz
built=$PWD/build/fuzz
export RUSTC BINDGEN
# A seed alone does not make libFuzzer repeat a run: what it learns from comparisons depends on addresses, and what it
# reloads from the corpus (hence -reload=0) on the time.
repeatable=()
! setarch -R true 2> /dev/null || repeatable=(setarch -R)
# Leaks do not matter: iptables exits after one command line.
export ASAN_OPTIONS=detect_leaks=0

clang() { "clang$LLVM_SUFFIX" "$@"; }

# build: builds the targets. Debian's rustc can instrument for AddressSanitizer once RUSTC_BOOTSTRAP allows unstable
# options, but has no runtime for it. clang's is used, and clang's libFuzzer, which saves compiling the one in C++ of
# libfuzzer-sys.
build() {
	PATH=$(dirname "$RUSTC"):$PATH CC="clang$LLVM_SUFFIX" RUSTC_BOOTSTRAP=1 RUST_BACKTRACE=0 \
		RUSTFLAGS="-Zexternal-clangrt -Clinker=clang$LLVM_SUFFIX -Clink-arg=-fsanitize=address" \
		CUSTOM_LIBFUZZER_PATH=$(clang --print-file-name=libclang_rt.fuzzer-x86_64.a) \
		"$CARGO_FUZZ" fuzz build --fuzz-dir "$fuzz" --target-dir "$built"
}

# fuzz TARGET RUNS: runs a target with EFFORT percent of RUNS inputs.
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

# what_failed LOG: prints the log without libFuzzer's progress, and only our part of the stack.
what_failed() {
	grep -vE '^(#[0-9]+\s|INFO: |MS: |0x|artifact_prefix)' "$1" | grep -vE '^ *#[0-9]+ 0x' | head -n 30
	grep -E '^ *#[0-9]+ 0x.* [^ ]*/rust/libxt/' "$1" | sed 's/0x[0-9a-f]* in //' | head -n 10
}

echo "# seed $SEED"
[[ -x $CARGO_FUZZ ]] || bail "no cargo-fuzz: run scripts/setup --fuzz"
build > "$scratch/build.log" 2>&1 || bail "$(tail -n 40 "$scratch/build.log")"
fuzz command_line 1000000
fuzz rule 150000

done_testing
