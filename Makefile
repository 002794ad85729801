# `make repro` and `make test` do everything on a fresh machine with Python 3.11, 3.12 or 3.13 and a package index.
SUPPORTED := import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3 python; do \
	"$$python" -c "$(SUPPORTED)" >/dev/null 2>&1 && echo "$$python" && break; done)
NO_PYTHON := error: no Python 3.11, 3.12 or 3.13 with its venv module here; install one, or name it: make PYTHON=/path/to/python
VENV := .venv
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export DVC_NO_ANALYTICS := 1
READY := $(VENV)/.ready
OLDER := .venv-4.57
WLLAMA := 3.13.0
DEMO := .demo
NO_NPM := error: no npm here, which fetches llama.cpp as WebAssembly for the page; install Node.js with npm, or talk by make chat

.PHONY: help repro rehearse chat demo test checks bench criteria frontier bits domains compat
.DEFAULT_GOAL := help

help:  ## list the targets
	@grep -E '^[a-z]+:.*##' Makefile | awk -F ':.*## ' '{printf "make %-8s %s\n", $$1, $$2}'

$(READY): pyproject.toml constraints.txt
	@"$(PYTHON)" -c "$(SUPPORTED)" 2>/dev/null || { echo "$(NO_PYTHON)" >&2; exit 1; }
	"$(PYTHON)" -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $(READY)

$(OLDER)/.ready: constraints.txt
	"$(PYTHON)" -m venv $(OLDER)
	$(OLDER)/bin/python -m pip install --quiet --disable-pip-version-check "$$(grep '^torch==' constraints.txt)" 'transformers==4.57.*' jinja2
	touch $@

repro: $(READY)  ## the whole pipeline on the embedded default: SmolLM2-135M and medical text
	dvc repro
	@python -m minigpts.reporting.chat --invite

rehearse: $(READY)  ## what a run would refuse and what it needs: two layers of your model and some of your text try it
	@python -m stages.rehearse

chat: $(READY)  ## talk to the exported file in this terminal; with PARENT=1 the parent answers beside it
	@python -m minigpts.reporting.chat $(if $(PARENT),--parent data/checkpoints/base)

$(DEMO)/.ready-$(WLLAMA):
	@command -v npm >/dev/null || { echo "$(NO_NPM)" >&2; exit 1; }
	@npm install --prefix $(DEMO) --silent --ignore-scripts @wllama/wllama@$(WLLAMA) || { \
		echo "error: npm can't get @wllama/wllama $(WLLAMA); check the network and npm's registry" >&2; exit 1; }
	@touch $@

demo: $(READY) $(DEMO)/.ready-$(WLLAMA)  ## talk to the exported file in the browser, on a page of this machine; PARENT=1 as above
	@python -m minigpts.demo $(if $(PARENT),--parent $(filter-out 1,$(PARENT)))

test: $(READY)  ## the tests: unit, pipeline, end to end
	OMP_NUM_THREADS=1 python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

checks: $(READY)  ## linter and type checker
	ruff check .
	ruff format --check .
	mypy

compat: $(READY) $(OLDER)/.ready  ## read tiny children of twelve families under transformers 4.57 and 5, and compare (minutes)
	python -m tests.compat.check --other $(OLDER)/bin/python

bench: $(READY)  ## ratios side by side in one run, kept in benchmarks/results and docs/results.md (minutes)
	python -m benchmarks.ratios.run
	python -m benchmarks.results_page

criteria: $(READY)  ## the bake-off of pruning criteria on the prepared text, kept in data/criteria.csv (hours)
	python -m benchmarks.bakeoff.criteria

frontier: $(READY)  ## quality against size as queued DVC experiments, kept in benchmarks/results (hours)
	python -m benchmarks.experiments.frontier

bits: $(READY)  ## quality against the megabytes of the file, beside llama.cpp's types; PACKAGE=folder of its quantizer (hours)
	python -m benchmarks.experiments.bits --package $(or $(PACKAGE),none) --exported default=data/export

domains: $(READY)  ## several domains as queued DVC experiments, crossed; DATA=folder for your own (hours)
	python -m benchmarks.experiments.domains $(if $(DATA),--data $(DATA))
