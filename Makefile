.PHONY: install demo test lint protos bench up clean
PYTHON ?= python3
BIN := .venv/bin

# Everything is pinned by constraints.txt; the marker files make later runs start at once.
install: .venv/installed-dev

.venv/installed-%: pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "Installing pinned dependencies into .venv; the first time takes a few minutes."
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e '.[$*]'
	@touch $@

demo: .venv/installed-demo
	@$(BIN)/lookahead demo

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
	$(BIN)/python -m protos.reference

bench: install
	$(BIN)/python -m bench.serve

up: .venv/installed-demo
	$(BIN)/lookahead serve

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache build *.egg-info
