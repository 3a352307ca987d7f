# Two commands for a fresh machine with Python 3.11+: `make demo` and `make test`. Everything else is a convenience.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --constraint constraints.txt
# One thread per test process, asleep while it waits: two processes then share two cores without treading on each other.
# Each takes half of the tests in their order, so that what the tests of a module share is made once, and then of the rest.
PYTEST := OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(BIN)/python -m pytest --numprocesses 2 --dist worksteal

.PHONY: demo test test-slow lint audit site clean
.DELETE_ON_ERROR:

demo: $(VENV)/.demo
	$(BIN)/eyas demo

test: $(VENV)/.test lint
	$(PYTEST)

test-slow: $(VENV)/.test
	$(PYTEST) -m slow

lint: $(VENV)/.test
	$(BIN)/ruff check src tests benchmarks faults results
	$(BIN)/python tests/helpers/prose.py
	$(BIN)/mypy
	$(BIN)/bandit --quiet --recursive --configfile pyproject.toml src

# Known vulnerabilities of the pinned packages. The advisories come from the network.
audit: constraints.txt
	$(PYTHON) -m venv build/audit
	build/audit/bin/python -m pip install --quiet 'pip-audit>=2.9'
	@build/audit/bin/pip-audit --requirement constraints.txt --no-deps --disable-pip > build/audit/said 2>&1; \
	status=$$?; cat build/audit/said; \
	if [ $$status -ne 0 ] && ! grep -q 'Found .* known vulnerabilit' build/audit/said \
	|| [ $$(grep -c 'could not be audited' build/audit/said) -ge $$(grep -c '==' constraints.txt) ]; then \
	echo 'make audit: NOTHING was audited: the advisories of pypi.org could not be reached' >&2; exit 3; fi; \
	exit $$status

site: $(VENV)/.test
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

# A stamp per environment: it is rebuilt only when a requirement changes.
$(VENV)/.demo: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) --editable '.[demo]'
	touch $@

$(VENV)/.test: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) --editable '.[test]'
	touch $@ $(VENV)/.demo

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

clean:
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .hypothesis
