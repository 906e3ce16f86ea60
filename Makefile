# Every target sets up what it needs: Python 3.11 or newer and make are enough.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
NAME := $(shell date +quickstart-%Y%m%d-%H%M%S)

.PHONY: run test test-faults test-slurm bench lint tensorboard
run: $(VENV)/installed
	$(BIN)/igb --multirun experiment=quickstart loss=ce,bl,pz name=$(NAME)
	$(BIN)/igb-report multirun/$(NAME)

test: $(VENV)/installed
	$(BIN)/pytest --numprocesses auto --dist loadfile

test-faults: $(VENV)/installed
	$(BIN)/pytest -m faults --capture=no

test-slurm: $(VENV)/installed
	$(BIN)/pytest -m slurm

bench: $(VENV)/installed
	$(BIN)/python -m benchmarks.bench $(BENCH)

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

tensorboard: $(VENV)/installed
	$(BIN)/tensorboard --logdir multirun --samples_per_plugin scalars=100000

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@
