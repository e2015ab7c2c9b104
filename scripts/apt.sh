#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# A private apt, with sources, package lists and downloads of its own under the
# cache. So the host's apt configuration and lists stay as they are, and looking
# something up needs no root. The host's settings (proxies, keys, pins) and its
# record of installed packages apply. Source this file after common.sh.

KEYRING=/usr/share/keyrings/debian-archive-keyring.gpg

# The date of all unpacked files, in seconds since 1970. It is fixed so that the same
# packages make the same image.
epoch=1767225600

# apt_dir NAME: prints the folder of the private state NAME.
apt_dir() {
	printf '%s/apt/%s' "$CACHE" "$1"
}

# apt_private NAME TOOL ARG...: runs TOOL, apt-get or apt-cache, on the private
# state NAME.
apt_private() {
	local options
	apt_options "$1"
	LC_ALL=C "$2" "${options[@]}" "${@:3}"
}

# apt_options NAME: sets `options` to the options that make apt use the private
# state NAME. Options of the command line override the host's files.
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
	# Pins and installed packages matter only to installing on the host.
	[[ $1 == host ]] || options+=(
		-o "Dir::State::status=/dev/null"
		-o "Dir::Etc::preferences=/dev/null"
		-o "Dir::Etc::preferencesparts=/dev/null"
	)
}

# apt_update NAME: fetches the package lists of the state NAME. A source that
# cannot be reached is not an error, for we may not need it.
apt_update() {
	alive "apt: fetching package lists ($1)" "$CACHE/log/apt-update-$1.log" \
		apt_private "$1" apt-get update ||
		say "some package lists could not be fetched; going on with the others"
}

# debian_codename: prints the host's release, such as "bookworm", or nothing if
# the host is not Debian.
debian_codename() (
	[[ -r /etc/os-release ]] || return 0
	# shellcheck source=/dev/null
	. /etc/os-release
	[[ ${ID:-} != debian ]] || printf '%s\n' "${VERSION_CODENAME:-sid}"
)

# debian_mirror: prints DEBIAN_MIRROR if the user set it, else the address that
# the host itself gets Debian from. The signatures prove that package lists are
# Debian's, not the address.
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

# private_mirror: prints the address of Debian in the private state "host".
private_mirror() {
	apt_private host apt-get indextargets --format "\$(REPO_URI)" \
		"Origin: Debian" "Label: Debian" 2>/dev/null | head -n 1 || true
}

# apt_source FILE MIRROR SUITE...: writes a source of Debian packages for apt.
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

# copy_host_sources FOLDER: copies the host's own sources, of either format, but
# no discs, which apt would ask to insert.
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

# apt_host_update: refreshes the private state "host", which has the host's own
# sources and the backports of its release. The caller holds the lock "apt".
apt_host_update() {
	local sources mirror suite
	sources=$(apt_dir host)/sources
	rm -rf "$sources"
	mkdir -p "$sources"
	copy_host_sources "$sources"
	apt_update host

	suite=$(debian_codename)-backports
	mirror=$(private_mirror)
	# apt refuses a source that is there twice with different keys.
	if [[ $mirror ]] && ! has_suite "$suite"; then
		apt_source "$sources/rustmasq.sources" "$mirror" "$suite"
		apt_update host
	fi
}

# has_suite SUITE: succeeds if the private state "host" has Debian's SUITE.
has_suite() {
	local suites
	suites=$(apt_private host apt-get indextargets --format "\$(RELEASE)" \
		"Origin: Debian Backports" 2>/dev/null)
	grep -qxF "$1" <<<"$suites"
}

# mmdebstrap_here WHAT: sets `mmdebstrap` to the command that unpacks Debian packages,
# with the options that depend on this host. WHAT needs it.
mmdebstrap_here() {
	local line mode=root
	# sudo is the last resort: user namespaces with subordinate user IDs need no root rights.
	mmdebstrap=(env)
	if ((EUID == 0)); then
		:
	elif can_unshare; then
		mode=unshare
	elif have_command sudo; then
		say "unpacking packages for $1 needs sudo"
		sudo -v || die "without root, sudo or user namespaces there is no way to make $1"
		mmdebstrap=(sudo env)
	else
		die "making $1 needs root, sudo, or user" \
			"namespaces (package uidmap, and a line in /etc/subuid)"
	fi
	mmdebstrap+=("SOURCE_DATE_EPOCH=$epoch" mmdebstrap "--mode=$mode")
	while read -r line; do
		mmdebstrap+=(--aptopt="$line")
	done < <(apt-config dump | grep -E '^Acquire::(https?::Proxy|Check-|Retries)' | tr -d ';')
}

# can_unshare: can mmdebstrap use user namespaces with subordinate user IDs?
can_unshare() {
	have_command newuidmap && grep -q "^$(id -un):" /etc/subuid 2>/dev/null &&
		unshare --user true 2>/dev/null
}
