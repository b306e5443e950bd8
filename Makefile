# Every line here is a command you could type yourself.
#   PYTHON=python3.12      which Python to build the environment from
#   VENV=.venv             where the environment lives
#   PIP_ARGS="..."         passed to every pip install, e.g. an index with CPU or CUDA builds of torch
#   WORKERS=2              test processes side by side
.PHONY: help demo docs docs-test test unit faults fuzz soak check audit sbom bench bench-gpu studies test-all mutants clean-venv

VENV     ?= .venv
BIN       = $(VENV)/bin
PIP_ARGS ?=
WORKERS  ?= 2
SECONDS  ?= 600
SEED     ?= 0
STEPS    ?= 20000
# The first of these that runs, is new enough and can make environments (a name on PATH may be a shim that fails).
PYTHON   ?= $(shell for name in python3.13 python3.12 python3.11 python3; do \
	$$name -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 \
	&& echo $$name && break; done)
PIP       = $(BIN)/python -m pip install --disable-pip-version-check -qq $(PIP_ARGS) -c constraints.txt
TORCH     = $(shell grep '^torch==' constraints.txt)
# reasoning-gym lists a solver that is published as source alone and that whet never calls.
PYCOSAT   = $(PIP) pycosat >/dev/null 2>&1 || { echo "No C compiler: a stand-in takes the place of pycosat"; \
	$(PIP) ./requirements/pycosat; }
BENCHMARKS = cpu_vs_trl ranks_vs_threads cpu_ladder cpu_scaling loss_head memory_plan data_path many_rows generation \
	gpu_smoke
BENCHMARKS_GPU = gpu_lora_8b gpu_sft_8b gpu_smollm2
STUDIES    = verdicts demo_seeds spectral_moments spectral_study extraction_agreement likelihood_parity shared_prefix \
	fp8_parity adam8bit_parity estimate_grid
# The fault suite, and files elsewhere that have slow tests of it.
FAULTS     = tests/faults $(shell grep -rl --include='test_*.py' 'mark\.fault' tests --exclude-dir=faults)
# One thread per process: the numbers do not depend on the core count, and WORKERS processes do not fight.
# Files in the order of their folders: the long ones of tests/integration first, so that no worker waits at the end.
PYTEST    = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

help: ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

demo: $(VENV)/.demo-installed ## fine-tune a real model on this machine and show whether it helped
	$(BIN)/whet train recipes/demo.yaml

test: $(VENV)/.dev-installed ## all tests that need no GPU, but for the slow ones of the fault suite and a few long ones
	$(PYTEST) -m "not gpu and not fault and not long" tests

unit: $(VENV)/.dev-installed ## the quick tests alone
	$(PYTEST) --dist worksteal -m "not gpu and not slow" tests/unit

faults: $(VENV)/.dev-installed ## cause every fault that whet promises to survive (half an hour) and show the table
	WHET_FAULT_TABLE=1 $(PYTEST) --dist worksteal -m "fault or quick_fault" $(FAULTS)

docs: $(VENV)/.docs-installed ## the documentation as a site in build/site; a dead link is an error
	$(BIN)/python docs/site_pages.py
	$(BIN)/zensical build --strict --clean

docs-test: $(VENV)/.docs-installed ## every code block of the pages and every notebook, run with small means
	$(BIN)/python -m pytest -q tests/unit/test_installation.py
	$(BIN)/python tests/docs/run.py

check: $(VENV)/.dev-installed ## format, lint, types, import rules, then the tests (budgets among them)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(MAKE) test

fuzz: $(VENV)/.fuzz-installed ## damaged inputs for everything that reads files (SECONDS=600, SEED=0)
	$(BIN)/python tests/fuzz/run.py --seconds $(SECONDS) --seed $(SEED) --workers $(WORKERS)

soak: $(VENV)/.dev-installed ## train STEPS=20000 tiny steps with kills and continuations; does anything grow?
	OMP_NUM_THREADS=1 $(BIN)/python tests/faults/soak.py --steps $(STEPS)

audit: $(VENV)/.audit-installed ## security rules, secrets in the tree, container files, known vulnerabilities
	$(BIN)/python audit/audit.py

sbom: $(VENV)/.audit-installed ## list every installed package as CycloneDX JSON (sbom.cdx.json)
	$(BIN)/python -m cyclonedx_py environment --pyproject pyproject.toml --output-reproducible --of JSON \
	  -o sbom.cdx.json $(BIN)/python

bench: $(VENV)/.dev-installed ## measure speed and memory; results go to benchmarks/results
	@set -e; for name in $(BENCHMARKS); do echo "$$name"; $(BIN)/python "benchmarks/$$name.py"; done

bench-gpu: $(VENV)/.dev-installed ## the same for one large GPU, ten minutes each
	@set -e; for name in $(BENCHMARKS_GPU); do echo "$$name"; $(BIN)/python "benchmarks/$$name.py"; done

studies: $(VENV)/.dev-installed ## measure what training and judging do (hours); results go to benchmarks/results
	@set -e; for name in $(STUDIES); do echo "$$name"; $(BIN)/python "benchmarks/$$name.py"; done

mutants: $(VENV)/.dev-installed ## put each known bug back and see its test fail
	OMP_NUM_THREADS=1 $(BIN)/python tests/mutants/run.py --workers $(WORKERS)

test-all: $(VENV)/.dev-installed ## every test, long, fault and GPU ones included, then the pages, then the mutants
	$(PYTEST) tests
	$(MAKE) docs-test
	$(MAKE) mutants

clean-venv: ## delete the environment; the next target builds it anew
	rm -rf $(VENV)

$(BIN)/python:
	@[ -n "$(PYTHON)" ] || { echo "whet needs Python 3.11 or newer with its venv module; none found" >&2; exit 1; }
	@echo "Creating $(VENV) with $(PYTHON)"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.demo-installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing whet and $(TORCH) into $(VENV) (a few minutes the first time)"
	@$(PIP) $(TORCH)
	@$(PYCOSAT)
	@$(PIP) -e ".[demo]"
	@touch $@

$(VENV)/.fuzz-installed: $(VENV)/.dev-installed
	@$(PIP) atheris || echo "atheris has no build for this Python: make fuzz goes without it"
	@touch $@

$(VENV)/.docs-installed: $(VENV)/.dev-installed
	@$(PIP) -e ".[docs,notebooks]"
	@touch $@

$(VENV)/.audit-installed: $(VENV)/.dev-installed
	@$(PIP) -e ".[audit]"
	@touch $@

$(VENV)/.dev-installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing whet with its test tools and $(TORCH) into $(VENV) (a few minutes the first time)"
	@$(PIP) $(TORCH)
	@$(PYCOSAT)
	@$(PIP) -e ".[dev]"
	@touch $(VENV)/.demo-installed $@
