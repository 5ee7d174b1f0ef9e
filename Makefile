# Everything a person or CI runs. `make` alone tells what there is.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

CARGO_TARGET_DIR ?= target
export CARGO_TARGET_DIR
DEBUG := $(CARGO_TARGET_DIR)/debug
RELEASE := $(CARGO_TARGET_DIR)/release
PREFIX ?= /usr/local
KEEPERS ?= 3
SECONDS ?= 180
FIRST ?= 1
SOAK_MINUTES ?= 60
NAMES := stolon-keeper stolon-sentinel stolon-proxy stolonctl

.PHONY: help demo test test-all sim fuzz bench bench-proxy soak lint release install links build

help: ## Tell what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-13s%s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@echo
	@echo "What this machine lacks is installed by scripts/setup, or named when you are not root."

build:
	@scripts/setup demo
	@cargo build --package stolon-cli --bin stolon

# One program under four names: which it is, its name says.
links: build
	@for name in $(NAMES); do ln -sf stolon $(DEBUG)/$$name; done

demo: links ## Run a whole highly available PostgreSQL here, to try and to break (KEEPERS=3)
	@exec $(DEBUG)/stolonctl dev --keepers $(KEEPERS)

test: ## Run all tests, on real PostgreSQL and real stores, as root or as a plain user
	@scripts/setup test
	@scripts/test

test-all: ## Run all tests on PostgreSQL 13, 15, 17 and 18 (an hour and more)
	@scripts/setup --all
	@scripts/test-all

sim: ## Run simulated clusters with drawn faults for SECONDS=180, or one of them again (SEED=n)
	@cargo build --quiet --package stolon-sim --profile sim
	@$(CARGO_TARGET_DIR)/sim/stolon-sim $(if $(SEED),seed $(SEED) $(PLANS),batch $(SECONDS) $(FIRST) $(PLANS))

fuzz: ## Search for bytes that break a parser, FUZZ_SECONDS=30 each (needs a nightly toolchain)
	@scripts/setup fuzz
	@scripts/fuzz

bench: ## Measure how long clients cannot write when the primary fails, then do bench-proxy (ROUNDS=5)
	@scripts/setup bench
	@cargo bench --quiet --package stolon-cli --bench gap
	@$(MAKE) --no-print-directory bench-proxy

bench-proxy: ## Measure what the proxy costs, beside HAProxy and PgBouncer (ROUNDS=5)
	@scripts/setup bench
	@cargo bench --quiet --package stolon-cli --bench relay

soak: ## Run a cluster at full load, with a failover every minute, for SOAK_MINUTES=60; fails when it leaks
	@scripts/setup test
	@SOAK_MINUTES=$(SOAK_MINUTES) cargo bench --quiet --package stolon-cli --bench soak

lint: ## Check formatting, lints, licences, dependencies, scripts and the rules of the tree
	@scripts/setup lint
	@scripts/lint

release: ## Build the program for use, under its four names
	@scripts/setup demo
	@cargo build --release --package stolon-cli --bin stolon
	@for name in $(NAMES); do ln -sf stolon $(RELEASE)/$$name; done

install: ## Copy what 'make release' built to bin under PREFIX (/usr/local)
	@[ -x $(RELEASE)/stolon ] || { echo "nothing built: run make release first" >&2; exit 1; }
	@install -D -m 755 $(RELEASE)/stolon $(DESTDIR)$(PREFIX)/bin/stolon
	@for name in $(NAMES); do ln -sf stolon $(DESTDIR)$(PREFIX)/bin/$$name; done
