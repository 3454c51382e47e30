# Everything runs in .venv, made on first use from the exact versions in requirements.txt and requirements-dev.txt.
#
# On Linux pip takes torch with CUDA (gigabytes). For the CPU build set PIP_EXTRA_INDEX_URL to PyTorch's CPU index:
#   PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make demo

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# The interpreter that .venv is made with: PYTHON where given, else the first of these that is 3.10 or 3.11.
PYTHON ?= python3.11 python3.10 python3
IS_SUPPORTED := import ensurepip, sys; sys.exit(sys.version_info[:2] not in ((3, 10), (3, 11)))

# pip shows its progress to a person and is quiet in a log.
PIP_INSTALL := .venv/bin/python -m pip install --disable-pip-version-check $(if $(MAKE_TERMOUT),,--quiet)

# Options for the programs below, for example `make test ARGS='-k batch'`.
ARGS ?=

# Of `make test`: processes, and which tests run in the same one (see tests/conftest.py). Each takes a gigabyte.
IN_PROCESSES ?= -n auto --maxprocesses 4 --dist loadgroup --no-loadscope-reorder

# Of `make soak`.
MINUTES ?= 30

# jina reports every start to a public host unless this is set.
export JINA_OPTOUT_TELEMETRY := 1

# `make bench-gpu BENCH_PYTHON=python3` runs on a machine whose Python has torch, transformers, accelerate and pydantic,
# but on which Jina does not install.
BENCH_PYTHON ?= .venv/bin/python

.PHONY: help demo serve test image-test lint docs format lock train evaluate soak soak-images fuzz bench overload bench-gpu clean

help: ## Show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1|/' | column -t -s '|'

demo: .venv/.runtime ## Start the service with the demo checkpoint, ask about a picture, print the answer, stop
	@echo "demo: starting the service and asking about a picture ..."
	@.venv/bin/python -m demo.ask $(ARGS)
	@echo "demo: done"

serve: .venv/.runtime ## Keep a service with the demo checkpoint running and print a client snippet
	@.venv/bin/python -m demo.serve $(ARGS)

test: .venv/.dev ## Run all tests
	@echo "tests: running all tests ..."
	@.venv/bin/python -m pytest $(IN_PROCESSES) $(ARGS)
	@echo "tests: all passed"

image-test: .venv/.dev ## Build the container image with podman and run it hardened (root; installs podman with apt)
	.venv/bin/python -m tests.image $(ARGS)

lint: .venv/.dev ## Check style, types, imports, the Dockerfile and the documents
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports
	.venv/bin/hadolint Dockerfile
	.venv/bin/python -m docs.generate --check
	.venv/bin/python -m docs.site
	@echo "lint: clean"

docs: .venv/.dev ## Write the tables of the documents anew and build them as a site, in site/
	.venv/bin/python -m docs.generate
	.venv/bin/python -m docs.site
	@echo "docs: see site/index.html"

format: .venv/.dev ## Format the code and fix what ruff can fix
	.venv/bin/ruff check --fix-only .
	.venv/bin/ruff format .

train: .venv/.runtime ## Train the demo checkpoint anew (about an hour on two CPU cores)
	.venv/bin/python -m demo.train $(ARGS)

evaluate: .venv/.runtime ## Measure the demo checkpoint on fresh pictures
	.venv/bin/python -m demo.evaluate $(ARGS)

soak: .venv/.dev ## A service under load, faults and restarts: nothing lost, nothing wrong, nothing grows (MINUTES=30)
	.venv/bin/python -m tests.soak --minutes $(MINUTES) $(ARGS)

soak-images: .venv/.dev ## Fail to load 10,000 pictures in every way, and show that nothing is left behind
	.venv/bin/python -m tests.soak pictures --failures 10000 $(ARGS)

fuzz: .venv/.dev ## Coverage-guided fuzzing of pictures and references, ten minutes each (installs atheris)
	$(PIP_INSTALL) atheris
	.venv/bin/python -m tests.fuzz.coverage_guided pictures -max_total_time=600 $(ARGS)
	.venv/bin/python -m tests.fuzz.coverage_guided references -max_total_time=600 $(ARGS)

