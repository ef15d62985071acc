# Everything here sets up an environment of its own in .venv: with uv where it is installed, with venv and pip else.

PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && command -v $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
# Colours and prompts of the tools make no sense in a log.
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help chat test lint fix bench clean

help: ## Show what can be made
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

chat: $(VENV)/.base ## Chat in this terminal
	@$(BIN)/python -m miniagents chat

test: lint ## Run the whole test suite: lint, types, contracts, tests
	$(BIN)/python -m pytest -n auto -q

lint: $(VENV)/.dev ## Check style, types and the layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

fix: $(VENV)/.dev ## Mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.dev ## Measure the ratios to plain asyncio
	$(BIN)/python -m benchmarks

clean: ## Remove the environment and all caches
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache build dist

$(BIN)/python:
	@if [ -z "$(PYTHON)" ]; then echo "miniagents needs Python 3.11 or newer; install it and try again" >&2; exit 1; fi
	@if command -v uv >/dev/null 2>&1; then uv venv --quiet --python "$(PYTHON)" $(VENV); \
	else "$(PYTHON)" -m venv $(VENV); fi || { \
	rm -rf $(VENV); \
	echo "no environment could be made with $(PYTHON); install its venv module (Debian: python3-venv) or uv, and try again" >&2; \
	exit 1; }

$(VENV)/.base: $(BIN)/python pyproject.toml
	@echo "Setting up the environment in $(VENV) (once) ..."
	@if command -v uv >/dev/null 2>&1; then uv pip install --quiet --python $(BIN)/python -e .; \
	else $(BIN)/python -m pip install --quiet -e .; fi
	@touch $@

$(VENV)/.dev: $(BIN)/python pyproject.toml
	@echo "Setting up the environment in $(VENV), with the tools for development (once) ..."
	@if command -v uv >/dev/null 2>&1; then uv pip install --quiet --python $(BIN)/python -e '.[dev]'; \
	else $(BIN)/python -m pip install --quiet -e '.[dev]'; fi
	@touch $@ $(VENV)/.base
