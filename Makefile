# `make` lists what can be made. Everything that is needed is set up on the way, in .venv and .venv-proto.

PYTHON ?= python3
TESTS ?= tests/unit tests/simulation tests/model tests/integration tests/contract tests/acceptance tests/adversity
ARGS ?=

PROTOS = $(wildcard proto/faceid/metering/v1/*.proto)
PIP_INSTALL = -m pip install -qq --disable-pip-version-check

# $(call generate,DIR): all generated code, into DIR
generate = .venv-proto/bin/python -m grpc_tools.protoc -I proto -I .venv-proto/include \
	--python_out=$(1) --pyi_out=$(1) --grpc_python_out=$(1) $(PROTOS)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory
.PHONY: $(shell awk -F: '/^[a-z-]+:/ {print $$1}' $(firstword $(MAKEFILE_LIST)))

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-22s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))
	@echo
	@echo "  Options go in ARGS:  make test ARGS='-k duplicate'   make run ARGS='--listen 127.0.0.1:50052'"

run: .venv/.installed ## Start the service, on an embedded PostgreSQL unless METERING_DATABASE_URL is set
	@exec .venv/bin/metering serve $(ARGS)

demo: .venv/.installed ## Play the whole story: activate, call, bill, deduct, suspend, pay, audit
	@exec .venv/bin/metering demo $(ARGS)

test: .venv/.installed ## Run all tests, side by side on all cores; ARGS='-n 0' for one after the other
	@exec .venv/bin/python -m pytest -n auto --dist loadfile $(TESTS) $(ARGS)

torture: .venv/.installed ## Kill, freeze, cut and fill everything under load, then check the books: SECONDS=60 SEED=7
	@exec .venv/bin/python -m tests.torture $(if $(SECONDS),--seconds $(SECONDS)) $(if $(SEED),--seed $(SEED)) $(ARGS)

fuzz: .venv/.installed ## Send every RPC, and both ports, what no client should: SECONDS=300 SEED=7
	@exec .venv/bin/python -m tests.fuzz $(if $(SECONDS),--seconds $(SECONDS)) $(if $(SEED),--seed $(SEED)) $(ARGS)

# EXAMPLES histories of STEPS steps each; SEED plays those of an earlier run again.
test-model: .venv/.installed ## Drive the service and a reference model side by side, some minutes: SEED=… EXAMPLES=… STEPS=…
	@METERING_MODEL_EXAMPLES=$(or $(EXAMPLES),60) METERING_MODEL_STEPS=$(or $(STEPS),50) METERING_MODEL_SEED=$(SEED) \
	exec .venv/bin/python -m pytest tests/model -s $(ARGS)

bench: .venv/.installed ## Measure the service beside what limits it, some 7 minutes
	@exec .venv/bin/python -m tests.benchmarks $(ARGS)

bench-full: .venv/.installed ## The same with several workers and 20 million stored calls, some 20 minutes
	@exec .venv/bin/python -m tests.benchmarks --full $(ARGS)

bench-close: .venv/.installed ## Measure the close of a month: ARGS='--accounts 1000000'
	@exec .venv/bin/python -m tests.benchmarks.close $(ARGS)

bench-close-meanwhile: .venv/.installed ## Measure recording while a month is closed, some 2 minutes
	@exec .venv/bin/python -m tests.benchmarks.recording_meanwhile $(ARGS)

bench-audit: .venv/.installed ## Measure the audit: ARGS='--accounts 10000'
	@exec .venv/bin/python -m tests.benchmarks.audit $(ARGS)

bench-listing: .venv/.installed ## Measure an export of calls: ARGS='--calls 10000000'
	@exec .venv/bin/python -m tests.benchmarks.listing $(ARGS)

bench-grpcio: .venv/.installed ## Measure releases of grpcio side by side: VERSIONS="1.76.0 1.80.0"
	@exec .venv/bin/python -m tests.benchmarks.grpcio_versions $(VERSIONS) $(ARGS)

bench-client: .venv/.installed ## Measure what the Python client costs a gateway, half a minute
	@exec .venv/bin/python -m tests.benchmarks.client

gateway-simulation: .venv/.installed ## Measure a gateway with the client while the service has its troubles, some 5 minutes
	@exec .venv/bin/python -m tests.benchmarks.gateway_simulation $(ARGS)

simulate: .venv/.installed ## Simulate recording in all troubles for a minute: ARGS='--seconds 600 --seed 1'
	@exec .venv/bin/python -m tests.simulation $(ARGS)

lint: .venv/.installed .venv-proto/.ready ## Check style, types, the direction of imports, and the contract
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy
	.venv/bin/lint-imports --no-logo
	.venv-proto/bin/buf lint proto
	@$(MAKE) proto-check

fmt: .venv/.installed ## Format, and mend what can be mended
	.venv/bin/ruff check --fix
	.venv/bin/ruff format

proto: .venv-proto/.ready ## Regenerate the Python code of the contract
	@$(call generate,proto)

# Not `git diff`, so that it works in an unpacked archive and says nothing about changes that are merely uncommitted.
proto-check: .venv-proto/.ready
	@fresh=$$(mktemp -d) && trap 'rm -rf "$$fresh"' EXIT && $(call generate,"$$fresh") && \
	diff -r --brief --exclude='*.proto' --exclude=py.typed --exclude=__pycache__ "$$fresh" proto || \
	{ echo "error: the generated code does not match the .proto files: run 'make proto' and commit the result" >&2; exit 1; }

# The generated code is not checked in: it is made of the contract each time, so it cannot be out of date.
client-typescript: client-typescript-build .venv/.installed ## Build and test the TypeScript stub; needs Node 20 and npm
	@exec .venv/bin/python -m pytest tests/acceptance/test_typescript_client.py $(ARGS)

client-typescript-build: .venv-proto/.ready | check-node
	cd clients/typescript && npm ci --no-progress
	.venv-proto/bin/buf generate --template clients/typescript/buf.gen.yaml
	cd clients/typescript && npm run --silent build

lock: | check-python ## Pin the newest versions that pyproject.toml allows
	@tools=$$(mktemp -d) && trap 'rm -rf "$$tools"' EXIT && \
	$(PYTHON) -m venv "$$tools" && "$$tools/bin/python" $(PIP_INSTALL) uv && \
	lock="$$tools/bin/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes \
		--no-annotate --custom-compile-command 'make lock'" && \
	eval "$$lock pyproject.toml --extra server --extra parquet --extra embedded --group build --group test --group lint -o requirements/dev.txt" && \
	eval "$$lock --group proto -o requirements/proto.txt"

# Not a part of lint: it asks the network, and a hole found today is no reason why a change cannot be merged. What could
# not be looked up is an error, too.
audit-dependencies: | check-python ## Ask whether the pinned versions have known holes; needs the network
	@tools=$$(mktemp -d) && trap 'rm -rf "$$tools"' EXIT && \
	$(PYTHON) -m venv "$$tools" && "$$tools/bin/python" $(PIP_INSTALL) pip-audit && \
	for pinned in requirements/dev.txt requirements/proto.txt; do \
		"$$tools/bin/pip-audit" --strict --progress-spinner off --require-hashes --disable-pip --requirement $$pinned || exit 1; \
	done

clean: ## Remove what make and the tools have made, but no data
	rm -rf .venv .venv-proto dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	rm -rf clients/typescript/node_modules clients/typescript/dist clients/typescript/src/gen
	find proto service clients tests -name __pycache__ -prune -exec rm -rf {} +

# The newest Python with a wheel of the embedded PostgreSQL and of the proto tools is 3.14.
check-python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' 2>/dev/null || { \
	echo "error: Python 3.11 to 3.14 is needed, and '$(PYTHON)' is $$($(PYTHON) --version 2>&1). Name another: make PYTHON=python3.12 …" >&2; \
	exit 1; }

check-node:
	@node -e 'process.exit(parseInt(process.versions.node) < 20 ? 1 : 0)' 2>/dev/null && command -v npm >/dev/null || { \
	echo "error: Node 20 or newer with npm is needed for the TypeScript stub; 'node' is $$(node --version 2>&1 || true)" >&2; exit 1; }

.venv/.requirements: requirements/dev.txt | check-python
	@echo "setting up .venv (once, about a minute) …"
	@rm -rf .venv
	@$(PYTHON) -m venv .venv
	@.venv/bin/python $(PIP_INSTALL) --require-hashes -r $<
	@touch $@

.venv/.installed: .venv/.requirements pyproject.toml
	@.venv/bin/python $(PIP_INSTALL) --no-deps --no-build-isolation --editable .
	@touch $@

# A virtual environment of its own: the generator is the oldest supported one, the service runs on the newest.
.venv-proto/.ready: requirements/proto.txt | check-python
	@echo "setting up .venv-proto (once, some seconds) …"
	@rm -rf .venv-proto
	@$(PYTHON) -m venv .venv-proto
	@.venv-proto/bin/python $(PIP_INSTALL) --require-hashes -r $<
	@mkdir -p .venv-proto/include/google
	@cp -R .venv-proto/lib/python3.*/site-packages/google/rpc .venv-proto/lib/python3.*/site-packages/google/type .venv-proto/include/google
	@touch $@
