# What a person types. Everything is fetched by name from the registries that pip knows, with hashes.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.ONESHELL:
PYTHON ?= python3
BIN := .venv/bin
export PYTHONPATH := $(CURDIR):$(CURDIR)/gen
RUN ?= .run
PORT ?= 8423
REPORTS ?= 6343
WORKERS ?= 3

help:  ## lists what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

.venv/.runtime: requirements/runtime.txt requirements/page.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/runtime.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements/page.txt
	touch $@

.venv/.dev: requirements/dev.txt .venv/.runtime
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	touch $@

gen: gen/village.binpb  ## writes gen/ from protos/

gen/village.binpb: .venv/.dev protos/generate.py $(wildcard gateway/*.py) $(shell find protos -name '*.proto' -o -name '*.json')
	$(BIN)/python protos/generate.py

up: gen  ## sets up and starts a province and two counties with sample data
	@bash deploy/local/up.sh $(RUN) $(PORT) $(REPORTS)

down:  ## stops what `make up` started; data is kept
	@for node in $(RUN)/*/node.json; do
	  if test -e "$$node"; then ./villagemesh down --data "$$(dirname "$$node")"; fi
	done

test: gen  ## runs every test that this machine can run
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(PYTEST)

examples: gen  ## writes the examples of the documents anew, from what the journeys send and get
	@seen=$$(mktemp -d)
	VILLAGEMESH_EXAMPLES=$$seen $(BIN)/python -m pytest -q -n $(WORKERS)
	$(BIN)/python -m tests.examples $$seen

nightly: gen  ## sends every method 20,000 requests that nobody would send, and lets a mesh fail in many ways
	VILLAGEMESH_FUZZ=20000 $(BIN)/python -m pytest tests/fuzz
	VILLAGEMESH_SEEDS=50 $(BIN)/python -m pytest tests/faults/test_mesh_faults.py -k TestSchedules

containers: gen  ## builds the image and runs a province and two counties in containers
	$(BIN)/python -m pytest tests/integration/containers.py

docs: gen  ## builds the documents as a site that needs no internet, in .site/html
	$(BIN)/python -m cli.site

bench: gen  ## prints every figure and writes bench/out/results.json
	$(BIN)/python -m bench

lint: gen  ## checks style, types, imports and protos, and that no release is broken
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/buf lint gen/village.binpb --config buf.yaml
	$(BIN)/python -m protos.check

release: gen  ## freezes the contract as a release: make release VERSION=x.y.z
	$(BIN)/python -m protos.release "$(VERSION)"

wheel: gen  ## builds the wheel that callers and subscribers install, into packages/
	$(BIN)/python -m client.wheel

lock:  ## renews the hashed requirements (needs uv)
	for name in runtime dev; do
	  uv pip compile --quiet --generate-hashes --no-emit-index-url --no-header --universal \
	    --python-version 3.11 requirements/$$name.in -o requirements/$$name.txt
	done
	uv pip compile --quiet --generate-hashes --no-emit-index-url --no-header --universal --no-deps \
	  --python-version 3.11 requirements/page.in -o requirements/page.txt

.PHONY: help up down test examples nightly containers docs bench lint release wheel lock gen
