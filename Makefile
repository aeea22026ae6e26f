# SPDX-License-Identifier: Apache-2.0
# make demo | test | test-slow | test-all | test-arm64 | sanitize | emulate | check | env | tvm | clean.
# Each creates .venv when it is not there and rebuilds the op library when its sources changed.

PYTHON ?= python3
JOBS ?= 2

BIN := .venv/bin
STAMP := .venv/.installed
TVM_STAMP := .venv/.tvm
CPP_SOURCES := $(shell find runtime_ops -name '*.cc' -o -name '*.h' -o -name '*.inc' -o -name '*.map' -o -name CMakeLists.txt)

# The first of these that is installed; CMake looks for the same ones.
CXX_FOUND = $(shell command -v "$${CXX:-c++}" || command -v g++ || command -v clang++)
PYTHON_FOUND = $(shell { $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))'; } 2>/dev/null && echo yes)
VENV_FOUND = $(shell { $(PYTHON) -c 'import ensurepip, venv'; } 2>/dev/null && echo yes)

.PHONY: help demo test test-slow test-all test-arm64 sanitize emulate check env tvm clean

help:
	@sed -n 's/^# make/make/p' Makefile

demo: $(STAMP)
	@$(BIN)/python -m models.demo

test: $(STAMP)
	@$(BIN)/python -m pytest -n $(JOBS) --dist loadgroup -m "not slow"

test-slow: $(STAMP)
	@$(BIN)/python -m pytest -n $(JOBS) --dist loadgroup -m slow

test-all: test test-slow

# Fetches a cross compiler, qemu and Debian's arm64 Python, once; they lie in build/arm64.
test-arm64: $(STAMP)
	@bash tests/arm64/prepare.sh $(CURDIR)/build/arm64
	@$(BIN)/python -m pytest -n $(JOBS) tests/arm64

# The op library with AddressSanitizer and UBSan, in build/sanitize, and the kernels' tests on it.
sanitize: $(STAMP)
	@$(BIN)/cmake -S . -B build/sanitize -G Ninja -DQC_SANITIZE=ON -DCMAKE_MAKE_PROGRAM=$(CURDIR)/$(BIN)/ninja >/dev/null
	@$(BIN)/cmake --build build/sanitize -j $(JOBS)
	@$(BIN)/python -m pytest -n $(JOBS) tests/runtime_ops/test_guarded.py -k saniti

# The AVX-512 and AVX-VNNI kernels on a processor with AVX2 alone: their intrinsics are emulated.
emulate: $(STAMP)
	@$(BIN)/cmake -S . -B build/emulated -G Ninja -DQC_EMULATE=ON -DCMAKE_MAKE_PROGRAM=$(CURDIR)/$(BIN)/ninja >/dev/null
	@$(BIN)/cmake --build build/emulated -j $(JOBS)
	@$(BIN)/python -m pytest -n $(JOBS) tests/runtime_ops/test_emulated.py

check: $(STAMP)
	@$(BIN)/ruff format --check
	@$(BIN)/ruff check
	@$(BIN)/mypy

env: $(STAMP)

# Targets t4 and tvm-cpu, whose tests skip without it: 104 MB to fetch, 320 MB on disk.
tvm: $(TVM_STAMP)

$(TVM_STAMP): $(STAMP) pyproject.toml
	@$(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["tvm"], sep="\n")' \
		| $(BIN)/python -m pip install -q --disable-pip-version-check -r /dev/stdin
	@touch $@

# The build needs its tools in the environment first: without build isolation CMake's cache stays
# valid, and a second run compiles only what changed.
$(STAMP): pyproject.toml CMakeLists.txt $(CPP_SOURCES)
	$(if $(filter yes,$(PYTHON_FOUND)),,$(error qcompile needs Python 3.11 or later: apt-get install python3, or make PYTHON=/path/to/python))
	$(if $(CXX_FOUND),,$(error qcompile needs a C++ compiler: apt-get install g++))
	$(if $(filter yes,$(VENV_FOUND)),,$(error qcompile needs Python's venv module: apt-get install python3-venv))
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "qcompile: installing into .venv (the op library takes a minute or two to compile)"
	@$(BIN)/python -m pip install -q --disable-pip-version-check 'scikit-build-core>=1.0,<2' cmake ninja
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-build-isolation -e '.[dev]'
	@touch $@

clean:
	rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
