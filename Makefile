# Everything a person types. `make` alone shows the list.

# Outside the checkout: a fresh clone builds what changed and nothing else.
ifeq ($(strip $(CARGO_TARGET_DIR)),)
CARGO_TARGET_DIR := $(HOME)/.cache/parapet/target
endif
export CARGO_TARGET_DIR
TOOLS := $(HOME)/.cache/parapet/tools
BIN := $(CARGO_TARGET_DIR)/debug
PARAPET := $(BIN)/parapet

CARGO_DENY := $(TOOLS)/bin/cargo-deny
CARGO_DENY_VERSION := 0.20.2
CLIENTS := $(TOOLS)/clients
CLIENTS_READY := $(CLIENTS)/ready-$(shell cat tests/clients/python/requirements.txt tests/clients/node/package.json | sha256sum | cut -c1-16)
DEPLOY := $(TOOLS)/deploy
DEPLOY_READY := $(DEPLOY)/ready-$(shell cat deploy/check/requirements.txt deploy/check/package.json | sha256sum | cut -c1-16)
CARGO_CYCLONEDX := $(TOOLS)/bin/cargo-cyclonedx
CARGO_CYCLONEDX_VERSION := 0.5.9
CARGO_FUZZ := $(TOOLS)/bin/cargo-fuzz
CARGO_FUZZ_VERSION := 0.13.2
SERVICES := integration-api identity-sync-worker credential-validator mitigation-executor audit-writer
BUF := $(TOOLS)/python/bin/buf
BUF_VERSION := 1.75.0

.DEFAULT_GOAL := help
.PHONY: help build demo up which down status logs clean test clients proof harm bench bench-large events check fmt lint proto-lint deny advisories licences sbom fuzz setup images check-deploy

help: ## Show this list
	@awk 'BEGIN { FS = ":.*## " } /^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## Build every program
	cargo build --workspace --bins --locked

setup: build ## Install the server programs that are missing (as root), or name the command
	@$(PARAPET) setup

demo: build ## Watch leaked credentials go in and exposed accounts come out contained
	@$(PARAPET) demo

up: build ## Start the local stack; Ctrl-C stops it (ARGS=--real-providers: without the simulator)
	@$(PARAPET) up $(ARGS)

which: ## Print where the built command line is
	@echo $(PARAPET)

down: ## Stop the local stack
	@if [ -x $(PARAPET) ]; then $(PARAPET) down; fi

status: ## Show each process of the local stack
	@if [ -x $(PARAPET) ]; then $(PARAPET) status; else echo "nothing is built yet; make up"; fi

clean: ## Stop the local stack and remove all it kept
	@if [ -x $(PARAPET) ]; then $(PARAPET) clean; fi

test: setup ## Run all tests; what is missing is installed first
	cargo test --workspace --lib --bins --tests --locked --no-fail-fast

clients: $(CLIENTS_READY) ## Run official clients of both providers against the simulator (CLIENT=okta: only those)
	cargo build --package idp-simulator --bin idp-simulator --locked
	@$(CLIENTS)/python/bin/python tests/clients/run.py $(BIN)/idp-simulator $(CLIENTS)/node $(CLIENT)

proof: setup ## Prove the attempt budget: every state of its model, then 200 kills a stage, a million redeliveries
	@$(BIN)/proof $(ARGS)
	PARAPET_PROOF=long cargo test --workspace --test it --locked -- limiter:: kills:: a_thousand_duplicate

bench: setup ## Measure Parapet beside the least that does the same work (release build; ARGS=--help)
	cargo build --release --workspace --bins --locked
	@$(CARGO_TARGET_DIR)/release/bench $(ARGS)

bench-large: ## The same for the sync of directories of a million accounts; takes an hour or so
	@$(MAKE) bench ARGS="--sync-only --rounds 1 --accounts 1000000 --report target/bench-large-report.json $(ARGS)"

harm: setup ## Simulate a month of validation: whom it locks out and what it finds, beside two others (ARGS=--help)
	@$(BIN)/harm $(ARGS)

check: fmt lint proto-lint deny test clients check-deploy ## Everything a change must pass

fmt: ## Check the formatting
	cargo fmt --all --check

lint: ## Check with clippy
	cargo clippy --workspace --all-targets --locked -- -D warnings

events: ## Write the reference of audit events from the catalogue
	PARAPET_WRITE_EVENTS=1 cargo test --package shared --lib --locked -- --quiet the_page_of_the_reference

proto-lint: $(BUF) ## Check the protos
	$(BUF) lint proto

deny: $(CARGO_DENY) ## Check licences, sources and banned crates
	$(CARGO_DENY) --locked check bans licenses sources

advisories: $(CARGO_DENY) ## Check the dependencies for known vulnerabilities (fetches the advisory database from its repository)
	@$(CARGO_DENY) fetch db || { echo "make advisories reads https://github.com/RustSec/advisory-db and could not: let this machine reach it,"; \
	  echo "or name a mirror of it in .deny.toml ([advisories] db-urls); nothing was checked"; exit 1; }
	$(CARGO_DENY) --locked check --disable-fetch advisories

