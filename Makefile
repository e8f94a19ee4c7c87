# Each target installs what it needs by itself, says what, and does nothing twice.
PY := .venv/bin

.PHONY: demo test lint bench help

help:            ## Show what there is
	@sed -n 's/^\([a-z-]*\): *\(.*\)##\(.*\)/  make \1\t\3/p' $(MAKEFILE_LIST)

demo:            ## A three-node cluster on a real IPVS kernel: services, BGP and policy at work
	@.ci/install demo
	@$(PY)/kuberouterpy lab demo

test:            ## All tests, those on the real kernel included
	@.ci/install test
	@$(PY)/pytest

lint:            ## Style, types and import contracts
	@.ci/install test
	@$(PY)/ruff check .
	@$(PY)/ruff format --check .
	@$(PY)/mypy
	@$(PY)/lint-imports --no-cache

bench:           ## Figures as ratios against named references in the same run
	@.ci/install test
	@for script in tests/bench/*.py; do echo "== $$script"; $(PY)/python $$script || exit 1; done
