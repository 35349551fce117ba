# `make app` and `make test` do all the set-up; nothing else needs to be run before.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: app test quick soak fuzz lint constraints benchmark quality pictures browser

app: $(VENV)/app
	$(BIN)/python app.py

test: $(VENV)/dev browser
	$(BIN)/python -m pytest

# What needs no server, no browser and no network: under a minute once the weights are there.
quick: $(VENV)/dev
	$(BIN)/python -m pytest -m "not slow and not browser and not network"

# Load, overload, leavers, hostile requests and a long run; then weights, killed and raced for. An hour on two cores.
soak: $(VENV)/dev
	$(BIN)/python tests/soak.py
	$(BIN)/python tests/soak_weights.py

# Damaged files and other nonsense, at random: fuzz SECONDS=600 SEED=2
fuzz: $(VENV)/dev
	$(BIN)/python tests/fuzz.py --seconds $(or $(SECONDS),60) --seed $(or $(SEED),1)

lint: $(VENV)/dev
	rm -f background_remover/page/*.pyi  # which Gradio writes, and mypy would read instead
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/hadolint Dockerfile docs/cluster/Dockerfile
	$(BIN)/python .ci/audit.py

pictures: $(VENV)/dev browser
	$(BIN)/python docs/pictures.py
	$(BIN)/python docs/screenshots.py

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

benchmark: $(VENV)/benchmark browser
	$(BIN)/python benchmarks/speed.py
	$(BIN)/python benchmarks/programs.py
	$(BIN)/python benchmarks/catalogues.py
	$(BIN)/python benchmarks/page.py

# The newest versions that the requirements allow, for all others to use; run the tests before committing them.
constraints:
	rm -rf $(VENV)-newest
	$(PYTHON) -m venv $(VENV)-newest
	$(VENV)-newest/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-benchmark.txt
	$(VENV)-newest/bin/python -m pip install --quiet --disable-pip-version-check --no-deps pysodmetrics
	$(VENV)-newest/bin/python -m pip freeze | sed 's/+[^ ]*$$//' > constraints.txt
	rm -rf $(VENV)-newest

# PAIRS=folder measures photos with known alpha as well: folder/input/NAME, folder/alpha/NAME
quality: $(VENV)/benchmark
	$(BIN)/python benchmarks/quality.py $(if $(PAIRS),--pairs $(PAIRS))
	$(BIN)/python benchmarks/classes.py $(if $(PAIRS),--pairs $(PAIRS))
	$(BIN)/python benchmarks/refinement.py $(if $(PAIRS),--pairs $(PAIRS))
	$(BIN)/python benchmarks/precision.py $(if $(PAIRS),--pairs $(PAIRS))

$(VENV)/app: requirements.txt constraints.txt | $(VENV)/bin/python
	$(PIP) -r requirements.txt
	touch $@

$(VENV)/dev: requirements-dev.txt requirements-batch.txt requirements.txt constraints.txt | $(VENV)/bin/python
	$(PIP) -r requirements-dev.txt
	touch $@

$(VENV)/benchmark: requirements-benchmark.txt requirements-dev.txt requirements-batch.txt requirements.txt constraints.txt | $(VENV)/bin/python
	$(PIP) -r requirements-benchmark.txt
	$(PIP) --no-deps pysodmetrics  # pins older packages than it needs
	touch $@

# Debian's Chromium where there is one or apt may install it, else playwright's own; and Debian's Firefox.
browser: $(VENV)/dev
	@command -v chromium >/dev/null \
	|| { command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ] \
	     && apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium >/dev/null; } \
	|| $(BIN)/python -m playwright install chromium \
	|| echo "No browser could be had: the browser tests will be skipped."
	@command -v firefox-esr >/dev/null || command -v firefox >/dev/null \
	|| { command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ] \
	     && apt-get update -qq && apt-get install -y -qq --no-install-recommends firefox-esr >/dev/null; } \
	|| echo "No Firefox could be had: its test will be skipped."
