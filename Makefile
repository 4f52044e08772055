# Everything a newcomer needs: `make train` and `make test`.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STEPS ?= 200000
SEED ?= 1
RUN_DIR ?= runs/quickstart

.PHONY: train test test-slow lint types docs dist clean

train: $(VENV)/.user
	$(BIN)/penstock train rfo --world soft/jumper-mini --seed $(SEED) --steps $(STEPS) --run-dir $(RUN_DIR)

# Each worker takes a stretch of neighbouring tests, which share fixtures and compiled programs.
test: $(VENV)/.installed
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow"

test-slow: $(VENV)/.installed
	$(BIN)/python -m pytest -n 2 --dist worksteal -m slow

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed
	$(BIN)/pyright

# The site: build/site/index.html. Everything is read anew, since a page that is not read again warns of nothing.
docs: $(VENV)/.docs
	$(BIN)/sphinx-build --quiet --fresh-env --fail-on-warning --keep-going docs build/site

# One environment serves all commands: `make train` needs no development tools, the others add them. It is brought up to
# date when pyproject.toml or the constraints change.
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e

$(VENV)/.made:
	$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if v >= (3, 11) else "Penstock needs Python 3.11 or newer, and python3 is %d.%d. Try: make PYTHON=python3.12 train" % v)'
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.user: pyproject.toml constraints.txt | $(VENV)/.made
	$(INSTALL) '.[plots,video]'
	touch $@

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/.made
	$(INSTALL) '.[dev]'
	touch $@ $(VENV)/.user

$(VENV)/.docs: pyproject.toml constraints.txt | $(VENV)/.made
	$(INSTALL) '.[docs]'
	touch $@

# What is released, in dist/: a wheel, and the sources with tests, documentation and benchmarks.
dist: $(VENV)/.installed
	rm -rf build dist
	$(BIN)/python -m build --quiet --outdir dist

clean:
	rm -rf $(VENV) build dist *.egg-info
