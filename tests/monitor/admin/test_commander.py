"""Commands: done once, refused in one line, recorded either way; and what each does to replies that run."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from monitor.admin.command import ABOUT, Command, CommandError
from monitor.admin.commander import Commander
from monitor.admin.mailbox import Mailbox, sign
from monitor.config import CommandsConfig, KafkaConfig
from monitor.pipeline.rulebook import Rulebook
from tests.monitor.gateway.scene import ASK, CHAT, DONE, Exchange, Scene, Stage, chunk, error, events, scored, text
from tests.rules.naive import probe_facts
from tests.stack import PATIENCE_S

RULES = "rules:\n- {rule: up, desc: d, when: panic.last > 3, do: alert, mode: armed}\n"


def commander(scene: Scene) -> Commander:
    folder = scene.rig.ledger.path.parent
    (folder / "rules.yaml").write_text(RULES)
    book = Rulebook(folder / "rules.yaml", probe_facts(), scene.rig.ledger, orders=scene.gateway.orders)
    return Commander(scene.gateway, book, folder / "ledger.commands")


def command(verb: str, **more: Any) -> Command:
    return Command.read({"id": f"c-{verb}-{'-'.join(more)}", "verb": verb, "reason": "a test", **more})


async def endless(exchange: Exchange) -> None:
    """An engine that goes on until it is cut off; its tap then says that the stream is over."""
    stream = exchange.begin()
    exchange.start()
    for i in range(10_000):
        if exchange.gone.is_set():
            break
        exchange.scores(stream, i, 0.0)
        exchange.send(chunk(f"w{i} ", i + 1))
        await asyncio.sleep(0.01)
    exchange.end(stream, i)


async def begun(scene: Scene, client: httpx.AsyncClient, count: int, **headers: str) -> list[asyncio.Task[httpx.Response]]:
    """So many streams that run."""
    before = len(scene.seen)
    tasks = [asyncio.create_task(client.post(CHAT, json={**ASK, "stream": True}, headers=headers)) for _ in range(count)]
    await scene.until(lambda: len(scene.gateway.replies) == count, "they run")
    await scene.until(lambda: all(len(reply.work.running) for reply in scene.gateway.replies), "the engine runs them")
    assert len(scene.seen) == before + count
    return tasks


def test_a_stop_ends_what_runs_and_refuses_what_comes_until_somebody_resumes(stage: Stage) -> None:
    async def act(client: httpx.AsyncClient, scene: Scene) -> None:
        boss = commander(scene)
        tasks = await begun(scene, client, 8, **{"x-tenant": "loud"})
        outcome = await boss.carry_out(command("stop", tenant="loud"), "ann", "api")
        assert outcome == {"id": "c-stop-tenant", "verb": "stop", "outcome": "done", "streams": 8, "still_running": 0}
        for answer in await asyncio.gather(*tasks):
            assert error(answer)["code"] == "stopped"
            assert error(answer)["message"] == "stopped for tenant by ann: a test"
        refused = await client.post(CHAT, json=ASK, headers={"x-tenant": "loud"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "stopped")
        (other,) = await begun(scene, client, 1, **{"x-tenant": "quiet"})
        again = commander(scene)  # the next process
        assert scene.gateway.orders.stopped("loud", "m") == "tenant by ann: a test"
        with pytest.raises(CommandError, match="nothing to resume"):
            await again.carry_out(command("resume", model="m"), "bob", "api")
        assert (await again.carry_out(command("resume", tenant="loud"), "bob", "api"))["was"] == "ann: a test"
        more = await begun_beside(scene, client)
        outcome = await again.carry_out(command("stop", all=True), "bob", "api")
        assert outcome["streams"] == 2
        await asyncio.gather(other, more)
        said = [(each["verb"], each["about"], each["name"], each["issuer"], each["outcome"]) for each in scene.rig.records("command")]
        assert said == [
            ("stop", "tenant", "loud", "ann", "done"), ("resume", "model", "m", "bob", "refused"), ("resume", "tenant", "loud", "bob", "done"),
            ("stop", "all", "", "bob", "done"),
        ]  # fmt: skip
        assert all(each["reason"] == "a test" for each in scene.rig.records("command"))

    async def begun_beside(scene: Scene, client: httpx.AsyncClient) -> asyncio.Task[httpx.Response]:
        task = asyncio.create_task(client.post(CHAT, json={**ASK, "stream": True}, headers={"x-tenant": "loud"}))
        await scene.until(lambda: sum(len(reply.work.running) for reply in scene.gateway.replies) == 2, "it runs too")
        return task

    stage.play(endless, act, tenant_header="x-tenant")


def test_one_stream_is_stopped_and_another_is_halted(stage: Stage) -> None:
    async def act(client: httpx.AsyncClient, scene: Scene) -> None:
        boss = commander(scene)
        tasks = await begun(scene, client, 2)
        first, second = (reply.work.running[0].name for reply in scene.gateway.replies)
        await boss.carry_out(command("stop", stream=first), "ann", "api")
        outcome = await boss.carry_out(command("halt", stream=second), "engine-1", "kafka")
        answers = await asyncio.gather(*tasks)
        halted = next(each for each in answers if "content_filter" in each.text)
        assert text(halted).endswith("This reply was stopped by a safety rule.")
        assert events(halted)[-1]["barograph"]["verdicts"] == [
            {"rule": "command", "action": "halt", "mode": "armed", "position": outcome["at"]}
        ]
        assert text(halted).startswith("".join(f"w{i} " for i in range(outcome["at"])) + "This reply")
        assert sum("stopped for stream by ann" in each.text for each in answers) == 1
        with pytest.raises(CommandError, match="no stream 'nobody' runs"):
            await boss.carry_out(Command.read({"id": "x", "verb": "halt", "reason": "r", "stream": "nobody"}), "a", "api")

    stage.play(endless, act)


def test_a_halt_reaches_a_reply_that_is_throttled_to_a_crawl(stage: Stage) -> None:
    rules = "rules:\n- {rule: slow, desc: d, when: panic.last > 2, mode: armed, do: {throttle: {tokens_per_second: 0.1}}}\n"
    script = scored(*(chunk(f"w{i} ", i + 1) for i in range(8)), chunk(None, 8, finish="stop"), DONE, panic=(3.0,) * 8)

    async def act(client: httpx.AsyncClient, scene: Scene) -> None:
        boss = commander(scene)
        task = asyncio.create_task(client.post(CHAT, json={**ASK, "stream": True}))
        await scene.until(lambda: scene.rig.pipeline.streams.by_slot and scene.gateway.replies, "it runs")
        await asyncio.sleep(0.3)
        (stream,) = scene.rig.pipeline.streams.by_slot.values()
        await boss.carry_out(command("halt", stream=stream.name), "ann", "api")
        async with asyncio.timeout(PATIENCE_S):
            assert events(await task)[-1]["choices"][0]["finish_reason"] == "content_filter"

    stage.play(script, act, rules=rules)


def test_a_tenant_is_throttled_and_let_go_by_hand(stage: Stage) -> None:
    async def act(client: httpx.AsyncClient, scene: Scene) -> None:
        boss = commander(scene)
        await boss.carry_out(command("throttle", tenant="loud", limits={"requests_per_minute": 6}), "ann", "api")
        statuses = [(await client.post(CHAT, json=ASK, headers={"x-tenant": "loud"})).status_code for _ in range(2)]
        assert statuses == [200, 429]
        (under,) = scene.gateway.throttles.describe()
        assert (under["tenant"], under["by"], under["why"], under["refused"]) == ("loud", "order", "by ann: a test", 1)
        await boss.carry_out(command("lift", tenant="loud"), "bob", "api")
        assert (await client.post(CHAT, json=ASK, headers={"x-tenant": "loud"})).status_code == 200
        with pytest.raises(CommandError, match="is not throttled"):
            await boss.carry_out(Command.read({"id": "z", "verb": "lift", "reason": "r", "tenant": "loud"}), "bob", "api")

    stage.play(scored(chunk("hi", 1), chunk(None, 1, finish="stop"), DONE, panic=(0.0,)), act, tenant_header="x-tenant")


def test_rules_are_armed_shadowed_and_frozen_by_command_also_in_the_next_process(stage: Stage) -> None:
    async def act(client: httpx.AsyncClient, scene: Scene) -> None:
        boss = commander(scene)
        assert (await boss.carry_out(command("disarm", rule="up"), "ann", "api"))["modes"] == {"up": "shadow"}
        folder = scene.rig.ledger.path.parent
        book = Rulebook(folder / "rules.yaml", probe_facts(), scene.rig.ledger, orders=scene.gateway.orders)
        assert book.engine.overrides == {"up": "shadow"}
        assert (await boss.carry_out(command("release", rule="up"), "ann", "api"))["modes"] == {}
        with pytest.raises(CommandError, match="unknown rule 'uq'; known are: up"):
            await boss.carry_out(command("arm", rule="uq"), "ann", "api")
        await boss.carry_out(command("freeze"), "ann", "api")
        assert book.frozen == "ann: a test"
        await boss.carry_out(command("thaw"), "ann", "api")
        with pytest.raises(CommandError, match="not frozen"):
            await boss.carry_out(Command.read({"id": "t2", "verb": "thaw", "reason": "r"}), "ann", "api")

    stage.play(scored(DONE), act)


def test_a_command_is_done_once_whoever_repeats_it(stage: Stage) -> None:
    async def act(client: httpx.AsyncClient, scene: Scene) -> None:
        boss = commander(scene)
        stop = Command.read({"id": "one", "verb": "stop", "reason": "r", "all": True})
        first = await boss.carry_out(stop, "ann", "api")
        await boss.carry_out(Command.read({"id": "two", "verb": "resume", "reason": "r", "all": True}), "ann", "api")
        for each in (boss, commander(scene)):  # the same process, and the next
            assert await each.carry_out(stop, "ann", "api") == {**first, "repeated": True}
            assert scene.gateway.orders.stopped("", "m") == ""  # what was resumed stays so
            with pytest.raises(CommandError, match="used for another command"):
                await each.carry_out(Command.read({"id": "one", "verb": "stop", "reason": "other", "all": True}), "ann", "api")
            with pytest.raises(CommandError, match="used for another command"):
                await each.carry_out(stop, "eve", "api")
        with pytest.raises(CommandError, match="it has expired"):
            await boss.carry_out(Command.read({"id": "late", "verb": "stop", "reason": "r", "all": True, "expires_at": 1}), "ann", "api")

    stage.play(scored(DONE), act)


@pytest.mark.parametrize(
    ("payload", "why"),
    [
        ({"verb": "shout", "reason": "r"}, "verb: Input should be 'halt'"),
        ({"verb": "stop", "all": True}, "reason: Field required"),
        ({"verb": "stop", "reason": "  ", "all": True}, "a command needs a reason"),
        ({"verb": "stop", "reason": "r"}, "stop is about all or tenant or model or stream; got nothing"),
        ({"verb": "stop", "reason": "r", "all": True, "tenant": "t"}, "got all, tenant"),
        ({"verb": "stop", "reason": "r", "all": False}, "all: Input should be True"),
        ({"verb": "freeze", "reason": "r", "rule": "up"}, "freeze is about nothing in particular; got rule"),
        ({"verb": "throttle", "reason": "r", "tenant": "t"}, "limits belong to throttle, which needs them"),
        ({"verb": "throttle", "reason": "r", "tenant": "t", "limits": {"concurrency": -1}}, "limits.concurrency: Input should be greater"),
        ({"verb": "halt", "reason": "r", "stream": "s" * 129}, "stream: String should have at most 128"),
        ({"verb": "halt", "reason": "r", "stream": "s", "upstream": "http://evil"}, "upstream: unknown key; known are: id, verb"),
        ({"verb": "halt", "reason": "r" * 501, "stream": "s"}, "reason: String should have at most 500"),
        ({"verb": "halt", "reason": "r", "stream": "s", "id": "a b"}, "id: String should match"),
        ([], "Input should be a valid dictionary"),
    ],
)
def test_a_wrong_command_is_refused_in_one_line(payload: Any, why: str) -> None:
    with pytest.raises(CommandError) as refused:
        Command.read({"id": "x", **payload} if isinstance(payload, dict) else payload)
    assert why in str(refused.value)
    assert "\n" not in str(refused.value)


class Letters:
    """A mailbox without a broker: what comes out of Kafka is handed to it."""

    def __init__(self, scene: Scene, **config: Any) -> None:
        self.key = Ed25519PrivateKey.generate()
        raw = self.key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
        issuers = {"engine-1": base64.b64encode(raw).decode()}
        commands = CommandsConfig(issuers=issuers, **config)
        self.box = Mailbox(KafkaConfig(bootstrap="127.0.0.1:1", commands=commands), commands, commander(scene), scene.rig.pipeline.metrics)

    def made(self, **more: Any) -> tuple[bytes, bytes]:
        said = {"id": "k1", "verb": "stop", "all": True, "reason": "r", "issuer": "engine-1", "issued_at": time.time(), **more}
        value, ((_, signature),) = sign(self.key, {name: each for name, each in said.items() if each is not None})
        return value, signature


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"issued_at": None}, "it has no issued_at"),
        ({"issued_at": 1.0}, "expected at most 60"),
        ({"issued_at": 4e9}, "in the future"),
        ({"issuer": "eve"}, "'eve' has no key"),
        ({"issuer": None}, "'' has no key"),
        ({"verb": "shout"}, "verb: Input should be"),
        ({"expires_at": 5.0}, "it has expired"),
        ({"reason": "x" * 70_000}, "expected at most 65536"),
    ],
)
def test_a_letter_that_is_not_right_changes_nothing(stage: Stage, change: dict[str, Any], why: str) -> None:
    async def act(client: httpx.AsyncClient, scene: Scene) -> None:
        letters = Letters(scene)
        await letters.box.take(*letters.made(**change))
        assert not list(scene.gateway.orders)
        (record,) = scene.rig.records("command")
        assert record["outcome"] == "refused"
        assert why in record["why"]

    stage.play(scored(DONE), act)


def test_only_the_issuers_own_signature_counts(stage: Stage) -> None:
    async def act(client: httpx.AsyncClient, scene: Scene) -> None:
        letters = Letters(scene)
        value, signature = letters.made()
        _, other = Letters(scene).made()
        for wrong in (None, b"", b"!!", base64.b64encode(b"x" * 64), other, signature[:-4]):
            await letters.box.take(value, wrong)
        await letters.box.take(value.replace(b'"stop"', b'"halt"'), signature)
        for wild in (None, b"", b"\xff", b"[]", b"{", b"null", b'{"id": {}}', b"[" * 100_000):
            await letters.box.take(wild, signature)
        assert not list(scene.gateway.orders)
        assert {each["outcome"] for each in scene.rig.records("command")} == {"refused"}
        await letters.box.take(value, signature)
        await letters.box.take(value, signature)  # Kafka gives at least once
        assert [order.by for order in scene.gateway.orders] == ["engine-1"]
        assert [each["outcome"] for each in scene.rig.records("command")].count("done") == 1

    stage.play(scored(DONE), act)


wild = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3), max_leaves=6)  # fmt: skip


@given(st.dictionaries(st.sampled_from([*Command.model_fields, "more"]), wild | st.sampled_from([*ABOUT, True, "c-1", "all"])))
def test_wild_commands_are_read_or_refused(payload: dict[str, Any]) -> None:
    try:
        Command.read(json.loads(json.dumps(payload, default=str)))
    except CommandError as refused:
        assert "\n" not in str(refused) or "\n" in json.dumps(payload, default=str)


def test_a_journal_that_cannot_be_read_is_left_out(stage: Stage, tmp_path: Path) -> None:
    async def act(client: httpx.AsyncClient, scene: Scene) -> None:
        journal = scene.rig.ledger.path.parent / "ledger.commands"
        journal.write_bytes(b'{"torn\n[1, 2]\n\xff\xfe\n["a", 1, "d", {}]\n')
        boss = commander(scene)
        assert (await boss.carry_out(command("stop", all=True), "ann", "api"))["outcome"] == "done"

    stage.play(scored(DONE), act)


def test_a_flood_of_refusals_fills_no_ledger(stage: Stage) -> None:
    async def act(client: httpx.AsyncClient, scene: Scene) -> None:
        letters = Letters(scene)
        for _ in range(300):
            await letters.box.take(b"{}", None)
        assert 100 <= len(scene.rig.records("command")) <= 200  # the minute may end meanwhile
        assert scene.rig.sample("barograph_commands_total", verb="unknown", outcome="refused") == 300

    stage.play(scored(DONE), act)


def test_the_journal_does_not_grow_without_end(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    from monitor.admin import commander as module

    monkeypatch.setattr(module, "KEPT", 5)

    async def act(client: httpx.AsyncClient, scene: Scene) -> None:
        boss = commander(scene)
        journal = scene.rig.ledger.path.parent / "ledger.commands"
        for i in range(40):
            verb = "disarm" if i % 2 else "arm"
            await boss.carry_out(Command.read({"id": f"n{i}", "verb": verb, "reason": "r", "rule": "up"}), "ann", "api")
            assert len(journal.read_text().splitlines()) <= 10
        assert journal.stat().st_mode & 0o777 == 0o600
        again = commander(scene)
        assert (await again.carry_out(Command.read({"id": "n39", "verb": "disarm", "reason": "r", "rule": "up"}), "ann", "api"))["repeated"]

    stage.play(scored(DONE), act)
