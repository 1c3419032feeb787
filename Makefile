# make run    import a sample of real replies of AI services and report what they cost
# make test   lint, types, import rules, tests with branch coverage
# make stress  this library and its alternatives on a store that has a bad day (nine to ten minutes)
# make storm  delivery to DynamoDB's own engine through faults, outages and kills (minutes)
# make bench  what recording and a backlog cost, beside yardsticks of the same run
# make goodput  what is delivered to a table that refuses some, simulated; ARGS=--write updates docs
# Each does all the set-up itself; it needs Python >= 3.11 with pip (choose one with PYTHON=...).

SHELL := /bin/bash
BIN := .venv/bin
SAMPLE := examples/data/recorded_replies.jsonl
# Its calls are of a job of their own: the examples record into the same store.
JOB := sample-replies
# Twice as many as there are cores of a small machine: much of what tests do is waiting.
JOBS ?= 4
export PYTHON
# Tests start hundreds of interpreters, and each would compile all of it anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: run test lint types unit alone stress storm bench goodput format clean help

run:
	@tools/setup.sh run
	@tools/demo import --at 2026-08-31 --job $(JOB) $(SAMPLE)
	@tools/demo report --by service --job $(JOB)
	@echo
	@echo "These are the calls of $(SAMPLE), in the store .demo/usage.db. By day and model:"
	@echo "  tools/demo report --by day,model"

test: lint types unit alone

lint:
	@tools/setup.sh dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types:
	@tools/setup.sh dev
	$(BIN)/mypy

unit:
	@tools/setup.sh dev
	@$(BIN)/python tools/dynamodb_local.py fetch || true # the tests say what it means
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal --durations 25 --cov --cov-report=term -m "not long and not alone" $(ARGS)

# What measures a rate: beside other tests it would measure those.
alone:
	@tools/setup.sh dev
	$(BIN)/python -m pytest -p no:xdist -m alone

storm:
	@tools/setup.sh dev
	$(BIN)/python -m pytest -m long -p no:xdist $(ARGS)

stress:
	@tools/setup.sh dev
	$(BIN)/python -m benchmarks.stress $(ARGS)

bench:
	@tools/setup.sh dev
	$(BIN)/python -m benchmarks $(ARGS)

goodput:
	@tools/setup.sh dev
	$(BIN)/python -m benchmarks.goodput $(ARGS)

format:
	@tools/setup.sh dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv .demo .coverage .coverage.* htmlcov dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis

help:
	@sed -n '1,7s/^# //p' Makefile
