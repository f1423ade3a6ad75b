# Everything runs in .venv, which the targets make by themselves.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
UV_VERSION := 0.13.9
export UV_PYTHON_DOWNLOADS := never
BIN := .venv/bin
UV := $(BIN)/uv

# The native engine is built where there is cargo, and left out where not. Tests of the crate alone need no Python in it.
export CARGO_TARGET_DIR := $(CURDIR)/build/cargo
CRATE := --manifest-path cache_sidecar/native/Cargo.toml
CARGO := mkdir -p build && command -v cargo > /dev/null && cargo fetch -q --locked $(CRATE) 2> build/cargo-fetch.log
NATIVE := $(wildcard cache_sidecar/native/Cargo.* cache_sidecar/native/src/*.rs)
NO_CARGO := cargo is not installed, is older than 1.88, or gets no crates

DIST ?= dist
WHEEL := $(UV) build -q --wheel --no-build-isolation --python $(BIN)/python
# On Linux the name of a wheel says how old a libc may be.
REPAIR := cp build/wheels/*.whl $(DIST)
ifeq ($(shell uname),Linux)
REPAIR := PATH="$(CURDIR)/$(BIN):$$PATH" auditwheel repair -w $(DIST) build/wheels/*.whl > build/auditwheel.log 2>&1 || { cat build/auditwheel.log; exit 1; }
endif

COMPILE := $(UV) pip compile -q pyproject.toml --extra dev --extra injector --group dev --universal --python-version 3.11 \
	--generate-hashes --custom-compile-command 'make lock'

.DEFAULT_GOAL := help

help: ## List the targets
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 15

setup: .venv/ready ## Make the environment

.venv/ready: .requirements.lock pyproject.toml setup.py $(NATIVE)
	@$(PYTHON) -m venv .venv || { echo "Python 3.11 is needed: install it, or name one with 'make PYTHON=...'" >&2; exit 1; }
	@$(BIN)/pip install -q --disable-pip-version-check uv==$(UV_VERSION)
	@$(UV) pip sync -q --compile-bytecode --python $(BIN)/python --require-hashes .requirements.lock
	@$(UV) pip install -q --python $(BIN)/python --no-deps --no-build-isolation -e .
	@$(CARGO) || echo "$(NO_CARGO): without the native engine the sidecar runs on grpc.aio, and answers hits ten times slower"
	@touch $@

run: setup ## Start everything on this machine: Redis cluster, PostgreSQL, demo products, relay, sidecar
	@$(BIN)/cache-sidecar dev

test: setup ## Run every subject's tests on both engines, in two processes: under 10 minutes on two cores
	@if $(CARGO); then \
		cargo test -q --release --no-default-features --locked $(CRATE) > build/cargo-test.log 2>&1 || { cat build/cargo-test.log; exit 1; } \
	else echo "SKIPPED the tests of the native engine: $(NO_CARGO)"; fi
	@$(BIN)/python -m pytest -m "not long" -n 2 --dist loadgroup --durations-file=build/durations.json

test-long: setup ## Run all the others: outages, hostile clients, other languages, a Kubernetes API server; see tests/suites.py
	@$(BIN)/python -m tests.interop.build --or-skip
	@$(BIN)/python -m tests.e2e.build --or-skip
	@$(BIN)/python -m pytest -m long --durations-file=build/durations.json

coverage: setup ## Run all tests but the crate's, and say which lines of Python they left out: takes nearly twice as long
	@$(BIN)/coverage erase
	@$(BIN)/coverage run -m pytest
	@$(BIN)/coverage combine -q
	@$(BIN)/coverage report

e2e: setup ## Run the tests on a real Kubernetes API server, which is built once, in about 8 minutes, from Go modules
	@$(BIN)/python -m tests.e2e.build
	@$(BIN)/python -m pytest tests/e2e

interop: setup ## Run gRPC's own interop suites, and clients in other languages, which are got once
	@$(BIN)/python -m tests.interop.build
	@$(BIN)/python -m pytest tests/interop

check: setup ## Lint, types, import contracts, protos, generated code, the lock
	@if $(CARGO); then cargo fmt --check $(CRATE) && cargo clippy -q --all-targets --locked $(CRATE) -- --deny warnings; \
	else echo "SKIPPED the checks of the native engine: $(NO_CARGO)"; fi
	@$(BIN)/ruff check -q
	@$(BIN)/ruff format -q --check
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/lint-imports --no-cache > build/imports.log || { cat build/imports.log; exit 1; }
	@$(BIN)/buf lint protos
	@$(BIN)/python protos/generate.py --check
	@cp .requirements.lock build/requirements.lock
	@$(COMPILE) -o build/requirements.lock > /dev/null
	@diff .requirements.lock build/requirements.lock > build/lock.diff || \
		{ echo "pyproject.toml and .requirements.lock differ: run 'make lock' and commit the result" >&2; exit 1; }
	@echo "Everything is clean."

proto: setup ## Generate the Python code of the protos
	@$(BIN)/python protos/generate.py

bench: setup ## Compare with the bare components; ONLY=pattern runs some, as in l1_*, QUICK=1 sees that it works
	@$(BIN)/python -m tests.bench $(if $(ONLY),--only "$(ONLY)") $(if $(QUICK),--quick)

bench-compare: setup ## Compare what bench measures of ours with the same of another commit: BASE=ref; ONLY=pattern, QUICK=1
	@test -n "$(BASE)" || { echo "name a commit with 'make bench-compare BASE=ref'" >&2; exit 64; }
	@$(BIN)/python -m tests.bench --base "$(BASE)" $(if $(ONLY),--only "$(ONLY)") $(if $(QUICK),--quick)

replay: setup ## Replay orders through two sidecars, killed and run again: FILE=orders.csv in the UCI Online Retail format
	@test -f "$(FILE)" || { echo "there is no file '$(FILE)': name one with 'make replay FILE=...'" >&2; exit 64; }
	@$(BIN)/python -m tests.replay "$(FILE)"

consistency: setup ## Read and write for 3 minutes while everything breaks, every reply checked; MINUTES=n, ENGINE=name
	@$(BIN)/python -m tests.consistency $(if $(MINUTES),--minutes $(MINUTES)) $(if $(ENGINE),--engine $(ENGINE))

propagation: setup ## Measure how long a change takes until the last of four sidecars serves it
	@$(BIN)/python -m tests.consistency.propagation

failure: setup ## Break one thing after the other: what callers see before, during and after; SECONDS=n for each
	@$(BIN)/python -m pytest tests/failure/outages -q --phase=$(or $(SECONDS),5)

fuzz: setup ## Send 50,000 generated requests to every method; REQUESTS=n, SEED=n
	@$(BIN)/python -m pytest tests/contract/test_hostile_fuzz.py -q --fuzz=$(or $(REQUESTS),50000) --fuzz-seed=$(or $(SEED),1) -o timeout=0

hostile: setup ## Attack a sidecar on each engine: its memory, and what others see meanwhile; TIMES=n for larger attacks
	@$(BIN)/python -m pytest tests/contract/hostile -q --attacks=$(or $(TIMES),2) -o timeout=0

fuzz-native: ## Fuzz the native engine's parsers with cargo-fuzz, which is to be installed; RUNS=n inputs for each
	@command -v cargo-fuzz > /dev/null || { echo "cargo-fuzz is not installed: 'cargo install cargo-fuzz'" >&2; exit 1; }
	@for target in wire authority hpack metadata pace tokens identity; do \
		mkdir -p build/fuzz/corpus/$$target && \
		RUSTC_BOOTSTRAP=1 CARGO_TARGET_DIR=$(CURDIR)/build/fuzz cargo fuzz run --fuzz-dir cache_sidecar/native/fuzz --sanitizer none $$target \
			build/fuzz/corpus/$$target cache_sidecar/native/fuzz/corpus/$$target -- -runs=$(or $(RUNS),1000000) -max_len=512 || exit 1; \
	done

soak: setup ## Load for 5 minutes with a fault every 30 seconds: nothing may be lost, nothing may grow; MINUTES=n, ENGINE=name
	@$(BIN)/python -m tests.soak $(if $(MINUTES),--minutes $(MINUTES)) $(if $(ENGINE),--engine $(ENGINE))

wheel: setup ## Build both wheels into DIST=dist: one for any platform, and one with the native engine for platforms like this
	@rm -rf build/lib build/bdist.* build/wheels
	@NATIVE_ENGINE=0 $(WHEEL) -o $(DIST) .
	@if $(CARGO); then $(WHEEL) -o build/wheels . && { $(REPAIR); }; \
	else echo "$(NO_CARGO): the wheel with the native engine is left out"; fi
	@ls $(DIST)/*.whl

lock: setup ## Resolve the dependencies anew
	@$(COMPILE) --upgrade -o .requirements.lock > /dev/null

clean: ## Remove the environment, the demo and everything built
	@rm -rf .venv .dev build dist cache_sidecar/_native*.so

.PHONY: help setup run test test-long coverage e2e interop check proto bench bench-compare replay consistency propagation failure fuzz hostile fuzz-native soak wheel lock clean
