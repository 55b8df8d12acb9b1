# The two commands of the README are `make demo` and `make test`; the rest is for those who work on Kilonova.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
IMAGE := build/image/tiny.qcow2
DEMO_STATE := .state/demo
SUDO := $(if $(filter 0,$(shell id -u)),,sudo -E)
SOURCES := src tests bench tools/demo tools/build-image
RUFF := $(BIN)/ruff
PYTEST := $(BIN)/pytest -q
# Pure code, held to a coverage of 95 %.
PURE := $(addprefix kilonova.,auth scheduler network.addresses network.dnsmasq_files network.flows network.fragments \
	network.group_rules network.layout network.plan network.planner network.rules)

.PHONY: help demo down test check lint format packages venv image lock openapi clean unit host lab cloud

help:  ## say what each target does
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

demo: packages venv image  ## install what is needed, bring up a cloud, boot guests, walk through all of it
	$(SUDO) $(BIN)/python tools/demo --state-dir $(DEMO_STATE)

down:  ## remove the demo's cloud, every trace of it
	@if [ -x $(BIN)/kilonova ]; then $(SUDO) $(BIN)/kilonova down --purge --state-dir $(DEMO_STATE); fi

test: packages venv image lint  ## everything the tests need, then every tier
	@echo "== tier unit: no root; coverage of pure code"
	$(PYTEST) -n auto tests/unit $(addprefix --cov=,$(PURE)) --cov-report=term:skip-covered --cov-fail-under=95
	@echo "== tier host: namespaces, drivers, the data plane"
	$(SUDO) $(PYTEST) -n auto --dist worksteal --durations=5 tests/host
	@echo "== tier lab: hosts with kernels of their own; skipped where User-Mode Linux cannot run"
	$(SUDO) $(PYTEST) --durations=5 tests/lab
	@echo "== tier cloud: real clients against running clouds"
	$(SUDO) $(PYTEST) -n auto --dist loadfile --durations=5 tests/cloud

check: lint unit  ## format, lint, types, import rules, unit tests; under a minute

lint: venv  ## format, lint, types, import rules
	$(RUFF) format --check $(SOURCES)
	$(RUFF) check $(SOURCES)
	$(BIN)/mypy
	@mkdir -p build
	@$(BIN)/lint-imports --no-logo >build/imports.txt || { cat build/imports.txt; exit 1; }

format: venv  ## format and mend what can be mended
	$(RUFF) check --fix-only -q $(SOURCES)
	$(RUFF) format $(SOURCES)

unit: venv  ## the tier that needs no root
	$(PYTEST) -n auto tests/unit

host: venv image  ## the tier of namespaces, drivers and the data plane
	$(SUDO) $(PYTEST) -n auto --dist worksteal tests/host

lab: venv  ## the tier of hosts with kernels of their own: User-Mode Linux, real VLAN devices
	$(SUDO) $(PYTEST) tests/lab

cloud: venv image  ## the tier of real clients against running clouds
	$(SUDO) $(PYTEST) -n auto --dist loadfile tests/cloud

packages:
	@tools/install-system-packages

venv: $(STAMP)  ## the virtual environment with every locked dependency

$(STAMP): requirements/dev.lock pyproject.toml
	@echo "virtual environment: $(VENV), packages of requirements/dev.lock"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed")'
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements/dev.lock
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	@mkdir -p build
	@touch $@

image: $(IMAGE)  ## the tiny guest image, from distribution packages

$(IMAGE): $(shell find tools/image -type f) tools/build-image
	@tools/build-image build/image
	@touch $@

openapi: venv  ## write the OpenAPI descriptions that the routes mean
	$(BIN)/python -m kilonova.api.openapi docs/openapi

lock:  ## choose newest versions again, with hashes, for every platform
	@rm -rf build/lock && $(PYTHON) -m venv build/lock && build/lock/bin/pip install -q uv
	build/lock/bin/uv pip compile -q --upgrade --universal --python-version 3.11 --generate-hashes --no-header \
		--no-annotate --extra dev pyproject.toml -o requirements/dev.lock
	build/lock/bin/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header \
		--no-annotate pyproject.toml -o requirements/runtime.lock -c requirements/dev.lock

clean: down  ## remove what was built, but not the demo's image
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis build/lock
