# SPDX-License-Identifier: GPL-2.0
# `make help` says what there is. The module's own build is in Kbuild.

# The kernel to build against. Unset: our test kernel, fetched and built once
# and kept in the cache. Or a built kernel tree of the user's: make KDIR=...
KDIR ?=
override KDIR := $(strip $(KDIR))
# Which of our test kernels: plain or debug.
KERNEL ?= plain

ifneq ($(words $(CURDIR)),1)
$(error the path of the checkout must not hold white space: the kernel's build system cannot take it)
endif

export PATH := $(PATH):/usr/sbin:/sbin
MAKEFLAGS += --no-print-directory
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

# What the scripts install and use is said once, in scripts/common.sh.
common = $(shell . scripts/common.sh && echo $$$(1))
ifndef BINDGEN
BINDGEN := $(call common,BINDGEN)
endif
RUSTC ?= /usr/bin/rustc
CARGO ?= $(dir $(RUSTC))cargo
export BINDGEN RUSTC

# Where things are built. qemu/run finds them there.
ifdef KDIR
flavour := kdir-$(shell printf %s '$(realpath $(KDIR))' | sha256sum | cut -c 1-12)
kernel := $(abspath $(KDIR))
export KDIR := $(kernel)
else
flavour := $(KERNEL)
# Asked for when a recipe first needs it, for it may have to be built before, and then once.
kernel = $(eval kernel := $$(shell scripts/kernel --path $(if $(filter debug,$(KERNEL)),--debug))/build)$(kernel)
endif
build := build/$(flavour)
stage := $(CURDIR)/$(build)/root
extension := build/libxt/release/libxt_RUSTMASQ.so

# The compiler of the module is the kernel's.
llvm := $(call common,LLVM_SUFFIX)
config = $(kernel)/include/config/auto.conf
kbuild = $(MAKE) -C $(kernel) M=$(CURDIR) MO=$(CURDIR)/$(build) RUSTC=$(RUSTC) BINDGEN=$(BINDGEN) \
	$(if $(shell grep -s '^CONFIG_CC_IS_CLANG=y' $(config)),LLVM=$(llvm))
release = $(shell cat $(kernel)/include/config/kernel.release 2> /dev/null)

# Where `make install` puts things, below DESTDIR.
DESTDIR ?=
modules_dir ?= /lib/modules/$(release)
extension_dir ?= $(shell pkg-config --variable=xtlibdir xtables)
man_dir ?= /usr/share/man/man8
sbin_dir ?= /usr/sbin

.PHONY: all module extension extension-test setup kernel stage demo test test-debug soak bench check clean help install install-files uninstall

all: module extension ## build the module and the iptables extension

module: kernel ## build the module alone
	@mkdir -p $(build)
	+@$(kbuild) modules

extension: setup ## build the iptables extension alone
	@$(CARGO) build --quiet --release --locked --manifest-path rust/libxt/Cargo.toml --target-dir build/libxt

# To build against a tree of the user's takes less than the test kernel does: nothing is
# installed where that is there.
setup: ## install what the build needs (packages, bindgen)
	@$(if $(KDIR),{ type $(RUSTC) $(CARGO) $(BINDGEN) && pkg-config --exists xtables; } > /dev/null 2>&1 ||) scripts/setup

ifdef KDIR
kernel: setup
	@scripts/check-kernel $(kernel) $(RUSTC)
else
kernel: setup ## fetch and build the test kernel, once
	@scripts/kernel $(if $(filter debug,$(KERNEL)),--debug) > /dev/null
endif

# What the guest is to see of this build, installed below a folder: the
# kernel's modules with ours among them, and the extension.
stage: all ## build all that the guest sees
	@test $(stage)$(modules_dir)/.complete -nt $(kernel)/Module.symvers || { \
		rm -rf $(stage); \
		$(if $(KDIR),$(MAKE) -C $(kernel) INSTALL_MOD_PATH=$(stage) INSTALL_MOD_STRIP=1 modules_install > /dev/null, \
		mkdir -p $(stage) && cp -r $(kernel)/../modules/lib $(stage)); \
		touch $(stage)$(modules_dir)/.complete; }
	@$(MAKE) --silent install-files DESTDIR=$(stage) > /dev/null
	@depmod -b $(stage) $(release)
	@scripts/image > /dev/null

demo: stage ## boot the guest and show masquerading on real traffic
	@qemu/run --timeout 120 -- env COLOUR=$$(test -t 1 && echo yes || :) tests/demo

test: stage ## run every test
	@scripts/setup --fuzz
	@tests/run

test-debug: ## run KUnit and the scenarios on the debug kernel, which finds what others do not
	@$(MAKE) KERNEL=debug stage
	@tests/run --debug

soak: stage ## repeat at length what could go wrong once; prints its seed, and SEED= repeats a run
	@scripts/setup --fuzz
	@tests/run --soak

bench: stage ## what packets cost, beside the kernel's own code (table, CSV and plots in build/bench)
	@scripts/setup --bench
	@tests/bench/run

extension-test:
	@$(CARGO) test --quiet --locked --manifest-path rust/libxt/Cargo.toml --target-dir build/libxt -- --format=pretty

check: kernel ## formatting, lints, and the house rules
	@scripts/check $(kernel)

# Installing copies what `make` built, and builds nothing: it is often called by sudo, whose home and
# environment are not the builder's. What runs on this machine is not the test kernel.
target_named = test -n '$(KDIR)$(DESTDIR)' || { \
	echo 'make $@: name the tree of your kernel by KDIR=, or a folder by DESTDIR=' >&2; exit 2; }; \
	test -n '$(release)' || { echo 'make $@: $(kernel) is no built kernel tree' >&2; exit 2; }

install: ## install the module, the extension, the reader and the man pages
	@$(target_named)
	@test -e $(build)/rustmasq.ko -a -e $(extension) || { \
		echo 'make $@: nothing is built yet: run make$(if $(KDIR), KDIR=$(KDIR)) first' >&2; exit 2; }
	@$(MAKE) install-files
	$(if $(DESTDIR),,depmod $(release))

# What is installed, MODE:FILE:PLACE each. Not exported: that would ask for the kernel in every recipe,
# those included that come before it is built.
installed = \
	644:$(build)/rustmasq.ko:$(modules_dir)/updates/rustmasq.ko \
	644:$(extension):$(extension_dir)/libxt_RUSTMASQ.so \
	644:rust/libxt/libxt_RUSTMASQ.8:$(man_dir)/libxt_RUSTMASQ.8 \
	755:rust/cli/rustmasq-watch:$(sbin_dir)/rustmasq-watch \
	644:rust/cli/rustmasq-watch.8:$(man_dir)/rustmasq-watch.8

install-files:
	@for each in $(installed); do \
		IFS=: read -r mode file place <<< "$$each"; \
		install -v -D -m "$$mode" "$$file" "$(DESTDIR)$$place"; \
	done

uninstall: ## remove what install put there
	@$(target_named)
	@for each in $(installed); do rm -vf "$(DESTDIR)$${each##*:}"; done
	$(if $(DESTDIR),,depmod $(release))

clean: ## remove what was built here (the cache stays)
	rm -rf build

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@echo
	@echo '  KDIR=DIR      build against the built kernel tree DIR instead of the test kernel'
	@echo '  RUSTC=FILE    the compiler that the kernel was built by (/usr/bin/rustc)'
	@echo '  KERNEL=debug  the debug test kernel instead of the plain one'
	@echo '  DESTDIR=DIR   install below DIR'
	@echo
	@echo 'Everything fetched is kept in $${XDG_CACHE_HOME:-~/.cache}/rustmasq.'
