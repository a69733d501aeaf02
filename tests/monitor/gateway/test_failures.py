"""Every row of the failure table happens here, closed and, where a setting allows it, open."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import httpx
import pytest

from monitor.gateway import failures
from monitor.gateway.wrapper import Reader
from monitor.http import openai, protocol
from monitor.pipeline.orders import Order
from rules.schema import TenantLimit
from tests.monitor.gateway.scene import ASK, CHAT, DONE, Exchange, Scene, Script, Stage, chunk, error, scored, text, usage
from tests.stack import PATIENCE_S

NAN = float("nan")
ROWS = {row["condition"]: row for row in failures.table()}


async def unscored(exchange: Exchange) -> None:
    """A reply whose tap says nothing of it."""
    exchange.start()
    exchange.send(chunk("a", 1), chunk("b", 2, finish="stop"), usage(2), DONE)


async def with_a_gap(exchange: Exchange) -> None:
    stream = exchange.begin()
    exchange.scores(stream, 1, 0.0)
    await unscored(exchange)


async def ended_early(exchange: Exchange) -> None:
    stream = exchange.begin()
    exchange.scores(stream, 0, 0.0)
    exchange.end(stream, 2)
    await unscored(exchange)


async def tap_gone(exchange: Exchange) -> None:
    exchange.scores(exchange.begin(), 0, 0.0)
    exchange.scene.rig.pipeline.disconnect(exchange.scene.rig.source)
    await unscored(exchange)


async def tap_gave_up(exchange: Exchange) -> None:
    exchange.scores(exchange.begin(), 0, 0.0)
    exchange.scene.rig.frame(failed="out of memory")
    await unscored(exchange)


async def second_tap(exchange: Exchange) -> None:
    """Another tap claims the stream with scores that look better."""
    rig = exchange.scene.rig
    exchange.begin()
    other = rig.tap(source="other")
    rig.frame([(1, 0, 0.1), (1, 1, 0.1)], [(1, exchange.request, 0)], source=other, seq=1)
    await unscored(exchange)


def counts(*said: int | None) -> Script:
    """Text whose token counts are these; None for no usage."""

    async def script(exchange: Exchange) -> None:
        exchange.scores(exchange.begin(), 0, 0.0, 0.0, 0.0, 0.0, 9.0, 9.0, 9.0)
        exchange.start()
        exchange.send(*(chunk(f"w{i} ", count) for i, count in enumerate(said)), DONE)

    return script


async def moving_back(exchange: Exchange) -> None:
    exchange.scores(exchange.begin(), 0, 0.0, 0.0, 0.0)
    exchange.start()
    exchange.send(chunk("a", 2), chunk("b", 1), DONE)


async def fewer_scores(exchange: Exchange) -> None:
    """A whole reply that counts three tokens where the tap saw two."""
    stream = exchange.begin()
    exchange.scores(stream, 0, 0.0, 0.0)
    exchange.end(stream, 2)
    exchange.answer({"choices": [{"index": 0, "message": {"content": "abc"}}], "usage": {"completion_tokens": 3}})


TOOLS = {"tools": [{"type": "function", "function": {"name": "f"}}]}
SCENES: dict[str, list[tuple[Script, dict[str, Any]]]] = {
    "missing_score": [(each, {}) for each in (unscored, with_a_gap, ended_early, tap_gone, tap_gave_up, second_tap)],
    "nan_score": [(scored(chunk("a", 1), chunk("b", 2, finish="stop"), usage(2), DONE, panic=(NAN, 0.0)), {})],
    "wrong_count": [(counts(1, 1), {}), (counts(1, 2, 2), {}), (moving_back, {}), (counts(-1), {}), (fewer_scores, TOOLS)],
}  # fmt: skip


@pytest.mark.parametrize(("condition", "number"), [(name, i) for name, scenes in SCENES.items() for i in range(len(scenes))])
@pytest.mark.parametrize("streams", [True, False])
def test_what_cannot_be_judged(stage: Stage, condition: str, number: int, streams: bool) -> None:
    script, body = SCENES[condition][number]
    if body is TOOLS and streams:
        pytest.skip("with tools only an unstreamed reply is held whole")
    setting = ROWS[condition]["setting"].removeprefix("gateway.")

    async def act(client: httpx.AsyncClient, scene: Scene) -> None:
        response = await client.post(CHAT, json={**ASK, **body, "stream": streams})
        opened = getattr(scene.config, setting) == "open"
        if opened:
            assert response.status_code == 200
            if streams and not body:
                assert f": x-barograph: open:{condition}\n" in response.text
            else:
                assert response.headers["x-barograph"] == f"open:{condition}"
        else:
            assert error(response)["code"] == condition
            assert response.status_code == (200 if streams and "w0" in response.text else 503) or text(response)
        decided = [record for record in scene.rig.records("failure") if record["condition"] == condition]
        assert decided
        assert {record["decision"] for record in decided} == {"open" if opened else "closed"}
        assert scene.rig.sample("barograph_failure_decisions_total", condition=condition, decision="open" if opened else "closed")
        await scene.until(lambda: scene.rig.records("reply"), "the reply is recorded")
        assert scene.rig.records("reply")[0]["how"] == (f"open:{condition}" if opened else "judged")
        await scene.until(lambda: not scene.rig.pipeline.streams.tickets, "it is forgotten")

    for decision in ("closed", "open"):
        stage.play(script, act, **{setting: decision})


def test_a_count_that_stands_still_lets_no_word_of_it_out(stage: Stage) -> None:
    """Scores of 0, 9, 9, and each chunk says that there is one token."""

    async def script(exchange: Exchange) -> None:
        exchange.scores(exchange.begin(), 0, 0.0, 9.0, 9.0)
        exchange.start()
        exchange.send(chunk("fine ", 1), chunk("bad ", 1), chunk("worse", 1, finish="stop"), usage(1), DONE)

    response = stage.ask(script, stream=True)
    assert text(response) == "fine "
    assert error(response)["code"] == "wrong_count"
    assert stage.ask(script).status_code == 503


def test_what_counts_nothing_may_hold_no_text(stage: Stage) -> None:
    """A role, an empty delta and an asked-for echo come before any token is counted."""
    echoed = scored(chunk("the prompt", 0, role="assistant"), chunk(" and", 1, finish="length"), usage(1), DONE)
    assert text(stage.ask(echoed, stream=True, echo=True)) == "the prompt and"
    assert error(stage.ask(echoed, stream=True))["code"] == "wrong_count"
    roles = scored(chunk("", 0, role="assistant"), chunk("a", 1), chunk("", 1, finish="stop"), usage(1), DONE)
    assert text(stage.ask(roles, stream=True)) == "a"
    for field in (
        {"reasoning_content": "x"},
        {"refusal": "x"},
        {"tool_calls": [{"index": 0, "function": {"arguments": "x"}}]},
        {"unknown": ["x"]},
    ):
        assert error(stage.ask(scored(chunk(None, 0, **field), DONE), stream=True))["code"] == "wrong_count"


def test_no_tap(stage: Stage) -> None:
    async def act(client: httpx.AsyncClient, scene: Scene) -> None:
        scene.rig.pipeline.disconnect(scene.rig.source)
        response = await client.post(CHAT, json={**ASK, "stream": True})
        if scene.config.on_no_tap == "closed":
            assert (response.status_code, error(response)["code"]) == (503, "no_tap")
            assert response.headers["retry-after"] == "1"
            assert scene.seen == []
        else:
            assert text(response) == "ab"
            assert response.headers["x-barograph"] == "open:no_tap"

    stage.play(unscored, act)
    stage.play(unscored, act, on_no_tap="open", on_missing_score="open")


@pytest.mark.parametrize("decision", ["closed", "open"])
def test_ledger(stage: Stage, decision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def script(exchange: Exchange) -> None:
        exchange.scores(exchange.begin(), 0, 0.0, 0.0)
        exchange.start()
        exchange.send(chunk("a", 1))
        await exchange.writer.drain()
        await asyncio.sleep(0.2)
        monkeypatch.setattr(os, "write", full)
        exchange.scene.rig.ledger.append("test")
        await exchange.scene.until(lambda: exchange.scene.rig.ledger.failed, "the disk has refused it")
        exchange.send(chunk("b", 2, finish="stop"), usage(2), DONE)
        await exchange.writer.drain()
        await asyncio.sleep(0.2)
        monkeypatch.undo()

    def full(file: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    response = stage.ask(script, settings={"on_ledger_failure": decision}, stream=True)
    assert text(response) == ("a" if decision == "closed" else "ab")
    if decision == "closed":
        assert error(response)["code"] == "ledger"
    else:
        assert ": x-barograph: open:ledger" in response.text


def test_overloaded(stage: Stage) -> None:
    going = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        exchange.begin()
        exchange.start()
        await exchange.writer.drain()
        going.set()
        await exchange.gone.wait()

    async def act(client: httpx.AsyncClient, scene: Scene) -> None:
        going.clear()
        first = asyncio.create_task(client.post(CHAT, json={**ASK, "stream": True}))
        await going.wait()
        response = await client.post(CHAT, json=ASK)
        assert (response.status_code, error(response)["code"], response.headers["retry-after"]) == (429, "too_many_requests", "1")
        assert len(scene.seen) == 1
        first.cancel()
        await scene.until(lambda: not scene.rig.pipeline.streams.tickets, "the first is forgotten")

    stage.play(script, act, max_requests=1)

    async def bodies(client: httpx.AsyncClient, scene: Scene) -> None:
        response = await client.post(CHAT, json={**ASK, "user": "x" * 3000})
        assert (response.status_code, error(response)["code"]) == (429, "too_many_requests")

    stage.play(script, bodies, max_bodies_bytes=2048)


def test_upstream_unreachable(stage: Stage) -> None:
    async def act(client: httpx.AsyncClient, scene: Scene) -> None:
        for method, path in (("POST", CHAT), ("GET", "/v1/models")):
            response = await client.request(method, path, json=ASK if method == "POST" else None)
            assert (response.status_code, error(response)["code"]) == (502, "upstream_unreachable")

    stage.play(unscored, act, upstream="http://127.0.0.1:9")


def test_upstream_error(stage: Stage) -> None:
    """The engine goes away in the middle; what was judged has left."""
    response = stage.ask(scored(chunk("a", 1)), stream=True)
    assert (text(response), error(response)["code"]) == ("a", "upstream_error")
    assert stage.ask(scored(chunk("a", 1))).status_code == 502

    async def no_http(exchange: Exchange) -> None:
        exchange.send(b"\x16\x03\x01 what?\r\n\r\n")

    assert stage.ask(no_http).status_code == 502


@pytest.mark.parametrize("body", [{}, {"stream": True}, TOOLS])
def test_upstream_timeout(stage: Stage, body: dict[str, Any]) -> None:
    async def stalls(exchange: Exchange) -> None:
        exchange.scores(exchange.begin(), 0, 0.0)
        exchange.start(kind="application/json" if body is TOOLS else "text/event-stream")
        if body is not TOOLS:
            exchange.send(chunk("a", 1))
        await exchange.writer.drain()
        await asyncio.wait_for(exchange.gone.wait(), PATIENCE_S)  # the generation ends

    response = stage.ask(stalls, settings={"upstream_idle_s": 0.3}, **body)
    assert error(response)["code"] == "upstream_timeout"
    assert response.status_code == (200 if body.get("stream") else 504)


def test_request_too_large(stage: Stage) -> None:
    async def act(client: httpx.AsyncClient, scene: Scene) -> None:
        response = await client.post(CHAT, json={**ASK, "user": "x" * 5000})
        assert (response.status_code, error(response)["code"]) == (413, "request_too_large")
        got = await scene.raw(b"POST " + CHAT.encode() + b" HTTP/1.1\r\nhost: x\r\nx-long: " + b"x" * 70_000 + b"\r\n\r\n")
        assert got.startswith(b"HTTP/1.1 431")
        got = await scene.raw(
            b"POST "
            + CHAT.encode()
            + b" HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
            + b"400\r\n"
            + b"x" * 1024
            + b"\r\n" * 1
            + b"800\r\n"
            + b"x" * 2048
        )
        assert b" 413 " in got.split(b"\r\n")[0]
        assert scene.seen == []

    stage.play(unscored, act, max_body_bytes=1024)


def test_request_timeout(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEADERS_S", 0.3)
    monkeypatch.setattr(openai, "BODY_S", 0.3)

    async def act(client: httpx.AsyncClient, scene: Scene) -> None:
        assert (await scene.raw(b"POST " + CHAT.encode() + b" HTTP/1.1\r\nhost:")).startswith(b"HTTP/1.1 408")
        got = await scene.raw(b"POST " + CHAT.encode() + b" HTTP/1.1\r\nhost: x\r\ncontent-length: 50\r\n\r\n{", 3)
        assert got.startswith(b"HTTP/1.1 408"), got
        assert scene.seen == []

    stage.play(unscored, act)


def test_client_gone(stage: Stage) -> None:
    """Before the first token, too: the generation is ended at the engine, and its place is free."""
    ended: list[str] = []

    def waits(first: bool, kind: str) -> Script:
        async def script(exchange: Exchange) -> None:
            stream = exchange.begin()
            if kind:
                exchange.start(kind=kind)
            if first:
                exchange.scores(stream, 0, 0.0)
                exchange.send(chunk("a", 1))
            await exchange.writer.drain()
            await asyncio.wait_for(exchange.gone.wait(), PATIENCE_S)
            exchange.end(stream, 1)
            ended.append(exchange.request)

        return script

    async def act(client: httpx.AsyncClient, scene: Scene) -> None:
        body = json.dumps({**ASK, "stream": True}).encode()
        await scene.raw(b"POST " + CHAT.encode() + b" HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body) + body, 0.3)
        await scene.until(lambda: ended, "the generation is ended")
        await scene.until(lambda: not scene.rig.pipeline.streams.tickets, "its place is free")
        assert scene.rig.records("reply")[0]["outcome"] == "client_gone"

    for script in (waits(False, ""), waits(False, "text/event-stream"), waits(True, "text/event-stream")):
        ended.clear()
        stage.play(script, act)


def test_client_stalled(stage: Stage) -> None:
    async def script(exchange: Exchange) -> None:
        stream = exchange.begin()
        exchange.start()
        try:
            for number in range(3000):
                exchange.scores(stream, number, 0.0)
                exchange.send(chunk("x" * 10_000, number + 1))
                await exchange.writer.drain()
        except ConnectionError:
            pass

    async def act(client: httpx.AsyncClient, scene: Scene) -> None:
        body = json.dumps({**ASK, "stream": True}).encode()
        _, writer = await asyncio.open_connection("127.0.0.1", scene.port, limit=1024)
        writer.write(b"POST " + CHAT.encode() + b" HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        await scene.until(lambda: scene.rig.sample("barograph_gateway_clients_stalled_total"), "it is dropped")
        await scene.until(lambda: scene.rig.records("reply"), "it is recorded")
        assert scene.rig.records("reply")[0]["outcome"] == "client_stalled"
        assert not scene.rig.pipeline.streams.tickets
        writer.close()

    stage.play(script, act, client_stall_s=0.5)


@pytest.mark.parametrize("streams", [True, False])
def test_stopping(stage: Stage, streams: bool) -> None:
    """Running replies may finish within the grace period; what does not ends with an error."""
    finish: list[bool] = []

    async def script(exchange: Exchange) -> None:
        exchange.scores(exchange.begin(), 0, 0.0, 0.0)
        exchange.start()
        exchange.send(chunk("a", 1))
        await exchange.writer.drain()
        while not finish:
            await asyncio.sleep(0.01)
        exchange.send(chunk("b", 2, finish="stop"), usage(2), DONE)

    async def act(client: httpx.AsyncClient, scene: Scene) -> None:
        finish.clear()
        running = asyncio.create_task(client.post(CHAT, json={**ASK, "stream": streams}))
        await scene.until(lambda: scene.seen, "it runs")
        await asyncio.sleep(0.1)
        scene.servers.stop()
        refused = await client.post(CHAT, json=ASK)
        assert (refused.status_code, error(refused)["code"]) == (503, "stopping")
        if scene.config.grace_s > 1:
            finish.append(True)
            response = await running
            assert response.status_code == 200
            assert (text(response) if streams else response.json()["choices"][0]["message"]["content"]) == "ab"
        else:
            response = await running
            assert error(response)["code"] == "stopping"
            assert response.status_code == (200 if streams else 503)
            finish.append(True)

    stage.play(script, act, grace_s=10)
    stage.play(script, act, grace_s=0.4)


def test_stopped(stage: Stage) -> None:
    async def act(client: httpx.AsyncClient, scene: Scene) -> None:
        order = Order(verb="stop", kind="model", name="m", by="ann", reason="a drill", at=1.0, command="c")
        scene.gateway.orders.give(order)
        for streams in (True, False):
            response = await client.post(CHAT, json={**ASK, "stream": streams})
            assert (response.status_code, error(response)["code"], response.headers["retry-after"]) == (503, "stopped", "1")
            assert error(response)["message"] == "stopped for model by ann: a drill"
        assert not scene.seen
        assert (await client.post(CHAT, json={**ASK, "model": "other"})).status_code == 200
        scene.gateway.orders.broken = "unreadable"
        assert (await client.post(CHAT, json={**ASK, "model": "other"})).status_code == 503

    stage.play(scored(chunk("a", 1), chunk(None, 1, finish="stop"), DONE, panic=(0.0,)), act)


def test_tenant_throttled(stage: Stage) -> None:
    async def act(client: httpx.AsyncClient, scene: Scene) -> None:
        limits = TenantLimit(requests_per_minute=1)
        scene.gateway.orders.give(Order(verb="throttle", kind="tenant", name="t", by="a", reason="r", at=1.0, command="c", limits=limits))
        scene.gateway.throttles.ordered()
        statuses = [(await client.post(CHAT, json=ASK, headers={"x-tenant": "t"})).status_code for _ in range(2)]
        assert statuses == [200, 429]
        response = await client.post(CHAT, json={**ASK, "stream": True}, headers={"x-tenant": "t"})
        assert (error(response)["code"], response.headers["retry-after"]) == ("tenant_throttled", "60")
        assert len(scene.seen) == 1

    stage.play(scored(chunk("a", 1), chunk(None, 1, finish="stop"), DONE, panic=(0.0,)), act, tenant_header="x-tenant")


def test_no_reader(stage: Stage) -> None:
    """Nobody listens where the reader should: nothing of the wrapped model's reply leaves."""

    async def act(client: httpx.AsyncClient, scene: Scene) -> None:
        reader = Reader(scene.folder / "nobody.sock")
        scene.gateway.engine = replace(scene.gateway.engine, reader=reader)
        async with reader.started():
            for streams in (True, False):
                response = await client.post(CHAT, json={**ASK, "stream": streams})
                assert (response.status_code, error(response)["code"]) == (503, "no_reader")
                assert "secret" not in response.text

    stage.play(scored(chunk("secret", 1), chunk(None, 1, finish="stop"), DONE), act)


TESTED: dict[str, Callable[..., Awaitable[None] | None]] = {
    "no_tap": test_no_tap, "ledger": test_ledger, "overloaded": test_overloaded, "stopping": test_stopping,
    "upstream_unreachable": test_upstream_unreachable, "upstream_error": test_upstream_error, "upstream_timeout": test_upstream_timeout,
    "request_too_large": test_request_too_large, "request_timeout": test_request_timeout, "client_stalled": test_client_stalled,
    "client_gone": test_client_gone, "stopped": test_stopped, "tenant_throttled": test_tenant_throttled, "no_reader": test_no_reader,
}  # fmt: skip


def test_every_row_has_its_test() -> None:
    assert ROWS.keys() == TESTED.keys() | SCENES.keys()


def test_what_a_client_can_cause_is_never_open() -> None:
    for row in failures.table():
        assert row["client"] in ("yes", "no", True, False)
        if row["client"] in ("yes", True):
            assert "open" not in row, row["condition"]
            assert row["setting"] == "fixed"
        assert row["default"] == "closed"
