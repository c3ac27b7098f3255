# `make` alone lists the targets. CARGO_TARGET_DIR is cargo's own and respected everywhere.
.DEFAULT_GOAL := help
.PHONY: help bootstrap build agent image demo test e2e e2e-qemu lint generated bench faults chaos attack deny bench-agent bench-deploy

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## Build all programs
	scripts/bootstrap demo
	cargo build --workspace --bins

# For machines of this kind. With --target the flags are not those of build scripts and procedural macros, which can't be
# static.
AGENT_TARGET = $(shell rustc -vV | sed -n 's/^host: //p')
agent: ## Build the agent for VMs: one static file that runs on any Linux of this architecture
	scripts/bootstrap build
	RUSTFLAGS="-C target-feature=+crt-static" cargo build --profile agent -p baal-agent --target $(AGENT_TARGET)
	@file="$${CARGO_TARGET_DIR:-target}/$(AGENT_TARGET)/agent/baal-agent"; size=$$(stat -c %s "$$file"); \
	echo "$$file: $$((size / 1000)) kB"; \
	if [ "$$size" -gt 12000000 ]; then echo "make agent: larger than 12 MB; find out why" >&2; exit 1; fi

VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
image: ## Build the image that docker-compose.yml runs (needs a Docker engine, and nothing else)
	docker build --build-arg VERSION=$(VERSION) -t baal:$(VERSION) -t baal:latest .

demo: build ## Run everything on this machine and chat with it in the browser; Ctrl-C stops it
	@# Not `cargo run`, which resolves other features for one package than for all and so would compile again.
	"$${CARGO_TARGET_DIR:-target}/debug/baal" demo

test: ## Run every test
	scripts/bootstrap test
	@# `cargo test` leaves out the programs of other packages, which the tests start. With the tests, so that both builds
	@# resolve the same features and nothing is built twice.
	cargo build --workspace --all-targets
	@# Snapshots are compared, not written: `INSTA_UPDATE=always make test` writes them, for the diff to be looked at.
	rm -rf "$${CARGO_TARGET_DIR:-target}/tmp/requests"
	INSTA_UPDATE="$${INSTA_UPDATE:-no}" cargo test --workspace --no-fail-fast
	scripts/judge-requests "$${CARGO_TARGET_DIR:-target}/tmp/requests"

E2E = baal/e2e,baal-e2e/e2e
e2e: agent ## Install the agent on fake VMs (containers with systemd), mend it, attack it; run the compose file as a fleet
	scripts/bootstrap e2e
	@# As for `make test`: the tests start programs of other packages, and nothing is to be built twice.
	cargo build --workspace --all-targets --features $(E2E)
	crates/e2e/machine/fleet ready
	cargo test --workspace --no-fail-fast --features $(E2E) --test deploy --test compose --test install --test pooler --test walls -- --nocapture

e2e-qemu: agent ## Attack it on a real VM with Debian 12's kernel: slow, for releases
	scripts/bootstrap e2e
	E2E_VM=qemu cargo test -p baal-e2e --features e2e --test walls -- --nocapture

lint: ## Check formatting and lints
	cargo fmt --check
	cargo clippy --workspace --all-targets --features $(E2E) -- -D warnings
	@# Not among all targets, because `make test` leaves them out.
	cargo clippy --workspace --test chaos --test attack --features $(E2E) -- -D warnings

bench: ## Measure messages and their replies, claims, open turns and agents' own messages: some 20 minutes
	scripts/bootstrap test
	cargo bench -p baal --bench load

# As for `make test`: the tests start programs of other packages. What `make test` has built is used again.
faults: ## Chaos and attacks in their short form: some six minutes
	scripts/bootstrap test
	cargo build --workspace --bins --test chaos --test attack
	cargo test --workspace --no-fail-fast --test chaos --test attack

chaos: ## Kill, cut, stall and starve the whole program for an hour, and count every message
	scripts/bootstrap test
	cargo build --workspace --bins --test chaos
	CHAOS_ROUNDS=long cargo test --workspace --test chaos -- --nocapture --test-threads=1

# Optimised a little, and with debug assertions and checks of overflow.
attack: ## A million malformed updates through the webhook, and long runs of the fuzz targets
	scripts/bootstrap test
	cargo build --profile faults --workspace --bins --test attack
	ATTACK_UPDATES=1000000 cargo test --profile faults --workspace --test attack -- --nocapture --test-threads=1

# Kept outside of the target directory, so that `cargo clean` does not cost half an hour.
DENY = $(HOME)/.cache/baal/cargo-deny
deny: ## Judge the dependencies by deny.toml: licences, bans, sources, advisories (fetches the advisories' database)
	@PATH="$$PATH:$(DENY)/bin"; command -v cargo-deny >/dev/null || cargo install --locked cargo-deny --root "$(DENY)"
	PATH="$$PATH:$(DENY)/bin" cargo deny --locked check

bench-agent: agent ## Measure the agent: start, memory, turns a second, long conversations
	cargo build --release -p baal-agent-bench
	"$${CARGO_TARGET_DIR:-target}/release/baal-agent-bench" "$${CARGO_TARGET_DIR:-target}/$(AGENT_TARGET)/agent/baal-agent"

bench-deploy: agent ## Measure how long a machine takes from SSH to a healthy agent over HTTPS
	scripts/bootstrap e2e
	cargo bench -p baal --features e2e --bench deploy

generated: ## Write the files that are made from the code
	cargo build --workspace --bins
	@# By way of temporary files, so that a failure doesn't leave empty ones.
	@mkdir -p openapi; baal="$${CARGO_TARGET_DIR:-target}/debug/baal"; \
	for made in ".env.example env-example" "openapi/openapi.json openapi"; do \
		set -- $$made; \
		"$$baal" "$$2" > "$$1.new" || { rm -f "$$1.new"; exit 1; }; \
		mv "$$1.new" "$$1"; \
	done
