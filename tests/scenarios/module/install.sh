#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# What `make install` copies, at the places where depmod, libxtables and man
# look, is all it takes.
. "$(dirname "$0")/../../lib/lib.sh"

release=$(uname -r)
modules=/lib/modules/$release
# As `pkg-config --variable=xtlibdir xtables` reads it.
pc=$(find /usr/lib /usr/share -name xtables.pc)
xtlibdir=$(sed -n 's/^prefix=/prefix=/p; s/^exec_prefix=/exec_prefix=/p; s/^xtlibdir=/xtlibdir=/p' "$pc" | {
	# shellcheck disable=SC1091,SC2154
	. /dev/stdin
	printf %s "$xtlibdir"
})
extension=$xtlibdir/libxt_RUSTMASQ.so
man=/usr/share/man/man8
page=$man/libxt_RUSTMASQ.8
viewer=/usr/sbin/rustmasq-watch
viewer_page=$man/rustmasq-watch.8
module=$modules/updates/rust/rustmasq.ko

# The guest uses the staged files where they lie: from there one finds the stage.
staged=$(readlink -f "$extension")
stage=${staged%"$extension"}
[[ $stage && $stage != "$staged" ]] || bail "the guest uses a staged extension"

# --- What is staged

for file in "$module" "$extension" "$page" "$viewer_page"; do
	check "$file is staged" test -s "$stage$file"
	check_equal "... for all to read" 644 "$(stat -c %a "$stage$file")"
done
check "$viewer is staged" test -s "$stage$viewer"
check_equal "... for all to run" 755 "$(stat -c %a "$stage$viewer")"
check_equal "nothing else is, but the kernel's own modules" \
	"$(printf '%s\n' "$viewer_page" "$page" "$viewer" "$extension")" \
	"$(cd "$stage" && find . -path "./lib/modules/$release" -prune -o -type f -print | sed 's/^\.//' | sort -r)"
check_equal "... and one module in updates" "$module" \
	"$(cd "$stage" && find ".$modules/updates" -type f | sed 's/^\.//')"

# --- Without it

# Three layers over the guest's folders. Its own mount namespace would not do:
# the kernel's modprobe runs in the first one.
covered=()
cover() {
	local layer=$scratch/layer-${#covered[@]}
	mkdir -p "$layer/upper" "$layer/work"
	mount -t overlay -o "lowerdir=$1,upperdir=$layer/upper,workdir=$layer/work" install "$1" || bail "a layer over $1"
	covered+=("$1")
}
uncover() {
	local folder
	for folder in "${covered[@]}"; do umount "$folder"; done
}

setup_ns router

wait_until unload_module || bail "the module can be removed"
put_back() {
	ip netns del router
	hosts=()
	wait_until unload_module
	uncover
}
trap 'put_back; cleanup' EXIT
cover "$modules"
cover "$xtlibdir"
cover "$man"
rm -f "$modules/updates/rust/rustmasq.ko" "$extension" "$page"
depmod "$release"

program=$IPTABLES
check_fails "without it, modprobe finds no module" modprobe rustmasq
check_fails "without it, iptables finds no extension" nat_table -A POSTROUTING -j RUSTMASQ
install -D -m 644 "$stage$extension" "$extension"
check_match "with the extension alone, iptables says what is missing" "missing kernel module\?" \
	"$(nat_table -A POSTROUTING -j RUSTMASQ 2>&1)"
check_equal "... and adds no rule" 0 "$(nat_table -S 2> /dev/null | grep -c RUSTMASQ)"

# --- With it

install -D -m 644 "$stage$module" "$module"
install -D -m 644 "$stage$page" "$page"
depmod "$release" || bail depmod

check_equal "modinfo finds the module" "$module" "$(modinfo -F filename rustmasq)"
check_equal "modinfo: the license" GPL "$(modinfo -F license rustmasq)"
check_equal "modinfo: aliases for both families and the helper" \
	"ip6t_RUSTMASQ ipt_RUSTMASQ nfct-helper-rustmasq-tftp" \
	"$(modinfo -F alias rustmasq | sort | xargs)"
check_match "modinfo: a description" "RUSTMASQ" "$(modinfo -F description rustmasq)"
check_match "modinfo: authors" "." "$(modinfo -F author rustmasq)"
check_match "modinfo: it depends on NAT" "nf_nat" "$(modinfo -F depends rustmasq)"
check_match "modinfo: it is for this kernel" "^$release " "$(modinfo -F vermagic rustmasq)"

check "modprobe rustmasq" modprobe rustmasq
check "... loads it" module_loaded
check "modprobe -r rustmasq" unload_module

for program in iptables-legacy ip6tables-legacy iptables-nft ip6tables-nft; do
	check "$program: a rule" nat_table -A POSTROUTING -p tcp -j RUSTMASQ --to-ports 1000-2000 --random
	check "$program: ... loads the module by itself" module_loaded
	check_equal "$program: ... and is shown" "-A POSTROUTING -p tcp -j RUSTMASQ --to-ports 1000-2000 --random" \
		"$(nat_table -S 2> /dev/null | grep RUSTMASQ)"
	nat_table -F
	check "$program: without rule the module can go" wait_until unload_module
done
check_match "iptables -j RUSTMASQ -h" "RUSTMASQ target options:" "$(iptables -j RUSTMASQ -h)"

# The reader needs nothing of the checkout.
check_match "rustmasq-watch --help" "^usage: rustmasq-watch" "$(cp "$stage$viewer" "$scratch" && "$scratch/rustmasq-watch" --help)"
check_match "the reader's man page is one" '(^|'$'\n'')\.TH RUSTMASQ.*WATCH 8 .*\.SH NAME' "$(< "$stage$viewer_page")"
check_match "the man page is one" '(^|'$'\n'')\.TH LIBXT_RUSTMASQ 8 .*\.SH NAME' "$(< "$page")"

done_testing
