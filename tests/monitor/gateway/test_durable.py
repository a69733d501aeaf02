"""What is acted on is durable first: nothing of it leaves while the disk takes its time."""

from __future__ import annotations

import asyncio
import os
import threading
from typing import Any

import httpx
import pytest

from tests.monitor.gateway.scene import ASK, CHAT, DONE, Exchange, Scene, Stage, chunk, error, scored, text, usage
from tests.monitor.gateway.test_reroute import BAD, said, there
from tests.monitor.gateway.test_reroute import RULES as TURNING

HALTED = scored(chunk("", 0, role="assistant"), *(chunk(f"w{i} ", i + 1) for i in range(6)), usage(6), DONE, panic=BAD)
QUIET = scored(chunk("", 0, role="assistant"), chunk("a", 1), chunk("b", 2, finish="stop"), usage(2), DONE, panic=(0.0, 0.0))


class SlowDisk:
    """After `hold` syncs come back late: after `seconds`, or when they are released."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._free = threading.Event()
        self._free.set()
        sync = os.fdatasync

        def slow(file: int) -> None:
            self._free.wait(60)
            sync(file)

        monkeypatch.setattr(os, "fdatasync", slow)

    def hold(self, seconds: float | None) -> None:
        self._free.clear()
        if seconds is not None:
            asyncio.get_running_loop().call_later(seconds, self._free.set)

    def release(self) -> None:
        self._free.set()

    @property
    def held(self) -> bool:
        return not self._free.is_set()


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> SlowDisk:
    return SlowDisk(monkeypatch)


def play(stage: Stage, disk: SlowDisk, script: Any, durability: str, waits: bool, **body: Any) -> tuple[httpx.Response, bool]:
    """The answer, and whether the disk still took its time when it was whole. Where nobody is to wait, the disk never comes back."""

    async def act(client: httpx.AsyncClient, scene: Scene) -> tuple[httpx.Response, bool]:
        scene.rig.ledger.durability = durability  # type: ignore[assignment]
        scene.rig.ledger.flush()
        disk.hold(0.5 if waits else None)
        answer = await client.post(CHAT, json={**ASK, **body})
        held = disk.held
        disk.release()
        return answer, held

    found: tuple[httpx.Response, bool] = stage.play(script, act, judge_timeout_s=5)
    return found


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("durability", ["sync", "group", "async"])
def test_a_halt_leaves_when_its_verdict_is_durable(stage: Stage, disk: SlowDisk, durability: str, stream: bool) -> None:
    answer, held = play(stage, disk, HALTED, durability, durability != "async", stream=stream)
    assert "content_filter" in answer.text
    assert held is (durability == "async")


@pytest.mark.parametrize("durability", ["sync", "group", "async"])
def test_what_is_not_acted_on_waits_only_with_sync(stage: Stage, disk: SlowDisk, durability: str) -> None:
    answer, held = play(stage, disk, QUIET, durability, durability == "sync", stream=True)
    assert text(answer) == "ab"
    assert held is (durability != "sync")


def test_a_target_is_asked_when_the_intent_is_durable(stage: Stage, disk: SlowDisk) -> None:
    held: list[bool] = []
    answers = there(*said("x "))

    async def target(exchange: Exchange) -> None:
        if exchange.asked.get("stream") if exchange.method == "POST" else False:
            held.append(disk.held)
        await answers(exchange)

    async def act(client: httpx.AsyncClient, scene: Scene) -> httpx.Response:
        await scene.gateway.engine.targets["safe"].look(scene.rig.pipeline.streams)
        scene.rig.ledger.flush()
        disk.hold(0.5)
        return await client.post(CHAT, json={**ASK, "stream": True})

    answer = stage.play(HALTED, act, there=target, rules=TURNING, judge_timeout_s=5)
    assert text(answer).endswith("x ")
    assert held == [False]


@pytest.mark.parametrize("decision", ["closed", "open"])
def test_a_disk_that_fails_is_a_setting(stage: Stage, monkeypatch: pytest.MonkeyPatch, decision: str) -> None:
    async def script(exchange: Exchange) -> None:
        stream = exchange.begin()
        exchange.scene.rig.ledger.flush()
        monkeypatch.setattr(os, "fdatasync", broken)
        exchange.scores(stream, 0, *BAD)
        exchange.start()
        exchange.send(chunk("", 0, role="assistant"), *(chunk(f"w{i} ", i + 1) for i in range(6)), usage(6), DONE)

    def broken(file: int) -> None:
        raise OSError(5, "Input/output error")

    answer = stage.ask(script, settings={"on_ledger_failure": decision}, stream=True)
    if decision == "closed":
        assert error(answer)["code"] == "ledger"
        assert "content_filter" not in answer.text
    else:
        assert "content_filter" in answer.text


@pytest.mark.parametrize("setting", ["closed", "open"])
def test_a_target_that_is_not_asked_because_of_the_ledger_is_a_decision_that_counts(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    asked: list[bool] = []
    answers = there(*said("x "))

    async def target(exchange: Exchange) -> None:
        if exchange.method == "POST" and exchange.asked.get("stream"):
            asked.append(True)
        await answers(exchange)

    async def act(client: httpx.AsyncClient, scene: Scene) -> tuple[httpx.Response, float]:
        await scene.gateway.engine.targets["safe"].look(scene.rig.pipeline.streams)

        async def never(number: int, seconds: float = 5.0) -> bool:
            return False

        monkeypatch.setattr(scene.rig.ledger, "durable", never)
        answer = await client.post(CHAT, json={**ASK, "stream": True})
        decisions = scene.rig.sample("barograph_failure_decisions_total", condition="ledger", decision=setting)
        return answer, decisions or 0

    answer, decisions = stage.play(HALTED, act, there=target, rules=TURNING, on_ledger_failure=setting)
    assert bool(asked) is (setting == "open")
    assert decisions >= 1
    assert answer.status_code == 200
