# `make` alone lists the targets. CARGO_TARGET_DIR is cargo's own and respected everywhere.
.DEFAULT_GOAL := help
.PHONY: help bootstrap build demo test lint generated bench-agent

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## Build all programs
	scripts/bootstrap demo
	cargo build --workspace --bins

demo: build ## Run everything on this machine and chat with it in the browser; Ctrl-C stops it
	@# Not `cargo run`, which resolves other features for one package than for all and so would compile again.
	"$${CARGO_TARGET_DIR:-target}/debug/baal" demo

test: ## Run every test
	scripts/bootstrap test
	@# `cargo test` leaves out the programs of other packages, which the tests start. With the tests, so that both builds
	@# resolve the same features and nothing is built twice.
	cargo build --workspace --all-targets
	cargo test --workspace

lint: ## Check formatting and lints
	cargo fmt --check
	cargo clippy --workspace --all-targets -- -D warnings

bench-agent: ## Measure the agent: start, memory, turns a second, long conversations
	cargo build --release -p baal-agent
	cargo build --release -p baal-agent-bench
	"$${CARGO_TARGET_DIR:-target}/release/baal-agent-bench" "$${CARGO_TARGET_DIR:-target}/release/baal-agent"

generated: ## Write the files that are made from the code
	cargo build --workspace --bins
	@# By way of a temporary file, so that a failure doesn't leave an empty one.
	"$${CARGO_TARGET_DIR:-target}/debug/baal" env-example > .env.example.new || { rm -f .env.example.new; exit 1; }
	mv .env.example.new .env.example
