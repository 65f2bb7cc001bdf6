# Stubmail: every target is listed by `make help`. Needs python3 >= 3.11 with venv, gnupg and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
JOBS ?= $(shell expr $$(getconf _NPROCESSORS_ONLN) + 1)
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help demo test up down e2e lint check bench zone-check lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(STAMP): requirements-dev.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: $(STAMP) ## mail crosses two domains on loopback, no Docker, no root (KEEP=1 stays up)
	@$(BIN)/stubmail demo $(if $(KEEP),--keep)

test: $(STAMP) ## every test that needs no Docker (JOBS=1: one after the other)
	$(BIN)/pytest -n $(JOBS) --maxprocesses 8 --dist worksteal --ignore=tests/e2e

lint: $(STAMP) ## ruff, mypy --strict, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint ## the same, and unit tests
	$(BIN)/pytest -q -n $(JOBS) --maxprocesses 8 --dist worksteal -m "not postgresql" tests/unit tests/dialogs

up: ## start the compose network and wait until it is healthy (SCALE=1: alpha's store as three replicas)
	docker compose $(if $(SCALE),-f docker-compose.yml -f compose.scale.yaml )up --build --wait
	@cat docs/compose-next.txt

down: ## stop the compose network (docker compose down -v also removes mail and keys)
	docker compose down --remove-orphans

e2e: $(STAMP) ## drive the compose network from outside with real clients
	$(BIN)/pytest tests/e2e

bench: $(STAMP) ## benchmarks, peers side by side in one run (ONLY="store udp" runs some)
	$(BIN)/python -m bench $(ONLY)

zone-check: $(STAMP) ## named-checkzone, and stubmail dns check against a server that serves the zone
	named-checkzone example dns/zone.example
	STUBMAIL_DNS_ALLOW_PRIVATE=true $(BIN)/python -m stubmail.testing.nameserver --zone dns/zone.example -- \
	    sh -ec 'for domain in alpha.example beta.example; do $(BIN)/stubmail dns check $$domain; done'

lock: ## compute the lock files anew (needs uv)
	uv pip compile --quiet --universal --python-version 3.11 --no-emit-index-url --no-emit-find-links --generate-hashes --no-header --all-extras pyproject.toml -o requirements-dev.lock
	uv pip compile --quiet --universal --python-version 3.11 --no-emit-index-url --no-emit-find-links --generate-hashes --no-header -c requirements-dev.lock pyproject.toml -o requirements.lock

clean: ## remove the virtual environment and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
