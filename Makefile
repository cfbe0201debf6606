# Every target makes what it needs first: a virtual environment in .venv, the packages of constraints.txt, the build.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
READY := $(VENV)/.ready
# Environments a few tests run in: base dependencies alone, and the oldest ONNX Runtime that must read our graphs.
BASE_ENV := build/envs/base
OLD_ORT := build/envs/onnxruntime-1.22.1

.PHONY: demo test check lint types unit native test-all bench clean

demo: $(READY)
	$(BIN)/dmdkit demo --force

# Everything; under 25 minutes on two cores.
test: $(READY) $(BASE_ENV)/.ready $(OLD_ORT)/.ready lint types native
	$(BIN)/python -m pytest

# What to run while writing: a minute.
check: $(READY) lint types unit

unit: $(READY)
	$(BIN)/python -m pytest -q -m "not slow and not gpu" -x

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell

# mypy does not follow the editable install's mapping, so it checks an installed copy (a stale build/lib ships deleted modules).
types: $(READY)
	rm -rf build/lib build/bdist.* build/typecheck
	$(PIP) install -q --no-deps --no-build-isolation --target build/typecheck .
	MYPYPATH=build/typecheck $(BIN)/mypy -p dmdkit

# The C++ side: configure, build, run its tests.
native:
	cmake -S . -B build/native -DCMAKE_BUILD_TYPE=Release
	cmake --build build/native --parallel 2
	ctest --test-dir build/native --output-on-failure

# What takes long or needs more than a plain machine; run before a release.
test-all: test

# Speed, as ratios measured in one run (about ten minutes; docs/performance.md says how to read it).
bench: $(READY)
	$(BIN)/python -m benchmarks --out build/bench

clean:
	rm -rf build $(VENV)

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install -q -c constraints.txt "setuptools>=77" wheel
	$(PIP) install -q -c constraints.txt torch
	$(PIP) install -q -c constraints.txt -e ".[dev]"
	touch $@

$(BASE_ENV)/.ready: pyproject.toml constraints.txt
	rm -rf $(BASE_ENV)
	$(PYTHON) -m venv $(BASE_ENV)
	$(BASE_ENV)/bin/python -m pip --disable-pip-version-check install -q -c constraints.txt .
	touch $@

$(OLD_ORT)/.ready: $(READY)
	rm -rf $(OLD_ORT)
	$(PIP) install -q --no-deps --target $(OLD_ORT) onnxruntime==1.22.1
	touch $@
