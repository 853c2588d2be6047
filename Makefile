# `make demo` and `make test` on a fresh Debian or Ubuntu machine with only python3 and make.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install -qq --disable-pip-version-check --editable
TORCH ?= torch==2.13.0
# For Llama 3's vocabulary alone: what the package itself needs is left out.
VOCABULARY ?= llama-models==0.3.0
PYTEST_ARGS ?=

# The skill that `make demo` teaches the bundled model, and what it takes.
DEMO := runs/demo
ADAPTER := $(DEMO)/adapter
LEARN := --pack --tokens-per-step 512 --max-seq-len 128 --rank 16 --alpha 32 --lr 2e-3 \
	--schedule cosine --epochs 3
ASK := --exact --model demo --lora $(ADAPTER) --template bitnet-chat

.PHONY: help setup test test-torch demo clean

help:
	@echo "make setup       install bitgraph into $(VENV)"
	@echo "make demo        teach the bundled model a skill, and compare it before and after"
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
	$(BIN)/bitgraph corpus --seed 0 --records 1 --out $(DEMO)/corpus --force
	@echo; echo "Teaching Zub, a language game that the bundled model does not know:"
	$(BIN)/bitgraph train --model demo --data $(DEMO)/corpus/skill_train.json --template bitnet-chat --out $(ADAPTER) --force $(LEARN)
	@echo; echo "The skill, on questions that were held out, without and with the adapter:"
	$(BIN)/bitgraph eval $(ASK) --data $(DEMO)/corpus/skill_eval.json --show 5
	@echo; echo "What the model knew before, to see what it forgot:"
	$(BIN)/bitgraph eval $(ASK) --data $(DEMO)/corpus/eval.json
	@echo; echo "The adapter lies in $(ADAPTER), in PEFT's format; the loss curve is $(ADAPTER)/loss.png."

clean:
	rm -rf $(VENV) .venv-ci runs build bitgraph.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
