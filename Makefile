# `make run` and `make test` do all that is needed from a fresh Debian 12 or 13 on.

SHELL := /bin/bash
PREFIX ?= /usr/local
CARGO ?= cargo
CACHE := $(or $(SECURECTR_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/securectr)
CARGO_DENY := $(CACHE)/tools/bin/cargo-deny
CARGO_DENY_VERSION := 0.18.3

PACKAGES := .ci/build-packages guest-kernel/packages rootfs/packages runtime/image/packages runtime/registry/packages runtime/sandbox/packages
DEMO_PACKAGES := rootfs/images/packages tests/host/packages
TEST_PACKAGES := tests/packages

# The kernel judges our EROFS images: mounting them takes root.
SUDO := $(if $(filter-out 0,$(shell id -u)),sudo -E)

PROGRAMS := target/release
GUEST := target/guest
IMAGES := target/images

.PHONY: help build guest programs images run test test-programs unit-test guest-test lint deny bench bench-program start-cost install host clean

help:
	@echo 'make run       build everything and run a container'
	@echo 'make test      all checks and tests'
	@echo 'make build     the programs and the guest'
	@echo 'make lint      formatting, clippy, licences'
	@echo 'make bench     measure starts and memory beside runc'
	@echo 'make start-cost   write down what a start costs, to which the tests hold it'
	@echo 'make install   to PREFIX ($(PREFIX))'
	@echo "make host      a shell in the emulated test host, or one command: make host CMD='...'"
	@echo 'make clean     remove what was built here; the cache is $(CACHE)'

build: guest programs

guest:
	@.ci/packages $(PACKAGES)
	@guest-kernel/build --out $(GUEST)/vmlinux >/dev/null
	@rootfs/initramfs --out $(GUEST)/initramfs.cpio

programs:
	@.ci/packages $(PACKAGES)
	$(CARGO) build --release --locked -p securectr -p securectr-vmm -p securectr-files -p securectr-registry -p securectr-wall -p securectr-shim -p securectr-test-host

images:
	@.ci/packages $(PACKAGES) $(DEMO_PACKAGES)
	@rootfs/images/busybox --out $(IMAGES)/busybox.tar
	@rootfs/images/debian --out $(IMAGES)/debian.tar
	@rootfs/images/pause --out $(IMAGES)/pause.tar
	@rootfs/images/nginx --out $(IMAGES)/nginx.tar

run: build images
	@tests/on-kvm rootfs/demo

test: lint unit-test guest-test

# One selection of packages for all tests: for another one, with other features, all would be built again.
TEST := $(CARGO) test --locked --workspace

# Not among the others, which each emulated host takes into its memory.
WORKSHOP := target/workshop

test-programs: build images bench-program
	@.ci/packages $(PACKAGES) $(DEMO_PACKAGES) $(TEST_PACKAGES)
	@rootfs/images/workshop --out $(WORKSHOP)/workshop.tar
	$(TEST) --no-run --lib --bins --test '*'

unit-test: test-programs
	$(TEST) --lib --bins --test image --test registry --test server --test tidy
	$(SUDO) $(TEST) --test image --test server -- --ignored

# A machine of our own is tested by one program at a time, since some count what is left on it. Each emulated host is a machine.
guest-test: test-programs
	@$(MAKE) --no-print-directory install PREFIX=$(CURDIR)/target/installed DESTDIR=
	@$(PROGRAMS)/securectr check >/dev/null 2>&1 && jobs=1 || jobs=2; \
		$(MAKE) --no-print-directory --keep-going --jobs=$$jobs $(addprefix guest-test/,$(GUEST_TESTS))

# The longest first.
GUEST_TESTS := guest booted engines newer start leftovers containers machine

# Cargo hands each test program to the script, which runs it where KVM can run Linux.
ON_KVM := CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER=$(CURDIR)/tests/on-kvm

# The engines of Debian 13, and containerd 2: what they do otherwise than those of Debian 12. Twenty pods at once take CNI's iptables
# ten minutes there.
NEWER_TESTS := cri:: ctr:: docker:: podman:: --skip many_pods

guest-test/newer:
	@set -o pipefail; root=$$($(SUDO) tests/newer-debian) && \
		$(ON_KVM)" $(CURDIR)/tests/in-newer-debian $$root" $(TEST) --test engines -- $(NEWER_TESTS) 2>&1 | sed -u 's/^/newer: /'

# The same on machines that boot, each for itself.
guest-test/booted:
	@set -o pipefail; SECURECTR_TEMPLATES=never $(ON_KVM) $(TEST) --test guest -- --skip templates:: 2>&1 | sed -u 's/^/booted: /'

guest-test/start:
	@set -o pipefail; tests/start-cost 2>&1 | sed -u 's/^/start: /'

# Who says a line is told, since two speak at once.
guest-test/%:
	@set -o pipefail; $(ON_KVM) $(TEST) --test $* $(if $(filter machine,$*),-- --ignored) 2>&1 | sed -u 's/^/$*: /'

lint: deny
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings

$(CARGO_DENY):
	@.ci/packages $(PACKAGES)
	@echo 'Building cargo-deny $(CARGO_DENY_VERSION) once, into $(CACHE)/tools'
	@cd / && $(CARGO) install --quiet --locked --debug --no-default-features --version $(CARGO_DENY_VERSION) --root $(CACHE)/tools cargo-deny

# Advisories need their database, which is fetched from outside: they are checked where a copy of it lies in the cache.
deny: $(CARGO_DENY)
	@.ci/packages $(PACKAGES)
	@$(CARGO) fetch --locked --quiet
	@$(CARGO_DENY) --offline --log-level warn check licenses bans sources
	@if [ -d $(CACHE)/advisory-dbs ]; then $(CARGO_DENY) --offline check advisories; else \
		echo 'advisories: not checked, there is no copy of their database in $(CACHE)/advisory-dbs'; fi

bench: build images bench-program
	@.ci/packages $(PACKAGES) $(DEMO_PACKAGES) $(TEST_PACKAGES)
	@tests/on-kvm $(PROGRAMS)/securectr-bench --out target/bench
	$(ON_KVM) $(TEST) --test engines -- --ignored --nocapture figures::

bench-program:
	$(CARGO) build --release --locked -p securectr-bench

start-cost: build images bench-program
	@.ci/packages $(PACKAGES) $(DEMO_PACKAGES)
	@tests/start-cost --write

install: build
	install -D -m 755 -t $(DESTDIR)$(PREFIX)/bin $(PROGRAMS)/securectr $(PROGRAMS)/securectr-vmm $(PROGRAMS)/securectr-files $(PROGRAMS)/securectr-registry $(PROGRAMS)/securectr-wall $(PROGRAMS)/containerd-shim-securectr-v2
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/securectr $(GUEST)/vmlinux $(GUEST)/initramfs.cpio

host: programs
	@.ci/packages $(PACKAGES) $(DEMO_PACKAGES)
	@$(PROGRAMS)/test-host $(if $(CMD),run -- bash -c '$(CMD)',shell)

clean:
	$(CARGO) clean
