#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# The TFTP clients tftp-hpa, atftp and curl read and write files through two routers that masquerade by RUSTMASQ with
# ports and let in expected flows alone, with the kernel's own helper and with ours. Without a helper no file arrives,
# because r2 rejects the server's packets.
# shellcheck source-path=SCRIPTDIR source=../../lib/tftp.sh
. "$(dirname "$0")/../../lib/tftp.sh"

setup_two_routers
modprobe nf_nat_tftp || bail "the kernel's own helper"
# r2 forwards its port 32002 to the server's port 69. No rule translates packets from the server's other ports.
for v in 4 6; do
	dnat="-A PREROUTING -i lan0 -p udp --dport 32002 -j DNAT --to-destination ${server[$v]}:69"
	translate -p udp -j RUSTMASQ --to-ports 50000-59999
done
# The server's address for programs that take no brackets.
declare -A server_address=([4]=203.0.113.2 [6]=2001:db8:1::2)

# --- Files

declare -A sum=()
# note_sums FILE...: sets `sum` to their checksums, by name.
note_sums() {
	local value file
	while read -r value file; do sum[${file##*/}]=$value; done < <(sha256sum "$@" 2> /dev/null)
}

# Clients and server have the same files, of-SIZE and text. Clients write them to the server as put-..., and read them
# into got-...
served=$scratch/served
mkdir "$served" "$scratch/own"
cd "$scratch/own" || bail "a folder"
sizes=(1 511 512 513)
large=$((10000000 / slow / slow))
for size in "${sizes[@]}" 300000 $large; do
	head -c "$size" /dev/urandom > "of-$size"
	ln "of-$size" "put-$size"
done
seq 2000 > text
sed 's/$/\r/' text > text-on-the-wire
cp of-* text "$served"
note_sums of-* text*
chmod -R a+rwX "$scratch"

remove_transferred() {
	ns_exec r1 conntrack -F 2> /dev/null
	ns_exec r2 conntrack -F 2> /dev/null
	rm -f got-* "$served"/put-*
}

# check_same_file ORIGINAL FILE...: checks that these read or written files equal the original.
check_same_file() {
	local file
	for file in "${@:2}"; do
		check_case "$file equals $1" "${sum[$1]}" "${sum[$file]-nothing}"
		unset "sum[$file]"
	done
}

# --- Servers

# start_tftpd: starts tftp-hpa's server, one for each IP version.
start_tftpd() {
	local table=/proc/net/udp
	for v in 4 6; do
		ns_start server in.tftpd --foreground --listen -$v --user root --create --secure "$served"
		wait_until ns_exec server grep -q ':0045 ' $table || bail "no TFTP server"
		table=/proc/net/udp6
		# It answers in the IP version of the request before. So it does not answer the first one, which is sent
		# here.
		ns_exec server bash -c "printf '\0\1none\0octet\0' > /dev/udp/${server_address[$v]}/69"
	done
}
start_tftpd

# Another server, on another port, supports windows (RFC 7440), which tftp-hpa's does not.
ns_start server "$tools/tftp.py" serve 6969 "$served/of-300000" > "$scratch/windows"
wait_until grep -q ready "$scratch/windows" || bail "no server that supports windows"

# --- Clients

# with_tftp_hpa MODE COMMAND...: runs commands of tftp-hpa's client one after the other, from one port.
with_tftp_hpa() { printf '%s\n' "${@:2}" | ns_exec lan tftp "-$v" -m "$1" "${server_address[$v]}" > /dev/null; }
with_atftp() { ns_exec lan atftp --tftp-timeout 1 "$@" "${server_address[$v]}" 2>&1; }
with_curl() { ns_exec lan curl --silent --show-error --max-time 20 "$@" 2>&1; }

# Without a helper, r2 rejects the server's packets. A transfer takes a fraction of the second that is waited.
helper=none
for v in 4 6; do
	ns_exec lan timeout 1 tftp -$v -m octet "${server_address[$v]}" -c get of-512 "got-$v" > /dev/null &
	clients+=($!)
done
wait "${clients[@]}"
for v in 4 6; do
	case="a download, IPv$v"
	check_fails "$helper: $case: no data arrives" test -s "got-$v"
	check_match "$helper: $case: r2 rejected it" "^0 0 [1-9]" "$(filter_counts r2)"
done

tftp_hpa() {
	local size commands=() output
	for size in "${sizes[@]}"; do commands+=("get of-$size got-$size" "put of-$size put-$size"); done
	with_tftp_hpa octet "${commands[@]}"
	with_tftp_hpa netascii "get text got-text" "put text put-text"
	note_sums got-* "$served"/put-*
	for size in "${sizes[@]}"; do check_same_file "of-$size" "got-$size" "put-$size"; done
	check_same_file text got-text put-text
	# The error comes from a new port as well.
	output=$(ns_exec lan tftp "-$v" "${server_address[$v]}" -c get none got-none)
	check_case "the server's error reaches the client" "Error code 1: File not found" "$output"
}

atftp_with_options() {
	local options=(--option "blksize 1468" --option "tsize 0") output
	output=$(with_atftp "${options[@]}" --trace --get --remote-file of-300000 --local-file got-300000)
	check_match "$helper: $case: the server accepts the options" "OACK <tsize: 300000, blksize: 1468" "$output"
	with_atftp "${options[@]}" --put --remote-file put-513 --local-file of-513 > /dev/null
	with_atftp --option "mode netascii" --get --remote-file text --local-file got-text > /dev/null
	note_sums got-* "$served"/put-*
	check_same_file of-300000 got-300000
	check_same_file of-513 put-513
	check_same_file text got-text
}

# Eight blocks at a time.
atftp_with_windows() {
	local output options=(--option "blksize 1024" --option "windowsize 8")
	output=$(ns_exec lan atftp --trace "${options[@]}" --get --remote-file any --local-file got-300000 "${server_address[$v]}" 6969 2>&1)
	check_match "$helper: $case: the server accepts the option" "OACK <.*windowsize: 8" "$output"
	check_equal "$helper: $case: the client acknowledges an eighth of 293 blocks" 37 \
		"$(grep -c 'sent ACK <block: [1-9]' <<< "$output")"
	note_sums got-300000
	check_same_file of-300000 got-300000
}

curl_with_options() {
	local size output url=tftp://${server[$v]}
	# curl does not convert netascii.
	output=$(with_curl --verbose --tftp-blksize 1024 --output "got-#1" "$url/of-{1,511,512,513,300000}" \
		--next --upload-file "{put-1,put-511,put-512,put-513}" "$url/" \
		--next --tftp-no-options --use-ascii --output got-text "$url/text")
	check_match "$helper: $case: the server accepts the options" \
		"got option=\(tsize\) value=\(300000\).*got option=\(blksize\) value=\(1024\)" "$output"
	note_sums got-* "$served"/put-*
	for size in "${sizes[@]}"; do check_same_file "of-$size" "got-$size" "put-$size"; done
	check_same_file of-300000 got-300000
	check_same_file text-on-the-wire got-text
}

# Blocks so large that their packets are fragmented.
a_large_file_in_large_blocks() {
	with_curl --tftp-blksize 65464 --output got-$large "tftp://${server[$v]}/of-$large"
	with_atftp --option "blksize 32768" --put --remote-file put-$large --local-file of-$large > /dev/null
	note_sums got-* "$served"/put-*
	check_same_file of-$large got-$large put-$large
}

# A client whose request is not answered at once sends it again, and another server process empties the file that the
# first one has written. So they wait longer than a busy host can take.
twenty_transfers_at_once() {
	local n clients=() patience=("rexmt 30" "timeout 90")
	for n in {1..10}; do
		with_tftp_hpa octet "${patience[@]}" "get of-513 got-$n" &
		clients+=($!)
		with_tftp_hpa octet "${patience[@]}" "put of-513 put-$n" &
		clients+=($!)
	done
	wait "${clients[@]}"
	note_sums got-* "$served"/put-*
	for n in {1..10}; do check_same_file of-513 "got-$n" "put-$n"; done
}

a_server_behind_DNAT() {
	local address
	strip_brackets "${r2_within[$v]}" address
	ns_exec lan tftp "-$v" -m octet "$address" 32002 -c get of-513 got-513
	ns_exec lan tftp "-$v" -m octet "$address" 32002 -c put of-513 put-513
	ns_exec lan atftp --option "blksize 1468" --get --remote-file of-300000 --local-file got-300000 "$address" 32002 \
		> /dev/null 2>&1
	note_sums got-* "$served"/put-*
	check_same_file of-513 got-513 put-513
	check_same_file of-300000 got-300000
}

tftp_hpa_over_IPv6() { v=6 && tftp_hpa; }
atftp_with_options_over_IPv6() { v=6 && atftp_with_options; }
curl_with_options_over_IPv6() { v=6 && curl_with_options; }
a_server_behind_DNAT_over_IPv6() { v=6 && a_server_behind_DNAT; }

with_each_helper \
	tftp_hpa tftp_hpa_over_IPv6 atftp_with_options atftp_with_options_over_IPv6 atftp_with_windows \
	curl_with_options curl_with_options_over_IPv6 a_large_file_in_large_blocks \
	twenty_transfers_at_once a_server_behind_DNAT a_server_behind_DNAT_over_IPv6

done_testing
