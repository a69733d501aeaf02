"""Throttling: a reply's pace, a tenant's admission, and how both end."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from monitor.gateway.throttle import Pace
from monitor.pipeline.orders import Order, Orders
from rules.schema import Rule, TenantLimit
from rules.verdict import Verdict
from tests.monitor.gateway.scene import ASK, CHAT, DONE, Exchange, Scene, Stage, chunk, scored, text, usage

SLOW = """rules:
- {rule: slow, desc: It is too fast., when: panic.last > 2, until: panic.last < 1, cool_down: 1 token, mode: armed,
   do: {throttle: {tokens_per_second: 20}}}
"""
TENANT = """rules:
- {rule: crowd, desc: Too many., when: panic.last > 2, mode: armed, do: {throttle: {tenant: {concurrency: 1, requests_per_minute: 30, recover: 1s}}}}
"""


def words(count: int) -> list[dict[str, Any]]:
    return [chunk(f"w{i} ", i + 1) for i in range(count)]


def test_a_throttled_reply_keeps_its_pace_and_loses_nothing(stage: Stage) -> None:
    started = time.monotonic()
    panic = (0.0, 0.0, *[3.0] * 10, *[0.0] * 20)  # the rule ends at the thirteenth token
    answer = stage.ask(scored(*words(32), DONE, panic=panic), settings={"rules": SLOW}, stream=True)
    assert text(answer) == "".join(f"w{i} " for i in range(32))
    # Its scores were all there before the first token left, so the rule had ended: nothing is slowed down any more.
    assert time.monotonic() - started < 5

    async def script(exchange: Exchange) -> None:
        stream = exchange.begin()
        exchange.start()
        for i, one in enumerate(words(12)):
            exchange.scores(stream, i, 3.0)
            exchange.send(one)
        exchange.send(chunk(None, 12, finish="stop"), usage(12), DONE)
        exchange.end(stream, 12)

    started = time.monotonic()
    answer = stage.ask(script, settings={"rules": SLOW}, stream=True)
    assert text(answer) == "".join(f"w{i} " for i in range(12))
    assert time.monotonic() - started > 11 / 20 - 0.1
    started = time.monotonic()
    assert stage.ask(script, settings={"rules": SLOW}).json()["usage"]["completion_tokens"] == 12  # no stream: as slow
    assert time.monotonic() - started > 11 / 20 - 0.1


def test_a_pace_ends_when_the_rule_does(stage: Stage) -> None:
    class Fake:
        def __init__(self, rate: float) -> None:
            rule = Rule.model_validate({"rule": "r", "desc": "d", "when": "x", "do": {"throttle": {"tokens_per_second": rate}}})
            self.throttles, self.acting = {"r": Verdict(rule, 0, 0, rule.action)}, None

    async def run() -> float:
        stream: Any = Fake(0.1)
        started = time.monotonic()
        waiting = asyncio.create_task(Pace().keep(stream, 5))
        await asyncio.sleep(0.1)
        stream.throttles.clear()
        await waiting
        return time.monotonic() - started

    assert asyncio.run(run()) < 5  # not fifty seconds


def asked(tenant: str) -> dict[str, str]:
    return {"x-tenant": tenant}


def test_a_tenant_is_throttled_by_a_rule_and_recovers(stage: Stage) -> None:
    async def act(client: httpx.AsyncClient, scene: Scene) -> None:
        watching = asyncio.create_task(scene.gateway.throttles.watch())
        assert (await client.post(CHAT, json=ASK, headers=asked("loud"))).status_code == 200
        (under,) = scene.gateway.throttles.describe()
        assert (under["tenant"], under["by"], under["why"], under["concurrency"]) == ("loud", "crowd", "Too many.", 1)
        statuses = [(await client.post(CHAT, json=ASK, headers=asked("loud"))).status_code for _ in range(6)]
        assert statuses == [200, 200, 200, 200, 200, 429]  # what thirty a minute make in ten seconds, then no more
        refused = await client.post(CHAT, json=ASK, headers=asked("loud"))
        assert refused.headers["retry-after"] == "2"
        assert (
            scene.rig.sample("barograph_tenants_throttled", tenant="loud"),
            scene.rig.sample("barograph_tenants_throttled", tenant="other"),
        ) == (1, 0)
        error = refused.json()["error"]
        assert (error["type"], error["code"]) == ("rate_limit_error", "tenant_throttled")
        assert (await client.post(CHAT, json=ASK, headers=asked("quiet"))).status_code == 200
        # The quiet one fires the rule as well: its own limits, its own recovery.
        await scene.until(lambda: not scene.gateway.throttles.describe(), "both have recovered")
        watching.cancel()
        assert (await client.post(CHAT, json=ASK, headers=asked("loud"))).status_code == 200
        records = [(each["event"], each["tenant"], each["why"]) for each in scene.rig.records("tenant")]
        assert records[:1] == [("throttled", "loud", "Too many.")]
        assert ("lifted", "loud", "calm again") in records

    script = scored(*words(3), chunk(None, 3, finish="stop"), DONE, panic=(3.0,) * 3)
    stage.play(script, act, rules=TENANT, tenant_header="x-tenant", tenants=("loud",))


def test_a_throttled_tenant_has_so_many_at_a_time(stage: Stage) -> None:
    async def script(exchange: Exchange) -> None:
        stream = exchange.begin()
        exchange.scores(stream, 0, 0.0)
        exchange.start()
        exchange.send(chunk("one", 1))
        await asyncio.sleep(0.5)
        exchange.send(chunk(None, 1, finish="stop"), DONE)
        exchange.end(stream, 1)

    async def act(client: httpx.AsyncClient, scene: Scene) -> None:
        orders = scene.gateway.orders
        orders.give(order("loud", TenantLimit(concurrency=2)))
        scene.gateway.throttles.ordered()
        many = await asyncio.gather(*(client.post(CHAT, json=ASK, headers=asked("loud")) for _ in range(5)))
        assert sorted(each.status_code for each in many) == [200, 200, 429, 429, 429]
        orders.take_back(("throttle", "tenant", "loud"))
        scene.gateway.throttles.ordered()
        many = await asyncio.gather(*(client.post(CHAT, json=ASK, headers=asked("loud")) for _ in range(5)))
        assert [each.status_code for each in many] == [200] * 5

    stage.play(script, act, tenant_header="x-tenant")


def order(tenant: str, limits: TenantLimit | None = None, verb: Any = "throttle", kind: Any = "tenant") -> Order:
    return Order(verb=verb, kind=kind, name=tenant, by="ops", reason="a test", at=1.0, command="c", limits=limits)


def test_orders_outlive_the_process_and_a_torn_file_stops_everything(tmp_path: Path) -> None:
    path = tmp_path / "ledger.orders"
    orders = Orders(path)
    assert orders.stopped("t", "m") == ""
    orders.give(order("t", verb="stop"))
    again = Orders(path)
    assert again.stopped("t", "m") == "tenant by ops: a test"
    assert again.stopped("other", "m") == ""
    again.take_back(("stop", "tenant", "t"))
    assert Orders(path).stopped("t", "m") == ""
    for torn in (b"[{", b"\xff", b'{"verb": 1}', b'[{"verb": "shout"}]'):
        path.write_bytes(torn)
        broken = Orders(path)
        assert broken.stopped("anybody", "any").startswith("all: ")
        assert str(path) in broken.broken
    broken.forget_broken()
    assert Orders(path).stopped("anybody", "any") == ""


def test_an_order_that_the_disk_refuses_does_not_stand(tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    orders = Orders(folder / "orders")
    folder.rmdir()
    with pytest.raises(Exception, match="expected a folder that can be written"):
        orders.give(order("t", verb="stop"))
    assert orders.stopped("t", "m") == ""
