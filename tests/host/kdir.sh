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
	echo 7.9.4-test > "$tree/include/config/kernel.release"
}

rustc=$("${RUSTC:-/usr/bin/rustc}" --version)
base=(RUST=y "RUSTC_VERSION_TEXT=\"$rustc\"" MODULES=y INET=y IPV6=y EVENT_TRACING=y NETFILTER=y
	NETFILTER_XTABLES=m NF_CONNTRACK=m NF_NAT=m)

check_kdir_refused "a folder that is not there" "no such folder" "$scratch/nothing"
check_kdir_refused "a folder that is no kernel tree" "not a configured kernel tree" "$scratch"
configured MODULES=y
check_kdir_refused "a kernel without Rust" "CONFIG_RUST is not set" "$tree"
configured "${base[@]}" NF_NAT_MASQUERADE=y
echo 7.2.12+deb13-amd64 > "$tree/include/config/kernel.release"
check_kdir_refused "a kernel that is too old" "Linux 7.2.12 lacks Rust interfaces .* 7.3 or newer" "$tree"
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

# --- Debian's packages of kernel headers

# A dpkg-query that knows packages as `versions` lists them: NAME VERSION, and a folder of each that has one.
mkdir "$scratch/bin"
cat > "$scratch/bin/dpkg-query" <<- 'END'
	#!/bin/bash
	case $1 in
	--search) awk -v file="$2" '$3 && index(file, $3 "/") == 1 { print $1 ": " file; found = 1 } END { exit !found }' "$VERSIONS" ;;
	--show) awk -v name="${@: -1}" '$1 == name { print (ENVIRON["STATUS"] ? ENVIRON["STATUS"] : "installed") " " $2; found = 1 } END { exit !found }' "$VERSIONS" ;;
	esac
END
chmod +x "$scratch/bin/dpkg-query"

# headers_of VERSION [OTHER]: makes a header package of VERSION, with its source of the version OTHER if that is given.
headers_of() {
	configured "${base[@]}" NF_NAT_MASQUERADE=y
	rm -r "$tree/rust"
	mkdir -p "$tree/scripts" "$scratch/common"
	touch "$tree/.kernelvariables" "$tree/scripts/Makefile.build" "$scratch/common/Makefile"
	printf 'include %s/Makefile\n' "$scratch/common" > "$tree/Makefile"
	echo 7.9.4+deb-test > "$tree/include/config/kernel.release"
	printf '%s\n' "linux-kbuild $1 $tree/scripts" "linux-headers-test $1 $tree" "linux-headers-common $1 $scratch/common" \
		${2:+"linux-source-7.9 $2"} > "$scratch/versions"
}

# check_headers_refused WHAT PATTERN [RUSTC]: checks that no metadata are made of the header package, with a line that
# matches.
check_headers_refused() {
	local output
	output=$(PATH=$scratch/bin:$PATH VERSIONS=$scratch/versions XDG_CACHE_HOME=$scratch/cache \
		RUSTC=${3:-${RUSTC:-/usr/bin/rustc}} scripts/rust-metadata "$tree" 2>&1)
	check_equal "$1 is refused with status 1" 1 $?
	check_match "... in one line with the reason" "^rustmasq: the kernel headers in $tree cannot be used: [^"$'\n'"]*$2[^"$'\n'"]*$" "$output"
}

headers_of 7.9.4-1 7.9.3-1
check_headers_refused "the source of another version" "linux-headers-test is of version 7.9.4-1, but linux-source-7.9 of 7.9.3-1;"
# While apt installs a kernel, dkms builds with packages that are not configured yet.
for status in unpacked half-configured triggers-pending; do
	STATUS=$status check_headers_refused "the source of another version, while it is $status," "but linux-source-7.9 of 7.9.3-1;"
done
headers_of 7.9.4-1 7.9.4-1
STATUS=config-files check_headers_refused "a source that was removed" "install them: apt install linux-source-7.9"
sed -i 's/^linux-kbuild 7.9.4-1/linux-kbuild 7.9.4-2/' "$scratch/versions"
check_headers_refused "a part of another revision" "linux-headers-test is of version 7.9.4-1, but linux-kbuild of 7.9.4-2;"
headers_of 7.9.4-1
echo "linux-image-7.9.4+deb-test 7.9.4-1+b2" >> "$scratch/versions"
check_headers_refused "a machine without the source" "install them: apt install .*linux-source-7.9=7.9.4-1( |$)"
headers_of 7.9.4-1 7.9.4-1
printf '#!/bin/sh\necho rustc 1.0.0\n' > "$scratch/bin/rustc"
chmod +x "$scratch/bin/rustc"
check_headers_refused "another compiler than the kernel's" "but $scratch/bin/rustc is \"rustc 1.0.0\";" "$scratch/bin/rustc"
echo 7.2.12+deb-test > "$tree/include/config/kernel.release"
check_headers_refused "a kernel that is too old" "Linux 7.2.12 lacks Rust interfaces .* 7.3 or newer"
sed -i /CONFIG_RUST=/d "$tree/include/config/auto.conf"
check_headers_refused "a kernel without Rust" "CONFIG_RUST is not set"
: > "$scratch/versions"
check_headers_refused "a folder of no package" "they belong to no Debian package"

# make remembers its first answer to where the test kernel is. On a fresh machine there is none until a recipe has built
# it, so no recipe before may ask.
# shellcheck disable=SC2016 # make expands it
flavour=$(make --no-print-directory KDIR= --eval='first:; @true' --eval='second: first; @: $(info $(flavor kernel))' second)
check_equal "a recipe that needs no kernel does not ask for it" recursive "$flavour"

done_testing
