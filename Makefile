# Every target stands on .venv, which is made anew when what is pinned changes.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready
VLLM := .venv-vllm
TLOG := .venv-tlog
STREAMS := .venv-streams

.PHONY: run test test-vllm test-kafka test-otel test-images test-cluster test-models abuse soak images image-engine smoke lint types audit docs release bench bench-vllm wheel format doctor clean

run: $(STAMP)  ## get the model, start engine and sidecar, print the URLs
	@$(BIN)/barograph up

test: $(STAMP) $(TLOG)/.ready $(STREAMS)/.ready  ## the whole test suite, on real parts, in two processes of a thread each
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile

test-vllm: $(VLLM)/.ready  ## the tap on a real vLLM server, in an environment of its own (about 4 GB)
	$(VLLM)/bin/python -m pytest tests/vllm

test-kafka: $(STAMP)  ## the publisher on a real Apache Kafka; needs Java 17 and Maven
	$(BIN)/pytest tests/kafka

test-otel: $(STAMP)  ## spans through a real collector to a real Jaeger; needs Go, which builds both once, in minutes
	$(BIN)/pytest tests/otel

images: $(STAMP)  ## the sidecar's container image and its bill of materials, in build/images; needs root, buildah and mmdebstrap
	deploy/images.sh sidecar

image-engine: $(STAMP)  ## the engine's; for CPUs, or with CUDA=1 for NVIDIA. Gigabytes
	deploy/images.sh engine

test-images: $(STAMP)  ## the sidecar's image built twice, looked into, and run under runc
	$(BIN)/pytest tests/images

test-cluster: $(STAMP)  ## the chart on a real API server; needs Go, 4 GB of memory and 4 GB of disk, and about half an hour the first time
	$(BIN)/pytest tests/cluster

test-models: $(STAMP)  ## a bank for a model of a third family, which is fetched (238 MB) and fitted in minutes
	$(BIN)/pytest tests/models

abuse: $(STAMP)  ## a day of abuse in minutes: what must hold whatever is done to a running sidecar
	$(BIN)/pytest tests/abuse

soak: $(STAMP)  ## the same for a day, or SECONDS=…; SEED=… repeats an order
	$(BIN)/python -m tests.abuse --seconds $(or $(SECONDS),86400) --seed $(or $(SEED),0) --report

audit: $(STAMP)  ## what a sidecar is made of, against the advisory database
	$(BIN)/python -m deploy.audit

docs: $(STAMP)  ## the pages as a site, in build/site
	$(BIN)/python -m deploy.site build/site

release: $(STAMP)  ## sdist, wheel, chart, dashboards, bill of materials and checksums, in build/release
	rm -rf build/release && $(BIN)/python -m deploy.release build/release

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

bench: $(STAMP)  ## every figure of the README, one JSON line each
	@for claim in wire gateway_latency tap_overhead rules packs ledger; do $(BIN)/python -m benchmarks.$$claim || exit 1; done

bench-vllm: $(VLLM)/.ready  ## those of docs/benchmarks.md
	$(VLLM)/bin/python -m pip install --quiet --no-deps undercurrent==0.1.0
	$(VLLM)/bin/python -m benchmarks.tap_overhead --engine vllm --pairs 24
	$(VLLM)/bin/python -m benchmarks.tap_overhead --engine vllm --control --pairs 16
	$(VLLM)/bin/python -m benchmarks.tables
	$(VLLM)/bin/python -m benchmarks.peers --pairs 16

doctor: $(STAMP)
	@$(BIN)/barograph doctor

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

wheel: $(STAMP)
	rm -rf dist build/lib build/bdist.* && $(BIN)/python -m build --wheel

smoke: wheel  ## the tests' smoke part against the installed wheel, outside the repository
	deploy/smoke.sh

$(STAMP): pyproject.toml constraints.txt deploy/venv.sh
	@deploy/venv.sh $(PYTHON) $(VENV)

$(VLLM)/.ready: pyproject.toml deploy/venv-vllm.sh
	@deploy/venv-vllm.sh $(PYTHON) $(VLLM)

$(TLOG)/.ready: deploy/venv-tlog.sh
	@deploy/venv-tlog.sh $(TLOG)

$(STREAMS)/.ready: deploy/venv-streams.sh
	@deploy/venv-streams.sh $(PYTHON) $(STREAMS)

clean:
	rm -rf $(VENV) $(VLLM) $(TLOG) $(STREAMS) dist build *.egg-info
