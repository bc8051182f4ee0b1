.PHONY: install demo test test-fast measured-fast coverage coverage-summary speed-test lint format protos settings
.PHONY: bench chaos gpu-bundle up images sbom deploy-test clients-test release-check clean
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

# What needs no process, no browser, no real model and no minutes.
FAST := not slow and not system and not browser

# All tests; COVERAGE=1 measures which lines the fast ones run.
test: install $(if $(COVERAGE),measured-fast)
	$(BIN)/python -m pytest $(if $(COVERAGE),-m "not ($(FAST))")

measured-fast: install
	@rm -rf build/coverage
	$(BIN)/python -m coverage run -m pytest -m "$(FAST)"

test-fast: install
	$(BIN)/python -m pytest -m "$(FAST)"

coverage: measured-fast
	$(MAKE) coverage-summary

# Writes build/coverage.txt, and fails where too little was run.
coverage-summary: install
	$(BIN)/coverage combine -q
	$(BIN)/coverage json -q -o build/coverage.json
	$(BIN)/python -m tests.support.coverage_summary build/coverage.json build/coverage.txt

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

# Every attack and fault of docs/reliability.md, at full length: some hours.
chaos: install
	$(BIN)/python -m bench.chaos --json build/chaos.json --markdown docs/reliability.md

bench: install
	$(BIN)/python -m bench.serving

# What a machine with a GPU needs to run bench.gpu without a network; TRACES=DIR adds recorded answers.
gpu-bundle: install
	$(BIN)/python -m bench.gpu.bundle .gpu $(if $(TRACES),--traces $(TRACES))

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

# Other people's clients, each installed in an environment of its own, against the running stack.
clients-test: install
	$(BIN)/python -m pytest tests/clients/check_clients.py

# How much sooner drafts bring the demo model's words, on this machine.
speed-test: install
	$(BIN)/python -m pytest tests/system/check_speed.py

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .engine .gpu build *.egg-info
