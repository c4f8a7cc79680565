# Every target makes .venv where it is missing or what it is made from has changed, and not otherwise.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: compare test lint bench bench-compare honesty

compare: $(READY)
	$(BIN)/cnnprof compare regular bottleneck

test: $(READY)
	$(BIN)/pytest -q

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

BENCH := $(BIN)/pytest -q -c bench/pytest.ini bench

bench: $(READY)
	$(BENCH) --benchmark-autosave
	$(BIN)/python bench/readme.py

# Beside the run that `make bench` saved last, to whose counts and peaks networks are held; saves nothing.
HELD := --cnnprof-fail-on params:0% --cnnprof-fail-on macs:0% --cnnprof-fail-on peak_bytes:2%

bench-compare: $(READY)
	$(BENCH) --benchmark-compare --benchmark-group-by=fullname $(HELD)

# The study of verdicts, which bench shows: an hour that wants a machine to themselves.
honesty: $(READY)
	$(BIN)/python bench/honesty.py > bench/honesty.json.new
	mv bench/honesty.json.new bench/honesty.json
	$(BIN)/python bench/honesty.py 20 quiet > bench/honesty.json.new
	mv bench/honesty.json.new bench/honesty_quiet.json

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "cnnprof needs Python 3.11 or newer: make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,timm]'
	touch $@
