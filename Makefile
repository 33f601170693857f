# Everything from a bare Python 3.11+, a C++ compiler and make; a second run is quick.
#   make demo    the main job end to end, with pictures      make test    the tests
#   make dev     an editable install with the tools          make check   what a change must pass
#   make test-peers    tests against TFDS, LeRobot, TorchRL, SB3, D4RL, in environments of their own
#   make bench-peers   the same environments for `rl bench --peer-python`

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.PHONY: help dev test pytest ctest lint check demo slow soak test-peers bench-peers clean

VENV ?= .venv
BIN := $(VENV)/bin
PYTHON ?= $(shell for python in python3.11 python3 python3.12 python3.13; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
# PyPI's torch for Linux brings CUDA; set TORCH_INDEX to the address of PyTorch's CPU wheels to avoid that.
TORCH_INDEX ?=
PIP = $(BIN)/python -m pip --disable-pip-version-check --quiet
PEERS := tfds lerobot replay d4rl
PEER := $(CURDIR)/build/peers
BUILD_INPUTS := pyproject.toml constraints.txt $(wildcard csrc/*.hpp csrc/*.cpp csrc/CMakeLists.txt)

# cmake, ctest and the linters come from the environment when it has them.
export PATH := $(CURDIR)/$(BIN):$(PATH)
# Two test processes on two cores: one thread each, or their thread pools fight.
export OMP_NUM_THREADS ?= 1

help:
	@sed -n 's/^#   //p' Makefile

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "rl needs Python 3.11 or newer on PATH (or make PYTHON=/path/to/python)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# torch first and alone, so that nothing else decides which torch it is.
$(VENV)/.torch: constraints.txt | $(BIN)/python
	$(PIP) install -c constraints.txt $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	touch $@

$(VENV)/.test: $(BUILD_INPUTS) $(VENV)/.torch
	PIP_CONSTRAINT=$(CURDIR)/constraints.txt $(PIP) install -e '.[test,log,plot]'
	touch $@

$(VENV)/.dev: $(VENV)/.test
	PIP_CONSTRAINT=$(CURDIR)/constraints.txt $(PIP) install -e '.[dev]'
	touch $@

dev: $(VENV)/.dev
	@echo "ready: $(BIN)/rl --help"

test: pytest ctest

pytest: $(VENV)/.test
	$(BIN)/python -m pytest -n 2

ctest: $(VENV)/.test
	cmake -S csrc -B build/ctest -DCMAKE_BUILD_TYPE=Debug >/dev/null
	cmake --build build/ctest --parallel 2 >/dev/null
	ctest --test-dir build/ctest --output-on-failure --no-tests=error

# Learning runs over seeds, long fault loops, building and installing the package.
slow: $(VENV)/.test
	$(BIN)/python -m pytest -n 2 -m slow

# Kills, cuts of power, failing calls, fuzzing and races of the dataset format, for about an hour.
soak: $(VENV)/.test
	$(BIN)/python tests/proof/soak.py
	rm -rf build/fuzz
	$(PIP) install --no-deps --target build/fuzz . atheris==3.0.0
	PYTHONPATH=build/fuzz $(BIN)/python tests/proof/coverage_guided.py build/fuzz/corpus \
		-max_total_time=660 -artifact_prefix=build/
	$(BIN)/python tests/proof/tensordict_matrix.py

lint: $(VENV)/.dev
	ruff check .
	ruff format --check .
	mypy
	pyright
	clang-format --dry-run -Werror $$(git ls-files '*.hpp' '*.cpp')

check: lint test

demo: $(VENV)/.test
	docs/demo.sh $(DEMO)

# Tests against other libraries, each in an environment of its own: four gigabytes, in which torch is the most.
test-peers: $(VENV)/.test $(PEERS:%=build/peers/%/.ready)
	RL_TFDS_PYTHON=$(PEER)/tfds/bin/python RL_LEROBOT_PYTHON=$(PEER)/lerobot/bin/python \
	RL_TORCHRL_PYTHON=$(PEER)/replay/bin/python RL_SB3_PYTHON=$(PEER)/replay/bin/python \
	RL_D4RL_PYTHON=$(PEER)/d4rl/bin/python $(BIN)/python -m pytest -n 2 -rs $$(grep -lE 'RL_[A-Z0-9]+_PYTHON' tests/datasets/*.py)

bench-peers: $(PEERS:%=build/peers/%/.ready)
	@echo "ready: rl bench$(foreach peer,replay tfds lerobot, --peer-python build/peers/$(peer)/bin/python)"

build/peers/%/.ready: tests/peers/%.txt constraints.txt | $(BIN)/python
	$(BIN)/python -m venv build/peers/$*
	if grep -q '^torch==' $<; then build/peers/$*/bin/python -m pip --quiet install \
		-c constraints.txt $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch; fi
	build/peers/$*/bin/python -m pip --quiet install --no-deps -r $<
	echo $(CURDIR)/tests/peers/$* >$$(echo build/peers/$*/lib/python3*/site-packages)/standins.pth
	touch $@

clean:
	rm -rf build dist demo .mypy_cache .ruff_cache .pytest_cache .hypothesis
