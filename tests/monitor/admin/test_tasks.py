"""No task of the sidecar dies silently."""

from __future__ import annotations

import asyncio
import logging

import pytest
from prometheus_client import CollectorRegistry

from monitor.admin import tasks as supervising
from monitor.admin.tasks import Tasks
from monitor.sinks.prometheus import Metrics
from probes.bank import Bank
from probes.drift import Drift
from tests.stack import PATIENCE_S

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def tasks(bank: Bank, registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch) -> Tasks:
    monkeypatch.setattr(supervising, "AGAIN_S", 0.01)
    return Tasks(Metrics(registry, bank.names, Drift(bank, 100)))


@pytest.mark.parametrize("end", ["raise", "return"])
async def test_a_task_that_dies_is_said_counted_and_started_again(
    tasks: Tasks, registry: CollectorRegistry, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    lives = 0
    alive = asyncio.Event()

    async def work() -> None:
        nonlocal lives
        lives += 1
        if lives == 3:
            alive.set()
            await asyncio.Event().wait()
        if end == "raise":
            raise ValueError("no good")

    assert tasks.failed == ""
    tasks.keep("worker", work)
    await asyncio.wait_for(alive.wait(), PATIENCE_S)
    assert tasks.failed == ("worker: ValueError: no good" if end == "raise" else "worker: it ended")
    assert registry.get_sample_value("barograph_task_failures_total", {"task": "worker"}) == 2
    assert end == "return" or "the task 'worker' died" in caplog.text
    monkeypatch.setattr(supervising, "WELL_S", 0.0)  # it has lived for long enough
    assert tasks.failed == ""
    tasks.close()


async def test_work_that_is_done_once_may_end_and_may_not_die_silently(tasks: Tasks, caplog: pytest.LogCaptureFixture) -> None:
    async def good() -> str:
        return "done"

    async def bad() -> None:
        raise OSError("broken")

    with caplog.at_level(logging.ERROR):
        tasks.once("good", good)
        tasks.once("bad", bad)
        while not tasks.failed:
            await asyncio.sleep(0)
    assert tasks.failed == "bad: OSError: broken"
    tasks.close()
