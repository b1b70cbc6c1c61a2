# Everything a person needs; `make help` explains. Settings: PYTHON, TORCH, TORCH_INDEX, PROMPT, ARGS.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PYPROJECTS := $(wildcard libs/*/pyproject.toml services/*/pyproject.toml)
PROMPT ?= 1girl, pink hair, twintails, smile, night sky
ARGS ?=

# PROMPT may hold anything: it reaches programs through the environment, never through the text of a recipe.
export PROMPT

# More OpenMP threads than free cores make torch ten times slower; spinning threads starve the other services.
CORES := $(shell getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)
export OMP_NUM_THREADS ?= $(shell echo $$(( $(CORES) > 2 ? $(CORES) / 2 : 1 )))
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: help setup demo run test test-fast test-live test-chaos bench bench-generator bench-scheduling lint types fmt generated clean sprite-setup sprite-train sprite-pack sprite-eval always

help: ## show this help
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 17
	@echo
	@echo "settings: PYTHON=python3.12  TORCH=cpu|cuda  TORCH_INDEX=URL  PROMPT='…'  ARGS='--seed 7'"

setup: $(READY) ## make .venv with everything (TORCH=cpu|cuda chooses the build of torch)

# An explicit choice of torch is always looked at; otherwise only a change of what is to be installed is.
$(READY): $(PYPROJECTS) constraints.txt tools/set_up.py $(if $(TORCH)$(TORCH_INDEX),always)
	$(PYTHON) tools/set_up.py --venv $(VENV) --torch "$(or $(TORCH),auto)" --torch-index "$(TORCH_INDEX)"
	@touch $@

demo: setup ## start the stack, make one picture (PROMPT="…", ARGS="--seed 7"), stop
	@$(BIN)/anime demo $(ARGS) -- "$$PROMPT"

run: setup ## run the stack in the foreground until Ctrl-C
	@exec $(BIN)/anime up $(ARGS)

test: lint types ## what CI runs: lint, types and every test
	$(BIN)/pytest $(ARGS)

test-fast: setup ## the tests that need no server
	$(BIN)/pytest -m "not server and not stack and not slow" $(ARGS)

test-live: setup ## the tests of the ComfyUI engine on a real server (ANIME_TEST_COMFYUI_URL=http://127.0.0.1:8188)
	$(BIN)/pytest tests/live $(ARGS)

test-chaos: setup ## 2,000 jobs amid random kills and freezes (ARGS="--seed 7 --jobs 500")
	$(BIN)/python -m tests.faults.chaos $(ARGS)

bench: setup ## measure, audit, print and record in docs/benchmarks (ARGS="--quick", ARGS="--only sse")
	$(BIN)/python -m tests.bench $(ARGS)

bench-generator: setup ## the same of the engine (ARGS="--quick", ARGS="--device cuda --model KEY")
	$(BIN)/python -m tests.bench.generator $(ARGS)

bench-scheduling: setup ## the plan beside first come, first served, simulated and drawn (ARGS="--quick")
	$(BIN)/python -m tests.bench.scheduling $(ARGS)

lint: setup ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup ## mypy --strict
	$(BIN)/mypy

fmt: setup ## format, and mend what ruff can mend
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

generated: setup ## write schemas, examples, event reference, AsyncAPI and OpenAPI anew
	$(BIN)/python -m anime_common.generate
	$(BIN)/python tools/generate_openapi.py
	$(BIN)/python tools/generate_state_diagram.py

# What only the making of the built-in model needs (tools/sprite/README.md).
$(VENV)/.sprite-ready: tools/sprite/requirements.txt $(READY)
	$(BIN)/python -m pip install --quiet -r tools/sprite/requirements.txt
	@touch $@

sprite-setup: $(VENV)/.sprite-ready ## install what drawing and training of the built-in model needs

sprite-train: $(VENV)/.sprite-ready ## train the built-in model, on from where it was (ARGS="--seconds 3600 --workers 2")
	$(BIN)/python -m tools.sprite.train $(ARGS)

sprite-pack: $(VENV)/.sprite-ready ## pack what was trained, to be measured (ARGS="--annealed [FOLDER]")
	$(BIN)/python -m tools.sprite.pack $(ARGS)

sprite-eval: $(VENV)/.sprite-ready ## measure the built-in model, write docs/models/sprite.md (ARGS="--model FOLDER": only measure)
	$(BIN)/python -m tools.sprite.evaluate $(ARGS)

clean: ## remove .venv, .venv-bench and caches (never .anime: that is your data)
	rm -rf $(VENV) .venv-bench .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find libs services tests tools -name __pycache__ -type d -prune -exec rm -rf {} +

always:
