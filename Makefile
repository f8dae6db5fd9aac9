# All developer tasks. `make help` lists the recipes; CI runs the same ones.

# Where `make up` keeps its data, and where the tests find the guest images.
DATA_DIR ?= /var/lib/wrenn
PYTHON ?= python3
BIN := .venv/bin
# The longest first.
CHECKS := check-tests check-types check-style check-rust check-dashboard
# `make test` runs these side by side, the longest first, each with its suites in order of speed: what makes networks and virtual
# machines, what talks to the whole control plane (sandboxes and builds; all the rest), what needs neither, what runs in a host
# with KVM, what needs a browser, and what uses the SDKs of others.
PARTS := machines control integration programs kvm browsers sdks
# One more saves some minutes, but then guests of emulated machines may not answer within their limits.
TEST_JOBS ?= $(shell nproc)
machines := host drivers fleet vm attacks
control := $(patsubst tests/%,%,$(wildcard tests/integration/test_control_*.py))
integration := $(patsubst tests/%,%,$(filter-out tests/integration/test_control_%,$(wildcard tests/integration/test_*.py)))
programs := unit repo simulation contract envd agent
kvm := kvm
sdks := e2b examples
browsers := dashboard
# Chromium gives up its requests whenever an interface of its network namespace changes, which the tests of machines do all the
# time. Without root there are none of those.
run_browsers := $(if $(filter 0,$(shell id -u)),unshare --net sh -c 'ip link set lo up && exec "$$@"' sh)

export WRENN_IMAGES_DIR ?= $(DATA_DIR)
export PYTHONUNBUFFERED := 1
# A seed of a simulation has the same life in each process: sets of names have the same order.
export PYTHONHASHSEED ?= 0
# Where bytecode is not kept, each program compiles all that it imports: seconds, some hundred times in `make test`.
unexport PYTHONDONTWRITEBYTECODE

# For `pipefail`.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup test-tools images up down test test-faults test-attacks test-packages test-looks simulate check $(CHECKS) fmt host-test vm-test kvm-test schema-test bench protos openapi lock clean

help: ## list the recipes
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

setup: ## install what is missing: Debian packages, Python, Rust; build the dashboard
	@$(PYTHON) tools/setup.py

test-tools: ## install what only tests need: a browser, HAProxy, Caddy, an S3 server, Firecracker, SDKs of e2b, the packages of the examples
	@$(PYTHON) tools/setup.py --tests
	@$(BIN)/python -m tests.s3_server
	@$(BIN)/python -m tests.kvm.firecracker
	@$(BIN)/python -m tests.e2b.python_sdks
	@$(BIN)/python -m tests.e2b.node_sdk
	@$(BIN)/python -m tests.examples.packages

images: setup ## build guest kernel, initramfs and template if they are missing or out of date
	@$(BIN)/wrenn images build --data-dir $(WRENN_IMAGES_DIR)

up: setup ## start the platform and run the main job once
	@$(BIN)/wrenn up --demo --data-dir $(DATA_DIR)

down: ## stop the platform
	@$(BIN)/wrenn down --data-dir $(DATA_DIR)

test: test-tools images ## run all tests that this machine supports, and list those that it does not
	cargo test --manifest-path rust/Cargo.toml --locked --quiet
	@$(MAKE) --no-print-directory check-dashboard
	@mkdir -p build
	@$(MAKE) --no-print-directory --keep-going --jobs=$(TEST_JOBS) $(addprefix test-part-,$(PARTS)); status=$$?; \
	for part in $(PARTS); do echo; sed -n '/ slowest files of /,$$p' build/test-$$part.log; done; exit $$status

test-part-%:
	@set -o pipefail; $(run_$*) $(BIN)/pytest -m "not all_faults and not all_attacks and not all_looks and not all_kvm and not packages" \
	$(wildcard $(addprefix tests/,$($*))) 2>&1 | tee build/test-$*.log | sed --unbuffered 's/^/$*: /'

test-faults: images ## kill every process at every fault point; `make test` runs a sample
	$(BIN)/pytest tests/agent/test_faults.py tests/vm/test_faults.py tests/vm/test_snapshot_faults.py

test-attacks: images ## run hostile guests and tenants against a platform; `make test` runs a sample
	$(BIN)/pytest tests/attacks

test-packages: images ## run tests that install Debian packages in a sandbox (containers), and build Dockerfiles; takes minutes under emulation
	$(BIN)/pytest -m packages tests/vm tests/integration/test_images_azure.py tests/integration/test_images_google.py

test-looks: test-tools ## look at all pages of the dashboard in both themes and two widths, and in more browsers; `make test` looks at a sample. Pictures: build/screenshots
	WRENN_ALL_LOOKS=1 $(run_browsers) $(BIN)/pytest tests/dashboard

simulate: setup ## run SEEDS random lives with faults of a host, and of a fleet, from FIRST_SEED on; `make test` runs 20 of each
	WRENN_SEEDS=$(or $(SEEDS),1000) WRENN_FIRST_SEED=$(or $(FIRST_SEED),1) $(BIN)/pytest \
	  tests/simulation/test_agent_simulation.py tests/simulation/test_fleet_simulation.py tests/simulation/test_many_hosts.py

check: setup ## before every commit: format, lint, types, layering, fast tests, side by side
	@$(MAKE) --no-print-directory --jobs=$(shell nproc) --output-sync=target $(CHECKS)

check-tests: ## a part of it: the fast tests
	$(BIN)/pytest -q -m "not slow" tests/unit tests/repo

check-types: ## a part of it: types
	$(BIN)/pyright

check-style: ## a part of it: format, lint, layering of Python
	$(BIN)/ruff format --check --output-format concise --quiet
	$(BIN)/ruff check --output-format concise --quiet
	$(BIN)/lint-imports --no-logo > build/imports.log || { cat build/imports.log; exit 1; }

check-rust: ## a part of it: format and lint of Rust
	cargo fmt --check --manifest-path rust/Cargo.toml --all
	cargo clippy --manifest-path rust/Cargo.toml --locked --all-targets --quiet -- -D warnings

check-dashboard: ## a part of it: types and unit tests of the dashboard
	npm --prefix dashboard run --silent check -- --output machine > build/dashboard-check.log || { cat build/dashboard-check.log; exit 1; }
	npm --prefix dashboard run --silent test -- --reporter=dot

fmt: ## format all code
	$(BIN)/ruff check --fix --quiet || true
	$(BIN)/ruff format
	cargo fmt --manifest-path rust/Cargo.toml --all

host-test: setup ## tests that need root: namespaces, cgroups, firewall
	$(BIN)/pytest tests/host

vm-test: test-tools images ## tests that need a hypervisor
	$(BIN)/pytest -m "not packages" tests/vm

kvm-test: test-tools images ## run the tests of VM drivers with KVM, in an emulated host where KVM works; `make test` runs a sample
	$(BIN)/pytest tests/kvm

schema-test: setup ## check the served API against its description with 100 generated requests for each operation
	WRENN_SCHEMA_EXAMPLES=100 $(BIN)/pytest tests/integration/test_control_schema.py

bench: images ## measure the figures of SPECIFICATION.md, each next to its floor
	$(BIN)/python -m tests.performance

protos: setup ## generate the messages from proto/
	$(BIN)/python tools/protos.py

openapi: setup ## write openapi/ from the control plane's routes
	$(BIN)/python tools/openapi.py

lock: setup ## rewrite requirements.lock with the newest versions that pyproject.toml allows
	$(BIN)/uv lock --upgrade --quiet
	$(BIN)/uv pip compile --upgrade --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
	  --output-file examples/requirements.lock examples/requirements.in
	$(BIN)/uv export --quiet --all-extras --all-groups --no-emit-project --no-header --format requirements.txt --output-file requirements.lock

clean: ## remove what was built in the checkout (not the data folder)
	rm -rf .venv build dist dashboard/node_modules dashboard/.svelte-kit src/wrenn/control/dashboard/built rust/target .pytest_cache .ruff_cache .import_linter_cache
