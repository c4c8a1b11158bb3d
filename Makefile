# medaug: `make quickstart` and `make test` are all a new user needs.
PYTHON ?= python3
BIN := .venv/bin
RUNS ?= runs
# A file's tests stay in one process; each process computes with one thread.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile

.PHONY: quickstart test check slow service bench-ingest bench-decoders bench-gan bench-metrics bench-agreement bench-scorecard bench-planted clean
.DEFAULT_GOAL := quickstart

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

.venv/installed-test: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	# Compared with in tests; torch-fidelity alone, for the torchvision that it asks for fits one build of torch only.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps torch-fidelity prdc
	touch $@

quickstart: .venv/installed
	$(BIN)/medaug run configs/experiment/quickstart.yaml --runs $(RUNS)

test: .venv/installed-test
	$(PYTEST)

slow: .venv/installed-test
	$(PYTEST) -m slow

service: .venv/installed-test
	$(BIN)/python -m pytest -m service

# DATA: a folder of uncompressed CT slices
bench-ingest: .venv/installed-test
	$(BIN)/python -m tests.benchmarks.bench_ingest $(DATA) --json bench-ingest.json

bench-decoders: .venv/installed-test
	$(BIN)/python -m tests.benchmarks.bench_decoders $(DATA) --json bench-decoders.json

bench-gan: .venv/installed-test
	$(BIN)/python -m tests.benchmarks.bench_gan --json bench-gan.json

bench-metrics: .venv/installed-test
	$(BIN)/python -m tests.benchmarks.bench_metrics --json bench-metrics.json

bench-agreement: .venv/installed-test
	$(BIN)/python -m tests.benchmarks.agreement --json bench-agreement.json

bench-planted: .venv/installed-test
	$(BIN)/python -m tests.benchmarks.planted --json bench-planted.json

bench-scorecard: .venv/installed-test
	$(BIN)/python -m tests.benchmarks.bench_scorecard --json bench-scorecard.json

check: .venv/installed-test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(PYTEST) tests/unit -m 'not thorough and not slow and not gpu and not service'

clean:
	rm -rf .venv
