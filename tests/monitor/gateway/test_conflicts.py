"""Rules, commands, engines and clients in any order on one reply: it ends once, says nothing twice, and everything has its record."""

from __future__ import annotations

import asyncio
import contextlib
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from monitor.admin.command import Command, CommandError
from monitor.admin.commander import Commander
from monitor.gateway.course import State
from monitor.pipeline.rulebook import Rulebook
from probes.bank import Bank
from tests.banks import steerable
from tests.monitor.gateway.scene import ASK, CHAT, DONE, Exchange, Scene, Script, Stage, chunk, usage
from tests.monitor.gateway.test_reroute import said, there
from tests.rules.naive import probe_facts
from tests.stack import PATIENCE_S

RULES = """rules:
- {rule: slow, desc: d, when: panic.last > 1, until: panic.last < 1, cool_down: 1 token, do: {throttle: {tokens_per_second: 500}}, mode: armed}
- {rule: push, desc: d, when: panic.last > 5, do: {steer: {probe: panic, dose: -0.1, for: 2 tokens, else: {halt: {message: PUSHED.}}}}, mode: armed}
- {rule: turn, desc: d, when: panic.last > 3 and panic.last < 5, do: {reroute: {to: safe, unjudged: allow, else: {message: ELSE.}}}, mode: armed}
- {rule: high, desc: d, when: panic.last > 6, do: {halt: {message: HALT.}}, mode: armed}
"""
CALM, FAST, TURN, PUSH, HIGH = 0.0, 2.0, 4.0, 5.5, 7.0
OVER = {state.value for state in State if state.over}
STEPS = st.lists(
    st.sampled_from([CALM, CALM, CALM, FAST, FAST, TURN, PUSH, PUSH, HIGH, "halt", "stop", "resume", "leave", "break", "finish", "wait", "gap"]),
    min_size=1, max_size=14,
)  # fmt: skip


async def _away(exchange: Exchange) -> None:
    if exchange.method == "GET" or not exchange.asked.get("stream"):
        await there()(exchange)
    else:
        exchange.writer.transport.abort()


TARGETS: dict[str, Script] = {"up": there(*said("x0 ", "x1 ")), "away": _away, "short": there(*said("x0 ", "x1 ")[:2])}


class Sequence:
    """One reply and what happens to it."""

    def __init__(self, scene: Scene, client: httpx.AsyncClient) -> None:
        self.scene, self.client = scene, client
        folder = scene.rig.ledger.path.parent
        (folder / "rules.yaml").write_text(RULES)
        book = Rulebook(folder / "rules.yaml", probe_facts(), scene.rig.ledger, orders=scene.gateway.orders)
        self.boss = Commander(scene.gateway, book, folder / "ledger.commands")
        self.commands = 0
        self.got = b""
        self.token = 0

    async def read(self) -> None:
        with contextlib.suppress(httpx.HTTPError):
            async with self.client.stream("POST", CHAT, json={**ASK, "stream": True}) as response:
                async for piece in response.aiter_bytes():
                    self.got += piece

    async def step(self, step: Any, exchange: Exchange, stream: int, reading: asyncio.Task[None]) -> None:
        open_ = not exchange.writer.is_closing()
        if isinstance(step, float):
            if open_:
                exchange.scores(stream, self.token, step)
                exchange.send(chunk(f"w{self.token} ", self.token + 1))
                self.token += 1
        elif step in ("halt", "stop", "resume"):
            about: dict[str, Any] = {"all": True}
            if step == "halt":
                about = {"stream": f"{exchange.request}#0"}
            self.commands += 1
            with contextlib.suppress(CommandError):
                await self.boss.carry_out(Command.read({"id": f"c{self.commands}", "verb": step, "reason": "r", **about}), "ann", "api")
        elif step == "leave":
            reading.cancel()
        elif step == "break":
            exchange.writer.transport.abort()
        elif step == "gap" and open_:
            self.scene.rig.frame([(stream, self.token + 5, 0.0)])
        elif step == "finish" and open_:
            exchange.send(chunk(None, self.token, finish="stop"), usage(self.token), DONE)
            exchange.end(stream, self.token)
        await asyncio.sleep(0.004)

    def check(self) -> None:
        rig = self.scene.rig
        replies = rig.records("reply")
        assert len(replies) == 1
        (reply,) = replies
        for went in reply["course"].values():
            assert [state for state in went if state in OVER] == went[-1:]  # one end, and it is the last
        assert rig.pipeline.streams.tickets == {}
        assert not self.scene.gateway.replies
        assert len(rig.records("command")) == self.commands
        pushes = [each["event"] for each in rig.records("steer")]
        assert sum(each in ("asked", "refused") for each in pushes) == sum(each in ("fell", "else", "ended") for each in pushes)
        reroutes = [(each["event"], each["do"]) for each in rig.records("reroute")]
        assert reroutes in ([], [("intent", "halt")]) or (
            reroutes[0][0] == "intent" and len(reroutes) == 2 and reroutes[1][1] in ("taken", "missed")
        ) or (len(reroutes) == 1 and reply["outcome"] != "ended")  # fmt: skip
        lines = [line[6:] for line in self.got.decode().split("\n") if line.startswith("data: {")]
        events = [json.loads(line) for line in lines]
        parts = [part for event in events for part in event.get("choices", ())]
        text = "".join(part["delta"].get("content") or "" for part in parts)
        own = "".join(f"w{i} " for i in range(self.token))
        heard = text
        for ending in ("ELSE.", "HALT.", "PUSHED.", "This reply was stopped by a safety rule."):
            if heard.endswith(ending):
                heard = heard.removesuffix(ending)
                break
        first, _, there_ = heard.partition("x0")
        assert own.startswith(first)  # nothing lost, nothing twice, nothing out of order
        assert there_.strip() in ("", "x1")
        assert sum(part["finish_reason"] is not None for part in parts) <= 1
        assert sum("error" in event for event in events) <= 1
        if any(part["finish_reason"] is not None for part in parts):
            assert not any("error" in event for event in events)


@pytest.mark.timeout(300)
@given(steps=STEPS, target=st.sampled_from(sorted(TARGETS)))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_whatever_happens_in_whatever_order(bank: Bank, tmp_path: Path, steps: list[Any], target: str) -> None:
    opened: list[tuple[Exchange, int]] = []

    async def engine(exchange: Exchange) -> None:
        exchange.start()
        opened.append((exchange, exchange.begin()))
        exchange.send(chunk("", 0, role="assistant"))
        await exchange.writer.drain()
        await exchange.gone.wait()
        exchange.end(opened[-1][1], 0)

    async def act(client: httpx.AsyncClient, scene: Scene) -> None:
        await scene.gateway.engine.targets["safe"].look(scene.rig.pipeline.streams)
        opened.clear()
        scene.rig.source.send = lambda packet: True
        run = Sequence(scene, client)
        reading = asyncio.create_task(run.read())
        await scene.until(lambda: opened, "the engine is asked")
        exchange, stream = opened[0]
        for step in steps:
            await run.step(step, exchange, stream, reading)
        await run.step("finish", exchange, stream, reading)
        async with asyncio.timeout(PATIENCE_S):
            with contextlib.suppress(asyncio.CancelledError):
                await reading
        await scene.until(lambda: not scene.gateway.replies, "the reply is over")
        run.check()

    for name in ("orders", "commands"):
        (tmp_path / f"ledger.{name}").unlink(missing_ok=True)
    Stage(steerable(bank), tmp_path).play(engine, act, there=TARGETS[target], rules=RULES)
