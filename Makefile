# `make demo` runs the main job on a small scene it makes; `make test` installs what the tests need and runs them all.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO ?= runs/demo
STAMP := $(VENV)/.installed
SOURCES := $(shell find cuda_ext -type f) setup.py

.PHONY: demo test lint build wheel docs gpu clean

demo: build
	$(BIN)/python scripts/demo.py --out $(DEMO)

test: build
	bash tests/install_browser.sh
	bash tests/run.sh $(BIN)/python $(PYTEST_ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The pages, strictly: a link to nothing fails. Read them with: python -m http.server -d build/site
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=true PYTHONPATH=. $(BIN)/python -m mkdocs build --quiet --strict

$(VENV)/.docs: $(STAMP) requirements-docs.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -r requirements-docs.txt
	touch $@

# For the torch in .venv. It is installed with: pip install 'dist/splatseg-....whl[viewer]'
wheel: $(STAMP)
	rm -rf build/lib.* build/bdist.*
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-build-isolation --no-deps --wheel-dir dist .

# Needs no .venv: it takes the Python that has a CUDA build of torch (PYTHON=...). Exit code 3 where there is no GPU.
gpu:
	bash benchmarks/gpu.sh $(GPU_PARTS)

build: $(VENV)/.built

# --no-compile: half of the minute is bytecode, most of it of modules that nothing here imports.
$(STAMP): requirements-cpu.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -r requirements-cpu.txt
	touch $@

$(VENV)/.built: $(STAMP) $(SOURCES)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps -e .
	touch $@

clean:
	rm -rf build splatseg/_C*.so $(VENV)/.built
