# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= 3.11
VENV ?= .venv-$(PYTHON)
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready-$(shell cat pyproject.toml .ci/constraints.txt | sha256sum | cut -c1-16)
UV := .venv-tools/bin/uv
# pyenv hides versions that are installed but not chosen behind shims that fail; name such an interpreter by its path.
INTERPRETER := $(firstword $(wildcard $(HOME)/.pyenv/versions/$(PYTHON).*/bin/python) $(PYTHON))
CODE := operator trainer-image tests e2e examples .ci
# What imports torch, here or in a process that it starts: that takes a slow machine minutes, so all else is seen first.
TORCH_TESTS := tests/agent tests/trainer tests/local tests/faults
# 0: one test after the other.
TEST_WORKERS ?= 2
# Each of the many processes of a run would compile torch again. What is imported is compiled once, and nothing else.
unexport PYTHONDONTWRITEBYTECODE
export OMP_NUM_THREADS ?= 1
export HF_HUB_OFFLINE ?= 1
.DEFAULT_GOAL := help
.PHONY: help setup demo test test-plain test-torch check generate verify e2e faults bench-recovery images bench constraints clean

help: ## this list
	@grep -hE '^[a-z0-9-]+:.*##' Makefile | sed -E 's/:[^#]*## / - /'

setup: $(STAMP) ## make the virtual environment

$(UV):
	python3 -m venv .venv-tools
	.venv-tools/bin/pip install --quiet uv

$(STAMP): pyproject.toml .ci/constraints.txt $(UV)
	test -x $(BIN)/python || $(UV) venv --quiet --python $(INTERPRETER) $(VENV)
	$(UV) pip install --quiet --python $(BIN)/python -c .ci/constraints.txt -e '.[operator,trainer,tracking,dev]'
	rm -f $(VENV)/.ready-*
	touch $@

demo: $(STAMP) ## a LoRA adapter on this machine, with a worker killed half way
	$(BIN)/python examples/demo.py

test: test-plain test-torch ## every test that needs no cluster, with the fast ones of the faults

test-plain: $(STAMP)
	$(BIN)/python -m pytest tests $(TORCH_TESTS:%=--ignore=%) -n $(TEST_WORKERS) --dist loadfile

test-torch: $(STAMP)
	$(BIN)/python -m pytest $(TORCH_TESTS) -m "fast or not fault" -n $(TEST_WORKERS) --dist loadfile

check: $(STAMP) ## format, lint, types, import layers, budgets
	$(BIN)/ruff format --check --quiet $(CODE)
	$(BIN)/ruff check --quiet $(CODE)
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python .ci/budgets.py

generate: $(STAMP) ## write everything that is generated
	PYTHONPATH=. $(BIN)/python .ci/generate.py

verify: $(STAMP) ## fail on any difference to what would be generated
	PYTHONPATH=. $(BIN)/python .ci/generate.py --check

e2e: $(STAMP) ## the suite on a real Kubernetes (needs root; brings the cluster up and takes it down)
	$(BIN)/python -m pytest e2e -m "not slow" $(E2E_ARGS)

faults: $(STAMP) ## every fault, locally and, as root, on the cluster, both with random ones; writes the tables of docs/faults.md
	.ci/faults $(BIN)/python $(E2E_ARGS)

bench-recovery: $(STAMP) ## seconds from a fault to the next step, beside torchrun
	$(BIN)/python -m tests.faults.bench_recovery

images: $(STAMP) ## build the operator and trainer images
	$(BIN)/python -m e2e.harness images

bench: $(STAMP) ## print the figures of docs/benchmarks.md
	$(BIN)/python -m e2e.bench

constraints: ## pin the newest versions that fit together
	$(UV) pip compile pyproject.toml --all-extras --universal --python-version 3.11 --no-header --no-annotate \
	  --no-emit-index-url --quiet --upgrade -o .ci/constraints.txt

clean: ## remove virtual environments and caches
	rm -rf .venv .venv-* .mypy_cache .ruff_cache .pytest_cache
