PYTHON ?= python3
BIN := .venv/bin
RUNS ?= runs

.PHONY: install demo test test-faults check clean

install: .venv/installed

# Installed once for each state of the two files that say what to install.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "lvtrain needs Python 3.11 or newer: make PYTHON=python3.12 …")'
	@echo 'installing into .venv: some minutes'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[cluster,dev]'
	touch $@

# From nothing to a trained model: text of the embedded grammar, a store, a run, its figures.
demo: install
	@test -f $(RUNS)/demo.txt || $(BIN)/lvtrain grammar --num 60000 --seed 1 --out $(RUNS)/demo.txt
	@test -d $(RUNS)/demo-store || $(BIN)/lvtrain prepare $(RUNS)/demo.txt --out $(RUNS)/demo-store
	$(BIN)/lvtrain train arae --preset tiny --data $(RUNS)/demo-store --out $(RUNS)/demo --resume auto
	$(BIN)/lvtrain evaluate $(RUNS)/demo --samples 20000
	$(BIN)/lvtrain generate $(RUNS)/demo --num 8
	$(BIN)/lvtrain interpolate $(RUNS)/demo --num 1

test: install
	$(BIN)/python -m pytest

# Ten minutes of workers killed and frozen, drivers killed, shards cut, disks full: not in `test`.
test-faults: install
	$(BIN)/python -m tests.cluster.faults --out benchmarks/results/faults_$$(date +%F).md

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf .venv build dist *.egg-info
