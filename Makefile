# Each target works alone, on a machine with nothing but Rust (as root on Debian; on
# others it says what to install), and can be run again.

.DEFAULT_GOAL := help
.PHONY: help setup images demo up down test bench fuzz trivy fmt lint

help: ## Shows this
	@sed -n 's/^\([a-z-]*\):.*## /\1|/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "  make %-8s %s\n", $$1, $$2 }'

demo: ## Starts everything, submits a function, runs it; then one that is rejected
	@scripts/demo

up: ## Starts the whole system with Compose and waits until it is ready
	@scripts/up

down: ## Removes what demo and up have started
	@scripts/down

test: ## Every test, against real servers
	@scripts/test

bench: ## Measures ours beside its peers; one alone: make bench NAME=pipeline
	@scripts/bench $(NAME)

fuzz: ## Strangers' bytes against the readers, with coverage: make fuzz TARGET=source SECONDS=600
	@scripts/fuzz "$(TARGET)" "$(SECONDS)"

trivy: ## Installs the version of trivy that the scanner asks for, where there is Go
	@scripts/trivy

setup: ## Installs what is missing: Docker Engine, Compose, a linker
	@scripts/setup

images: ## Makes the images that tests and Compose run
	@scripts/setup
	@scripts/images

fmt: ## Formats the code
	@cargo fmt --all

lint: ## Format and clippy, as CI has it
	@cargo fmt --all --check
	@cargo clippy --workspace --all-targets --locked -- -D warnings
