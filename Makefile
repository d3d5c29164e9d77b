# make demo   the whole job on the embedded glyphs, report in runs/demo/report.html
# make test   the test suite          make test-full   with the long proofs
# make check  format, lint, types, layers
# make bench  the ladder on glyphs (hours); make bench-quick: one row in minutes
PYTHON ?= python3
BIN := .venv/bin
# Two threads on two busy cores are often slower than one; raise it on a
# quiet machine with more cores.
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM := false

MACHINE := 'import os, platform, torch as t; print(platform.machine(), f"{os.cpu_count()} cores", \
  t.cuda.get_device_name() if t.cuda.is_available() else "no GPU", f"torch {t.__version__}", sep=", ")'

.PHONY: demo test test-full full-suite full-slow check format bench bench-quick clean

.venv/.installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable ".[onnx]"
	touch $@

.venv/.installed-dev: .venv/.installed
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@

demo: .venv/.installed
	$(BIN)/distill demo

test: .venv/.installed-dev
	$(BIN)/python -m pytest -m "not slow" --durations=10

# Everything, the slow proofs too, in two halves (make -j2 test-full: side by side); the last output
# is kept with its commit and machine. Pytest's exit code counts, not that of tee.
test-full: full-suite full-slow
	{ echo "commit $$(git describe --always --dirty), $$($(BIN)/python -c $(MACHINE))"; \
	  cat runs/full-suite.txt runs/full-slow.txt; } > benchmarks/results/test-full.txt

full-suite full-slow: SHELL := /bin/bash
full-suite full-slow: .SHELLFLAGS := -o pipefail -c
full-suite: .venv/.installed-dev
	mkdir -p runs
	$(BIN)/python -m pytest -rs --durations=10 -m "not slow" 2>&1 | tee runs/full-suite.txt

full-slow: .venv/.installed-dev
	mkdir -p runs
	$(BIN)/python -m pytest -rs --durations=10 -m slow 2>&1 | tee runs/full-slow.txt

check: .venv/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports

format: .venv/.installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: .venv/.installed
	$(BIN)/python benchmarks/ladder.py

bench-quick: .venv/.installed
	$(BIN)/python benchmarks/ladder.py --quick

clean:
	rm -rf .venv build dist runs
