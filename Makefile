.PHONY: install demo test lint format protos settings bench up images sbom deploy-test release-check clean
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

# Rewrites the sources as `lint` wants them, as far as ruff can.
format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

protos: install
	$(BIN)/python -m protos.generate
	$(BIN)/python -m protos.reference

settings: install
	$(BIN)/python -m lookahead.commands.settings_reference

bench: install
	$(BIN)/python -m bench.serving

up: .venv/installed-demo
	$(BIN)/lookahead serve

images:
	@for name in drafter verifier gateway; do \
		docker build -f deploy/docker/Dockerfile --target $$name -t lookahead-$$name . || exit 1; \
	done

# What each image holds, as CycloneDX documents in build/sbom.
sbom: install
	@mkdir -p build/sbom
	@for name in drafter verifier gateway; do \
		docker run --rm lookahead-$$name python -c 'from importlib.metadata import distributions; \
		print(*sorted({f"{d.name}=={d.version}" for d in distributions()}), sep="\n")' \
		| $(BIN)/cyclonedx-py requirements --pyproject pyproject.toml --output-reproducible \
			--of JSON -o build/sbom/$$name.json - || exit 1; \
	done
	@ls -l build/sbom

# The compose stack for real: images, faults, restarts. Starts a Docker engine where none runs.
deploy-test: install
	$(BIN)/python -m pytest tests/system/check_compose.py

# The sdist and the wheel, built and installed as a user gets them.
release-check: install
	$(BIN)/python -m pytest tests/system/check_release.py

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .engine build *.egg-info
