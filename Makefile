# Every target stands on .venv, which is made anew when what is pinned changes.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready

.PHONY: run test smoke lint types bench wheel format doctor clean

run: $(STAMP)  ## get the model, start engine and sidecar, print the URLs
	@$(BIN)/barograph up

test: $(STAMP)  ## the whole test suite, on real parts
	$(BIN)/pytest

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

bench: $(STAMP)  ## every figure of the README, one JSON line each
	@for claim in wire gateway_latency tap_overhead; do $(BIN)/python -m benchmarks.$$claim || exit 1; done

doctor: $(STAMP)
	@$(BIN)/barograph doctor

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

wheel: $(STAMP)
	rm -rf dist && $(BIN)/python -m build --wheel

smoke: wheel  ## the tests' smoke part against the installed wheel, outside the repository
	deploy/smoke.sh

$(STAMP): pyproject.toml constraints.txt deploy/venv.sh
	@deploy/venv.sh $(PYTHON) $(VENV)

clean:
	rm -rf $(VENV) dist build *.egg-info
