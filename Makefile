# `make` lists the targets. All of them install what they need into .venv/, once.
.DEFAULT_GOAL := help
.PHONY: help install train test test-all bench gpu lint format types tensorboard clean

# The newest Python that the project runs on.
PYTHON ?= $(shell for python in python3.13 python3.12 python3.11 python3; do \
	$$python -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null \
	&& { command -v $$python; break; }; done)
BIN := .venv/bin
INSTALLED := .venv/.installed
EXTRAS := .venv/.extras

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-12s %s\n", $$1, $$2}'

# For a machine without a network, on one of its kind: pip wheel -w wheels -c constraints.txt '.[dev]' hatchling editables
# and then, there: PIP_NO_INDEX=1 PIP_FIND_LINKS=$PWD/wheels make
install: $(INSTALLED) ## install into .venv/, with the versions of constraints.txt

$(INSTALLED): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "no Python 3.11, 3.12 or 3.13 with venv here; set PYTHON=/path/to/python"; exit 1; }
	test -x $(BIN)/python || "$(PYTHON)" -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

$(EXTRAS): $(INSTALLED)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,cluster,wandb,mlflow,export,dinov2,huggingface]'
	@touch $@

train: $(INSTALLED) ## train the default GAN; ARGS='loss=hinge steps=500' changes it
	$(BIN)/gan-runner $(ARGS)

test: lint types ## lint, types and tests
	$(BIN)/python -m pytest -n 2 --dist worksteal -m 'not slow'

test-all: lint types $(EXTRAS) ## the same, with the tests that take long, and those of optional packages
	$(BIN)/python -m pytest -n 2

bench: $(INSTALLED) ## speed and memory, side by side with loops written by hand
	$(BIN)/python -m tests.benchmarks

gpu: $(INSTALLED) ## check a GPU: correctness, the command line, timings; ARGS='timings --out FILE' takes a part
	$(BIN)/python -m tests.gpu $(ARGS)

lint: $(INSTALLED)
	$(BIN)/ruff check
	$(BIN)/ruff format --check

format: $(INSTALLED) ## format the code
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

types: $(INSTALLED)
	$(BIN)/mypy

tensorboard: $(INSTALLED) ## look at all runs in a browser
	$(BIN)/tensorboard --logdir outputs

clean: ## remove .venv and caches; outputs stay
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache
