"""Spans through a real collector to a real Jaeger: as they should arrive, and when the collector is away, slow, and back."""

from __future__ import annotations

import asyncio
import gc
import os
import secrets
import statistics
import time
from pathlib import Path
from typing import Any

import httpx
from prometheus_client import CollectorRegistry

from monitor.config import OtelConfig
from monitor.sinks import otel
from monitor.sinks.otel import Tracing
from monitor.sinks.prometheus import Metrics
from probes.bank import Bank
from probes.drift import Drift
from tests.monitor.gateway.scene import ASK, CHAT, Scene, Stage
from tests.monitor.gateway.test_traces import reply
from tests.otel.backend import Collector, Jaeger
from tests.stack import eventually

ROUND = 25  # requests whose median is compared
GROWTH = 48 << 20  # bytes: a full queue of spans, and what the client of the collector holds


def trace(scene: Scene, collector: Collector) -> Tracing:
    scene.gateway._tracing = Tracing(OtelConfig(endpoint=collector.endpoint, timeout_s=1), scene.rig.pipeline.metrics)
    return scene.gateway._tracing


async def ask(client: httpx.AsyncClient) -> tuple[str, float]:
    """The trace that the client began, and how long the whole reply took."""
    number, begun = secrets.token_hex(16), time.perf_counter()
    answer = await client.post(CHAT, json=ASK, headers={"traceparent": f"00-{number}-b7ad6b7169203331-01"})
    assert answer.status_code == 200
    return number, time.perf_counter() - begun


async def asked(client: httpx.AsyncClient, scene: Scene, times: int) -> tuple[list[str], float]:
    """Several one after another, until the span of each has ended."""
    some = [await ask(client) for _ in range(times)]
    await scene.until(lambda: len(scene.rig.records("reply")) == len(scene.seen), "the replies are recorded")
    return [number for number, _ in some], statistics.median(took for _, took in some)


def arrived(jaeger: Jaeger, numbers: list[str]) -> Any:
    return eventually(lambda: (spans := [jaeger.trace(number) for number in numbers]) and all(spans) and spans, "Jaeger has the spans", 90)


def resident() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def plain(pairs: list[dict[str, Any]]) -> dict[str, Any]:
    return {pair["key"]: pair["value"] for pair in pairs}


def test_a_generation_is_found_in_jaeger(stage: Stage, collector: Collector, jaeger: Jaeger) -> None:
    async def act(client: httpx.AsyncClient, scene: Scene) -> tuple[str, str]:
        tracing = trace(scene, collector)
        number, _ = await ask(client)
        await scene.until(lambda: scene.rig.records("reply"), "the reply is recorded")
        await asyncio.to_thread(tracing.close)
        return number, scene.seen[-1].headers["traceparent"]

    collector.start()
    number, engine = stage.play(reply(0.0, 9.0, 9.0), act)
    (((span,),)) = arrived(jaeger, [number])
    assert span["operationName"] == "chat m"
    assert [(each["refType"], each["spanID"]) for each in span["references"]] == [("CHILD_OF", "b7ad6b7169203331")]
    assert engine == f"00-{number}-{span['spanID']}-01"  # the engine's own spans hang below ours
    about = plain(span["tags"])
    assert {name: about[name] for name in (otel.OPERATION, otel.MODEL, otel.OUTPUT, "span.kind", "barograph.judged")} == {
        otel.OPERATION: "chat", otel.MODEL: "m", otel.OUTPUT: 1, "span.kind": "client", "barograph.judged": "judged",
    }  # fmt: skip
    assert "content_filter" in about[otel.REASONS]
    event = next(said for each in span["logs"] if (said := plain(each["fields"]))[otel.LABEL] == "halt")
    assert event["event"] == "gen_ai.evaluation.result"
    assert (event[otel.RULE], event[otel.VALUE], event["barograph.position"], event["barograph.mode"]) == ("high", 9, 1, "armed")
    assert "secret" not in str(span)


def test_a_collector_that_comes_late_gets_what_comes_then(stage: Stage, collector: Collector, jaeger: Jaeger) -> None:
    async def act(client: httpx.AsyncClient, scene: Scene) -> None:
        tracing = trace(scene, collector)
        await asked(client, scene, 3)
        await until(scene, "lost", 3)
        await asyncio.to_thread(collector.start)
        later, _ = await asked(client, scene, 3)
        await until(scene, "", 3)
        await asyncio.to_thread(tracing.close)
        assert count(scene, "lost") == 3
        await asyncio.to_thread(arrived, jaeger, later)

    stage.play(reply(0.0, 1.0), act)


def test_a_collector_that_hangs_costs_spans_and_nothing_else(stage: Stage, collector: Collector, jaeger: Jaeger) -> None:
    async def act(client: httpx.AsyncClient, scene: Scene) -> None:
        tracing = trace(scene, collector)
        _, well = await asked(client, scene, ROUND)
        await until(scene, "", ROUND)
        collector.stop_answering()
        _, hanging = await asked(client, scene, ROUND)
        await until(scene, "lost", 1)
        _, still = await asked(client, scene, ROUND)
        collector.go_on()
        later = []
        while count(scene, "") == ROUND:  # what went while it hung is lost; the next arrives
            numbers, _ = await asked(client, scene, 1)
            later += numbers
            await asyncio.sleep(0.2)
        last, _ = await asked(client, scene, 3)
        await asyncio.to_thread(tracing.close)
        await asyncio.to_thread(arrived, jaeger, last)
        assert count(scene, "") + count(scene, "lost") == 3 * ROUND + len(later) + 3
        assert max(hanging, still) < 5 * well + 0.05

    collector.start()
    stage.play(reply(0.0, 1.0), act)


def test_spans_beyond_what_may_wait_are_counted(bank: Bank, collector: Collector) -> None:
    """Far more than the queue takes, while the collector hangs: memory is bounded, each is counted once, and an end does not wait for all."""
    registry = CollectorRegistry()
    metrics = Metrics(registry, bank.names, Drift(bank, 100))
    number = 5 * otel.QUEUE
    collector.start()
    collector.stop_answering()
    tracing = Tracing(OtelConfig(endpoint=collector.endpoint, timeout_s=1), metrics)
    size = 0
    for i in range(number):
        if i == otel.QUEUE:
            size = resident()
        tracing.begin({}, CHAT, "m").end("ended", "judged", {}, (), (), "vllm")
    grown = resident() - size
    begun = time.monotonic()
    tracing.close()
    took = time.monotonic() - begun
    found = {name: registry.get_sample_value(f"barograph_otel_spans{name}_total") for name in ("", "_lost")}
    assert found == {"": 0, "_lost": number}
    assert grown < GROWTH
    assert took < 25  # eight batches wait, each for a second at most; more than one of them is not tried


def count(scene: Scene, what: str) -> float:
    return scene.rig.sample(f"barograph_otel_spans{what and '_' + what}_total") or 0.0


async def until(scene: Scene, what: str, atleast: int) -> None:
    await asyncio.to_thread(eventually, lambda: count(scene, what) >= atleast, f"{atleast} spans {what or 'sent'}", 60)
