# The whole developer interface. Every target does its own set-up: `.venv` from the locked, hashed requirements and
# this tree installed editable; again only when the lock has changed. uv is used when it is there, never required.

SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LOCK := requirements/dev.txt
STAMP := $(VENV)/.installed-$(shell sha256sum $(LOCK) | cut -c1-16)
COMPILE := --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --quiet
PYTEST := $(BIN)/pytest
SEEDS ?= 1..200
T ?= tests
PROCFILE ?= Procfile

# Otherwise `python -m …` in this folder would find our `dns` package before dnspython's.
export PYTHONSAFEPATH := 1

.PHONY: help run check lint types imports unit unit-1 unit-2 test test-long coverage fmt bench simulate lock clean

help:
	@echo 'make run        three nodes and a sample service in the foreground; Ctrl-C ends them; data in .run/'
	@echo 'make check      lint, format, types, imports, unit and property tests; under a minute'
	@echo 'make test       everything but the long tests (T=tests/unit/dns for a part)'
	@echo 'make test-long  the long tests: distributions, power loss, thousands of seeds'
	@echo 'make simulate   the Raft core in virtual time (SEEDS=1..1000, or one to replay)'
	@echo 'make bench      the benchmarks'
	@echo 'make coverage   line and branch coverage, daemon processes included'
	@echo 'make fmt        format and sort imports;  make lock: compile requirements/;  make clean: remove what was made'

$(STAMP):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 …")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@if uv --version >/dev/null 2>&1; then \
		uv pip install --quiet --python $(BIN)/python --require-hashes --no-deps -r $(LOCK) \
		&& uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .; \
	else \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r $(LOCK) \
		&& $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .; \
	fi
	@rm -f $(VENV)/.installed-* && touch $@

run: $(STAMP)
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m discovery.testing.playground $(PROCFILE)

check: $(STAMP)
	@$(MAKE) --no-print-directory -j2 -k --output-sync=target unit-1 unit-2 types lint imports

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

imports: $(STAMP)
	$(BIN)/lint-imports --no-logo

unit: $(STAMP)
	$(PYTEST) -q -m "not long" tests/unit

# The same in two halves of about equal length, for the two cores of a small machine.
HALF := tests/unit/store tests/unit/dns tests/unit/cli tests/unit/api
unit-1: $(STAMP)
	$(PYTEST) -q -m "not long" $(HALF)
unit-2: $(STAMP)
	$(PYTEST) -q -m "not long" tests/unit $(HALF:%=--ignore=%)

test: $(STAMP)
	$(PYTEST) -m "not long" $(T)

test-long: $(STAMP)
	$(PYTEST) -m long -s $(T)

coverage: $(STAMP)
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest -m "not long" $(T)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report --skip-covered

simulate: $(STAMP)
	$(BIN)/python -m discovery.testing.simulation --nodes 3 --seeds $(SEEDS)
	$(BIN)/python -m discovery.testing.simulation --nodes 5 --seeds $(SEEDS)

bench: $(STAMP)
	$(BIN)/python tests/bench/bench_http.py
	$(BIN)/python tests/bench/bench_dns.py

fmt: $(STAMP)
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

lock:
	uv pip compile $(COMPILE) pyproject.toml -o requirements/run.txt
	uv pip compile $(COMPILE) --group dev --group build pyproject.toml -o requirements/dev.txt

clean:
	rm -rf $(VENV) .run dist .coverage* .hypothesis .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
	find discovery dns api tests -name __pycache__ -prune -exec rm -rf {} +
