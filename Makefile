# SPDX-License-Identifier: Apache-2.0
# One obvious way to run each thing; `make help` lists them.

SHELL := bash
.SHELLFLAGS := -o pipefail -c
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PEERS := $(VENV)/.peers
NOT_INSTALLED = { echo "the packages could not be installed: the lines above say why (no network?); then run make again" >&2; exit 1; }
PACKAGES := feature_repo components model kernels serving
SOURCES := $(PACKAGES) tests benchmarks .ci

DATA ?=
DAYS ?=
CONFIG ?=
ROOT ?= runs/demo
MEMBER ?=
WORKERS ?= 2
ARGS ?=

# Real impressions and the strict manifest check, where they lie beside the project.
ifneq ($(wildcard ../shared/data/kuairand_pure_tail/impressions.parquet),)
export FEEDSR_KUAIRAND ?= $(abspath ../shared/data/kuairand_pure_tail)
endif
ifneq ($(wildcard ../shared/tools/check_manifests.py),)
export FEEDSR_CHECK_MANIFESTS ?= $(abspath ../shared/tools/check_manifests.py)
endif

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-fast test-isa mutants same asan lint format docs pictures pipeline manifests serve rank bench results constraints clean

help: ## list every target
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## make .venv and install everything into it (instant when nothing changed)

