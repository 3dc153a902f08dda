PYTHON ?= .venv/bin/python
BIN := $(dir $(PYTHON))

.PHONY: setup fast full lint house schemas figures

setup:
	python3 -m venv .venv
	.venv/bin/pip install -q -c constraints.txt -e '.[dev]'

fast:
	$(PYTHON) -m pytest -q

full: fast
	$(PYTHON) -m pytest -q -m slow

lint:
	$(BIN)ruff check .
	$(BIN)ruff format --check .
	$(BIN)mypy
	$(BIN)lint-imports --no-logo

house:
	$(PYTHON) -m tests.helpers.house

schemas:
	$(PYTHON) -m tests.helpers.schemas

figures:
	$(PYTHON) benchmarks/all.py
