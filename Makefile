# Everything runs in .venv, which `make` fills with the tested versions.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test lint browser evidence benchmark growth clean

demo: $(VENV)/installed  ## Train on digits, print what came out, and write a page about it.
	$(BIN)/python main.py --config=configs/digits.py --workdir=runs/digits
	$(BIN)/python main.py --config=configs/report.py --config.workdir=runs/digits

test: $(VENV)/installed-dev  ## All tests and doctests.
	$(BIN)/python -m pytest --numprocesses=auto --maxprocesses=4 --dist=loadfile

lint: $(VENV)/installed-dev  ## What pre-commit checks.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

browser: $(VENV)/installed-dev  ## The report in Chromium: apt-get install chromium.
	$(BIN)/python -m pip install --quiet playwright==1.65.2
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

clean:  ## Remove the environment; runs stay.
	rm -rf $(VENV)

$(VENV)/installed: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

$(VENV)/installed-dev: $(VENV)/installed requirements-dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@
