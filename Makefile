# Every verb starts from a fresh clone on a machine that has Python >= 3.11 and make.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
# pytest-xdist workers: each has its own PostgreSQL and Redis-protocol server, so two fit two cores.
WORKERS ?= 2

.DEFAULT_GOAL := help
.PHONY: setup demo up test lint bench chaos docs clean help

setup: $(READY) ## make .venv and install everything (instant when nothing changed)

$(READY): pyproject.toml constraints.txt scripts/setup.py
	@$(PYTHON) scripts/setup.py

demo: setup ## from raw text to a trained model that answers; DATA=path takes your own text
	@$(BIN)/weightsmith demo $(if $(DATA),--data "$(DATA)")

up: setup ## keep a whole stack running on this machine: API, workers, generator
	@$(BIN)/weightsmith up

lint: setup ## style, types and who may import whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint ## lint, then every test that needs no GPU and kills nothing; PYTEST_ARGS="-k name"
	$(BIN)/pytest -n $(WORKERS) $(PYTEST_ARGS)

chaos: setup ## the tests that kill workers, servers and disks on purpose
	$(BIN)/pytest -m chaos $(PYTEST_ARGS)

bench: setup ## measure, by hardware name, into bench/
	$(BIN)/python -m bench

docs: setup ## write what the program knows into docs/, then build the site into build/site; a dead link is an error
	@$(BIN)/python -m scripts.pages
	@$(BIN)/zensical build --strict

clean: ## remove .venv and every cache; .weightsmith (your models and data) stays
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -not -path "./node_modules/*" -prune -exec rm -rf {} +

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' Makefile
