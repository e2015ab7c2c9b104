#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Tests the module on Debian's own kernel with Secure Boot: it is refused unless a key has signed it that the machine's
# owner has enrolled. The machine boots as real ones do: firmware with Microsoft's keys, Debian's shim, GRUB and kernel.
# The owner's key is in shim's list, where mokutil and shim's MokManager put it.

cd "$(dirname "$(readlink -f "$0")")/../.." || exit
# shellcheck source=tests/lib/tap.sh
. tests/lib/tap.sh

# A guest with a kernel that only enforces signatures makes the keys, the signed modules, and the firmware's variables.
files=$scratch/files
mkdir "$files"
cp build/stock/rust/rustmasq.ko "$files/unsigned.ko" || bail "no module is built: make KERNEL=stock stage"
tree=$(scripts/stock --path)/build || bail "Debian's kernel is missing: make KERNEL=stock stage"
scripts/stock --run cat "$tree/scripts/sign-file" > "$files/sign-file" || bail "the kernel's sign-file"
chmod +x "$files/sign-file"
# shellcheck disable=SC2016 # for the guest's shell
output=$(qemu/run --one-thread --stock --append module.sig_enforce=1 --share "$files" sh -ec '
	cd "$1"
	for owner in ours others; do
		openssl req -x509 -newkey rsa:2048 -nodes -subj "/CN=$owner" -keyout $owner.key -out $owner.pem
		./sign-file sha256 $owner.key $owner.pem unsigned.ko $owner.ko
	done
	virt-fw-vars --input /usr/share/OVMF/OVMF_VARS_4M.ms.fd --output variables.fd \
		--add-mok 605dab50-e046-4300-abb6-3dd810dd8b23 ours.pem
	cp /usr/share/OVMF/OVMF_CODE_4M.secboot.fd firmware.fd
	cp /usr/lib/shim/shimx64.efi.signed shim.efi
	cp /usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed grub.efi
	! modprobe rustmasq 2> enforced
	dmesg | grep rejected > enforced-log || :' sh "$files" 2>&1) || bail "$output"

refused="^modprobe: ERROR: could not insert 'rustmasq': Key was rejected by service$"
logged="Loading of unsigned module is rejected$"
check_match "module.sig_enforce=1: the unsigned module is refused" "$refused" "$(< "$files/enforced")"
check_match "... and the log says why" "$logged" "$(< "$files/enforced-log")"

# shellcheck disable=SC2016 # for the guest's shell
output=$(qemu/run --one-thread --stock --secure-boot "$files" --share "$files" sh -c '
	cd "$1" || exit
	mount -t securityfs securityfs /sys/kernel/security
	cat /sys/kernel/security/lockdown > lockdown
	modprobe rustmasq 2> unsigned
	dmesg | grep rejected > unsigned-log
	modprobe -a x_tables nf_nat
	insmod others.ko 2> others
	dmesg | grep rejected > others-log
	insmod ours.ko 2> ours
	cat /sys/module/rustmasq/taint > taint
	iptables -t nat -A POSTROUTING -p tcp -j RUSTMASQ --to-ports 5000 && iptables -t nat -S > rules' \
	sh "$files" 2>&1) || not_ok "the guest with Secure Boot ran to its end" "$output"

check_match "Secure Boot: the kernel is locked down" "\[integrity\]" "$(< "$files/lockdown")"
check_match "... the unsigned module is refused" "$refused" "$(< "$files/unsigned")"
check_match "... and the log says why" "$logged" "$(< "$files/unsigned-log")"
check_match "... a module signed by another key, too" "Key was rejected by service$" "$(< "$files/others")"
check_match "... and the log says why" "Loading of module with unavailable key is rejected$" "$(< "$files/others-log")"
check_equal "... a module signed by an enrolled key is loaded" "" "$(< "$files/ours")"
check_equal "... and does not taint the kernel as unsigned (E)" O "$(< "$files/taint")"
check_match "... and serves a rule" "-p tcp -j RUSTMASQ --to-ports 5000" "$(< "$files/rules")"

done_testing
