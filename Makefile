# Every target makes the virtual environment first, when it is absent or older than pyproject.toml.
# `make help` lists the targets. Other settings: make setup PYTHON=python3.12 VENV=/tmp/venv

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules --no-print-directory

VENV ?= .venv
PYTHON ?=
DEMO ?= runs/demo
DEMO_ROWS ?= 200000
PYTEST_ARGS ?= -n 2 --dist loadfile
SOAK_ARGS ?=
BENCH ?= runs/bench

BIN := $(VENV)/bin
STAMP := $(VENV)/.recmtl-installed


.PHONY: help setup demo test test-fast check-exports check-engines soak bench bench-full lint format types check fuzz docs wheel clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

setup: $(STAMP) ## the virtual environment with everything that training, tests and tools need

# An NVIDIA driver decides which wheels of fbgemm fit. torchrec asks for the CUDA ones, so beside the CPU's it comes alone.
$(STAMP): pyproject.toml
	@python=""; \
	for candidate in $(PYTHON) python3 python3.13 python3.12 python3.11; do \
	  if "$$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then python="$$candidate"; break; fi; \
	done; \
	if [ -z "$$python" ]; then \
	  echo "recmtl needs Python 3.11 or newer with its venv module (on Debian and Ubuntu: apt install python3-venv)." >&2; exit 1; \
	fi; \
	if [ ! -x $(BIN)/python ]; then echo "Making $(VENV) with $$("$$python" --version)"; "$$python" -m venv $(VENV); fi
	@echo "Installing recmtl and its tools into $(VENV) (a few minutes the first time)"
	@if command -v nvidia-smi >/dev/null 2>&1; then \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[gpu,dev]'; \
	else \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[cpu,dev]'; \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps torchrec==1.8.0; \
	fi
	@touch $@

demo: $(STAMP) ## simulate a click log, train, evaluate, score, and write the report into runs/demo
	@rm -rf $(DEMO)/scores
	$(BIN)/recmtl simulate $(DEMO)/data --rows $(DEMO_ROWS) --seed 1 --overwrite
	$(BIN)/recmtl train $(DEMO)/data/spec.yaml --out $(DEMO)/run --overwrite
	$(BIN)/recmtl eval $(DEMO)/run --data $(DEMO)/data/test.parquet
	$(BIN)/recmtl score $(DEMO)/run --data $(DEMO)/data/test.parquet --out $(DEMO)/scores
	$(BIN)/recmtl report $(DEMO)/run

test: $(STAMP) ## the whole suite except what needs a GPU, Ray or Spark, and `check-exports`
	$(BIN)/python -m pytest -q -m "not gpu and not engines and not exports" $(PYTEST_ARGS)

test-fast: $(STAMP) ## the unmarked tests
	$(BIN)/python -m pytest -q -m "not slow and not gpu and not multiprocess and not engines and not exports" $(PYTEST_ARGS)

check-exports: $(STAMP) ## every kind of tower in every format of an export (many minutes)
	$(BIN)/python -m pytest -q -m exports $(PYTEST_ARGS)

check-engines: $(STAMP) ## batch scoring jobs on Ray and Spark themselves, which it installs
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[engines]'
	$(BIN)/python -m pytest -q -m engines tests/end_to_end/test_engines.py

soak: $(STAMP) ## thirty minutes of training, evaluation and scoring, killed at random moments
	$(BIN)/python tests/soak.py $(SOAK_ARGS)

bench: $(STAMP) ## the speed of every part, its limits and one peer, within half an hour
	$(BIN)/python examples/benchmarks/run_all.py $(BENCH) --quick

bench-full: $(STAMP) ## every speed and every peer, in some hours; goes on where it was stopped
	$(BIN)/python examples/benchmarks/run_all.py $(BENCH)

lint: $(STAMP) ## ruff and the import layers
	$(BIN)/ruff check --quiet
	$(BIN)/ruff format --check --quiet
	$(BIN)/lint-imports --no-cache --no-logo

format: $(STAMP) ## rewrite the code as ruff formats it
	$(BIN)/ruff check --quiet --fix --exit-zero
	$(BIN)/ruff format --quiet

types: $(STAMP) ## mypy --strict
	$(BIN)/mypy --no-error-summary

check: lint types test ## lint, types and test

fuzz: $(STAMP) ## ten minutes of fuzzing for each kind of file that is read
	@for target in spec index checkpoint encoders; do \
	  echo "fuzzing: $$target"; $(BIN)/python tests/fuzz/fuzz.py $$target --seconds 600; \
	done

docs: $(STAMP) ## write feature_specs/README.md and feature_specs/schema.json from the code
	$(BIN)/python -m recmtl.config

wheel: $(STAMP) ## build the wheel and the source distribution into dist/
	$(BIN)/python -m build --outdir dist

clean: ## remove what was built or cached; .venv and runs stay
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
