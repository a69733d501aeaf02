"""A generation's span, as a collector gets it: over real OTLP, decoded with the protocol's own messages."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from prometheus_client.exposition import choose_encoder

from monitor.config import OtelConfig
from monitor.sinks import otel
from monitor.sinks.otel import Tracing
from tests.monitor.gateway.scene import ASK, CHAT, DONE, Exchange, Scene, Stage, chunk, usage
from tests.otlp import attributes, receiver
from tests.stack import free_port

CLIENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def openmetrics(scene: Scene) -> str:
    encode, _ = choose_encoder("application/openmetrics-text; version=1.0.0")
    return encode(scene.rig.pipeline.metrics.registry).decode()


def reply(*scores: float) -> Any:
    async def script(exchange: Exchange) -> None:
        stream = exchange.begin()
        exchange.scores(stream, 0, *scores)
        exchange.start()
        exchange.send(chunk("", 0, role="assistant"), *(chunk(f"secret{i} ", i + 1) for i in range(len(scores) - 1)))
        exchange.send(chunk("end", len(scores), finish="stop"), usage(len(scores)), DONE)
        exchange.end(stream, len(scores))

    return script


def traced(stage: Stage, address: str, script: Any, headers: dict[str, str], **body: Any) -> tuple[httpx.Response, str, Any]:
    """The answer, the traceparent that the engine got, and how often spans went and were lost."""

    async def act(client: httpx.AsyncClient, scene: Scene) -> tuple[httpx.Response, str, Any]:
        tracing = scene.gateway._tracing = Tracing(OtelConfig(endpoint=address, timeout_s=1), scene.rig.pipeline.metrics)
        answer = await client.post(CHAT, json={**ASK, **body}, headers=headers)
        await scene.until(lambda: scene.rig.records("reply"), "the reply is recorded")
        await asyncio.to_thread(tracing.close)
        counts = [scene.rig.sample(f"barograph_otel_spans{name}_total") for name in ("", "_lost")]
        return answer, scene.seen[-1].headers.get("traceparent", ""), counts

    found: tuple[httpx.Response, str, Any] = stage.play(script, act)
    return found


@pytest.mark.parametrize("stream", [True, False])
def test_a_generation_is_a_span_of_the_clients_trace(stage: Stage, stream: bool) -> None:
    with receiver() as came:
        answer, engine, counts = traced(
            stage, came.address, reply(0.0, 1.0, 0.5), {"traceparent": CLIENT, "x-request-id": "mine"}, stream=stream
        )
        (span,) = came.spans
    assert answer.status_code == 200
    assert span.trace_id.hex() == CLIENT.split("-")[1]
    assert span.parent_span_id.hex() == CLIENT.split("-")[2]
    assert engine == f"00-{span.trace_id.hex()}-{span.span_id.hex()}-01"  # the engine's own spans hang below ours
    assert span.name == "chat m"
    about = attributes(span.attributes)
    assert {name: about[name] for name in (otel.OPERATION, otel.MODEL, otel.OUTPUT, otel.REASONS, "barograph.judged", "barograph.outcome")} == {
        otel.OPERATION: "chat", otel.MODEL: "m", otel.OUTPUT: 3, otel.REASONS: ["stop"], "barograph.judged": "judged", "barograph.outcome": "ended",
    }  # fmt: skip
    assert span.end_time_unix_nano > span.start_time_unix_nano
    assert counts == [1, 0]
    raw = span.SerializeToString()
    assert b"secret" not in raw
    assert b"mine" not in raw


def test_verdicts_are_events(stage: Stage) -> None:
    with receiver() as came:
        answer, _, _ = traced(stage, came.address, reply(0.0, 9.0, 9.0), {})
        (span,) = came.spans
    assert answer.json()["choices"][0]["finish_reason"] == "content_filter"
    assert attributes(span.attributes)[otel.REASONS] == ["content_filter"]
    event = next(each for each in span.events if attributes(each.attributes)[otel.LABEL] == "halt")
    assert event.name == "gen_ai.evaluation.result"
    about = attributes(event.attributes)
    assert (about[otel.RULE], about[otel.VALUE], about["barograph.position"], about["barograph.mode"]) == ("high", 9.0, 1, "armed")
    assert not span.parent_span_id


def test_an_engine_that_fails_is_an_error(stage: Stage) -> None:
    async def broken(exchange: Exchange) -> None:
        exchange.start()
        exchange.send(b"data: nonsense\n\n")

    with receiver() as came:
        answer, _, _ = traced(stage, came.address, broken, {}, stream=False)
        (span,) = came.spans
    assert answer.status_code == 502
    assert attributes(span.attributes)["error.type"] == "upstream_error"
    assert span.status.code == 2


@pytest.mark.parametrize("status", [None, 400, 503])
def test_a_collector_that_is_away_or_refuses_costs_spans_and_nothing_else(stage: Stage, status: int | None) -> None:
    if status is None:
        answer, engine, counts = traced(stage, f"http://127.0.0.1:{free_port()}", reply(0.0, 1.0), {"traceparent": CLIENT})
    else:
        with receiver(status) as came:
            answer, engine, counts = traced(stage, came.address, reply(0.0, 1.0), {"traceparent": CLIENT})
    assert answer.status_code == 200
    assert engine.startswith("00-0af7651916cd43dd8448eb211c80319c-")
    assert counts == [0, 1]


@pytest.mark.parametrize("given", ["nonsense", "00-" + "0" * 32 + "-" + "0" * 16 + "-01", "ff" + CLIENT[2:], CLIENT + "-more", ""])
def test_a_trace_that_makes_no_sense_begins_anew(stage: Stage, given: str) -> None:
    with receiver() as came:
        answer, engine, _ = traced(stage, came.address, reply(0.0, 1.0), {"traceparent": given})
        (span,) = came.spans
    assert answer.status_code == 200
    assert span.trace_id.hex() != CLIENT.split("-")[1]
    assert engine.rpartition("-")[0] == f"00-{span.trace_id.hex()}-{span.span_id.hex()}"


@pytest.mark.parametrize("kept", [True, False])
def test_a_picture_leads_to_the_trace(stage: Stage, kept: bool) -> None:
    """Exemplars of verdicts and of the hold name the trace, where the trace is kept."""
    client = CLIENT if kept else CLIENT[:-1] + "0"

    async def act(client_: httpx.AsyncClient, scene: Scene) -> str:
        scene.gateway._tracing = Tracing(OtelConfig(endpoint="http://127.0.0.1:9", timeout_s=1), scene.rig.pipeline.metrics)
        await client_.post(CHAT, json=ASK, headers={"traceparent": client})
        return openmetrics(scene)

    text: str = stage.play(reply(0.0, 9.0, 0.5), act)
    marked = [line.split("{")[0] for line in text.splitlines() if f'# {{trace_id="{CLIENT.split("-")[1]}"}}' in line]
    assert set(marked) == ({"barograph_verdicts_total", "barograph_gateway_hold_seconds_bucket"} if kept else set())