bench: .venv/.runtime ## Benchmarks of the engine, of loading pictures and of starting, on this machine
	.venv/bin/python -m benchmarks.engine $(ARGS)
	.venv/bin/python -m benchmarks.engine --model base --batches 1 4 16
	.venv/bin/python -m benchmarks.agreement
	.venv/bin/python -m benchmarks.load
	.venv/bin/python -m benchmarks.images

overload: .venv/.runtime ## Goodput at four times what the service can do
	.venv/bin/python -m benchmarks.overload $(ARGS)

bench-gpu: $(if $(filter .venv/%,$(BENCH_PYTHON)),.venv/.runtime) ## The engine on a GPU: the full architecture, random weights
	$(BENCH_PYTHON) -m benchmarks.agreement --compile off graphs max
	$(BENCH_PYTHON) -m benchmarks.engine --model xl --dtype float16 --batches 1 8 32 64 --compile off graphs max
	$(BENCH_PYTHON) -m benchmarks.engine --model xl --dtype bfloat16 --batches 1 8 32 64 --compile graphs max
	$(BENCH_PYTHON) -m benchmarks.engine --model xl --dtype bfloat16 --batches 1 8 32 --beams 5 --compile graphs
	$(BENCH_PYTHON) -m benchmarks.front --model xl --dtype float16

clean: ## Remove .venv and all caches
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis .cache build dist site *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Each stamp is written last, so an interrupted installation never counts: the next run makes .venv afresh. So does a
# changed requirements.txt, and no package of an older lock is left behind.
.venv/.runtime: requirements.txt
	@for candidate in $(PYTHON); do \
	    if "$$candidate" -c '$(IS_SUPPORTED)' 2>/dev/null; then python="$$candidate"; break; fi; \
	done; \
	if [ -z "$${python:-}" ]; then \
	    echo "error: none of '$(PYTHON)' is Python 3.10 or 3.11 with the venv module." >&2; \
	    echo "       Install one (Debian, Ubuntu: apt install python3.11-venv) or name it: make PYTHON=/path/to/python3.11" >&2; \
	    exit 1; \
	fi; \
	echo "setup: making .venv with $$("$$python" --version)"; \
	"$$python" -m venv --clear .venv
	@echo "setup: installing requirements.txt (the first time it may take minutes) ..."
	@$(PIP_INSTALL) -r requirements.txt
	@$(PIP_INSTALL) --no-deps --no-build-isolation --editable . # so that examples/ run from anywhere
	@touch $@

.venv/.dev: .venv/.runtime requirements-dev.txt
	@echo "setup: installing requirements-dev.txt ..."
	@$(PIP_INSTALL) -r requirements-dev.txt -c requirements.txt
	@touch $@

# Existing pins are kept where they still fit; `make lock ARGS=--upgrade` looks for newer versions.
# uv spells out the supported platforms (see [tool.uv] in pyproject.toml) on every line: SIMPLER_MARKERS leaves only
# what distinguishes one supported Python from another.
SIMPLER_MARKERS := \
    -e "s/ and sys_platform == 'linux'$$//" \
    -e "s/python_full_version < '3.12' and //" \
    -e "s/ ; python_full_version < '3.12'$$//" \
    -e "s/python_full_version < '3.11'/python_version < '3.11'/" \
    -e "s/python_full_version == '3.11.\*'/python_version >= '3.11'/"

lock: .venv/.dev ## Resolve pyproject.toml into requirements.txt and requirements-dev.txt
	.venv/bin/uv pip compile --quiet $(ARGS) pyproject.toml --output-file requirements.txt
	@sed -i.bak $(SIMPLER_MARKERS) requirements.txt && rm requirements.txt.bak
	.venv/bin/uv pip compile --quiet $(ARGS) --group dev --constraints requirements.txt --output-file requirements-dev.txt
	@sed -i.bak $(SIMPLER_MARKERS) requirements-dev.txt && rm requirements-dev.txt.bak
	@echo "lock: requirements.txt and requirements-dev.txt are up to date"
