#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Installs the packages of `make deb` in a copy of the Debian 13 of scripts/system, boots that with Debian's own kernel,
# adds a rule, boots it again, and finds the rule served. Then purges the packages and looks for what they left.

cd "$(dirname "$(readlink -f "$0")")/../.." || exit
# shellcheck source=tests/lib/tap.sh
. tests/lib/tap.sh
# shellcheck source=scripts/common.sh
. scripts/common.sh

debs=(build/deb/*.deb)
[[ -e ${debs[0]} ]] || bail "build/deb has no packages: make deb"
base=$(scripts/system --path) || bail "there is no system to install them in: scripts/system"
enter_options
mkdir -p "$CACHE/tmp"
work=$(mktemp -d "$CACHE/tmp/packages-XXXXXX")
trap '"${enter[@]}" rm -rf "$work"; rm -rf "$scratch"' EXIT
root=$work/root
version=$(sed -n 's/^version := //p' rust/Kbuild)

# in_system COMMAND...: runs the command in the system.
in_system() {
	# shellcheck disable=SC2016 # for the inner shell to expand
	"${enter[@]}" bash -euc '
		mount --rbind /proc "$1/proc"
		mount --rbind /dev "$1/dev"
		chroot "$1" env -i PATH=/usr/sbin:/usr/bin HOME=/root LC_ALL=C DEBIAN_FRONTEND=noninteractive "${@:2}"
	' in-system "$root" "$@"
}

# list_files: prints the system's files, without what dpkg and apt note, logs, and the key of dkms.
list_files() {
	in_system find / -xdev \( -path /proc -o -path /dev -o -path /debs -o -path /var/log -o -path /var/lib/dpkg \
		-o -path /var/lib/apt -o -path /var/cache/apt -o -path '/var/lib/dkms/mok.*' \) -prune -o -print | sort
}

# boot WHICH: boots the system and runs the guest's part of the test. It has one CPU: with two, on a busy host, there
# were stalls while udev loaded modules, as one emulated CPU waited for the other.
boot() {
	run_tap "the $1 boot" qemu/run --system "$work" --cpus 1 --timeout 600 -- tests/guest/reboot "$1"
}

# --- Installing

# In the copy, all files belong to root.
"${enter[@]}" cp -a --no-preserve=ownership "$base" "$root" || bail "a copy of the system"
"${enter[@]}" install -D -t "$root/debs" "${debs[@]}"
"${enter[@]}" install -m 644 -t "$root/etc/systemd/system" qemu/system.service
in_system systemctl --quiet enable system.service
list_files > "$scratch/before"

# Making the metadata takes minutes. Their path is the same in each copy, so dkms can use them again.
stored=$CACHE/system/metadata
key=$(sha256sum < scripts/rust-metadata)
! compgen -G "$stored/stock/*-${key:0:12}" > /dev/null ||
	"${enter[@]}" cp -a --no-preserve=ownership "$stored" "$root/var/cache/rustmasq"
# apt has no sources there: what the packages need and do not depend on is not installed.
check "apt installs the packages" in_system sh -c 'apt-get -o APT::Sandbox::User=root install --yes /debs/*.deb'
if [[ $(ls "$stored/stock" 2> /dev/null) != $(ls "$root/var/cache/rustmasq/stock") ]]; then
	"${enter[@]}" rm -rf "$stored"
	"${enter[@]}" cp -a "$root/var/cache/rustmasq" "$stored"
fi
release=$(basename "$root"/lib/modules/*)
check_equal "dkms has built and installed the module" "rustmasq/$version, $release, x86_64: installed" \
	"$(in_system dkms status)"
for page in libxt_RUSTMASQ rustmasq rustmasq-mappings rustmasq-stat rustmasq-status rustmasq-watch; do
	check "the manual page $page is installed" test -s "$root/usr/share/man/man8/$page.8.gz"
done
for completion in bash-completion/completions/rustmasq fish/vendor_completions.d/rustmasq.fish \
	zsh/vendor-completions/_rustmasq; do
	check "the completions $completion are installed" test -s "$root/usr/share/$completion"
done

# --- Booting twice

# make_disk: makes the disk to boot, with half a gigabyte to spare.
make_disk() {
	local size
	size=$("${enter[@]}" du -sm "$root" | cut -f 1) && truncate -s "$((size + size / 8 + 512))M" "$work/disk" &&
		"${enter[@]}" mke2fs -q -t ext4 -d "$root" "$work/disk" &&
		"${enter[@]}" cat "$root/boot/vmlinuz-$release" > "$work/vmlinuz" &&
		"${enter[@]}" cat "$root/boot/initrd.img-$release" > "$work/initrd.img"
}
check "a disk is made of the system" make_disk
boot first
boot second

# --- Purging

check "the metadata of a removed kernel are removed" in_system /etc/kernel/postrm.d/rustmasq-dkms "$release"
check_equal "... all of them" "" "$(ls "$root/var/cache/rustmasq/stock")"
check "apt purges the packages" in_system apt-get purge --yes rustmasq rustmasq-dkms
check_equal "nothing of them is left, and nothing else is gone" "" "$(list_files | diff "$scratch/before" -)"

done_testing
