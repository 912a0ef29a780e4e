# Two commands do all the set-up: `make demo` and `make test`.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: demo bench bench-all test test-all lint types lock install clean help docs

help:            ## list the targets
	@grep -E '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

install: $(STAMP)  ## make .venv and install the pinned set

$(STAMP): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed: install it, or call make PYTHON=/path/to/python"; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is older than 3.11"; exit 1; }
	test -x $(BIN)/python || "$(PYTHON)" -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

demo: $(STAMP)   ## simulate a region, train, map it, write inventory and report
	$(BIN)/slopewatch demo --workspace demo

lint: $(STAMP)   ## ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)  ## mypy
	$(BIN)/mypy

test: lint types ## lint, types and the tests that take less than a minute each
	$(BIN)/python -m pytest -m "not slow and not gpu"

test-all: lint types ## all tests that this machine can run
	$(BIN)/python -m pytest

lock: $(STAMP)   ## write requirements.lock from the environment
	( sed -n '/^#/p' requirements.lock; $(BIN)/python -m pip freeze --exclude-editable ) > requirements.lock.new
	mv requirements.lock.new requirements.lock

# Weights to measure with; SAHI is the python of an environment that has it (benchmarks/bench_sahi.py).
WEIGHTS ?= models/released/slopewatch-s2.safetensors
SAHI    ?=
BENCH    = $(BIN)/python benchmarks/check.py --weights "$(WEIGHTS)" $(if $(SAHI),--sahi "$(SAHI)")

bench: $(STAMP)  ## quick benchmarks, ratios against bounds
	$(BENCH)

bench-all: $(STAMP) ## the long benchmarks: hours
	$(BENCH) --all

docs: $(STAMP)   ## write the tables of docs/ that come from code
	$(BIN)/python -m components.errors > docs/errors.md

clean:           ## remove the environment and the caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
