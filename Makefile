# Everything a contributor or CI runs. `make` alone lists it; docs/development.md tells the story.
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
GENERATED := crds docs/reference helm/muster
.DEFAULT_GOAL := help

.PHONY: help
help:  ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# --- the environment -------------------------------------------------------------------------------------

.PHONY: environment
environment: .venv/.installed  ## make the virtual environment .venv with all that development needs

.venv/.installed: pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install -qq --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install -qq --editable '.[all]' --group dev
	@touch $@

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; choose one: make environment PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || tests/install python3-venv
	$(PYTHON) -m venv .venv

# --- a first look: Python and nothing else ---------------------------------------------------------------

.PHONY: demo
demo: .venv-demo/.installed  ## see it run: three manifests, a task for each of 1,000 files, on this computer
	@.venv-demo/bin/muster dev examples/quickstart --run 'python examples/quickstart/submit.py'

.venv-demo/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; choose one: make demo PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || tests/install python3-venv
	$(PYTHON) -m venv .venv-demo
	.venv-demo/bin/python -m pip install -qq --disable-pip-version-check --editable '.[local]'
	@touch $@

.PHONY: live-view
live-view: .venv/.installed  ## draw the README's picture of the live view anew, from a real run
	@mkdir -p docs/images
	$(BIN)/muster dev examples/quickstart --run 'python examples/quickstart/submit.py' \
	  --save-picture docs/images/live-view.svg

.PHONY: servers
servers:  ## install redis-server, rabbitmq-server and haproxy where they are missing, as root on Debian
	@for each in redis-server rabbitmq-server haproxy; do PATH=$$PATH:/usr/sbin command -v $$each >/dev/null || tests/install $$each; done

# --- before a commit: no server, two minutes -------------------------------------------------------------

.PHONY: check
check: static  ## all that needs no server: generate, format, lint, types, layers, unit and property tests
	$(BIN)/pytest -n 2 -m 'not servers and not e2e and not slow' tests/unit tests/contract tests/structure tests/simulation

.PHONY: static
static: generate format lint types layers unchanged  ## what reads the code without running it

.PHONY: generate
generate: .venv/.installed  ## write what is made of the Python types: CRDs, reference pages, the chart's values
	$(BIN)/python -m muster_operator.api.generate
	$(BIN)/python -m muster.reference
	$(BIN)/python -m muster_operator.chart.generate

.PHONY: format
format: .venv/.installed  ## format the code; in CI: complain if it is not
	$(BIN)/ruff format --quiet $(if $(CI),--diff) .

.PHONY: lint
lint: .venv/.installed  ## ruff's rules
	$(BIN)/ruff check --quiet .

.PHONY: types
types: .venv/.installed  ## mypy, strict
	$(BIN)/mypy

.PHONY: layers
layers: .venv/.installed  ## who may import whom
	$(BIN)/lint-imports --no-logo

.PHONY: unchanged
unchanged: generate  ## fail if generated files differ from what is committed or staged
	@new=$$(git ls-files --others --exclude-standard -- $(GENERATED)); \
	  git diff --exit-code -- $(GENERATED) && [ -z "$$new" ] || \
	  { echo "generated files differ from what is committed or staged, add them: $$new"; exit 1; }

# --- everything ------------------------------------------------------------------------------------------

.PHONY: test
test: static servers cluster  ## everything, with real Redis and the kind cluster; installs what is missing
	$(BIN)/pytest -n 2 --durations=40

.PHONY: cluster
cluster:  ## bring up the kind cluster of kind-config.yaml, or mend it
	tests/cluster/up

.PHONY: cluster-down
cluster-down:  ## remove it
	tests/cluster/down

# `make soak TIMES=2 MINUTES=15 WITHOUT_CLUSTER=1 SOAK='-k redis'` runs a part of it. A test that is longer so many
# times over may last as much longer before pytest takes it for stuck and writes down where it stands.
TIMES ?= 10
.PHONY: soak
soak: .venv/.installed servers $(if $(WITHOUT_CLUSTER),,cluster)  ## the tests of what must survive, ten times as long; writes docs/reports/soak.md
	$(BIN)/pytest -m 'soak$(if $(WITHOUT_CLUSTER), and not e2e)' --times=$(TIMES) \
	  -o faulthandler_timeout=$$((300 * $(TIMES))) \
	  $(if $(MINUTES),--minutes=$(MINUTES)) --soak-report=docs/reports/soak.md tests $(SOAK)

# --- figures ---------------------------------------------------------------------------------------------

.PHONY: bench
bench: .venv/.installed servers  ## measure Muster beside Celery on the same work, ratios first
	$(BIN)/python bench/run.py $(BENCH)

.PHONY: images
images:  ## build the images of worker, operator and examples
	tests/cluster/images

.PHONY: install
install: cluster  ## install Muster on the kind cluster, with images built from this checkout
	tests/cluster/install
