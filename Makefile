# Each target installs what it needs by itself, says what, and does nothing twice.
PY := .venv/bin

.PHONY: demo test test-qemu lint bench image-check manifests lock docs help

help:            ## Show what there is
	@sed -n 's/^\([a-z-]*\): *\(.*\)##\(.*\)/  make \1\t\3/p' $(MAKEFILE_LIST)

demo:            ## A three-node cluster on a real IPVS kernel: services, BGP and policy at work
	@.ci/install demo
	@$(PY)/kuberouterpy lab demo

test:            ## All tests, those on the real kernel included
	@.ci/install test
	@$(PY)/pytest

test-qemu:       ## What User-Mode Linux lacks, FoU under ipip, on Debian's own kernel in software emulation (slow)
	@.ci/install qemu
	@$(PY)/pytest --engine qemu tests/contract/test_tunnels.py -k "iproute2 or one_clear"

lint:            ## Style, types and import contracts
	@.ci/install test
	@$(PY)/ruff check .
	@$(PY)/ruff format --check .
	@$(PY)/mypy
	@$(PY)/lint-imports --no-cache

bench:           ## Figures as ratios against named references in the same run
	@.ci/install test
	@for script in tests/bench/*.py; do echo "== $$script"; $(PY)/python $$script || exit 1; done

image-check:     ## Build the image from Debian's packages, without a registry, and run its agent in the lab
	@.ci/install image
	@manifests/image/check

docs:            ## The documents as a site, in site/
	@.ci/install docs
	@NO_MKDOCS_2_WARNING=1 $(PY)/mkdocs build --strict --quiet

manifests:       ## Plain manifests and kustomize overlays from the chart
	@.ci/install test
	@$(PY)/python manifests/render.py

lock:            ## The wheels of the image, each by its hashes (needs pip-tools)
	@for name in requirements build; do \
	  source=pyproject.toml; \
	  [ $$name = requirements ] || { source=build/build.in; mkdir -p build; echo 'hatchling>=1.21' >$$source; }; \
	  pip-compile --quiet --generate-hashes --no-emit-index-url --no-header --no-annotate --strip-extras \
	    --output-file=manifests/image/$$name.lock $$source || exit 1; \
	done
