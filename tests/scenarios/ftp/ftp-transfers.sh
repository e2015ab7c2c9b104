#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Kernels: plain
#
# The FTP clients curl, lftp, tnftp, busybox and Python's list, read and write the files of vsftpd, pure-ftpd and
# pyftpdlib, with active and passive data connections, through r1, which masquerades by RUSTMASQ with ports, and r2,
# which only filters: with the kernel's own helper and with ours. Without a helper no file arrives.
# shellcheck source-path=SCRIPTDIR source=../../lib/ftp.sh
. "$(dirname "$0")/../../lib/ftp.sh"

setup_two_routers
modprobe nf_nat_ftp || bail "the kernel's own helper"
for v in 4 6; do
	translate -p tcp -j RUSTMASQ --to-ports 50000-59999
	ns_exec r2 "${iptables[$v]}" -w -t nat -F
done

# --- Files: clients and servers have the same ones, of-SIZE. Clients read them into got-..., and write up/put-...

# The home of the user "ftp". vsftpd refuses to serve a folder that this user may write to.
served=/srv/ftp
mkdir -m 777 $served/up
trap 'cleanup; rm -rf $served/*' EXIT
mkdir "$scratch/own"
cd "$scratch/own" || bail "a folder"
sizes=(0 1 1460 100000)
large=$((10000000 / slow / slow))
for size in "${sizes[@]}" $large; do head -c "$size" /dev/urandom > "of-$size"; done
cp of-* $served

