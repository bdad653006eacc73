# Each target does its own set-up: a virtual environment in .venv with the versions of constraints.txt.
# PYTHON is the interpreter that makes it (3.11 to 3.13); PIP_ARGS goes to pip, e.g. PIP_ARGS="--index-url ...".

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: train demo test slow faults mutants audit cluster lint links format tensorboard docs site clean

train: $(READY)            ## the default experiment: PPO, AEI network and AdamO on nine rooms
	$(BIN)/python train.py

demo: $(READY)             ## plasticity lost and kept: seven ways on random-label digits, a picture and a table
	$(BIN)/python -m docs.demo

test: $(READY)             ## the tests, a few minutes
	$(BIN)/python -m pytest -q -n 2

slow: $(READY)             ## the tests that take longer
	$(BIN)/python -m pytest -q -m slow

faults: $(READY)           ## kills, full disks, damaged files, random command lines, a soak: hours
	$(BIN)/python -m tests.faults --kills 200 --writes --mutations 10000 --fuzz 100000 --fuzz-run 200 --soak 3600

mutants: $(READY)          ## 300 small changes of the code, one at a time: which do no tests notice? Hours; goes on where it stopped
	$(BIN)/python -m tests.mutants --mutants 300 --seed 0

audit: $(READY)            ## known vulnerabilities of the versions in constraints.txt; needs the network
	@.ci/audit

cluster: $(READY)          ## grids on a real Ray cluster of two nodes on this machine, ten minutes
	$(BIN)/pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c constraints.txt 'ray[default]'
	$(BIN)/pip install --quiet --disable-pip-version-check $(PIP_ARGS) --no-deps hydra-ray-launcher==1.2.2
	$(BIN)/python -m pytest -q -m ray tests/experiments/grid

lint: $(READY) links       ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

links:                     ## .types/isorl, by which mypy and the site see the folders as one package
	@mkdir -p .types/isorl && ln -sfn $(CURDIR)/isorl/*.py .types/isorl/ && for room in agents configs envs experiments plasticity; do ln -sfn $(CURDIR)/$$room .types/isorl/$$room; done

format: $(READY)           ## puts the code in the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

tensorboard: $(READY)      ## watch the runs at http://localhost:6006
	$(BIN)/tensorboard --logdir runs

docs: $(READY)             ## the pages and the methods' YAML files, which are generated from the code
	$(BIN)/python -m isorl.experiments.run.keys > docs/logged_keys.md
	$(BIN)/python -m isorl.experiments.metrics_page > docs/metrics.md
	$(BIN)/python -m isorl.plasticity.method_page > docs/methods.md
	$(BIN)/python -m isorl.experiments.method_files
	$(BIN)/python -m docs.draw_sequences

site: $(READY) links       ## these pages, the API and the executed notebook, strictly: site/index.html
	$(BIN)/pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c constraints.txt -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:                     ## removes the virtual environment and caches, never runs/
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .types *.egg-info site

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else f"Python 3.11 to 3.13 is needed, but {sys.executable} is {v[0]}.{v[1]}. Choose another: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c constraints.txt -e '.[box2d,mujoco,minigrid,minatar,dmc,mnist5000,data,dev]'
	@touch $(READY)
