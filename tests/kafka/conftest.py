"""One broker for all tests here; each has topics of its own."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from monitor.sinks.topics import PASSWORD
from probes.bank import Bank
from tests.kafka.broker import ROOT, USERS, Broker
from tests.kafka.publication import Publication


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    jars = subprocess.run([ROOT / "deploy" / "kafka.sh"], stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
    with Broker(tmp_path_factory.mktemp("kafka"), jars) as running:
        yield running


@pytest.fixture
def publication(broker: Broker, tmp_path: Path, bank: Bank, monkeypatch: pytest.MonkeyPatch) -> Iterator[Publication]:
    """Not started. It comes as `barograph`, over TLS, and knows its password."""
    monkeypatch.setenv(PASSWORD, USERS["barograph"])
    made = Publication(broker, tmp_path, bank)
    yield made
    made.publisher.close()
