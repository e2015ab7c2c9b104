#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Kernels: plain
#
# The files that `make install` copies to the folders of depmod, libxtables and man are all that RUSTMASQ needs. Without
# them, or with the extension alone, iptables adds no rule.
. "$(dirname "$0")/../../lib/lib.sh"

release=$(uname -r)
modules=/lib/modules/$release
# Reads xtlibdir as `pkg-config --variable=xtlibdir xtables` does.
xtables_pc=$(find /usr/lib /usr/share -name xtables.pc)
xtlibdir=$(sed -n 's/^prefix=/prefix=/p; s/^exec_prefix=/exec_prefix=/p; s/^xtlibdir=/xtlibdir=/p' "$xtables_pc" | {
	# shellcheck disable=SC1091,SC2154
	. /dev/stdin
	printf %s "$xtlibdir"
})
extension=$xtlibdir/libxt_RUSTMASQ.so
man=/usr/share/man/man8
page=$man/libxt_RUSTMASQ.8
rustmasq=/usr/sbin/rustmasq
program_pages=("$man/rustmasq.8")
for name in mappings stat status watch; do program_pages+=("$man/rustmasq-$name.8"); done
completions=(/usr/share/bash-completion/completions/rustmasq /usr/share/fish/vendor_completions.d/rustmasq.fish
	/usr/share/zsh/vendor-completions/_rustmasq)
module=$modules/updates/rust/rustmasq.ko

# qemu/init sets it: the guest has copies of these files.
stage=${STAGE:?}
# A kernel may have its modules compressed.
[[ ! -e $stage$module.xz ]] || module+=.xz

# --- The staged files

for file in "$module" "$extension" "$page" "${program_pages[@]}" "${completions[@]}"; do
	check "$file is staged" test -s "$stage$file"
	check_equal "$file is readable for all" 644 "$(stat -c %a "$stage$file")"
done
check "$rustmasq is staged" test -s "$stage$rustmasq"
check_equal "$rustmasq is executable for all" 755 "$(stat -c %a "$stage$rustmasq")"
check_equal "no other file is staged, except the kernel's own modules" \
	"$(printf '%s\n' "$page" "$rustmasq" "$extension" "${program_pages[@]}" "${completions[@]}" | sort)" \
	"$(cd "$stage" && find . -path "./lib/modules/$release" -prune -o -type f -print | sed 's/^\.//' | sort)"
check_equal "the folder updates has one module" "$module" \
	"$(cd "$stage" && find ".$modules/updates" -type f | sed 's/^\.//')"

# --- Without the installed files

# add_layer FOLDER: mounts an overlay over the guest's folder, to change its files. A mount namespace would not do: the
# modprobe that the kernel starts runs in the initial one.
layered=()
add_layer() {
	local layer=$scratch/layer-${#layered[@]}
	mkdir -p "$layer/upper" "$layer/work"
	mount -t overlay -o "lowerdir=$1,upperdir=$layer/upper,workdir=$layer/work" install "$1" || bail "a layer over $1"
	layered+=("$1")
}
remove_layers() {
	local folder
	for folder in "${layered[@]}"; do umount "$folder"; done
}

setup_ns router

wait_until unload_module || bail "the module can be removed"
restore_guest() {
	ip netns del router
	hosts=()
	wait_until unload_module
	remove_layers
}
trap 'restore_guest; cleanup' EXIT
add_layer "$modules"
add_layer "$xtlibdir"
add_layer "$man"
rm -f "$module" "$extension" "$page"
depmod "$release"

program=$IPTABLES
check_fails "without the files, modprobe finds no module" modprobe rustmasq
check_fails "without the files, iptables finds no extension" nat_table -A POSTROUTING -j RUSTMASQ
install -D -m 644 "$stage$extension" "$extension"
check_match "with the extension alone, iptables says that the module is missing" "missing kernel module\?" \
	"$(nat_table -A POSTROUTING -j RUSTMASQ 2>&1)"
check_equal "with the extension alone, iptables adds no rule" 0 "$(nat_table -S 2> /dev/null | grep -c RUSTMASQ)"

# --- With the installed files

install -D -m 644 "$stage$module" "$module"
install -D -m 644 "$stage$page" "$page"
depmod "$release" || bail depmod

check_equal "modinfo finds the module" "$module" "$(modinfo -F filename rustmasq)"
check_equal "modinfo shows the license" GPL "$(modinfo -F license rustmasq)"
check_equal "modinfo shows aliases for both families and both helpers" \
	"ip6t_RUSTMASQ ipt_RUSTMASQ nfct-helper-rustmasq-ftp nfct-helper-rustmasq-tftp" \
	"$(modinfo -F alias rustmasq | sort | xargs)"
check_match "modinfo shows a description" "RUSTMASQ" "$(modinfo -F description rustmasq)"
check_match "modinfo shows authors" "." "$(modinfo -F author rustmasq)"
check_match "modinfo shows that the module depends on nf_nat" "nf_nat" "$(modinfo -F depends rustmasq)"
check_equal "modinfo shows that the module is for this kernel" "$release" "$(modinfo -F vermagic rustmasq | cut -d ' ' -f 1)"

check "modprobe rustmasq succeeds" modprobe rustmasq
check "modprobe loads the module" module_loaded
check "modprobe -r rustmasq unloads the module" unload_module

for program in iptables-legacy ip6tables-legacy iptables-nft ip6tables-nft; do
	check "$program adds a rule" nat_table -A POSTROUTING -p tcp -j RUSTMASQ --to-ports 1000-2000 --random
	check "$program: the rule loads the module" module_loaded
	check_equal "$program -S shows the rule" "-A POSTROUTING -p tcp -j RUSTMASQ --to-ports 1000-2000 --random" \
		"$(nat_table -S 2> /dev/null | grep RUSTMASQ)"
	nat_table -F
	check "$program: without a rule the module can be unloaded" wait_until unload_module
done
check_match "iptables -j RUSTMASQ -h shows the options" "RUSTMASQ target options:" "$(iptables -j RUSTMASQ -h)"

# The program runs from another folder: it needs no other file of the checkout.
check_match "rustmasq watch --help shows the usage" "Usage: rustmasq watch" \
	"$(cp "$stage$rustmasq" "$scratch/copy" && "$scratch/copy" watch --help)"
for name in rustmasq rustmasq-mappings rustmasq-stat rustmasq-status rustmasq-watch; do
	check_match "the page $name(8) is a man page" \
		'(^|'$'\n'')\.TH '"${name^^}"' 8 .*\.SH NAME' "$(< "$stage$man/$name.8")"
done
check_match "the extension's page is a man page" '(^|'$'\n'')\.TH LIBXT_RUSTMASQ 8 .*\.SH NAME' "$(< "$page")"
check_match "bash completes the program's commands" "^watch$" "$(bash -c '
	. "$1" && COMP_WORDS=(rustmasq wa) COMP_CWORD=1 COMP_LINE="rustmasq wa" && _rustmasq rustmasq wa rustmasq &&
	printf "%s\n" "${COMPREPLY[@]}"' - "$stage${completions[0]}" 2>&1)"

done_testing
