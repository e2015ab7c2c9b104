#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# A private apt: own sources, package lists and downloads under the cache, so
# that the host's apt configuration and lists stay as they are, and no root is
# needed to look something up. The host's settings (proxies, keys, pins) and
# its record of installed packages are in force. To be sourced after common.sh.

KEYRING=/usr/share/keyrings/debian-archive-keyring.gpg

# Where the lines of apt_private put what belongs to the state NAME.
apt_dir() {
	printf '%s/apt/%s' "$CACHE" "$1"
}

# apt_private NAME TOOL ARG...: apt-get or apt-cache on the private state NAME.
apt_private() {
	local options
	apt_options "$1"
	LC_ALL=C "$2" "${options[@]}" "${@:3}"
}

# apt_options NAME: sets `options`. Command lines win over the host's files.
apt_options() {
	local dir
	dir=$(apt_dir "$1")
	mkdir -p "$dir"/{sources,lists/partial,cache/archives/partial}
	options=(
		-o "Dir::Etc::sourcelist=/dev/null"
		-o "Dir::Etc::sourceparts=$dir/sources"
		-o "Dir::State::Lists=$dir/lists"
		-o "Dir::Cache=$dir/cache"
		-o "Acquire::Languages=none"
	)
	# Pins are about what gets installed on the host.
	[[ $1 == host ]] || options+=(
		-o "Dir::State::status=/dev/null"
		-o "Dir::Etc::preferences=/dev/null"
		-o "Dir::Etc::preferencesparts=/dev/null"
	)
}

# apt_update NAME: fetches the lists of the state NAME. A source that cannot be
# reached is no error: it need not be one of those that we want.
apt_update() {
	alive "apt: fetching package lists ($1)" "$CACHE/log/apt-update-$1.log" \
		apt_private "$1" apt-get update ||
		say "some package lists could not be fetched; going on with the others"
}

# debian_codename: the host's release, such as "bookworm"; nothing if the host
# is not Debian.
debian_codename() (
	[[ -r /etc/os-release ]] || return 0
	# shellcheck source=/dev/null
	. /etc/os-release
	[[ ${ID:-} != debian ]] || printf '%s\n' "${VERSION_CODENAME:-sid}"
)

# debian_mirror: the address that the host itself gets Debian from, or what the
# user gave as DEBIAN_MIRROR. What says who is Debian are the signed lists, not
# the address.
debian_mirror() {
	local mirror=${DEBIAN_MIRROR:-}
	[[ $mirror ]] || mirror=$(apt-get indextargets --format "\$(REPO_URI)" \
		"Origin: Debian" "Label: Debian" 2>/dev/null | head -n 1) || true
	[[ $mirror ]] || mirror=$(private_mirror)
	if [[ ! $mirror ]]; then
		with_lock apt apt_host_update
		mirror=$(private_mirror)
	fi
	[[ $mirror ]] || die "no Debian mirror found in this machine's apt" \
		"configuration. Set DEBIAN_MIRROR to the address of one."
	printf '%s\n' "$mirror"
}

private_mirror() {
	apt_private host apt-get indextargets --format "\$(REPO_URI)" \
		"Origin: Debian" "Label: Debian" 2>/dev/null | head -n 1 || true
}

# apt_source FILE MIRROR SUITE...: writes a source for apt.
apt_source() {
	mkdir -p "${1%/*}"
	cat >"$1" <<-END
		Types: deb
		URIs: $2
		Suites: ${*:3}
		Components: main
		Targets: Packages
		Signed-By: $KEYRING
	END
}

# copy_host_sources FOLDER: the host's own sources, whatever their format.
# Disks that apt would ask to insert are left out.
copy_host_sources() {
	local list parts file
	eval "$(apt-config shell list Dir::Etc::sourcelist/f parts Dir::Etc::sourceparts/d)"
	for file in "$list" "$parts"/*.list; do
		[[ ! -r $file ]] || grep -v 'cdrom:' "$file" >"$1/host-${file##*/}" || true
	done
	for file in "$parts"/*.sources; do
		[[ ! -r $file ]] || cp "$file" "$1/host-${file##*/}"
	done
}

# apt_host_update: refreshes the private state "host": the host's own sources
# and its release's backports. Call it under the lock "apt".
apt_host_update() {
	local sources mirror suite
	sources=$(apt_dir host)/sources
	rm -rf "$sources"
	mkdir -p "$sources"
	copy_host_sources "$sources"
	apt_update host

	suite=$(debian_codename)-backports
	mirror=$(private_mirror)
	# The same source twice, with another key, would be an error to apt.
	if [[ $mirror ]] && ! has_suite "$suite"; then
		apt_source "$sources/rustmasq.sources" "$mirror" "$suite"
		apt_update host
	fi
}

# has_suite SUITE: do the private lists of the host hold Debian's SUITE?
has_suite() {
	local suites
	suites=$(apt_private host apt-get indextargets --format "\$(RELEASE)" \
		"Origin: Debian Backports" 2>/dev/null)
	grep -qxF "$1" <<<"$suites"
}
