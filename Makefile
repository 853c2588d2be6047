# `make demo` and `make test` on a fresh Debian or Ubuntu machine with only python3 and make.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install -qq --disable-pip-version-check --editable
TORCH ?= torch==2.13.0
# For Llama 3's vocabulary alone: what the package itself needs is left out.
VOCABULARY ?= llama-models==0.3.0
PYTEST_ARGS ?=

# What `make demo` may be told: a model, records, a question and training options of your own.
DEMO := runs/demo
DEMO_MODEL := $(or $(MODEL),$(DEMO)/tiny.gguf)
DATA ?= models/data/demo.json
PROMPT ?= What is a ternary weight?
SIZE := --preset tiny --layers 1 --hidden-size 512 --intermediate-size 1024 --heads 8
ifdef MODEL
OPTIONS ?=
else
OPTIONS ?= --rank 64 --alpha 256 --lr 2e-3 --epochs 50
endif

.PHONY: help setup test test-torch demo clean

help:
	@echo "make setup       install bitgraph into $(VENV)"
	@echo "make demo        fine-tune a model and let it answer before and after"
	@echo "make test        formatting, lint, types and tests: all that CI runs"
	@echo "make test-torch  adapters and gradients against PyTorch and PEFT, which it installs"
	@echo "make clean       remove $(VENV), caches and runs/"

setup: $(VENV)/.ready
	@echo "bitgraph is ready: $(BIN)/bitgraph --help"

# The stamps make a repeated call quick; pyproject.toml is what the installation follows from.
$(BIN)/python:
	@./.ci/make-venv $(PYTHON) $(VENV)

$(VENV)/.ready: pyproject.toml | $(BIN)/python
	@echo "installing bitgraph into $(VENV)"
	@$(INSTALL) .
	@touch $@

$(VENV)/.ready-dev: pyproject.toml | $(BIN)/python
	@echo "installing bitgraph and its development tools into $(VENV)"
	@$(INSTALL) '.[dev]'
	-@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps $(VOCABULARY)
	@touch $@ $(VENV)/.ready

$(VENV)/.ready-torch: pyproject.toml | $(BIN)/python
	@echo "installing PyTorch and PEFT into $(VENV)"
	@$(INSTALL) '.[dev,torch]' $(TORCH)
	@touch $@ $(VENV)/.ready-dev $(VENV)/.ready

# mypy does not follow an editable install, so it is shown the packages under their import name.
TYPED := __init__.py py.typed backends cli graph models passes shaders

$(VENV)/typecheck: Makefile | $(BIN)/python
	@rm -rf $@ && mkdir -p $@/bitgraph
	@for name in $(TYPED); do ln -s "$(CURDIR)/$$name" $@/bitgraph/; done

test: $(VENV)/.ready-dev $(VENV)/typecheck
	@if [ -x .ci/install-vulkan ]; then .ci/install-vulkan; fi
	@if [ -x .ci/install-chromium ]; then .ci/install-chromium; fi
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	MYPYPATH=$(VENV)/typecheck $(BIN)/mypy -p bitgraph
	$(BIN)/python -m pytest -n 2 $(PYTEST_ARGS)

test-torch: $(VENV)/.ready-torch
	$(BIN)/python -m pytest tests/models/test_peft_interop.py tests/models/test_pretraining_interop.py $(PYTEST_ARGS)

demo: $(VENV)/.ready
	@mkdir -p $(DEMO)
ifndef MODEL
	@echo "No MODEL=... is given, so this is a tiny one with random ternary weights. It knows"
	@echo "nothing: all it will say after training, it has from the records in $(DATA)."
	$(BIN)/bitgraph init $(SIZE) --out $(DEMO_MODEL) --force
endif
	@echo; echo "Before training:"
	$(BIN)/bitgraph generate --model "$(DEMO_MODEL)" --template alpaca --max-tokens 32 "$(PROMPT)"
	@echo; echo "Training:"
	$(BIN)/bitgraph train --model "$(DEMO_MODEL)" --data "$(DATA)" --out $(DEMO)/adapter --force $(OPTIONS)
	@echo; echo "After training:"
	$(BIN)/bitgraph generate --model "$(DEMO_MODEL)" --lora $(DEMO)/adapter --template alpaca --max-tokens 32 "$(PROMPT)"
	@echo; echo "The adapter lies in $(DEMO)/adapter, in PEFT's format."

clean:
	rm -rf $(VENV) .venv-ci runs build bitgraph.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
