VENV ?= .venv
PYTHON ?= python3
OUT ?= demo_out
JOBS ?= 2

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo test check kernels docs clean

help:
	@echo "make demo    install into $(VENV), track an object through a video, write $(OUT)/"
	@echo "make test    install the test tools too, then run make check"
	@echo "make check   ruff, mypy, import-linter, pytest with coverage, and make kernels"
	@echo "make kernels compile every kernel for every GPU it ships for; needs no GPU"
	@echo "make docs    build the site of docs/ into build/site"
	@echo "make clean   remove $(VENV) and everything that was generated"

demo: $(VENV)/.installed
	$(BIN)/python examples/demo.py $(OUT)
	@echo "The video is in $(OUT)/"

test: $(VENV)/.test-installed
	$(MAKE) check

check:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	PYTHONPATH=.:kernels $(BIN)/lint-imports
	$(MAKE) kernels
	$(BIN)/python -m pytest bench/kernels -q --image-size 128 --benchmark-disable
	PYTHONPATH=.:kernels $(BIN)/python -m bench.gpu --device cpu --quick --out $$(mktemp -d)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist worksteal --cov --cov-report=term

kernels:
	PYTHONPATH=.:kernels $(BIN)/python -m bench.compile --check --jobs $(JOBS)

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
	$(PIP) --no-build-isolation --editable ".[test]"
	$(PIP) --no-deps torchvision
	SAM2_BUILD_CUDA=0 $(PIP) --no-build-isolation --no-deps sam2
	touch $@
