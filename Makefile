# Two commands matter: `make serve` and `make test`. Both set everything up first.
PYTHON ?= python3
VENV ?= .venv
# Another wheel index for pip, if you need one, e.g. PIP_INDEX="--index-url https://..."
PIP_INDEX ?=
BIN := $(VENV)/bin
ARGS ?=
FUZZ_SECONDS ?= 180
FUZZ_EXAMPLES ?= 1000

.PHONY: setup setup-test setup-clients setup-bench setup-fuzz setup-browser serve test test-clients test-browser test-schemas fuzz check format bench trouble clean

setup: $(VENV)/.setup
setup-test: $(VENV)/.setup-test
setup-clients: $(VENV)/.setup-clients
setup-bench: $(VENV)/.setup-bench
setup-fuzz: $(VENV)/.setup-fuzz
setup-browser: $(VENV)/.setup-browser

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.setup: pyproject.toml setup.py | $(BIN)/python
	$(BIN)/python -m pip install --quiet $(PIP_INDEX) --editable .
	touch $@

$(VENV)/.setup-test: pyproject.toml setup.py | $(BIN)/python
	$(BIN)/python -m pip install --quiet $(PIP_INDEX) --editable ".[test]"
	touch $@ $(VENV)/.setup

$(VENV)/.setup-clients: pyproject.toml setup.py | $(BIN)/python
	$(BIN)/python -m pip install --quiet $(PIP_INDEX) --editable ".[clients]"
	touch $@ $(VENV)/.setup-test $(VENV)/.setup

# llama.cpp is compiled for this processor, which takes ten minutes on two cores.
$(VENV)/.setup-bench: pyproject.toml setup.py | $(BIN)/python
	CMAKE_ARGS="-DGGML_NATIVE=ON" $(BIN)/python -m pip install --quiet $(PIP_INDEX) \
		--no-binary llama-cpp-python --editable ".[peers]"
	touch $@ $(VENV)/.setup

$(VENV)/.setup-fuzz: pyproject.toml setup.py | $(BIN)/python
	$(BIN)/python -m pip install --quiet $(PIP_INDEX) --editable ".[fuzz]"
	touch $@ $(VENV)/.setup-test $(VENV)/.setup

$(VENV)/.setup-browser: pyproject.toml setup.py | $(BIN)/python
	$(BIN)/python -m pip install --quiet $(PIP_INDEX) --editable ".[browser]"
	touch $@ $(VENV)/.setup-test $(VENV)/.setup

serve: setup
	$(BIN)/gpt2-server serve $(ARGS)

test: setup-test
	$(BIN)/python -m pytest $(ARGS)

# Programs that others wrote, against a live server; they bring many packages of their own.
test-clients: setup-clients
	$(BIN)/python -m pytest -m clients tests/clients $(ARGS)

# The page in a browser that is on this machine, or that Debian's packages bring; its screenshots
# go to PAGE_PICTURES, if that names a folder.
test-browser: setup-browser
	@.ci/browser || true
	$(BIN)/python -m pytest -m browser tests/browser $(ARGS)

# Constrained decoding by 500 random schemas, of which `make test` takes 60.
test-schemas: setup-test
	NUM_SCHEMAS=500 $(BIN)/python -m pytest tests/engine/test_grammars.py $(ARGS)

# Everything that reads what others send or wrote: FUZZ_SECONDS for each reader, and FUZZ_EXAMPLES
# requests of each route. TARGETS="json_body task" names some readers; without any, all.
fuzz: setup-fuzz
	$(BIN)/python -m tests.fuzz.run --seconds $(FUZZ_SECONDS) $(TARGETS)
	FUZZ_EXAMPLES=$(FUZZ_EXAMPLES) $(BIN)/python -m pytest -m fuzz tests/fuzz/test_api.py $(ARGS)

check: setup-test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/bandit --quiet --configfile pyproject.toml --recursive model weights engine server training bench
	$(BIN)/python .ci/audit.py

format: setup-test
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# The peers are bench's extra `peers`; one that is missing is named and left out.
bench: setup-bench
	$(BIN)/gpt2-server bench offline $(ARGS)
	$(BIN)/gpt2-server bench peers $(ARGS)

# Servers of its own on this machine's loopback; exit code 1 if a promise is broken.
SOAK_MINUTES ?= 10
trouble: setup
	$(BIN)/gpt2-server bench trouble --soak-minutes $(SOAK_MINUTES) $(ARGS)

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
