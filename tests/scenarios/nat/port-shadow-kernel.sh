#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Kernels: plain
#
# The kernel's own test of port shadowing (nft_nat.sh of its selftests) runs with nftables' masquerade, which
# masquerade=1 serves. It expects that the client gets what is meant for the router's service ("default"), and that the
# router gets it by one of three workarounds. There the client sends before the service is there; here it also sends
# afterwards, as with services that run all the time.
# shellcheck source-path=SCRIPTDIR source=../../lib/drop-in.sh
. "$(dirname "$0")/../../lib/drop-in.sh"

selftests=/lib/modules/$(uname -r)/selftests/netfilter
[[ -e $selftests/nft_nat.sh ]] || skip_all "this kernel's source, with its tests, was not there"

workarounds="port-filter port-notrack pat"
# Of the script, only the tests of port shadowing run.
only_shadow=(-e '/^if ! test_basic_conn "ns1"/,/^test_port_shadowing$/{/^test_port_shadowing$/!d}'
	-e '/^test_stateless_nat_ip$/d; /^test_dnat_clash$/d' -e "s:^source lib.sh:source $selftests/lib.sh:")
# Holds the line back by which the client sends, until the router's service listens.
# shellcheck disable=SC2016 # the script's variables
service_first=(-e '/echo "fake-entry"/{h;d}'
	-e '/local sc_r=/{p;s/.*/busywait $BUSYWAIT_TIMEOUT listener_ready "$ns0" 1405 "-u"/;G}')
# shellcheck disable=SC2016 # the script's variables
only_default=(-e '/test_port_shadow_.* "\$family"/d')

# who_answers EXPRESSION...: runs the script as sed changes it by the expressions. Prints who answers, for each of its
# tests: NAME ROUTER or NAME CLIENT. It gives an answer half a second: if one was late, it runs again.
who_answers() {
	local tries
	sed "${only_shadow[@]}" "$@" "$selftests/nft_nat.sh" > "$scratch/nft_nat.sh"
	for ((tries = 0; tries < 5; tries++)); do
		bash "$scratch/nft_nat.sh" > "$scratch/said" 2>&1
		grep -q 'got reply from ""' "$scratch/said" || break
	done
	sed -nE 's/.*portshadow test ([a-z-]+): got reply from "?(CLIENT|ROUTER|).*/\1 \2/p' "$scratch/said" | paste -s -d ' '
}

modprobe nf_tables || bail "nftables"
wait_until unload_masquerades || bail "no module masquerades"
if compared; then
	load_modules nft
	check_equal "the kernel's own: the client answers in place of the service" "default CLIENT" \
		"$(who_answers "${service_first[@]}" "${only_default[@]}")"
	wait_until unload_masquerades || bail "the kernel's own is unloaded"
fi
for cone in 0 1; do
	modprobe rustmasq masquerade=1 masquerade_cone=$cone || bail "the module"
	# shellcheck disable=SC2086 # words
	check_equal "masquerade_cone=$cone: the service answers" "$(printf '%s ROUTER\n' default $workarounds | paste -s -d ' ')" \
		"$(who_answers "${service_first[@]}")"
	wait_until unload_masquerades || bail "the module is unloaded"
done
load_modules ours
answers=$(who_answers)
echo "# a client that sent before the service was there: ${answers%% port-filter*}"
# shellcheck disable=SC2086 # words
check_equal "... the workarounds work" "$(printf '%s ROUTER\n' $workarounds | paste -s -d ' ')" "${answers#default * }"
wait_until unload_masquerades || bail "the module is unloaded"

done_testing
