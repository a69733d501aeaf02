from __future__ import annotations

from pathlib import Path

import pytest

from probes.bank import Bank
from tests.monitor.gateway.scene import Stage


@pytest.fixture
def stage(bank: Bank, tmp_path: Path) -> Stage:
    return Stage(bank, tmp_path)
