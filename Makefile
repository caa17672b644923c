# On a fresh machine `make demo` and `make test` set themselves up and do their job.
# The pin keeps pip from taking gigabytes of CUDA where a CPU build is to be had; for another build
# (see PyTorch's own selector) run, say, `make TORCH='torch==2.13.0 --index-url ...' test`.

PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test lint types docs wheel fuzz soak oldest clean install

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --disable-pip-version-check $(TORCH)
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e '.[demo,test]'
	@# azula asks for torchvision, whose builds do not fit every PyTorch; what we use does without.
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt --no-deps azula
	touch $@

demo: $(STAMP)
	$(BIN)/python -m pgmdiff demo --out out

test: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist worksteal

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo

types: $(STAMP)
	$(BIN)/mypy

docs: $(VENV)/.docs
	$(BIN)/python -m scripts.run_tutorials
	rm -rf docs/_build/html
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html
	$(BIN)/python -m scripts.check_links docs/_build/html

$(VENV)/.docs: $(STAMP)
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e '.[docs]'
	touch $@

# Built in a clean environment, installed without extras into another, and tried there.
wheel: $(STAMP)
	rm -rf dist build/wheel
	$(BIN)/pip install -q --disable-pip-version-check build
	$(BIN)/python -m build --outdir dist
	$(PYTHON) -m venv build/wheel
	build/wheel/bin/pip install -q --disable-pip-version-check $(TORCH)
	build/wheel/bin/pip install -q --disable-pip-version-check -c constraints.txt dist/*.whl
	cd build/wheel && bin/python -I $(CURDIR)/scripts/smoke_test.py

# The tests with the oldest versions that pyproject.toml allows: make PYTHON=python3.10 oldest. By
# hand: that PyTorch has only builds of gigabytes, and its torch.compile fails in a few tests.
oldest:
	$(PYTHON) -m venv build/oldest
	build/oldest/bin/pip install -q -e '.[demo,test]' \
	  $$(sed -n '/^dependencies/,/^]/s/^ *"\(.*\)>=\(.*\)",/\1==\2/p' pyproject.toml)
	build/oldest/bin/python -m pytest -n 2 -o filterwarnings=default tests

soak: $(STAMP)
	$(BIN)/python -m scripts.soak

fuzz: $(STAMP)
	$(BIN)/python -m scripts.fuzz

clean:
	rm -rf $(VENV) out docs/_build docs/tutorials/*.ipynb dist build
