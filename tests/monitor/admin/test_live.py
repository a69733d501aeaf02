"""The live view shows no id that a tap could use."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from monitor.admin.live import MAX_VIEWS, Views, snapshot
from probes.bank import Bank
from tests.monitor.pipeline.rig import Rig


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def test_streams_have_names_that_are_of_no_use(bank: Bank, tmp_path: Path) -> None:
    rig = Rig(bank, tmp_path / "ledger")
    request = "0123456789abcdef01234567"
    rig.frame([(0, 0, 5.0), (1, 0, 0.0), (2, 0, 0.0)], begins=[(0, request, 0), (1, request, 1), (2, "other", 0)])
    first, second, other = (stream["stream"] for stream in snapshot(rig.pipeline)["streams"])
    assert request[:6] not in json.dumps(snapshot(rig.pipeline))
    assert first.removesuffix("#0") == second.removesuffix("#1") != other.removesuffix("#0")
    assert first == snapshot(rig.pipeline)["streams"][0]["stream"]
    assert snapshot(rig.pipeline)["streams"][0]["verdicts"][0]["rule"] == "high"


@pytest.mark.anyio
async def test_views_are_bounded_and_give_their_places_back(bank: Bank, tmp_path: Path) -> None:
    views = Views(Rig(bank, tmp_path / "ledger").pipeline)
    running = [views.snapshots() for _ in range(MAX_VIEWS)]
    for each in running:
        assert not views.full
        await anext(each)
    assert views.full
    await running[0].aclose()
    assert not views.full
    unseen = views.snapshots()
    await unseen.aclose()  # its client went before the first picture
    assert not views.full
    for each in running[1:]:
        await each.aclose()
