# SPDX-License-Identifier: GPL-2.0
# The entry point for people; `make help` lists the targets. rust/Kbuild builds the module.

# The kernel to build against. If unset, the test kernel, which is fetched and built once and kept in
# the cache. Or the user's own built kernel tree: make KDIR=...
KDIR ?=
override KDIR := $(strip $(KDIR))
# The test kernel, plain or debug, or Debian's own, stock.
KERNEL ?= plain
stock := $(if $(KDIR),,$(filter stock,$(KERNEL)))
# KDIR is Debian's package of kernel headers, which lacks the Rust metadata.
headers := $(if $(wildcard $(KDIR)/rust/libkernel.rmeta),,$(if $(KDIR),$(wildcard $(KDIR)/.kernelvariables)))

ifneq ($(words $(CURDIR)),1)
$(error the path of the checkout must not hold white space: the kernel's build system cannot take it)
endif

export PATH := $(PATH):/usr/sbin:/sbin
MAKEFLAGS += --no-print-directory
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

# Before version 4.4, make does not pass the variables of its command line on to $(shell).
with_arguments = $(if $(MAKEOVERRIDES),export $(MAKEOVERRIDES);)

# The tools that scripts/setup installs are named in scripts/common.sh.
common = $(shell $(with_arguments) . scripts/common.sh && echo $$$(1))
ifdef stock
# Those of the root that the module is built in.
override RUSTC := /usr/bin/rustc
override BINDGEN := /usr/bin/bindgen
endif
ifndef BINDGEN
BINDGEN := $(if $(headers),/usr/bin/bindgen,$(call common,BINDGEN))
endif
RUSTC ?= /usr/bin/rustc
CARGO ?= $(dir $(RUSTC))cargo
RUSTDOC ?= $(dir $(RUSTC))rustdoc
export BINDGEN RUSTC

# The folder of the build. qemu/run expects the guest's files there.
ifdef KDIR
flavour := kdir-$(shell printf %s '$(realpath $(KDIR))' | sha256sum | cut -c 1-12)
kernel := $(abspath $(KDIR))
export KDIR := $(kernel)
else
flavour := $(KERNEL)
# Evaluated once, when a recipe first needs it: on a fresh machine an earlier recipe builds the kernel.
find_kernel := $(if $(stock),scripts/stock,scripts/kernel $(if $(filter debug,$(KERNEL)),--debug))
kernel = $(eval kernel := $$(shell $(with_arguments) $(find_kernel) --path)/build)$(kernel)
endif
# The tree to build against: a header package and the metadata that it lacks are one in the cache.
tree = $(if $(headers),$(shell $(with_arguments) scripts/rust-metadata --path $(kernel)),$(kernel))
build := build/$(flavour)
stage := $(CURDIR)/$(build)/root
libxt_build := $(if $(stock),$(build),build)/libxt
cli_build := $(if $(stock),$(build),build)/cli
extension := $(libxt_build)/release/libxt_RUSTMASQ.so
program := $(cli_build)/release/rustmasq
generated := $(cli_build)/generated

# The prefix of commands that compile.
run := $(if $(stock),scripts/stock --run)

# The module is compiled by the compiler of the kernel.
llvm := $(call common,LLVM_SUFFIX)
config = $(kernel)/include/config/auto.conf
kbuild = $(if $(stock),$(run) make --no-print-directory,$(MAKE)) -C $(tree) M=$(CURDIR) MO=$(CURDIR)/$(build) RUSTC=$(RUSTC) BINDGEN=$(BINDGEN) \
	$(if $(shell grep -s '^CONFIG_CC_IS_CLANG=y' $(config)),LLVM=$(llvm))
release = $(shell cat $(kernel)/include/config/kernel.release 2> /dev/null)

# The folders that `make install` installs into, below DESTDIR.
DESTDIR ?=
modules_dir = /lib/modules/$(release)
extension_dir ?= $(shell $(run) pkg-config --variable=xtlibdir xtables)
man_dir ?= /usr/share/man/man8
sbin_dir ?= /usr/sbin
bash_dir ?= /usr/share/bash-completion/completions
fish_dir ?= /usr/share/fish/vendor_completions.d
zsh_dir ?= /usr/share/zsh/vendor-completions

.PHONY: all module extension extension-test program program-test setup kernel stage demo test test-debug test-packages \
	test-tools soak bench scorecard check check-kernels doc module-doc extension-doc program-doc rust-analyzer deb clean \
	help install install-files install-programs uninstall

all: module extension program ## build the module, the iptables extension and the program

module: kernel ## build the module alone
	@mkdir -p $(build)
	+@$(kbuild) modules

extension: setup ## build the iptables extension alone
	@$(run) $(CARGO) build --quiet --release --locked --manifest-path rust/libxt/Cargo.toml --target-dir $(libxt_build)

# The manual pages and the completions are made from the definition of the command line.
program: setup ## build the program rustmasq alone, with its manual pages and completions
	@$(run) $(CARGO) build --quiet --release --locked --bin rustmasq --example generate \
		--manifest-path rust/cli/Cargo.toml --target-dir $(cli_build)
	@$(run) $(cli_build)/release/examples/generate $(generated)

# A build against the user's own tree needs fewer tools than the test kernel: if they are there, nothing
# is installed. SETUP=no is for dkms and Debian's tools, which see to packages themselves.
ifeq ($(SETUP),no)
setup:
else
setup: ## install what the build needs (packages, bindgen)
	@$(if $(KDIR),{ type $(RUSTC) $(CARGO) $(BINDGEN) && pkg-config --exists xtables; } > /dev/null 2>&1 ||) \
		scripts/setup $(if $(stock),--stock,$(if $(headers),--headers))
endif

ifdef KDIR
kernel: setup
	@# scripts/rust-metadata names a missing compiler together with the other packages that are missing.
	@$(if $(headers),test ! -x $(RUSTC) ||) scripts/check-kernel $(kernel) $(RUSTC)
	@$(if $(headers),scripts/rust-metadata $(kernel) > /dev/null)
else ifdef stock
kernel: setup
	@kernel=$$(scripts/stock) && $(run) scripts/check-kernel $$kernel/build $(RUSTC)
extension program: kernel
else
kernel: setup ## fetch and build the test kernel, once
	@scripts/kernel $(if $(filter debug,$(KERNEL)),--debug) > /dev/null
endif

# The folder that the guest sees of this build: the kernel's modules with rustmasq.ko, the extension, the
# program, the manual pages and the completions.
stage: all ## build everything that the guest needs
	@$(if $(headers),echo 'make $@: $(KDIR) holds only headers; KERNEL=stock boots a kernel of Debian' >&2; exit 2)
	@test $(stage)$(modules_dir)/.complete -nt $(kernel)/Module.symvers || { \
		rm -rf $(stage); \
		$(if $(KDIR),$(MAKE) -C $(kernel) INSTALL_MOD_PATH=$(stage) INSTALL_MOD_STRIP=1 modules_install > /dev/null, \
		mkdir -p $(stage) && cp -r $(kernel)/../modules/lib $(stage)); \
		touch $(stage)$(modules_dir)/.complete; }
	@$(MAKE) --silent install-files DESTDIR=$(stage) INSTALL_MOD_STRIP=1 > /dev/null
	@depmod -b $(stage) $(release)
	@# The kernel's own test of port shadowing, for a scenario. Header packages have no tests.
	@tests=$(kernel)/source/tools/testing/selftests/net; test ! -e $$tests/netfilter/nft_nat.sh || { \
		mkdir -p $(stage)$(modules_dir)/selftests; \
		cd $$tests && cp --parents lib.sh lib/sh/defer.sh netfilter/{lib,nft_nat}.sh $(stage)$(modules_dir)/selftests; }
	@# The extension of an earlier version, for a scenario.
	@$(if $(stock),,scripts/old-extension $(stage)$(modules_dir)/old-extension)
	@scripts/image > /dev/null

ifeq ($(KDIR)$(origin KERNEL),file)
demo: ## boot Debian's own kernel in the guest and show masquerading on real traffic
	@$(MAKE) KERNEL=stock demo
else
demo: stage
	@qemu/run $(if $(KDIR),,$(if $(filter-out plain,$(KERNEL)),--$(KERNEL))) --timeout 120 -- env COLOUR=$$(test -t 1 && echo yes || :) tests/demo
endif

test: stage ## run every test
	@$(MAKE) KDIR= KERNEL=stock stage
	@scripts/setup --fuzz
	@tests/run

test-debug: ## run KUnit and the scenarios on the debug kernel (KASAN, lockdep, kmemleak, ...)
	@$(MAKE) KERNEL=debug stage
	@tests/run --debug

test-packages: deb ## install the packages in a Debian 13, reboot it, and purge them
	@scripts/system > /dev/null
	@tests/run packages

test-tools: ## let firewalld, libvirt and Docker masquerade through the module, on Debian's own kernel
	@$(MAKE) KDIR= KERNEL=stock stage
	@scripts/image --tools > /dev/null
	@tests/run tools

soak: stage deb ## run the repeating and random tests at length; prints its seed, SEED= repeats a run
	@scripts/setup --fuzz
	@scripts/system > /dev/null
	@$(MAKE) KDIR= KERNEL=stock stage
	@scripts/image --tools > /dev/null
	@tests/run --soak

bench: stage ## count instructions beside the kernel's own code (tests/bench/results)
	@$(MAKE) KDIR= KERNEL=stock stage
	@scripts/setup --bench
	@tests/bench/run --output tests/bench/results/$$(sed -n 's/^version := //p' rust/Kbuild)

scorecard: stage ## test what NAT must do by RFC 4787, 5382 and 5508, beside MASQUERADE (tests/rfc)
	@tests/rfc/run

extension-test:
	@$(CARGO) test --quiet --locked --manifest-path rust/libxt/Cargo.toml --target-dir build/libxt -- --format=pretty

program-test:
	@RUSTDOC=$(RUSTDOC) $(CARGO) test --quiet --locked --manifest-path rust/cli/Cargo.toml --target-dir build/cli -- --format=pretty

check: kernel program ## check the format and the style of all files
	@scripts/setup --check
	@scripts/check $(kernel)

check-kernels: ## build for the kernels of all Debian suites, with their compilers, and say which work
	@scripts/setup --stock
	@scripts/check-kernels

doc: module-doc extension-doc program-doc ## build the documentation of the Rust code (warnings are errors)
	@echo 'module: build/doc/rust/doc/rustmasq/index.html; extension: build/libxt/doc/xt_RUSTMASQ/index.html'
	@echo 'program: build/cli/doc/rustmasq/index.html'

module-doc: kernel
	@mkdir -p build/doc
	+@$(kbuild) MO=$(CURDIR)/build/doc RUSTDOC=$(RUSTDOC) DOC=y modules > /dev/null

extension-doc: setup
	@RUSTDOC=$(RUSTDOC) RUSTDOCFLAGS=-Dwarnings $(CARGO) doc --quiet --locked --no-deps --document-private-items \
		--manifest-path rust/libxt/Cargo.toml --target-dir build/libxt

program-doc: setup
	@RUSTDOC=$(RUSTDOC) RUSTDOCFLAGS=-Dwarnings $(CARGO) doc --quiet --locked --no-deps --lib --document-private-items \
		--manifest-path rust/cli/Cargo.toml --target-dir build/cli

rust-analyzer: module ## write rust-project.json for rust-analyzer
	@$(kbuild) rust-analyzer
	@mv $(build)/rust-project.json .

# `make install` copies the results of `make` and builds nothing: it often runs under sudo, whose home and
# environment are not the builder's. The test kernel does not run on this machine, so a kernel or a folder
# must be named.
target_named = test -n '$(KDIR)$(DESTDIR)' || { \
	echo 'make $@: name the tree of your kernel by KDIR=, or a folder by DESTDIR=' >&2; exit 2; }; \
	test -n '$(release)' || { echo 'make $@: $(kernel) is no built kernel tree' >&2; exit 2; }

install: ## install the module, the extension, the program, the manual pages and the completions
	@$(target_named)
	@test -e $(build)/rust/rustmasq.ko -a -e $(extension) -a -e $(program) || { \
		echo 'make $@: nothing is built yet: run make$(if $(KDIR), KDIR=$(KDIR)) first' >&2; exit 2; }
	@$(MAKE) install-files
	$(if $(DESTDIR),,depmod $(release))

# The installed files besides the module, MODE:FILE:PLACE each.
installed = \
	644:$(extension):$(extension_dir)/libxt_RUSTMASQ.so \
	644:rust/libxt/libxt_RUSTMASQ.8:$(man_dir)/libxt_RUSTMASQ.8 \
	755:$(program):$(sbin_dir)/rustmasq \
	644:$(generated)/rustmasq.8:$(man_dir)/rustmasq.8 \
	644:$(generated)/rustmasq-mappings.8:$(man_dir)/rustmasq-mappings.8 \
	644:$(generated)/rustmasq-stat.8:$(man_dir)/rustmasq-stat.8 \
	644:$(generated)/rustmasq-status.8:$(man_dir)/rustmasq-status.8 \
	644:$(generated)/rustmasq-watch.8:$(man_dir)/rustmasq-watch.8 \
	644:$(generated)/rustmasq.bash:$(bash_dir)/rustmasq \
	644:$(generated)/rustmasq.fish:$(fish_dir)/rustmasq.fish \
	644:$(generated)/_rustmasq:$(zsh_dir)/_rustmasq

# Kbuild signs, strips and compresses the module as the kernel's configuration says; Debian's key is not at
# hand, though. Its depmod is turned off: a folder DESTDIR is for a package, whose files the index is not.
install-files: tree = $(kernel)
install-files:
	@# Whatever the user's umask is, all may read them.
	@umask 022 && $(kbuild) INSTALL_MOD_PATH=$(if $(stock),$(CURDIR)/$(build)/installed,$(DESTDIR)) \
		$(if $(stock)$(headers),CONFIG_MODULE_SIG_ALL=) cmd_depmod=true modules_install
	@$(if $(stock),umask 022 && mkdir -p $(DESTDIR) && cp -r $(build)/installed/. $(DESTDIR))
	@$(MAKE) install-programs

install-programs:
	@for each in $(installed); do \
		IFS=: read -r mode file place <<< "$$each"; \
		install -v -D -m "$$mode" "$$file" "$(DESTDIR)$$place"; \
	done

uninstall: ## remove the installed files
	@$(target_named)
	@rm -vf $(DESTDIR)$(modules_dir)/updates/rust/rustmasq.ko*
	@for each in $(installed); do rm -vf "$(DESTDIR)$${each##*:}"; done
	$(if $(DESTDIR),,depmod $(release))

deb: ## build Debian packages, in build/deb
	@scripts/setup --stock
	@scripts/deb

clean: ## remove the build folder (the cache stays)
	rm -rf build rust-project.json

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@echo
	@echo 'Variables, on the command line or in the environment (CONTRIBUTING.md lists all of them):'
	@echo '  KDIR=DIR             build against the built kernel tree DIR instead of the test kernel'
	@echo '  RUSTC=FILE           the compiler that the kernel was built by (/usr/bin/rustc)'
	@echo '  KERNEL=debug|stock   the debug test kernel, or Debian'\''s own kernel, instead of the plain test kernel'
	@echo '  KERNEL_SRC=DIR       build the test kernel from the source tree DIR instead of Debian'\''s'
	@echo '  SEED=N               repeat the random choices of an earlier "make test" or "make soak"'
	@echo '  DESTDIR=DIR          install below DIR'
	@echo '  DEBIAN_MIRROR=URL    fetch packages from this Debian mirror instead of the host'\''s'
	@echo '  XDG_CACHE_HOME=DIR   keep everything fetched in DIR/rustmasq instead of ~/.cache/rustmasq'
