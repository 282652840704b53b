VENV ?= .venv
PYTHON ?= python3
OUT ?= demo_out
JOBS ?= 2

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --constraint constraints.txt
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --dist worksteal --durations=25 -n $(JOBS)
MODULE := PYTHONPATH=.:kernels $(BIN)/python -m

.DEFAULT_GOAL := help
.PHONY: help demo test quick check lint types imports tests emulate coverage kernels benchmarks docs clean

help:
	@echo "make demo    install into $(VENV), track an object through a video, write $(OUT)/"
	@echo "make test    install the test tools too, then run make check"
	@echo "make quick   the same with lint, types, imports and the fast tests only: under 3 minutes"
	@echo "make check   lint, types, imports, docs, tests, kernels, benchmarks"
	@echo "make emulate execute the compiled kernels on an emulated GPU, all of them"
	@echo "make coverage the tests, with the lines that they cover"
	@echo "make kernels compile every kernel for every GPU it ships for; needs no GPU"
	@echo "make docs    build the site of docs/ into build/site"
	@echo "make clean   remove $(VENV) and everything that was generated"

demo: $(VENV)/.installed
	$(BIN)/python examples/demo.py $(OUT)
	@echo "The video is in $(OUT)/"

test: $(VENV)/.test-installed
	$(MAKE) check

quick: $(VENV)/.test-installed
	$(MAKE) lint types imports
	$(PYTEST) -m "not slow"

# One after another, so that what is quick to fail fails first. No step has a time limit.
check:
	$(MAKE) lint types imports docs
	$(MAKE) tests
	$(MAKE) kernels benchmarks

lint:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types:
	$(BIN)/mypy

imports:
	PYTHONPATH=.:kernels $(BIN)/lint-imports

tests:
	$(PYTEST)

# Compiled kernels, executed on the CPU; make tests runs the quick part of it.
emulate: $(VENV)/.test-installed
	TRITON_INTERPRET=0 $(PYTEST) tests/emulator

# Not part of the gate: interpreted kernels take twice as long.
coverage: $(VENV)/.test-installed
	$(PYTEST) --cov --cov-report=term

kernels:
	$(MODULE) bench.compile --check --jobs $(JOBS)

# Every benchmark of an op once, at sizes that measure nothing.
benchmarks:
	$(BIN)/python -m pytest bench/kernels -q --image-size 128 --benchmark-disable

docs: $(VENV)/.installed
	$(PIP) --no-build-isolation --editable ".[docs]"
	$(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) $(OUT) bench_out build dist *.egg-info .coverage .mypy_cache .pytest_cache .ruff_cache .import_linter_cache

# torch goes first and pinned: whatever follows finds it there and fetches no other build of it.
$(VENV)/.installed: pyproject.toml setup.py constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch setuptools wheel
	$(PIP) --no-build-isolation --editable .
	touch $@

# The reference takes no dependencies: it must not replace torch. Its optional CUDA extension is not built.
$(VENV)/.test-installed: $(VENV)/.installed
	$(PIP) --no-build-isolation --editable ".[test,docs]"
	$(PIP) --no-deps torchvision
	SAM2_BUILD_CUDA=0 $(PIP) --no-build-isolation --no-deps sam2
	touch $@
