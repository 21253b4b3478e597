# From scratch to the comparison table: `make reproduce`. Every target does its own set-up and needs no other first.
#
#   PROFILE=nano      which profile of bench/profiles to run (smoke: a two-minute proof of the whole way)
#   ARGS=             further settings and options, as ARGS="weights=FOLDER data.root=FOLDER --dry-run"
#   PYTHON=python3    the interpreter that makes the virtual environment (3.11 or 3.12)
#   VENV=.venv        where the virtual environment lies

PROFILE ?= nano
ARGS ?=
PYTHON ?= python3
VENV ?= .venv
GENSEG := $(VENV)/bin/genseg
PYTEST := $(VENV)/bin/python -m pytest
READY := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup reproduce study ablation latency report test bench docs lint clean
.DELETE_ON_ERROR:

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

setup: $(READY) ## make the virtual environment with the tested versions

reproduce: $(READY) ## evaluate both methods and write the comparison table (uses the shipped weights, resumes)
	$(GENSEG) reproduce profile=$(PROFILE) $(ARGS)

study: $(READY) ## train everything from scratch, then evaluate
	$(GENSEG) study profile=$(PROFILE) $(ARGS)

ablation: $(READY) ## run the ablations of the profile
	$(GENSEG) ablation profile=$(PROFILE) $(ARGS)

latency: $(READY) ## measure the time per image, stage by stage
	$(GENSEG) latency profile=$(PROFILE) $(ARGS)

report: $(READY) ## write tables and figures from the records that exist
	$(GENSEG) report profile=$(PROFILE) $(ARGS)

test: $(READY) ## run the tests on all cores (without the slow and the GPU ones), and check the bundled results
	OMP_NUM_THREADS=1 $(PYTEST) -q -n auto -m "not slow and not gpu"
	$(GENSEG) report --verify profile=nano

bench: $(READY) ## time the hot functions of the harness
	$(PYTEST) -q tests/bench_speed --benchmark-enable --benchmark-only

docs: $(READY) ## build the documentation as a site in site/ (no network is needed to read it)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -e '.[docs]'
	$(VENV)/bin/python -m mkdocs build --strict --quiet

lint: $(READY) ## check the style, and the types of contract, configuration, records, data and evaluation
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

clean: ## remove the virtual environment and caches (keeps data, runs and results)
	rm -rf $(VENV) build dist site *.egg-info .pytest_cache .ruff_cache .hypothesis .benchmarks
	find bench methods tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' || \
		{ echo "Python 3.11 or 3.12 is needed; name one: make PYTHON=/path/to/python3.12"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps -e .
	@touch $@
