# `make reproduce` and `make test` do everything on a machine that has Python, make and git.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# What is imported is compiled then: of most that is installed nothing ever is.
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --editable

# Tests start some hundred processes: what one has compiled, the others find, whatever the shell says.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: reproduce test test-sweep check bench kill-test clean

reproduce: $(VENV)/installed
	$(BIN)/nofreelunch reproduce

test: check
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n 2 --dist loadfile --no-loadscope-reorder

check: $(VENV)/installed-dev
	$(BIN)/ruff format --check src tests bench tools
	$(BIN)/ruff check src tests bench tools
	$(BIN)/mypy

bench: $(VENV)/installed-bench
	$(BIN)/python -m bench

test-sweep: $(VENV)/installed-sweep
	$(BIN)/pytest -q tests/test_sweep_ray.py

kill-test: $(VENV)/installed-dev
	$(BIN)/python tools/kill_test.py

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache

# The stamps are made last: an installation that was interrupted is done again, a finished one never.
$(VENV)/made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "nofreelunch needs Python 3.10 or newer, this is " + sys.version.split()[0] + "; try: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/installed: $(VENV)/made pyproject.toml
	$(INSTALL) .
	touch $@

$(VENV)/installed-dev: $(VENV)/made pyproject.toml
	$(INSTALL) ".[dev]"
	touch $(VENV)/installed $@

$(VENV)/installed-sweep: $(VENV)/made pyproject.toml
	$(INSTALL) ".[dev,sweep]"
	touch $(VENV)/installed $(VENV)/installed-dev $@

$(VENV)/installed-bench: $(VENV)/installed
	PIP_CONSTRAINT=bench/constraints.txt PIP_BUILD_CONSTRAINT=bench/constraints.txt $(INSTALL) ".[bench]"
	touch $@
