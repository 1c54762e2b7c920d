# `make` prints what the targets do. Each does all of its own set-up; a second run downloads nothing.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:

PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
JARS := build/jars
# What is downloaded, installed and checked does not wait for one another where it need not; goals in a row do.
ifeq ($(word 2,$(MAKECMDGOALS)),)
MAKEFLAGS += --jobs=2
endif
ARGS ?=
SEEDS ?= 1000
SEED ?= 1
FAULTS ?= 200
FUZZ ?= 50000

help: ## Print this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: setup ## Run the flights of 2013-02-12 through the whole platform  (ARGS=--json, ARGS=--keep)
	@$(BIN)/millrace demo $(ARGS)

test: setup browser lint ## Lint, types, import rules, unit, property and integration tests on the real stack
	@$(BIN)/pytest -n 3 --dist loadfile --no-loadscope-reorder $(ARGS)

lint: $(VENV)/ready ## Ruff, mypy --strict, import-linter
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

simulate: $(VENV)/ready ## Run the worker's simulation on SEEDS seeds  (SEEDS=10000, ARGS="--seed 7" replays one)
	@$(BIN)/python -m tests.simulation --seeds $(SEEDS) $(ARGS)

chaos: setup ## Faults against the real stack, then an exact verdict  (SEED=1, FAULTS=200)
	@$(BIN)/python -W ignore -m tests.chaos --seed $(SEED) --faults $(FAULTS) $(ARGS)

fuzz-serving: setup ## Requests that nobody sane sends, against millrace serve  (FUZZ=50000, ARGS="--seed 7")
	@$(BIN)/python -W ignore -m tests.fuzz --requests $(FUZZ) $(ARGS)

bench: setup ## Measure everything that has a goal, into benchmarks/results.json  (ARGS="--only drain")
	@$(BIN)/python -m benchmarks $(ARGS)

bench-serving: setup ## Measure serving beside feast serve, and vector search; needs wrk and vegeta
	@$(BIN)/python -W ignore -m benchmarks --only serving --only search

setup: $(VENV)/ready $(JARS)/shared | tools ## Set everything up: virtual environment, jars, system packages

lock: $(VENV)/ready ## Resolve the dependencies of pyproject.toml into the lock files
	@$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header pyproject.toml -o requirements.lock
	@$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --extra stack --extra dev pyproject.toml -o requirements-dev.lock

down: $(VENV)/ready ## Stop the local stack
	@$(BIN)/millrace down

jars: $(JARS)/ready ## Fetch the jars of Kafka, Kafka Connect and Debezium

clean: ## Remove what the other targets made (not the data of a local stack)
	@rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis

tools:
	@scripts/tools

browser: | tools
	@scripts/tools browser

$(VENV)/ready: requirements-dev.lock pyproject.toml
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "millrace needs Python 3.11 or newer: make PYTHON=/path/to/python3.11"; exit 1; }
	@echo "setting up $(VENV) from requirements-dev.lock"
	@"$(PYTHON)" -m venv --clear $(VENV)
	@$(BIN)/pip install -q --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@$(BIN)/pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

$(JARS)/ready: pom.xml | tools
	@echo "fetching the jars of Kafka, Kafka Connect and Debezium by Maven"
	@mvn -q -B -Dstyle.color=never dependency:copy-dependencies -DoutputDirectory=$(CURDIR)/$(JARS)
	@touch $@

$(JARS)/shared: $(JARS)/ready $(VENV)/ready
	@echo "sharing the classes of Kafka and Kafka Connect, so that they start faster"
	@$(BIN)/python -m millrace.stack.share_classes
	@touch $@

.PHONY: help demo test browser fuzz-serving chaos simulate lint bench bench-serving setup lock down jars clean tools