$(READY): pyproject.toml constraints.txt CMakeLists.txt $(wildcard kernels/*/cpu/*)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Feed-SR needs Python 3.11 or later; $(PYTHON) is $$($(PYTHON) -V 2>&1), so run: make PYTHON=python3.11 $(MAKECMDGOALS)" >&2; exit 1; }
	@echo "installing into $(VENV) (the first time downloads about 500 MB)"
	@$(PYTHON) -P .ci/install.py $(VENV) -c constraints.txt -e '.[features,pipelines,serving,dev]' || $(NOT_INSTALLED)
	@touch $@

# What only tests and benchmarks want: Triton's interpreter and compiler, Spark, and peers to compare with.
$(PEERS): $(READY)
	@echo "installing what tests and benchmarks compare with (the first time downloads about 650 MB)"
	@$(BIN)/python -P .ci/install.py $(VENV) -c constraints.txt \
	  'triton>=3.5; platform_system == "Linux"' 'torchmetrics>=1.6' 'lightgbm>=4.5' 'optuna>=4' \
	  'pyspark>=4.0,<5' || $(NOT_INSTALLED)
	@touch $@

# A path reaches the shell through the environment, as it was written: no character of it is make's or the shell's.
demo: export FEEDSR_DATA = $(value DATA)
demo: export FEEDSR_CONFIG = $(value CONFIG)
serve rank pictures: export FEEDSR_ROOT = $(value ROOT)

demo: setup ## two days of the loop, then rank a feed; DATA=<dir> for KuaiRand or your own log
	@$(BIN)/feedsr demo $(if $(DAYS),--days $(DAYS)) $${FEEDSR_DATA:+--data="$$FEEDSR_DATA"} \
	  $${FEEDSR_CONFIG:+--config="$$FEEDSR_CONFIG"}

test: $(PEERS) lint ## lint, type check and run every test; WORKERS=0 for one process (--pdb, -s)
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(ARGS)

test-fast: $(PEERS) ## the quick test files alone, in about a minute
	@$(BIN)/python -m tests.fast -q -n $(WORKERS) --dist loadfile $(ARGS)

test-isa: $(PEERS) ## kernels', model's and serving's tests under each instruction set to be had; ARGS='<setting> -- <files>'
	@$(BIN)/python -m tests.instruction_sets $(ARGS)

mutants: $(PEERS) ## small changes of the core that no test notices; ARGS='<module> --all', WORKERS=2
	@$(BIN)/python -m tests.mutants --workers $(WORKERS) $(ARGS)

same: setup ## whether a refactor computes the same bytes: two days of the loop, against build/same.json; ARGS=--keep
	@$(BIN)/python -m tests.same $(ARGS)

asan: setup ## the kernels' tests on a build with AddressSanitizer and UBSan (wants g++)
	@$(BIN)/python -m pip install -q -c constraints.txt cmake ninja nanobind 2> >(grep -v '^WARNING' >&2)
	@$(BIN)/cmake -S . -B build/asan -G Ninja -DFEEDSR_SANITIZE=ON -DCMAKE_CXX_COMPILER=g++ \
	  -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN)/ninja) -DPython_EXECUTABLE=$(abspath $(BIN)/python) >/dev/null
	@$(BIN)/cmake --build build/asan
	@FEEDSR_NATIVE=$(abspath build/asan) ASAN_OPTIONS=detect_leaks=0 OMP_NUM_THREADS=1 \
	  LD_PRELOAD="$$(g++ -print-file-name=libasan.so) $$(g++ -print-file-name=libstdc++.so)" \
	  $(BIN)/python -m pytest --capture=sys tests/kernels $(ARGS)

lint: setup docs ## ruff (lint and format), mypy, and every link of every page
	@$(BIN)/ruff check $(SOURCES) docs
	@$(BIN)/ruff format --check $(SOURCES) docs
	@$(BIN)/mypy
	@$(BIN)/mypy docs/hooks.py .ci/install.py

format: setup ## format the code and mend what ruff can mend
	@$(BIN)/ruff check --fix $(SOURCES) docs
	@$(BIN)/ruff format $(SOURCES) docs

docs: setup ## the site of docs/ and the READMEs into build/site; a link that leads nowhere ends it
	@$(BIN)/python docs/hooks.py
	@$(BIN)/mkdocs build 2>&1 | { grep -v '^INFO' || true; }
	@echo "build/site/index.html"

pictures: setup ## make docs/pictures anew: the mask, and ROOT's feed and report as Chromium shows them
	@$(BIN)/python docs/mask.py
	@$(BIN)/python docs/pictures.py

pipeline: setup ## compile the daily loop to build/pipeline.yaml
	@$(BIN)/feedsr pipeline --out build/pipeline.yaml

manifests: ## render the base and the production overlay to build/manifests/ (wants kubectl)
	@command -v kubectl >/dev/null || { echo "make manifests renders with kubectl, which is not on PATH: install it" >&2; exit 1; }
	@mkdir -p build/manifests
	@kubectl kustomize manifests/base > build/manifests/base.yaml
	@kubectl kustomize manifests/overlays/production > build/manifests/production.yaml
	@echo "build/manifests/base.yaml build/manifests/production.yaml"

serve: setup ## serve the promoted model of ROOT (default: the demo's) on loopback until Ctrl-C
	@$(BIN)/feedsr serve $(ARGS)

rank: setup ## rank one feed of ROOT; MEMBER=<id>
	@$(BIN)/feedsr rank $(if $(MEMBER),--member $(MEMBER)) $(ARGS)

bench: $(PEERS) ## run every benchmark; ARGS=--save keeps the results in benchmarks/results/
	@for script in $(sort $(filter-out benchmarks/_%,$(wildcard benchmarks/*.py))); do \
	  echo "$$script"; $(BIN)/python -m benchmarks.$$(basename $$script .py) $(ARGS) || exit 1; done

results: setup ## render the tables of README.md, docs/results.md and docs/scale.md from benchmarks/results/
	@$(BIN)/feedsr results
	@$(BIN)/python -m benchmarks.loop --page

constraints: setup ## write constraints.txt anew from what .venv holds
	@{ head -n 1 constraints.txt; $(BIN)/python -m pip freeze --all --exclude feedsr --exclude pip | grep -v ' @ ' \
	  | sed -E 's/^(torch==[0-9.]+)\+.*/\1/'; } > build.constraints && mv build.constraints constraints.txt

clean: ## remove what was built and the demo's runs (the environment stays)
	@rm -rf build dist runs/demo runs/demo-kuairand runs/demo-parquet .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find $(SOURCES) -name __pycache__ -type d -prune -exec rm -rf {} +
