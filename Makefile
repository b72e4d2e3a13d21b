# Every target sets up what it needs: the virtual environment is made from the pinned constraints when it is missing or older than them.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

export HF_HUB_OFFLINE = 1
export TOKENIZERS_PARALLELISM = false

.PHONY: demo test check bench format clean

demo: $(STAMP)  ## train, measure, merge and evaluate real models on embedded data (minutes, offline)
	$(BIN)/mats demo --output exp_out/demo --overwrite

test: $(STAMP)  ## every test; no network, no downloads
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow"

check: $(STAMP)  ## format, lint, types, directions of imports
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(STAMP)  ## the slow tests at full size, then every benchmark (writes benchmarks/results)
	$(BIN)/python -m pytest -m slow
	$(BIN)/python benchmarks/executor.py time
	$(BIN)/python benchmarks/executor.py memory
	$(BIN)/python benchmarks/collection
	$(BIN)/python benchmarks/solver hard
	$(BIN)/python benchmarks/solver shapes

format: $(STAMP)  ## format and repair what can be repaired
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:  ## remove what is built, keep metadata/ and exp_out/
	rm -rf $(VENV) *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

# torch is installed first and pinned: a bare `torch` would bring gigabytes of CUDA libraries.
$(STAMP): constraints.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade --constraint constraints.txt pip setuptools
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,demo]'
	touch $@
