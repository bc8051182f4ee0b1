.PHONY: install demo test lint protos bench up clean
PYTHON ?= python3
BIN := .venv/bin

# Everything is pinned by constraints.txt; the marker file makes the second run start at once.
install: .venv/installed
.venv/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: install
	$(BIN)/lookahead demo

test: install
	$(BIN)/python -m pytest

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/buf lint protos

protos: install
	$(BIN)/python -m protos.generate

bench: install
	$(BIN)/python -m bench.serve

up: install
	$(BIN)/lookahead serve

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache build *.egg-info
