"""Fixtures: the real model, its bank, and a whole running Barograph."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from monitor import models
from monitor.config import BANKS
from probes.bank import Bank
from tests.stack import Stack


@pytest.fixture(scope="session")
def bank_folder() -> Path:
    return BANKS / "smollm2-135m-instruct"


@pytest.fixture(scope="session")
def bank(bank_folder: Path) -> Bank:
    return Bank.load(bank_folder)


@pytest.fixture(scope="session")
def model_folder() -> str:
    """The real model's checkpoint; fetched and converted when this machine has not got it."""
    return models.resolve(models.BUNDLED)


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Engine and sidecar with the shipped rules, shared by the tests that only look."""
    with Stack(tmp_path_factory.mktemp("stack")) as running:
        yield running
