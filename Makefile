# `make help` prints what there is.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help run test test-faults test-faults-long demo lint bench bench-billing bench-agents screenshots agent clean
.DEFAULT_GOAL := help

help: ## print this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1|\2/' | column -t -s '|'

run: $(VENV)/.installed ## start the whole platform here: Redis, web, worker, clock (PORT, VAR_DIR)
	@exec $(BIN)/python app.py

demo: $(VENV)/.installed ## train a small model on the server and on an agent, side by side (DATA=file.jsonl)
	@exec $(BIN)/python tests/demo/demo.py $(if $(DATA),--data "$(DATA)")

test: $(VENV)/.tested ## run every test; Chromium and bubblewrap are installed when they are missing and you are root
	@tests/find_chromium.sh
	@tests/find_bubblewrap.sh
	@exec tests/run.sh

test-faults: $(VENV)/.tested ## the failure matrix: real processes once for each row, 20 seeds each in virtual time
	@tests/find_chromium.sh
	@tests/find_bubblewrap.sh
	@exec tests/faults/run.sh

test-faults-long: $(VENV)/.tested ## the same in full length: leases of 90 s, cuts of ten minutes, 500 seeds (hours)
	@tests/find_chromium.sh
	@tests/find_bubblewrap.sh
	@FAULT_FULL=1 FAULT_SEEDS=500 exec tests/faults/run.sh

lint: $(VENV)/.tested ## ruff, and mypy strict on services, models and agent
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.tested ## measure: start, overhead, lag, pages
	@tests/find_chromium.sh
	@exec $(BIN)/python tests/benchmarks/main.py

bench-billing: $(VENV)/.tested ## measure on PostgreSQL: spends beside pgbench, renewals, billing pages (ARGS="--members 2000")
	@exec $(BIN)/python tests/benchmarks/billing.py $(ARGS)

bench-agents: $(VENV)/.tested ## measure agents: idle, storm, streams, ingest, a page of a million points (ARGS="--long")
	@tests/find_chromium.sh
	@exec $(BIN)/python tests/benchmarks/agents.py $(ARGS)

screenshots: $(VENV)/.tested ## take the pictures in docs/screenshots again
	@tests/find_chromium.sh
	@$(BIN)/python -m pytest -q tests/browser/screenshots.py

agent: $(VENV)/.installed ## build the agent into var/, as one file and as a wheel
	@$(BIN)/python -m agent.build var/train_agent.pyz

clean: ## remove what was installed and everything written at run time
	rm -rf $(VENV) var

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: requirements.txt | $(VENV)/bin/python
	@echo "Installing what the server needs into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --requirement requirements.txt
	@touch $@

$(VENV)/.tested: tests/requirements.txt $(VENV)/.installed
	@$(BIN)/python -m pip install --quiet --requirement tests/requirements.txt
	@touch $@
