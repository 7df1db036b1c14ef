# The targets a developer uses. Each prepares what it needs first (tools/setup.sh) and can be repeated at will.
.DEFAULT_GOAL := help
.PHONY: help setup demo image test nightly lint format bench bench-acceleration clean

PY := .venv/bin/python
PYTEST_ARGS ?=
IMAGE_ARGS ?=

help:
	@echo "make demo     build, push, list and run the example images for 7 platforms"
	@echo "make image    build the image of the daemon, for containers and Kubernetes (IMAGE_ARGS='--tag ... --push')"
	@echo "make test     run the tests (PYTEST_ARGS='-k name' for some of them)"
	@echo "make nightly  run the slow tests too"
	@echo "make lint     ruff, mypy, import-linter"
	@echo "make format   let ruff format the code"
	@echo "make bench    measure side by side with buildah, write docs/bench.md"
	@echo "make bench-acceleration  the same for native twins of emulated programs"
	@echo "make setup    only prepare .venv"
	@echo "make clean    remove everything that was made here"

setup:
	@tools/setup.sh base

demo:
	@tools/setup.sh demo
	@$(PY) examples/demo.py

image:
	@tools/setup.sh demo
	@$(PY) tools/image.py $(IMAGE_ARGS)

test:
	@tools/setup.sh test
	$(PY) -m pytest -n 2 -m "not slow" $(PYTEST_ARGS)

nightly:
	@tools/setup.sh test
	@tools/setup.sh nightly
	$(PY) -m pytest -n 2 $(PYTEST_ARGS)

lint:
	@tools/setup.sh lint
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	.venv/bin/lint-imports

format:
	@tools/setup.sh lint
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

bench:
	@tools/setup.sh bench
	$(PY) bench/run.py

bench-acceleration:
	@tools/setup.sh bench
	$(PY) bench/acceleration.py

clean:
	rm -rf .venv .cache .demo .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis build dist
	find src tests bench examples tools -name __pycache__ -type d -prune -exec rm -rf {} +
