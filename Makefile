# Two commands for a start: make demo, make test. Each makes .venv and installs what is missing.
PYTHON ?= python3
BIN = .venv/bin

.PHONY: demo test stress lint bench story

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -c constraints.txt "torch==2.13.0"
	$(BIN)/pip install --quiet -c constraints.txt -e ".[dev]"
	touch $@

demo: .venv/installed
	@$(BIN)/farol run data/flights/job.yaml

test: .venv/installed
	$(BIN)/python -m pytest -q -n 2 --dist worksteal

stress: .venv/installed
	$(BIN)/python -m tests.stress.resume
	$(BIN)/python -m tests.stress.fuzz

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

bench: .venv/installed
	$(BIN)/python -m tests.benchmarks.run

.venv/story: .venv/installed
	$(BIN)/pip install --quiet -c constraints.txt -e ".[story]"
	touch $@

story: .venv/story
	$(BIN)/python data/delays/story.py
	$(BIN)/python data/flights/sample_weights.py
