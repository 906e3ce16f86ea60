# Every target sets up what it needs: Python 3.11 or newer and make are enough.
PYTHON ?= python3
# With VENV= `make test-gpu` and `make bench` use the Python that is there, which on GPU machines has a torch of its own.
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(if $(VENV),$(VENV)/installed)
RUN := $(if $(VENV),$(BIN)/python,$(PYTHON))
# The newest sweep, for `make tensorboard`; any other, or all of multirun, can be given.
DIR ?= $(or $(patsubst %/sweep.json,%,$(shell ls -t multirun/*/sweep.json multirun/*/*/sweep.json 2>/dev/null | head -1)),multirun)
NAME := $(shell date +quickstart-%Y%m%d-%H%M%S)
# The stages of docs/reproduction.md, where their runs go, the folders of tables and figures, and the pages with them.
# docs/theory.md has two stages more, trainability and trainability_cifar10. CIFAR10 and FASHION_MNIST say where these
# images are, REPRODUCTION and TRAINABILITY take other overrides of the stages of each page, MEASURE is `--networks 2` to
# measure fewer untrained networks.
STAGES := initialisation training_batches first_batches replaced_conv1 open_choices piecewise_zero favoured_class favoured_conv1 small_rate epoch_one exact uniform_start long_run remedy
SWEEPS := multirun/reproduction
TABLES := docs/reproduction
PAGES := docs/reproduction.md $(wildcard docs/reproduction/*.md)
THEORY := docs/theory
THEORY_PAGE := docs/theory.md
# The stages of the study, where their runs go, the folder of its tables, and the pages; OVERRIDES are of them all,
# FEATURES is `--seeds 1` to measure fewer untrained networks.
STUDY := losses cutoffs architectures vit rates norms dial drift center color classes fashion_mnist long_tail adam noise noise_warmup remedy_none remedy_ce remedy_warmup remedy_ramp remedy_rate remedy_low_rate remedy_calibrate remedy_center remedy_smooth remedy_cutoff
STUDY_SWEEPS := multirun/study
STUDY_TABLES := docs/study
STUDY_PAGES := docs/study.md docs/study-tables.md docs/advice.md README.md

.PHONY: run test test-slow test-faults test-slurm test-browser test-gpu coverage bench lint tensorboard reproduction reproduction-figures study tutorial
run: $(VENV)/installed
	$(BIN)/igb --multirun experiment=quickstart loss=ce,bl,pz name=$(NAME)
	$(BIN)/igb-report multirun/$(NAME)

test: $(VENV)/installed
	$(BIN)/pytest --numprocesses auto --dist loadfile

test-slow: $(VENV)/installed
	$(BIN)/pytest -m slow --numprocesses auto --dist loadfile

test-faults: $(VENV)/installed
	$(BIN)/pytest -m faults --capture=no

test-slurm: $(VENV)/installed
	$(BIN)/pytest -m slurm

test-browser: $(VENV)/installed
	$(BIN)/pytest -m browser

test-gpu: $(INSTALLED)
	$(RUN) -m pytest -m gpu -rs tests/gpu

coverage: $(VENV)/installed
	$(BIN)/pytest --numprocesses auto --dist loadfile --cov=igb --cov-report=term-missing:skip-covered

bench: $(INSTALLED)
	$(RUN) -m benchmarks.bench $(BENCH)

reproduction: $(VENV)/installed
	set -e; for stage in $(STAGES); do \
	    $(BIN)/igb --multirun experiment=reproduction/$$stage hydra.sweep.dir=$(SWEEPS)/$$stage $(CIFAR10) $(REPRODUCTION); \
	done
	$(BIN)/igb --multirun experiment=reproduction/trainability hydra.sweep.dir=$(SWEEPS)/trainability \
	    $(FASHION_MNIST) $(TRAINABILITY)
	$(BIN)/igb --multirun experiment=reproduction/trainability_cifar10 hydra.sweep.dir=$(SWEEPS)/trainability_cifar10 \
	    $(CIFAR10) $(TRAINABILITY)
	$(BIN)/python -m reproduction.collect $(SWEEPS) $(TABLES)
	$(BIN)/python -m reproduction.features $(TABLES)/features.csv $(CIFAR10) $(filter-out hydra/% hydra.%,$(REPRODUCTION))
	$(BIN)/python -m reproduction.figures $(TABLES) $(PAGES)
	$(BIN)/python -m reproduction.theory $(THEORY) $(TABLES) $(THEORY_PAGE) --measure $(MEASURE) \
	    --cifar10 "$(CIFAR10)" --fashion-mnist "$(FASHION_MNIST)"

tutorial: $(VENV)/installed
	$(BIN)/jupyter execute --inplace docs/tutorial.ipynb

study: $(VENV)/installed
	set -e; for stage in $(STUDY); do \
	    $(BIN)/igb --multirun experiment=study/$$stage hydra.sweep.dir=$(STUDY_SWEEPS)/$$stage \
	        $$([ $$stage = fashion_mnist ] && echo "$(FASHION_MNIST)" || echo "$(CIFAR10)") $(OVERRIDES); \
	done
	$(BIN)/python -m study.collect $(STUDY_SWEEPS) $(STUDY_TABLES)
	$(BIN)/python -m study.features $(STUDY_TABLES)/features.csv $(CIFAR10) $(FEATURES)
	$(BIN)/python -m study.page $(STUDY_TABLES) $(STUDY_PAGES)

reproduction-figures: $(VENV)/installed
	$(BIN)/python -m reproduction.figures $(TABLES) $(PAGES)
	$(BIN)/python -m reproduction.theory $(THEORY) $(TABLES) $(THEORY_PAGE)
	$(BIN)/python -m study.page $(STUDY_TABLES) $(STUDY_PAGES)
	$(BIN)/python -m reference.tables docs/config.md docs/config-runs.md docs/run-folder.md

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

tensorboard: $(VENV)/installed
	-$(BIN)/igb-report "$(DIR)"
	@echo "The charts: http://localhost:6006/#custom_scalars&_smoothingWeight=0"
	$(BIN)/tensorboard --logdir "$(DIR)" --samples_per_plugin scalars=100000

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@