declare -A sum=()
# note_file_sums: sets `sum` to the checksums of all files, by name.
note_file_sums() {
	local value file
	sum=()
	while read -r value file; do sum[${file##*/}]=$value; done < <(sha256sum of-* got-* $served/up/* 2> /dev/null)
}

# transferred TAG SIZE...: prints which of these files a session read and wrote unharmed.
transferred() {
	local size done=()
	for size in "${@:2}"; do
		[[ ${sum[got-$1-$size]-} != "${sum[of-$size]}" ]] || done+=("got-$size")
		[[ ${sum[put-$1-$size]-} != "${sum[of-$size]}" ]] || done+=("put-$size")
	done
	echo "${done[*]}"
}

# check_session TAG EXPECTED GOT: checks what came of a session. What one helper alone does cannot be compared.
check_session() {
	if spoilt_by_kernel "$1"; then
		check_equal "$helper: $case: ${1//-/ }" "$2" "$3"
	else
		check_case "${1//-/ }" "$2" "$3"
	fi
}

# check_sessions TAG...: checks that each session listed the server's files, and read and wrote those of all sizes.
all_sizes=$(printf ' got-%s put-%s' 0 0 1 1 1460 1460 100000 100000)
check_sessions() {
	local tag listed
	note_file_sums
	for tag; do
		listed=nothing
		! grep -qw of-1460 "got-$tag-list" || listed=list
		listed+=" $(transferred "$tag" "${sizes[@]}")"
		check_session "$tag" "list$all_sizes" "$listed"
	done
}

# remove_ftp_files: removes what a case left, and its flows.
remove_ftp_files() {
	ns_exec r1 conntrack -F 2> /dev/null
	ns_exec r2 conntrack -F 2> /dev/null
	rm -f got-* $served/up/*
}
after_case=(remove_ftp_files)

# --- Servers

declare -A port=([vsftpd]=21 [pureftpd]=2121 [pyftpdlib]=2122)
programs=(vsftpd pureftpd pyftpdlib)

cat > "$scratch/vsftpd.conf" <<-END
	listen_ipv6=YES
	anonymous_enable=YES
	no_anon_password=YES
	anon_upload_enable=YES
	anon_umask=022
	write_enable=YES
	secure_chroot_dir=$scratch/empty
	isolate=NO
	isolate_network=NO
	seccomp_sandbox=NO
END
mkdir "$scratch/empty"
ns_start server vsftpd "$scratch/vsftpd.conf" > "$scratch/vsftpd" 2>&1
ns_start server pure-ftpd --anonymousonly --bind ,2121 > "$scratch/pureftpd" 2>&1
ns_start server python3 -m pyftpdlib --interface :: --port 2122 --write --directory $served > "$scratch/pyftpdlib" 2>&1
for program in "${programs[@]}"; do
	wait_until listening server TCP "${port[$program]}" || bail "no $program: $(< "$scratch/$program")"
done

# --- Clients. A session is a control connection of one client to one server, with one way to make data connections.

# in_each_session CLIENT MODE COMMAND...: runs the command for a session with each server, or, in `make test`, with the
# one whose turn it is; with its TAG, the server's address without brackets, and its port. Adds TAG to `tags`.
# All helpers get the same turns.
turn=0 turns_of=
in_each_session() {
	local count program tag address
	[[ $turns_of == "$helper" ]] || turn=0 turns_of=$helper
	strip_brackets "${server[$v]}" address
	for ((count = $(scaled ${#programs[@]}); count > 0; count--)); do
		program=${programs[turn++ % ${#programs[@]}]} tag=$1-$2-$program-IPv$v
		! spoilt_by_kernel "$tag" || [[ $helper != ftp ]] || continue
		tags+=("$tag")
		"${@:3}" "$tag" "$address" "${port[$program]}"
	done
}

# spoilt_by_kernel TAG: succeeds if the kernel's helper spoils these sessions: it writes IPv6 addresses with all their
# zeros, and pyftpdlib compares them as texts.
spoilt_by_kernel() { [[ $1 == *-@(EPRT|active)-pyftpdlib-IPv6 ]]; }

# add_curl_arguments OPTION... TAG ADDRESS PORT: adds what makes curl read and write all files.
add_curl_arguments() {
	local options=(--silent --show-error --max-time 20 "${@:1:$#-3}") tag=${*: -3:1} url size
	url="ftp://${server[$v]}:${*: -1}"
	arguments+=(--next "${options[@]}" "$url/" --output "got-$tag-list"
		"$url/of-{0,1,1460,100000}" --output "got-$tag-#1" --next "${options[@]}")
	for size in "${sizes[@]}"; do arguments+=(--upload-file "of-$size" "$url/up/put-$tag-$size"); done
}

curl_with_all_servers() {
	local arguments=() tags=()
	in_each_session curl EPRT add_curl_arguments --ftp-port -
	in_each_session curl EPSV add_curl_arguments
	if [[ $v == 4 ]]; then
		in_each_session curl PORT add_curl_arguments --ftp-port - --disable-eprt
		in_each_session curl PASV add_curl_arguments --disable-epsv
	fi
	ns_exec lan curl "${arguments[@]:1}" > log 2>&1
	check_sessions "${tags[@]}"
	sed 's/^/# /' log
}

# add_lftp_commands MODE TAG ADDRESS PORT
add_lftp_commands() {
	local size
	echo "set ftp:passive-mode $1; open ftp://${server[$v]}:$4; cls -1 > got-$2-list"
	for size in "${sizes[@]}"; do echo "get of-$size -o got-$2-$size; put of-$size -o up/put-$2-$size"; done
	echo "close"
}

lftp_with_all_servers() {
	local tags=()
	{
		echo "set cmd:fail-exit no; set net:max-retries 1; set net:timeout 20; set ftp:prefer-epsv yes"
		in_each_session lftp active add_lftp_commands no
		in_each_session lftp passive add_lftp_commands yes
	} > script
	ns_exec lan lftp -f "$PWD/script" > log 2>&1
	check_sessions "${tags[@]}"
	sed 's/^/# /' log
}

# add_tnftp_commands TAG ADDRESS PORT
add_tnftp_commands() {
	local size
	printf '%s\n' "open $2 $3" "user anonymous anonymous" binary "ls . got-$1-list"
	for size in "${sizes[@]}"; do printf '%s\n' "get of-$size got-$1-$size" "put of-$size up/put-$1-$size"; done
	echo close
}

tnftp_with_all_servers() {
	local tags=()
	in_each_session tnftp active add_tnftp_commands > script
	ns_exec lan tnftp -n -i -V -A < script > log 2>&1
	in_each_session tnftp passive add_tnftp_commands > script
	ns_exec lan tnftp -n -i -V -p < script >> log 2>&1
	check_sessions "${tags[@]}"
	sed 's/^/# /' log
}

# run_busybox TAG ADDRESS PORT: busybox reads or writes one file in a session, and its data connections are passive.
run_busybox() {
	ns_exec lan busybox ftpget -P "$3" "$2" "got-$1-1460" of-1460
	ns_exec lan busybox ftpput -P "$3" "$2" "up/put-$1-100000" of-100000
}

busybox_with_all_servers() {
	local tags=() tag
	in_each_session busybox passive run_busybox
	note_file_sums
	for tag in "${tags[@]}"; do
		check_case "${tag//-/ }" "got-1460 put-100000" "$(transferred "$tag" "${sizes[@]}")"
	done
}

# add_python_session MODE TAG ADDRESS PORT
add_python_session() { sessions+=("$2,$3,$4,$1"); }

# Twenty transfers in a session, one that the client aborts, another one after it, and a second session.
python_with_all_servers() {
	local sessions=() tags=() tag
	in_each_session python active add_python_session active
	in_each_session python passive add_python_session passive
	ns_exec lan "$tools/ftp_client.py" "of-$large" 0,1,1460,100000 "${sessions[@]}" > log 2>&1
	check_sessions "${tags[@]}"
	for tag in "${tags[@]}"; do
		check_equal "$helper: $case: ${tag//-/ }: twenty transfers, an aborted one, and a new session" \
			"$tag 20-transfers abort reconnect" "$(grep "^$tag " log)"
	done
}

# add_large_arguments OPTION... TAG ADDRESS PORT: adds what makes curl read and write the large file.
add_large_arguments() {
	local options=(--silent --show-error --max-time 60 "${@:1:$#-3}") tag=${*: -3:1} url
	url="ftp://${server[$v]}:${*: -1}"
	arguments+=(--next "${options[@]}" "$url/of-$large" --output "got-$tag-$large"
		--next "${options[@]}" --upload-file "of-$large" "$url/up/put-$tag-$large")
}

large_files() {
	local arguments=() tags=() tag
	in_each_session large active add_large_arguments --ftp-port -
	in_each_session large passive add_large_arguments
	ns_exec lan curl "${arguments[@]:1}" > log 2>&1
	note_file_sums
	for tag in "${tags[@]}"; do check_session "$tag" "got-$large put-$large" "$(transferred "$tag" "$large")"; done
	sed 's/^/# /' log
}

# pyftpdlib compares the address in EPRT, as a text, with the client's. Curl waits in vain when it was refused.
an_IPv6_address_for_pyftpdlib() {
	v=6
	ns_exec lan curl --silent --verbose --max-time "$(by_helper 3 20)" --ftp-port - --output got-EPRT-1460 \
		"ftp://${server[6]}:${port[pyftpdlib]}/of-1460" > log 2>&1
	note_file_sums
	check_equal "$helper: $case: a file arrives, but for the kernel's helper" "$(by_helper "" got-1460)" \
		"$(transferred EPRT 1460)"
	check_match "$helper: $case: ... whose address is refused" \
		"$(by_helper "501 Rejected .* foreign address" "226 ")" "$(< log)"
}

curl_with_all_servers_IPv6() { v=6 && curl_with_all_servers; }
lftp_with_all_servers_IPv6() { v=6 && lftp_with_all_servers; }
tnftp_with_all_servers_IPv6() { v=6 && tnftp_with_all_servers; }
busybox_with_all_servers_IPv6() { v=6 && busybox_with_all_servers; }
large_files_IPv6() { v=6 && large_files; }
python_with_all_servers_IPv6() { v=6 && python_with_all_servers; }

# Without a helper, an active and a passive transfer fail.
helper=none case="without a helper"
for v in 4 6; do
	for mode in "--ftp-port -" ""; do
		# shellcheck disable=SC2086 # two words
		check_fails "$helper: IPv$v, curl $mode: no file arrives" \
			ns_exec lan curl --silent --max-time 5 $mode --output got-nothing "ftp://${server[$v]}/of-1460"
	done
done
remove_ftp_files

for function in {curl,lftp,tnftp,busybox,python}_with_all_servers; do functions+=("$function" "${function}_IPv6"); done
with_each_helper "${functions[@]}" large_files large_files_IPv6
run_with_each_helper an_IPv6_address_for_pyftpdlib

done_testing