licences: $(CARGO_DENY) ## List the licences of everything that is built in
	$(CARGO_DENY) --locked list

sbom: $(CARGO_CYCLONEDX) ## Write the bill of materials of each program (CycloneDX 1.5, target/sbom)
	rm -rf target/sbom && mkdir -p target/sbom
	$(CARGO_CYCLONEDX) cyclonedx --format json --spec-version 1.5 --no-build-deps --describe binaries --target all --quiet
	for program in $(SERVICES) parapet; do mv crates/$$program/$${program}_bin.cdx.json target/sbom/$$program.cdx.json; done
	find . -name '*.cdx.json' -not -path './target/*' -delete
	@ls -l target/sbom

images: ## Build an image of each program with what is there of buildah, podman, docker (PROGRAMS=, ENGINE=)
	@if [ -z "$$BUILT" ]; then $(MAKE) --no-print-directory sbom; fi
	@deploy/images/build.sh

check-deploy: $(DEPLOY_READY) build ## Check chart, alerts and what is deployed with them, without a cluster (ARGS=--update: new golden files)
	@PYTHONDONTWRITEBYTECODE=1 $(DEPLOY)/python/bin/python deploy/check/check.py $(DEPLOY) $(BIN) $(ARGS)

fuzz: $(CARGO_FUZZ) ## Search every reader of outside bytes for a panic: SECONDS each (60), TARGET=one of them; needs nightly Rust
	@rustup run nightly rustc --version > /dev/null 2>&1 || { echo "make fuzz needs nightly Rust: rustup toolchain install nightly"; exit 1; }
	cp Cargo.lock tests/fuzz/Cargo.lock # what is built in, not what is newest
	for target in $(or $(TARGET),answer token message feed_file feed_record); do \
	  mkdir -p tests/fuzz/corpus/$$target && \
	  CARGO_TARGET_DIR=$(CARGO_TARGET_DIR)/fuzz PATH="$(TOOLS)/bin:$$PATH" cargo +nightly fuzz run --fuzz-dir tests/fuzz $$target \
	    tests/fuzz/corpus/$$target tests/fuzz/seeds/$$target $$(test $$target = feed_file && echo tests/fixtures/feeds) \
	    -- -max_total_time=$(or $(SECONDS),60) -timeout=10 -rss_limit_mb=1024 -max_len=65536 || exit 1; \
	done

$(CLIENTS_READY):
	@command -v npm > /dev/null || apt-get install --yes --quiet nodejs npm || { echo "install nodejs and npm, then make clients"; exit 1; }
	rm -rf $(CLIENTS)
	mkdir -p $(CLIENTS)/node
	python3 -m venv $(CLIENTS)/python
	$(CLIENTS)/python/bin/pip --quiet --disable-pip-version-check install --requirement tests/clients/python/requirements.txt
	cp tests/clients/node/package.json $(CLIENTS)/node/
	npm --prefix $(CLIENTS)/node install --no-package-lock --no-audit --no-fund --silent
	@touch $@

# promtool comes out of its package without installing that: the package brings a server that starts.
$(DEPLOY_READY):
	@command -v npm > /dev/null || apt-get install --yes --quiet nodejs npm || { echo "install nodejs and npm, then make check-deploy"; exit 1; }
	rm -rf $(DEPLOY)
	mkdir -p $(DEPLOY)
	python3 -m venv $(DEPLOY)/python
	$(DEPLOY)/python/bin/pip --quiet --disable-pip-version-check install --requirement deploy/check/requirements.txt
	cp deploy/check/package.json $(DEPLOY)/
	npm --prefix $(DEPLOY) install --no-package-lock --no-audit --no-fund --silent
	cd $(DEPLOY) && { command -v promtool > /dev/null || { apt-get download --quiet prometheus > /dev/null && dpkg-deb -x prometheus_*.deb prometheus; } || \
	  echo "no promtool: install Prometheus, or the alert rules are not checked"; }
	@touch $@

$(CARGO_DENY):
	cargo install --locked --quiet --root $(TOOLS) --target-dir $(TOOLS)/build --version $(CARGO_DENY_VERSION) cargo-deny
	rm -rf $(TOOLS)/build

$(CARGO_CYCLONEDX):
	cargo install --locked --quiet --root $(TOOLS) --target-dir $(TOOLS)/build --version $(CARGO_CYCLONEDX_VERSION) cargo-cyclonedx
	rm -rf $(TOOLS)/build

$(CARGO_FUZZ):
	cargo install --locked --quiet --root $(TOOLS) --target-dir $(TOOLS)/build --version $(CARGO_FUZZ_VERSION) cargo-fuzz
	rm -rf $(TOOLS)/build

$(BUF):
	python3 -m venv $(TOOLS)/python
	$(TOOLS)/python/bin/pip --quiet --disable-pip-version-check install buf-bin==$(BUF_VERSION)
	@test -x $(BUF)
