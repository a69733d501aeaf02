"""One Jaeger for all tests here, and a collector before it that each may kill."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from probes.bank import Bank
from tests.monitor.gateway.scene import Stage
from tests.otel.backend import Collector, Jaeger
from tests.otlp import Came, receiver

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def binaries() -> Path:
    return Path(subprocess.run([ROOT / "deploy" / "otel.sh"], stdout=subprocess.PIPE, text=True, check=True).stdout.strip())


@pytest.fixture(scope="session")
def jaeger(binaries: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jaeger]:
    with Jaeger(binaries / "jaeger", tmp_path_factory.mktemp("jaeger")) as running:
        yield running


@pytest.fixture
def came() -> Iterator[Came]:
    """What the collector passes on of metrics and log lines."""
    with receiver() as found:
        yield found


@pytest.fixture
def collector(binaries: Path, tmp_path: Path, jaeger: Jaeger, came: Came) -> Iterator[Collector]:
    """Not started."""
    made = Collector(binaries / "otelcol", tmp_path, jaeger, came.address)
    yield made
    made.close()


@pytest.fixture
def stage(bank: Bank, tmp_path: Path) -> Stage:
    return Stage(bank, tmp_path)
