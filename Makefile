# make demo   the whole job on the embedded glyphs, report in runs/demo/report.html
# make test   the test suite          make test-full   with the long proofs
# make check  format, lint, types, layers
# make docs   the site of documentation, in build/site; broken links are errors
# make ladder every method's row (two and a half hours; STEPS=400: six), on glyphs or DATA=FOLDER;
#             make ladder-quick: three rows
PYTHON ?= python3
BIN := .venv/bin
# Two threads on two busy cores are often slower than one; raise it on a
# quiet machine with more cores.
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM := false

# A file's tests share what is costly to make: they stay in one process.
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile

MACHINE := 'import os, platform, torch as t; print(platform.machine(), f"{os.cpu_count()} cores", \
  t.cuda.get_device_name() if t.cuda.is_available() else "no GPU", f"torch {t.__version__}", sep=", ")'

.PHONY: demo test test-full check docs format ladder ladder-quick clean

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
	$(PYTEST) -m "not slow" --durations=10

# Everything, the slow proofs too; the output is kept with its commit and machine. Pytest's exit code
# counts, not that of tee.
test-full: SHELL := /bin/bash
test-full: .SHELLFLAGS := -o pipefail -c
test-full: .venv/.installed-dev
	mkdir -p runs
	$(PYTEST) -rs --durations=10 2>&1 | sed "s|$$PWD|.|" | tee runs/test-full.txt
	{ echo "commit $$(git describe --always --dirty), $$($(BIN)/python -c $(MACHINE))"; \
	  cat runs/test-full.txt; } > benchmarks/results/test-full.txt

check: .venv/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports

# The site's tools have an environment of their own: they read our sources and import nothing.
.venv-docs/.installed: pyproject.toml
	$(PYTHON) -m venv .venv-docs
	.venv-docs/bin/python -c "import tomllib as t; \
	  print(*t.load(open('pyproject.toml', 'rb'))['project']['optional-dependencies']['docs'], sep='\n')" \
	  > .venv-docs/requirements.txt
	.venv-docs/bin/python -m pip install --quiet --requirement .venv-docs/requirements.txt
	touch $@

docs: .venv-docs/.installed
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --strict

format: .venv/.installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

DATA ?= glyphs
STEPS ?= 72
ladder: .venv/.installed
	$(BIN)/python benchmarks/ladder.py --data $(DATA) --steps $(STEPS)

ladder-quick: .venv/.installed
	$(BIN)/python benchmarks/ladder.py --data $(DATA) --quick

clean:
	rm -rf .venv .venv-docs build dist runs
