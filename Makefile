# Two commands do everything on a fresh clone: make demo, make test.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test lint site notebooks bench clean

demo: .installed-demo
	$(BIN)/python -m flowvae.cli.demo

test: .installed-dev lint
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal
	$(MAKE) site

# Pages in build/site/html. Notebooks that have run since the last change, as in the tests, are not run again.
site: .installed-dev
	PYTHONPATH=docs $(BIN)/python -m website

lint: .installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

notebooks: .installed-dev
	$(BIN)/jupyter lab notebooks

# Wants a quiet machine; the last line is the growth of time and memory, the longest part.
bench: .installed-bench
	$(BIN)/python benchmarks/training_step.py --inductor --out runs/bench
	$(BIN)/python benchmarks/profile_step.py --out runs/bench
	$(BIN)/python benchmarks/growth.py --out runs/bench

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "flowvae needs Python 3.11 or newer; name one with make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)

# The links of a strict editable install are made when installing, so a new or moved file asks for a new one.
SOURCES := pyproject.toml $(shell find api comparisons course data evaluation flows guides inference models networks -name '*.py')
LAYOUT := $(shell echo $(SOURCES) | cksum | cut -d' ' -f1)

.installed-dev: .installed-dev-$(LAYOUT)
.installed-dev-$(LAYOUT): pyproject.toml | $(BIN)/python
	rm -rf .installed-* build
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]' --config-settings editable_mode=strict
	touch .installed-demo-$(LAYOUT) $@

# The libraries to compare with; without them their arms are left out, and the benchmark says so.
.installed-bench: .installed-dev
	-$(BIN)/pip install --disable-pip-version-check -e '.[bench,jax]' --config-settings editable_mode=strict
	touch $@

.installed-demo: .installed-demo-$(LAYOUT)
.installed-demo-$(LAYOUT): pyproject.toml | $(BIN)/python
	rm -rf .installed-* build
	$(BIN)/pip install --disable-pip-version-check -e . --config-settings editable_mode=strict
	touch $@

clean:
	rm -rf $(VENV) build .installed-* *.egg-info .mypy_cache .ruff_cache .pytest_cache
