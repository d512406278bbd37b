# `make demo` and `make test` need Python 3.11 or newer and nothing else: they set up .venv themselves.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --constraint constraints.txt

.PHONY: demo test lint docs bench clean

demo: .venv/test
	$(BIN)/hamnet demo

test: .venv/test
	$(BIN)/python -m pytest

lint: .venv/dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: .venv/dev
	$(BIN)/typer hamnet_cli.app utils docs --name hamnet --title Commands --output docs/commands.md
	$(BIN)/zensical build --clean --strict

# A look in minutes: make bench OPTIONS=--quick RESULTS=quick
OPTIONS ?=
RESULTS ?= benchmarks/results

bench: .venv/test
	$(PIP) --group bench
	for name in so2 model prediction scaling accuracy labelling reading; do \
		OMP_NUM_THREADS=1 $(BIN)/python benchmarks/$$name.py $(OPTIONS) --json $(RESULTS)/$$name.json || exit 1; \
	done

clean:
	rm -rf .venv site

# Stamp files: a second make installs nothing unless the requirements have changed.
.venv/test: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "hamnet needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; try: make PYTHON=python3.12 $(MAKECMDGOALS)")'
	$(PYTHON) -m venv .venv
	$(PIP) --upgrade pip
	$(PIP) --editable . --group test
	@touch $@

.venv/dev: .venv/test
	$(PIP) --group lint --group docs
	@touch $@
