# Earshot. `make` alone lists what there is to make.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/earshot
# Pinned checks of dependencies; CI machines that have their own find them on the PATH first.
CARGO_DENY_VERSION := 0.20.2
CARGO_MACHETE_VERSION := 0.9.1
export PATH := $(PATH):$(CACHE)/tools/bin

ifdef LIBTORCH
export LIBTORCH := $(abspath $(LIBTORCH))
endif

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' \
		| awk -F '\t' '{ printf "  make %-8s %s\n", $$1, $$2 }'

.PHONY: setup
setup: ## libtorch and ONNX Runtime for this machine (GPU=1: with CUDA, GPU=0: back to the CPU)
	@python3 deploy/setup.py $(if $(filter 1,$(GPU)),--gpu) $(if $(filter 0,$(GPU)),--cpu)

.PHONY: build
build: setup ## the two release binaries, target/release/coordinator and worker
	cargo build --release --locked -p coordinator -p worker

.PHONY: demo
demo: build ## clips to a verified champion/ on two workers (DATA=folder in ESC-50's layout; else synthetic)
	deploy/demo.sh $(if $(DATA),"$(DATA)")

.PHONY: test
test: setup tools ## every check and every test
	python3 deploy/peers.py >/dev/null
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked
	cargo test --workspace --locked
	python3 -m unittest discover --start-directory deploy --pattern 'test_*.py'
	cargo deny --log-level error check licenses bans sources
	cargo machete
	if command -v taplo >/dev/null; then taplo fmt --check; fi

.PHONY: audit
audit: tools ## the dependencies against the advisory database (needs the network)
	cargo deny check

.PHONY: bench
bench: build ## measure against PyTorch, librosa, and Optuna (DATA=folder as in demo), ending in tables of ratios
	python3 benches/run.py $(if $(DATA),--data "$(DATA)")
	python3 benches/training.py
	python3 benches/search.py
	python3 benches/tabular.py
	python3 benches/scale.py
	cargo bench --quiet --locked -p worker --bench fusion
	python3 benches/front_end.py $(if $(DATA),--data "$(DATA)")
	$(if $(DATA),python3 benches/accuracy.py --data "$(DATA)")

.PHONY: clean
clean: ## remove what was built here; the cache folder stays
	cargo clean
	rm -rf champion

# Unoptimised on purpose: they compile in a third of the time and still answer in seconds.
INSTALL_TOOL := CARGO_PROFILE_DEV_DEBUG=0 cargo install --quiet --locked --debug --root $(CACHE)/tools

.PHONY: tools
tools:
	@command -v cargo-deny >/dev/null || { echo "building cargo-deny, once"; \
		$(INSTALL_TOOL) cargo-deny --version $(CARGO_DENY_VERSION); }
	@command -v cargo-machete >/dev/null || { echo "building cargo-machete, once"; \
		$(INSTALL_TOOL) cargo-machete --version $(CARGO_MACHETE_VERSION); }
