# The two commands: `make up` and `make test`. Each sets up what it needs and is safe to run again.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
IMAGES := .state/images.json

.PHONY: help setup up down test rehearse unit lint policy-pack docs requirements clean

help: ## What can be made
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 22

# One stamp per content of the pins: a changed requirements file makes the environment anew, nothing else does.
STAMP := $(VENV)/.$(shell cat requirements-dev.txt 2>/dev/null | sha256sum | cut -c1-16)
$(STAMP):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; set PYTHON=")'
	@echo "Python packages (requirements-dev.txt) into $(VENV)"
	@$(PYTHON) -m venv --clear $(VENV)
	@$(PY) -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.txt
	@touch $@

setup: $(STAMP) ## The Python environment
	@:

up: $(STAMP) ## Cluster, images and stack dev; ends with a URL and the commands to log in (OBSERVE=1: and a Prometheus)
	@PY=$(PY) scripts/up

down: $(STAMP) ## Stop the embedded cluster; its data stays (cluster down --purge deletes it)
	@$(PY) -m cluster down

test: $(STAMP) ## Linters, unit, API, engine and cluster tests, on a cluster of their own
	@PY=$(PY) scripts/test

unit: $(STAMP) ## Linters, the API's tests and unit tests: what a pull request must pass
	@PY=$(PY) scripts/test --unit

rehearse: $(STAMP) ## A change from staging to prod and one that is taken back, under load, on a cluster of its own
	@PY=$(PY) scripts/rehearse

lint: $(STAMP) ## ruff, mypy --strict, import-linter
	@$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy
	@PYTHONPATH=. $(VENV)/bin/lint-imports

# The SDK of policy packs and the program want different versions of protobuf: the pack has an environment of its own.
PACK := .venv-policies
PACK_STAMP := $(PACK)/.$(shell cat policies/pack/requirements.txt 2>/dev/null | sha256sum | cut -c1-16)
$(PACK_STAMP):
	@echo "Python packages (policies/pack/requirements.txt) into $(PACK)"
	@$(PYTHON) -m venv --clear $(PACK)
	@$(PACK)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r policies/pack/requirements.txt
	@touch $@

policy-pack: $(PACK_STAMP) ## Environment of policies/pack, for `pulumi preview --policy-pack` (docs/policies.md)

# What builds the site, and what its pages load in the browser.
DOCS := .venv-docs
DOCS_STAMP := $(DOCS)/.$(shell cat docs/requirements.txt docs/tools/package-lock.json 2>/dev/null | sha256sum | cut -c1-16)
$(DOCS_STAMP):
	@echo "Python and npm packages of the site (docs/requirements.txt, docs/tools/package-lock.json) into $(DOCS), docs/tools"
	@$(PYTHON) -m venv --clear $(DOCS)
	@$(DOCS)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r docs/requirements.txt
	@npm --prefix docs/tools ci --no-audit --no-fund --silent
	@touch $@

docs: $(STAMP) $(DOCS_STAMP) ## The documentation site, into site/; docs/architecture.md is drawn anew (docs/site.md)
	@$(PY) docs/tools/architecture.py
	@NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build --strict
	@echo "The site: site/index.html"

requirements: ## Compile requirements*.in to exact pins
	uv pip compile --quiet --generate-hashes --no-emit-index-url --no-emit-find-links --universal --python-version 3.11 \
	  --custom-compile-command 'make requirements' requirements.in -o requirements.txt
	uv pip compile --quiet --generate-hashes --no-emit-index-url --no-emit-find-links --universal --python-version 3.11 \
	  --custom-compile-command 'make requirements' requirements-dev.in -c requirements.txt -o requirements-dev.txt
	uv pip compile --quiet --generate-hashes --no-emit-index-url --no-emit-find-links --universal --python-version 3.11 \
	  --custom-compile-command 'make requirements' policies/pack/requirements.in -o policies/pack/requirements.txt
	uv pip compile --quiet --generate-hashes --no-emit-index-url --no-emit-find-links --universal --python-version 3.11 \
	  --custom-compile-command 'make requirements' docs/requirements.in -o docs/requirements.txt

clean: ## Remove what was built in this folder (not the stacks' state in .state)
	rm -rf $(VENV) $(PACK) $(DOCS) .mypy_cache .ruff_cache .pytest_cache services/api/node_modules docs/tools/node_modules site
