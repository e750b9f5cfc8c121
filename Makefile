# make demo | make test: each sets up its own .venv first, and is quick when that is done.
PYTHON ?= python3
BIN := .venv/bin
export OMP_NUM_THREADS ?= $(shell nproc 2>/dev/null || echo 2)

.PHONY: demo test setup export weights lab docs clean
demo: setup
	$(BIN)/ash-nb demo --out runs/demo

test: setup
	$(BIN)/python tests/run.py

setup: .venv/ready
.venv/ready: pyproject.toml
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 10) and 'ash_nb needs Python 3.10 or newer; say which with: make PYTHON=python3.12 ...')"
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[dev]'
	touch $@

export: setup  # notebooks -> ash_nb/
	$(BIN)/nbdev-export && $(BIN)/nbdev-clean

lab: setup
	$(BIN)/jupyter lab nbs

docs: setup  # site/ from notebooks and docstrings; stops at a dead link
	$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build -q --strict -f docs/mkdocs.yml

clean:
	rm -rf .venv build site *.egg-info .pytest_cache artifacts
