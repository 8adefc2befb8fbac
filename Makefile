# Two commands set everything up: `make demo` and `make test`. `make` alone lists them all.
#
# All targets share one environment, .venv. A stamp file inside it remembers what was installed, and goes stale when
# pyproject.toml or constraints.txt changes; so a second call installs nothing.

PYTHON ?= python3
VENV ?= .venv
PYTEST_ARGS ?=
BENCH_ARGS ?=

BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
REQUIREMENTS := pyproject.toml constraints.txt

# Two test processes share two cores. Each keeps two Numba threads, or the parallel kernels would never meet a second
# thread; BLAS and OpenMP (torch) get one, and OpenMP threads that wait give up their core instead of spinning on it.
TEST_ENVIRONMENT := NUMBA_NUM_THREADS=2 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1 OMP_NUM_THREADS=1 \
	OMP_WAIT_POLICY=PASSIVE MPLBACKEND=Agg
PYTEST := $(TEST_ENVIRONMENT) $(BIN)/python -m pytest --numprocesses=2 --dist=worksteal

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo test nightly lint format types docs bench clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s  %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: $(VENV)/.installed-base ## install structmat and run its main job: a boundary integral equation
	$(BIN)/structmat demo

test: $(VENV)/.installed-test ## install and run all tests but the slow ones and those for a GPU
	$(PYTEST) -m "not slow and not gpu" $(PYTEST_ARGS)

nightly: $(VENV)/.installed-test ## install and run every test (those for a GPU skip where there is none)
	$(PYTEST) $(PYTEST_ARGS)

lint: $(VENV)/.installed-test ## check style and formatting with ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.installed-test ## repair what ruff can repair, and format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(VENV)/.installed-test ## check the types of structmat and structmat_nn with mypy
	$(BIN)/mypy

docs: $(VENV)/.installed-docs ## build the documentation with its gallery, warnings being errors
	MPLBACKEND=Agg $(BIN)/python -m sphinx --fail-on-warning --keep-going -b html docs docs/_build/html
	@echo "open docs/_build/html/index.html"

bench: $(VENV)/.installed-test ## run the benchmarks, and write benchmarks/results/
	$(BIN)/python -m benchmarks $(BENCH_ARGS)

clean: ## remove the environment and everything that was built
	rm -rf $(VENV) build dist docs/_build docs/auto_examples docs/api/generated docs/sg_execution_times.rst
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage .coverage.* htmlcov structmat-demo
	find structmat structmat_nn tests benchmarks docs -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "structmat needs Python 3.11 or newer, but $(PYTHON) is $$($(PYTHON) --version 2>&1)."; \
	    echo "Name a newer one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed-base: $(REQUIREMENTS) | $(BIN)/python
	$(INSTALL) --editable .
	@touch $@

# The test environment contains the base, so its stamp is renewed too.
$(VENV)/.installed-test: $(REQUIREMENTS) | $(BIN)/python
	$(INSTALL) --editable ".[dev,experiments]"
	@touch $(VENV)/.installed-base $@

$(VENV)/.installed-docs: $(REQUIREMENTS) | $(BIN)/python
	$(INSTALL) --editable ".[docs,nn]"
	@touch $(VENV)/.installed-base $@
