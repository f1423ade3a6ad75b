# Everything runs in .venv, which the targets create.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
export UV_PYTHON_DOWNLOADS := never
BIN := .venv/bin
UV := $(BIN)/uv
UV_LOCK := k8s/image/uv.txt

# The native engine is built if cargo is installed. The tests of the crate need no Python.
export CARGO_TARGET_DIR := $(CURDIR)/build/cargo
CRATE := --manifest-path cache_sidecar/native/Cargo.toml
CARGO := mkdir -p build && command -v cargo > /dev/null && cargo fetch -q --locked $(CRATE) 2> build/cargo-fetch.log
NATIVE := $(wildcard cache_sidecar/native/Cargo.* cache_sidecar/native/src/*.rs)
NO_CARGO := cargo is not installed, is older than 1.88, or cannot download crates

DIST ?= dist
WHEEL := $(UV) build -q --wheel --no-build-isolation --python $(BIN)/python
# On Linux, auditwheel puts the oldest supported libc into the wheel's name.
REPAIR := cp build/wheels/*.whl $(DIST)
ifeq ($(shell uname),Linux)
REPAIR := PATH="$(CURDIR)/$(BIN):$$PATH" auditwheel repair -w $(DIST) build/wheels/*.whl > build/auditwheel.log 2>&1 || { cat build/auditwheel.log; exit 1; }
endif

COMPILE := $(UV) pip compile -q pyproject.toml --extra dev --extra injector --extra mongodb --extra otel --group dev --universal --python-version 3.11 \
	--generate-hashes --custom-compile-command 'make lock'

.DEFAULT_GOAL := help

help: ## List the targets
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 15

setup: .venv/ready ## Create the environment

.venv/ready: .requirements.lock $(UV_LOCK) pyproject.toml clients/python/pyproject.toml setup.py $(NATIVE)
	@$(PYTHON) -m venv .venv || { echo "Python 3.11 or later is required: install it, or choose one with 'make PYTHON=...'" >&2; exit 1; }
	@$(BIN)/pip install -q --disable-pip-version-check --require-hashes -r $(UV_LOCK)
	@$(UV) pip sync -q --compile-bytecode --python $(BIN)/python --require-hashes .requirements.lock
	@$(UV) pip install -q --python $(BIN)/python --no-deps --no-build-isolation -e . -e clients/python
	@$(CARGO) || echo "$(NO_CARGO): without the native engine, the sidecar uses grpc.aio and answers hits ten times slower"
	@touch $@

run: setup ## Start everything on this machine: Redis cluster, PostgreSQL, demo products, relay, sidecar
	@$(BIN)/cache-sidecar dev

test: setup ## Run every subject's tests on both engines, in two processes: a quarter of an hour on two cores
	@if $(CARGO); then \
		cargo test -q --release --no-default-features --locked $(CRATE) > build/cargo-test.log 2>&1 || { cat build/cargo-test.log; exit 1; } \
	else echo "SKIPPED the tests of the native engine: $(NO_CARGO)"; fi
	@$(BIN)/python -m pytest -m "not long" -n 2 --dist loadgroup --durations-file=build/durations.json

test-long: setup ## Run the long tests: outages, hostile clients, other languages, a Kubernetes API server, Prometheus, a browser; see tests/suites.py
	@$(BIN)/python -m tests.interop.build --or-skip
	@$(BIN)/python -m tests.clients.builds --or-skip
	@$(BIN)/python -m tests.e2e.build --or-skip
	@$(BIN)/python -m tests.clients.go_builds --or-skip
	@$(BIN)/python -m tests.clients.stub_builds --or-skip
	@$(BIN)/python -m tests.monitoring.build --or-skip
	@$(BIN)/python -m tests.browser.build --or-skip
	@$(BIN)/python -m pytest -m long -n 3 --dist loadgroup --durations-file=build/durations.json

coverage: setup ## Run all tests except those of the crate, and report uncovered lines of Python: takes nearly twice as long
	@$(BIN)/coverage erase
	@$(BIN)/coverage run -m pytest
	@$(BIN)/coverage combine -q
	@$(BIN)/coverage report

e2e: setup ## Test against a real Kubernetes API server, built once from Go modules in about 10 minutes
	@$(BIN)/python -m tests.e2e.build
	@$(BIN)/python -m pytest tests/e2e

interop: setup ## Run gRPC's own interop suites, and clients in other languages, which are downloaded once
	@$(BIN)/python -m tests.interop.build
	@$(BIN)/python -m pytest tests/interop

conformance: setup ## Run the conformance suite with every client library and with stubs, on both engines: by TCP, by a Unix socket and with TLS; ONLY=words of a case
	@$(BIN)/python -m tests.clients.builds --or-skip
	@$(BIN)/python -m tests.clients.go_builds --or-skip
	@$(BIN)/python -m tests.clients.stub_builds --or-skip
	@CONFORMANCE_ONLY="$(ONLY)" $(BIN)/python -m pytest tests/clients/test_conformance.py

check: setup ## Check lint, types, import contracts, protos, generated code, licences and the lock file
	@if $(CARGO); then cargo fmt --check $(CRATE) && cargo clippy -q --all-targets --locked $(CRATE) -- --deny warnings; \
	else echo "SKIPPED the checks of the native engine: $(NO_CARGO)"; fi
	@$(BIN)/ruff check -q
	@$(BIN)/ruff format -q --check
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/lint-imports --no-cache > build/imports.log || { cat build/imports.log; exit 1; }
	@$(BIN)/buf lint protos
	@$(BIN)/python protos/generate.py --check
	@$(BIN)/python clients/python/generate_sync.py --check
	@$(BIN)/python .github/supply_chain.py licenses
	@cp .requirements.lock build/requirements.lock
	@$(COMPILE) -o build/requirements.lock > /dev/null
	@diff .requirements.lock build/requirements.lock > build/lock.diff || \
		{ echo "pyproject.toml and .requirements.lock do not match: run 'make lock' and commit the result" >&2; exit 1; }
	@echo "Everything is clean."

proto: setup ## Generate the Python code from the protos, the protos of clients, and the Python client for threads
	@$(BIN)/python protos/generate.py
	@$(BIN)/python clients/python/generate_sync.py

version: setup ## Write the version of cache_sidecar/__init__.py wherever else it is; TO=1.2.3 changes it first
	@$(BIN)/python .github/release/versions.py $(TO)

monitoring: setup ## Generate the dashboards, rules and runbook in k8s/monitoring
	@$(BIN)/python k8s/monitoring/source/generate.py

chart: setup ## Generate the Helm chart in k8s/chart from the manifests
	@$(BIN)/python k8s/chart/source/generate.py

bench: setup ## Compare with the bare components; ONLY=pattern selects benchmarks, such as l1_*; QUICK=1 for a short trial run
	@$(BIN)/python -m tests.bench $(if $(ONLY),--only "$(ONLY)") $(if $(QUICK),--quick)

bench-compare: setup ## Compare our benchmarks with those of another commit: BASE=ref; ONLY=pattern, QUICK=1
	@test -n "$(BASE)" || { echo "BASE is not set: run 'make bench-compare BASE=ref' with a commit" >&2; exit 64; }
	@$(BIN)/python -m tests.bench --base "$(BASE)" $(if $(ONLY),--only "$(ONLY)") $(if $(QUICK),--quick)

replay: setup ## Replay orders through two sidecars that are killed and restarted: FILE=orders.csv in the UCI Online Retail format
	@test -f "$(FILE)" || { echo "file '$(FILE)' not found: run 'make replay FILE=orders.csv'" >&2; exit 64; }
	@$(BIN)/python -m tests.replay "$(FILE)"

consistency: setup ## Read and write for 3 minutes while everything fails, and check every reply; MINUTES=n, ENGINE=name
	@$(BIN)/python -m tests.consistency $(if $(MINUTES),--minutes $(MINUTES)) $(if $(ENGINE),--engine $(ENGINE))

propagation: setup ## Measure how long it takes until the last of four sidecars serves a change
	@$(BIN)/python -m tests.consistency.propagation

failure: setup ## Break one server after the other and show what callers see before, during and after; SECONDS=n for each
	@$(BIN)/python -m pytest tests/failure/outages -q --phase=$(or $(SECONDS),5)

fuzz: setup ## Send 50,000 generated requests to every method; REQUESTS=n, SEED=n
	@$(BIN)/python -m pytest tests/contract/test_hostile_fuzz.py -q --fuzz=$(or $(REQUESTS),50000) --fuzz-seed=$(or $(SEED),1) -o timeout=0

hostile: setup ## Attack a sidecar on each engine; measure its memory and what other callers see; TIMES=n for larger attacks
	@$(BIN)/python -m pytest tests/contract/hostile -q --attacks=$(or $(TIMES),2) -o timeout=0

fuzz-imports: setup ## Read 100,000 mutated files with the readers of all imports; FILES=n, SEED=n
	@$(BIN)/python -m tests.import_fuzz FILES=$(or $(FILES),100000) SEED=$(or $(SEED),1)

fuzz-native: ## Fuzz the native engine's parsers; needs cargo-fuzz; RUNS=n inputs for each
	@command -v cargo-fuzz > /dev/null || { echo "cargo-fuzz is not installed: 'cargo install cargo-fuzz'" >&2; exit 1; }
	@rm -rf build/fuzz/seeds && $(PYTHON) cache_sidecar/native/fuzz/corpus.py unpack build/fuzz/seeds
	@for target in wire authority hpack metadata pace tokens identity unpack; do \
		mkdir -p build/fuzz/corpus/$$target && \
		RUSTC_BOOTSTRAP=1 CARGO_TARGET_DIR=$(CURDIR)/build/fuzz cargo fuzz run --fuzz-dir cache_sidecar/native/fuzz --sanitizer none $$target \
			build/fuzz/corpus/$$target build/fuzz/seeds/$$target -- -runs=$(or $(RUNS),1000000) -max_len=512 || exit 1; \
	done

fuzz-corpus: ## Pack the inputs in FROM=build/fuzz/seeds, a folder for each target, as the corpus
	@$(PYTHON) cache_sidecar/native/fuzz/corpus.py pack $(or $(FROM),build/fuzz/seeds)

soak: setup ## Run under load for 5 minutes with a fault every 30 seconds: no lost writes, no leaks; MINUTES=n, ENGINE=name
	@$(BIN)/python -m tests.soak $(if $(MINUTES),--minutes $(MINUTES)) $(if $(ENGINE),--engine $(ENGINE))

events: setup ## Write 5,000 user events a second for SECONDS=60 while things are killed: none lost, none doubled; RATE=n, ENGINE=name
	@$(BIN)/python -m tests.event_load $(if $(SECONDS),--seconds $(SECONDS)) $(if $(RATE),--rate $(RATE)) $(if $(ENGINE),--engine $(ENGINE))

wheel: setup ## Build both wheels into DIST=dist: one for any platform, and one with the native engine for this platform
	@rm -rf build/lib build/bdist.* build/wheels
	@NATIVE_ENGINE=0 $(WHEEL) -o $(DIST) .
	@if $(CARGO); then $(WHEEL) -o build/wheels . && { $(REPAIR); }; \
	else echo "$(NO_CARGO): skipping the wheel with the native engine"; fi
	@ls $(DIST)/*.whl

image: wheel ## Build the image into DIST=dist with docker, podman or buildah: PLATFORM=linux/arm64; BASE=an image with Python 3.13, by digest
	@$(BIN)/python k8s/image/build.py $(if $(PLATFORM),--platform $(PLATFORM)) $(if $(BASE),--base $(BASE)) --wheels $(DIST) --to $(DIST)

image-test: image ## Run the image as nodes do, against the servers of `cache-sidecar dev`; needs docker or podman
	@$(BIN)/python k8s/image/tools.py
	@IMAGE_DIST="$(abspath $(DIST))" $(BIN)/python -m pytest tests/image

image-lock: setup ## Upgrade the image's locked packages of Debian
	@$(BIN)/python k8s/image/build.py --lock

release: setup ## Build all of a release into dist/, and try it in clean environments: a dry run, which publishes nothing
	@PYTHONPATH=$(CURDIR) $(BIN)/python .github/release

sbom: setup ## List all dependencies, Rust included, in DIST/sbom.cdx.json (CycloneDX 1.6)
	@$(BIN)/python .github/supply_chain.py sbom $(DIST)/sbom.cdx.json

audit: setup ## Check licences, and that every dependency is pinned by hash; prints the commands for what needs a network
	@$(BIN)/python .github/supply_chain.py audit

lock: setup ## Upgrade the locked dependencies
	@$(COMPILE) --upgrade -o .requirements.lock > /dev/null
	@echo uv | $(UV) pip compile -q - --universal --python-version 3.11 --generate-hashes --upgrade --no-header -o $(UV_LOCK) > /dev/null

clean: ## Remove the environment, the demo and all build output
	@rm -rf .venv .dev build dist cache_sidecar/_native*.so

.PHONY: help setup run test test-long coverage e2e interop conformance check proto version monitoring chart bench bench-compare replay consistency propagation failure fuzz fuzz-imports hostile fuzz-native fuzz-corpus soak events wheel image image-test image-lock release sbom audit lock clean
