# Everything runs in .venv, which `make` fills with the tested versions.
PYTHON ?= python3
VENV := .venv
RUN := runs/digits
BIN := $(VENV)/bin
PIP_INSTALL := -m pip install --disable-pip-version-check
# Of the libraries' modules, three in four are never imported. Compiled is what is, also
# where Python is told to write no bytecode.
IMPORTED := jax, flax.linen, optax, orbax.checkpoint, grain, ml_collections.config_flags, \
	clu.parameter_overview, tensorflow_datasets, tensorboardX, matplotlib.pyplot, \
	sklearn.datasets, sklearn.manifold

.PHONY: demo test test-all torture compile compile-shapes lint docs browser evidence benchmark growth clean

demo: $(VENV)/installed  ## Train on digits, print what came out, and write a page about it.
	$(BIN)/python main.py --config=configs/digits.py --workdir=$(RUN)
	$(BIN)/python benchmarks/digits_seeds.py --beside=$(RUN)
	$(BIN)/python main.py --config=configs/report.py --workdir=$(RUN)

# Some tests wait for programs that they start, so one worker more than cores keeps all busy.
WORKERS = $(shell $(PYTHON) -c "import os; print(min(4, (os.cpu_count() or 1) + 1))")

# Dozens of programs are started: bytecode is kept, also where Python is told to write none.
test: $(VENV)/installed-dev  ## All tests and doctests.
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest --numprocesses=$(WORKERS) --dist=loadfile

test-all:  ## Suite and demo on Python 3.11 and 3.13, in .venv-3.11 and .venv-3.13.
	tests/all_pythons.sh

torture: $(VENV)/installed-dev  ## Kills runs, damages their files and fills their disks, for 40 minutes: docs/reliability.md.
	$(BIN)/python -m tests.torture

COMPILE := .venv-compile
# Nothing runs, so JAX is to look for no device.
CHECK := JAX_PLATFORMS=cpu $(COMPILE)/bin/python -m pytest --noconftest --numprocesses=auto \
	--maxprocesses=2 --maxschedchunk=1 -rs

compile: $(COMPILE)/installed  ## What the compilers of TPUs and GPUs make of objective and step.
	$(CHECK) tests/compiled/check_programs.py

compile-shapes: $(COMPILE)/installed  ## The same for unusual batches, chips and banks.
	$(CHECK) tests/compiled/check_shapes.py

$(COMPILE)/installed: requirements-compile.txt requirements.txt
	$(PYTHON) -m venv $(COMPILE)
	$(COMPILE)/bin/python $(PIP_INSTALL) --no-compile -r requirements-compile.txt
	touch $@

lint: $(VENV)/installed-dev  ## What pre-commit checks, and types.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

browser: $(VENV)/installed-dev  ## The report in Chromium: apt-get install chromium.
	$(BIN)/python $(PIP_INSTALL) playwright==1.65.2
	$(BIN)/python -m pytest tests/browser/check_report.py

evidence: $(VENV)/installed  ## The tables of docs/results.md, cell by cell: some hours.
	$(BIN)/python benchmarks/evidence.py
	$(BIN)/python benchmarks/results_page.py

benchmark: $(VENV)/installed-dev  ## The objective beside eager PyTorch; the memory plan; augmentation beside ResNet-50; input beside the decoder.
	$(BIN)/python benchmarks/objective.py
	$(BIN)/python benchmarks/objective.py --examples=1281167 --rounds=2
	$(BIN)/python benchmarks/options.py
	$(BIN)/python benchmarks/memory.py
	$(BIN)/python benchmarks/augmentation.py
	$(BIN)/python benchmarks/input.py

growth: $(VENV)/installed-dev  ## The figures of docs/scaling.md; 10 million images need 16 GB.
	$(BIN)/python benchmarks/growth.py

DOCS := .venv-docs

docs: $(DOCS)/installed  ## The site of docs/ in site/; a link that leads nowhere is an error.
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/python -m mkdocs build --strict

$(DOCS)/installed: requirements-docs.txt
	$(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/python -m pip install --disable-pip-version-check -r requirements-docs.txt
	touch $@

clean:  ## Remove the environment; runs stay.
	rm -rf $(VENV) $(DOCS) $(COMPILE) .venv-3.11 .venv-3.13

$(VENV)/installed: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python $(PIP_INSTALL) --no-compile -r requirements.txt
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -c "import $(IMPORTED)"
	touch $@

$(VENV)/installed-dev: $(VENV)/installed requirements-dev.txt
	$(BIN)/python $(PIP_INSTALL) --no-compile -r requirements-dev.txt
	touch $@
