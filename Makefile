# `make` alone lists the targets. Every target makes the environment it needs by itself.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Of pyproject.toml: what a user needs; make dev adds what tests and development need.
EXTRAS ?= detection,export,heif,onnx,timm
# auto: torch for the GPU that is here, else for CPUs alone; cuda: as the package index has it.
TORCH ?= auto
STAMP := $(VENV)/.installed
DEV := $(VENV)/.installed-dev
INSTALL = $(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt
STOPPED := { echo "set-up stopped: it needs a package index that pip and uv reach (a network, or PIP_INDEX_URL and UV_INDEX_URL set to a mirror); run it again"; exit 1; }
# Ablations of this checkout wait while a command runs under this.
QUIET := $(BIN)/python -m tests.benchmarks.quiet
UV_VERSION := 0.13.9
SEED ?= 0
CLUSTER_PORT ?= 6379
TEST_SEED ?= 1
DASHBOARD_PORT ?= 8265
CLUSTER_CPUS ?= None
CLUSTER_STATE ?= runs/cluster
# Containers often set it; then each of Ray's many processes would compile torch and Ray anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup dev lint format typecheck test test-faults fuzz test-browser bench clean demo precompute sweep cluster-up cluster-down

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-13s %s\n", $$1, $$2}'

setup: $(STAMP) ## build .venv for use (TORCH=cpu or cuda; python3 with venv, make and git are all it needs)

dev: $(DEV) ## build .venv for tests and development as well

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else f"salmask needs Python >= 3.11, {sys.executable} is {v.major}.{v.minor}: run make PYTHON=/path/to/python3.11")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { echo "could not make $(VENV): install python3 with its venv module"; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION) || $(STOPPED)
	@test $(TORCH) = cuda || UV_HTTP_RETRIES=1 UV_HTTP_TIMEOUT=20 $(INSTALL) --torch-backend $(TORCH) torch torchvision 2>/dev/null || \
	 echo "torch's own index cannot be reached: torch comes from the package index, maybe with CUDA"
	@$(INSTALL) --editable '.[$(EXTRAS)]' || $(STOPPED)
	@touch $@

$(DEV): $(STAMP)
	@$(INSTALL) --editable '.[dev]' || $(STOPPED)
	@touch $@

lint: dev ## ruff: style, docstrings, format; import-linter: which room imports which
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/lint-imports --no-logo

format: dev ## let ruff fix and format the code
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

typecheck: dev ## mypy, strict
	@$(BIN)/mypy

test: dev ## the tests (TEST_SEED=2 for another random order)
	@$(QUIET) $(BIN)/python -m pytest -m "not faults and not benchmark and not browser" --numprocesses 2 \
	  --dist loadfile --no-loadscope-reorder --randomly-seed=$(TEST_SEED)

test-faults: dev ## kill processes in mid-run and compare what comes out (three quarters of an hour)
	@$(QUIET) $(BIN)/python -m pytest -m faults --timeout 3600 --numprocesses 2 --dist loadfile

fuzz: dev ## read 10,000 damaged files of each kind (ARGS="-k manifest")
	@FUZZ_INPUTS=10000 $(BIN)/python -m pytest tests/fuzz $(ARGS)

test-browser: dev ## open reports in a headless Chromium (Debian: apt-get install chromium)
	@$(BIN)/python -m pytest -m browser

bench: dev ## measure speed against baselines, in one run (ARGS="--against OTHER_CHECKOUT")
	@$(QUIET) $(BIN)/python -m tests.benchmarks.bench $(ARGS)

demo: setup ## does it look at the object? pictures, two trainings, a table, a page, in minutes (SEED=0)
	@$(BIN)/python jobs/demo.py --seed $(SEED) $(ARGS)

precompute: setup ## shards with saliency from a folder: DATA=images OUT=shards (default: the demo pictures)
ifeq ($(origin DATA), undefined)
	@$(BIN)/python jobs/demo.py --only-pictures
endif
	@$(BIN)/python jobs/precompute.py --data $(or $(DATA),runs/demo/seed-0/pictures/train) --out $(or $(OUT),runs/demo/seed-0/shards) $(ARGS)

sweep: setup ## try masking ratios on shards, resumably: SHARDS=train VAL=labelled OUT=folder ARGS=... (default: the demo pictures)
ifeq ($(origin SHARDS), undefined)
	@$(BIN)/python jobs/demo.py --only-pictures
	@$(BIN)/python jobs/precompute.py --data runs/demo/seed-0/pictures/train --out runs/demo/seed-0/shards
	@$(BIN)/python jobs/precompute.py --data runs/demo/seed-0/pictures/usual --out runs/demo/seed-0/usual
endif
	@$(BIN)/python jobs/sweep.py --shards $(or $(SHARDS),runs/demo/seed-0/shards) \
	  --knn.val-shards $(or $(VAL),runs/demo/seed-0/usual) --out $(or $(OUT),runs/sweep) \
	  $(or $(ARGS),--space mask_ratio --epochs 4 --concurrent 2)

cluster-up: setup ## start a local Ray head with dashboard and job server (CLUSTER_PORT=, DASHBOARD_PORT=, CLUSTER_CPUS=)
	@$(BIN)/python jobs/cluster.py up --port $(CLUSTER_PORT) --dashboard-port $(DASHBOARD_PORT) \
	  --num-cpus $(CLUSTER_CPUS) --state '$(CLUSTER_STATE)'

cluster-down: setup ## stop what cluster-up started, and nothing else
	@$(BIN)/python jobs/cluster.py down --state '$(CLUSTER_STATE)'

clean: ## remove the environment and caches, not runs/
	rm -rf $(VENV) .mypy_cache .ruff_cache
