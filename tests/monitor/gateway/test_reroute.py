"""Re-routing: what a target is asked, what the client sees of it, and how it ends when the target does not take it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from monitor.gateway.asked import Asked
from monitor.gateway.reroute import Delivered, plan
from monitor.gateway.target import REROUTED
from probes.bank import Bank
from tests.banks import steerable
from tests.monitor.gateway.scene import ASK, CHAT, DONE, SSE, Exchange, Scene, Script, Stage, chunk, events, scored, text, usage
from tests.stack import PATIENCE_S

RULES = """rules:
- {rule: turn, desc: d, when: panic.last > 3, do: {reroute: {to: safe, unjudged: allow, else: {message: No target.}}}, mode: armed}
"""
STRICT = RULES.replace("unjudged: allow, ", "")
BAD = (0.0, 0.0, 0.0, 5.0, 0.0, 0.0)  # the rule fires at the fourth token


def there(*parts: Any, going_on: bool = True, judged: bool = False) -> Script:
    """A target: answers trials, goes on from a prefix or does not, and says these parts to a request that streams."""

    async def script(exchange: Exchange) -> None:
        if exchange.method == "GET":
            exchange.answer({"data": [{"id": "calm-model"}]})
            return
        headers = {"x_barograph": "judged"} if judged else {}
        asked = exchange.asked
        if not asked.get("stream"):
            prompt = 10 if going_on and asked.get("continue_final_message") else 12
            whole = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "all of it"}, "finish_reason": "stop"}]}
            exchange.answer({"id": "t", **whole, "usage": {"prompt_tokens": prompt, "completion_tokens": 3, "total_tokens": 15}}, **headers)
            return
        exchange.start(200, SSE, **headers)
        exchange.send(*parts)

    return script


def said(*words: str, model: str = "calm-model") -> list[Any]:
    first = chunk("", 0, role="assistant")
    parts = [first, *(chunk(word, i + 1) for i, word in enumerate(words)), chunk(None, len(words), finish="stop"), usage(len(words)), DONE]
    return [part if isinstance(part, bytes) else {**part, "model": model, "id": "chatcmpl-there"} for part in parts]


def first(count: int = 6) -> Script:
    role = chunk("", 0, role="assistant")
    return scored(role, *(chunk(f"w{i} ", i + 1) for i in range(count)), chunk(None, count, finish="stop"), usage(count), DONE, panic=BAD)


def ask(stage: Stage, target: Script, script: Script | None = None, rules: str = RULES, headers: Any = None, **body: Any) -> Any:
    """One request once the target was looked at. Gives the answer, what the target was asked, and what the ledger says of it."""

    async def act(client: httpx.AsyncClient, scene: Scene) -> Any:
        await scene.gateway.engine.targets["safe"].look(scene.rig.pipeline.streams)
        trials = len(scene.went)
        answer = await client.post(CHAT, json={**ASK, **body}, headers=headers)
        await scene.until(lambda: scene.rig.records("reply"), "the reply is recorded")
        return answer, scene.went[trials:], scene

    return stage.play(script or first(), act, there=target, rules=rules)


def test_a_reply_goes_on_elsewhere_in_one_piece(stage: Stage) -> None:
    gone: list[bool] = []

    async def endless(exchange: Exchange) -> None:
        stream = exchange.begin()
        exchange.scores(stream, 0, *BAD)
        exchange.start()
        exchange.send(chunk("", 0, role="assistant"), *(chunk(f"w{i} ", i + 1) for i in range(6)))
        async with asyncio.timeout(PATIENCE_S):
            await exchange.gone.wait()
        gone.append(True)

    options = {"stream": True, "stream_options": {"include_usage": True}, "max_tokens": 20}
    answer, (went,), scene = ask(stage, there(*said("x ", "y ")), endless, **options)
    assert gone == [True]  # the first engine was cut off
    assert text(answer) == "w0 w1 w2 x y "
    # The target goes on from what has left: no word of ours is in what it is asked.
    assert went.asked["messages"] == [*ASK["messages"], {"role": "assistant", "content": "w0 w1 w2 "}]
    assert (went.asked["continue_final_message"], went.asked["add_generation_prompt"]) == (True, False)
    assert (went.asked["model"], went.asked["max_tokens"]) == ("calm-model", 17)
    assert went.headers[REROUTED] == "1"
    chunks = events(answer)
    assert {each["id"] for each in chunks} == {"chatcmpl-1"}
    assert sum("role" in part["delta"] for each in chunks for part in each["choices"]) == 1
    assert [each["model"] for each in chunks] == ["m"] * 4 + ["calm-model"] * 4
    assert [part["finish_reason"] for each in chunks for part in each["choices"] if part["finish_reason"]] == ["stop"]
    assert chunks[-1]["usage"] == {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}
    assert answer.text.endswith(": x-barograph: open:rerouted:safe\n\ndata: [DONE]\n\n")
    intent, outcome = scene.rig.records("reroute")
    assert (intent["event"], intent["do"], intent["to"], intent["rule"]) == ("intent", "continue", "safe", "turn")
    assert (outcome["event"], outcome["do"], outcome["judged"]) == ("outcome", "taken", "nowhere")
    (reply,) = scene.rig.records("reply")
    assert (reply["how"], reply["course"]) == ("open:rerouted:safe", {"0": ["running", "rerouting", "rerouted", "ended"]})


def test_what_another_sidecar_judges_is_judged(stage: Stage) -> None:
    answer, (_,), scene = ask(stage, there(*said("x"), judged=True), rules=STRICT, stream=True)
    assert text(answer) == "w0 w1 w2 x"
    assert ": x-barograph: rerouted:safe\n" in answer.text
    assert scene.rig.records("reroute")[1]["judged"] == "there"


def test_a_target_whose_tap_is_ours_is_judged_here_and_a_second_verdict_halts(stage: Stage) -> None:
    async def target(exchange: Exchange) -> None:
        stream = exchange.begin()  # a trial too: that is how the gateway learns that its tap is ours
        if not exchange.asked.get("stream"):
            await there()(exchange)
            return
        exchange.scores(stream, 0, 0.0, 9.0, 0.0)
        exchange.start()
        exchange.send(*said("x ", "y ", "z "))
        exchange.end(stream, 3)

    answer, (_,), scene = ask(stage, target, rules=STRICT, stream=True)
    assert text(answer) == "w0 w1 w2 x No target."
    assert events(answer)[-1]["choices"][0]["finish_reason"] == "content_filter"
    (reply,) = scene.rig.records("reply")
    assert (reply["how"], reply["tokens"], reply["halted"]) == ("rerouted:safe", 4, ["turn"])


def test_without_a_stream_all_of_it_comes_from_the_target(stage: Stage) -> None:
    answer, (went,), _ = ask(stage, there(*said("x ", "y ")))
    assert went.asked["messages"] == ASK["messages"]
    reply = answer.json()
    assert (reply["choices"][0]["message"]["content"], reply["model"], reply["id"]) == ("x y ", "calm-model", "chatcmpl-1")
    assert reply["usage"]["completion_tokens"] == 2
    assert (answer.headers["x-barograph"], answer.headers["x-barograph-target"]) == ("open:rerouted:safe", "safe")


def test_a_reply_that_is_held_whole_comes_from_the_target(stage: Stage) -> None:
    tools = [{"type": "function", "function": {"name": "f"}}]

    async def script(exchange: Exchange) -> None:
        stream = exchange.begin()
        exchange.scores(stream, 0, *BAD)
        await asyncio.sleep(0.2)

    answer, (went,), _ = ask(stage, there(), script, tools=tools)
    assert went.asked["tools"] == tools
    assert answer.json()["choices"][0]["message"]["content"] == "all of it"
    assert answer.headers["x-barograph-target"] == "safe"


async def _down(exchange: Exchange) -> None:
    if exchange.method == "GET" or not exchange.asked.get("stream"):
        await there()(exchange)
        return
    exchange.answer({"error": {"message": "no", "type": "server_error"}}, 500)


async def _cut(exchange: Exchange) -> None:
    if exchange.method == "GET" or not exchange.asked.get("stream"):
        await there()(exchange)
        return
    exchange.writer.transport.abort()


@pytest.mark.parametrize("target", [_down, _cut])
@pytest.mark.parametrize("streams", [True, False])
def test_a_target_that_is_down_ends_the_reply_by_the_rules_else(stage: Stage, target: Script, streams: bool) -> None:
    answer, _, scene = ask(stage, target, stream=streams)
    assert answer.status_code == 200
    if streams:
        assert text(answer) == "w0 w1 w2 No target."
        assert events(answer)[-1]["choices"][0]["finish_reason"] == "content_filter"
    else:
        (choice,) = answer.json()["choices"]
        assert (choice["message"]["content"], choice["finish_reason"]) == ("No target.", "content_filter")
    intent, outcome = scene.rig.records("reroute")
    assert (intent["event"], outcome["event"], outcome["do"]) == ("intent", "outcome", "missed")


def test_a_target_that_breaks_off_fails_the_reply(stage: Stage) -> None:
    answer, _, _ = ask(stage, there(*said("x ", "y ")[:2]), stream=True)
    assert text(answer) == "w0 w1 w2 x "
    assert events(answer)[-1]["error"]["code"] == "upstream_error"


@pytest.mark.parametrize(
    ("change", "kept"),
    [
        ({"rules": STRICT}, "w0 w1 w2 No target."),  # nobody judges the target, and the rule refuses that
        ({"headers": {REROUTED: "1"}}, "w0 w1 w2 No target."),  # it came from a re-route: no loops
        ({"target": there(*said("x"), going_on=False)}, "w0 w1 w2 No target."),  # it takes no prefix
        ({"response_format": {"type": "json_object"}}, "w0 w1 w2 No target."),
        ({"rules": RULES.replace("to: safe", "to: safe, how: restart")}, "w0 w1 w2 x"),
    ],
)
def test_what_cannot_go_on_is_halted_and_says_why(stage: Stage, change: dict[str, Any], kept: str) -> None:
    change = dict(change)
    answer, went, scene = ask(stage, change.pop("target", there(*said("x"))), stream=True, **change)
    assert text(answer) == kept
    if kept.endswith("No target."):
        assert went == []
        (record,) = scene.rig.records("reroute")
        assert (record["do"], record["event"]) == ("halt", "intent")
        assert record["why"]


def asked(stream: bool = True, route: str = CHAT, **payload: Any) -> Asked:
    body = {"model": "m", "stream": stream, **({"messages": ASK["messages"]} if route == CHAT else {"prompt": "p"}), **payload}
    return Asked.read(route, json.loads(json.dumps(body)))


COMPLETIONS = "/v1/completions"
SENT = Delivered(pieces=["so far"])


@pytest.mark.parametrize(
    ("request_", "delivered", "how", "continues", "way"),
    [
        (asked(), {}, "continue", True, "restart"),
        (asked(), {0: Delivered(role=True)}, "continue", False, "restart"),
        (asked(n=2), {0: Delivered(), 1: Delivered()}, "continue", True, "restart"),
        (asked(n=2), {0: SENT, 1: Delivered()}, "continue", True, "halt"),
        (asked(n=2), {0: SENT, 1: Delivered()}, "restart", True, "halt"),
        (asked(), {0: SENT}, "continue", True, "continue"),
        (asked(), {0: SENT}, "continue", False, "halt"),
        (asked(), {0: SENT}, "restart", False, "restart"),
        (asked(), {0: Delivered(pieces=["x"], calls=True)}, "restart", True, "halt"),
        (asked(), {0: Delivered(pieces=["x"], reasoning=True)}, "continue", True, "halt"),
        (asked(response_format={"type": "json_schema"}), {0: SENT}, "continue", True, "halt"),
        (asked(response_format={"type": "text"}), {0: SENT}, "continue", True, "continue"),
        (asked(tools=[{}], tool_choice="required"), {0: SENT}, "continue", True, "halt"),
        (asked(tools=[{}], tool_choice="auto"), {0: SENT}, "continue", True, "continue"),
        (asked(structured_outputs={"choice": ["a"]}), {0: SENT}, "continue", True, "halt"),
        (asked(route=COMPLETIONS), {0: SENT}, "continue", False, "continue"),
        (asked(route=COMPLETIONS, prompt=[1, 2]), {0: SENT}, "continue", True, "halt"),
        (asked(route=COMPLETIONS, echo=True), {0: SENT}, "continue", True, "halt"),
        (asked(continue_final_message=True, messages=[{"role": "assistant", "content": [{"type": "text", "text": "x"}]}]), {0: SENT}, "continue", True, "halt"),
    ],
)  # fmt: skip
def test_the_plan(request_: Asked, delivered: dict[int, Delivered], how: str, continues: bool, way: str) -> None:
    found, why = plan(request_, delivered, how, continues)
    assert found == way
    assert why


WILD: list[Any] = [
    {"choices": "abc"}, {"choices": [1]}, {"choices": [{"delta": {"content": "x"}}]}, {"choices": [{"index": -1, "delta": {}}]}, b"data: [1]\n\n",
    b"data: {\n\n", {"error": {"message": "no"}}, b"data: " + b"x" * (9 << 20),
]  # fmt: skip


@pytest.mark.parametrize("wild", WILD)
@pytest.mark.parametrize("begun", [True, False])
@pytest.mark.parametrize("streams", [True, False])
def test_whatever_a_target_says_is_an_error_and_no_fault_of_ours(stage: Stage, wild: Any, begun: bool, streams: bool) -> None:
    async def target(exchange: Exchange) -> None:
        if not (begun and exchange.method == "POST" and exchange.asked.get("stream")):
            await there(wild)(exchange)
            return
        exchange.start()
        exchange.send(*said("x ")[:2])
        await exchange.writer.drain()
        await asyncio.sleep(0.05)
        exchange.send(wild)

    answer, _, _ = ask(stage, target, stream=streams)
    assert "internal" not in answer.text
    if begun:
        code = events(answer)[-1]["error"].get("code") if streams else answer.json()["error"].get("code")
        assert code in ("upstream_error", None)
    elif streams:
        assert text(answer) == "w0 w1 w2 No target."
    else:
        assert answer.json()["choices"][0]["message"]["content"] == "No target."


def test_counts_that_are_none_add_nothing(stage: Stage) -> None:
    parts = said("x ")
    parts[-2] = {**parts[-2], "usage": {"prompt_tokens": "many", "completion_tokens": None}}
    answer, _, _ = ask(stage, there(*parts), stream=True, stream_options={"include_usage": True})
    assert events(answer)[-1]["usage"] == {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}


def test_a_second_verdict_halts_a_reply_that_is_held_whole(stage: Stage) -> None:
    """Before the target has answered at all."""

    async def script(exchange: Exchange) -> None:
        exchange.scores(exchange.begin(), 0, *BAD)
        await asyncio.sleep(0.2)

    async def target(exchange: Exchange) -> None:
        if exchange.method == "GET" or "tools" not in exchange.asked:
            if exchange.method == "POST":
                exchange.begin()
            await there()(exchange)
            return
        exchange.scores(exchange.begin(), 0, *BAD)
        await asyncio.sleep(0.3)

    answer, (_,), scene = ask(stage, target, script, rules=STRICT, tools=[{"type": "function", "function": {"name": "f"}}])
    (choice,) = answer.json()["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("No target.", "content_filter")
    assert answer.headers["x-barograph"] == "rerouted:safe"
    assert scene.rig.records("reroute")[1]["judged"] == "here"


PUSH = """rules:
- {rule: push, desc: d, when: panic.last > 3, do: {steer: {probe: panic, dose: -0.1, for: 2 tokens, else: {reroute: {to: safe, unjudged: allow}}}}, mode: armed}
"""


def test_a_push_that_does_not_help_re_routes(bank: Bank, tmp_path: Path) -> None:
    role, done = chunk("", 0, role="assistant"), [chunk(None, 6, finish="stop"), usage(6), DONE]
    script = scored(role, *(chunk(f"w{i} ", i + 1) for i in range(6)), *done, panic=(0.0, 5.0, 5.0, 5.0, 5.0, 5.0))

    async def act(client: httpx.AsyncClient, scene: Scene) -> Any:
        await scene.gateway.engine.targets["safe"].look(scene.rig.pipeline.streams)
        answer = await client.post(CHAT, json={**ASK, "stream": True})
        await scene.until(lambda: scene.rig.records("reply"), "the reply is recorded")
        return answer, scene

    answer, scene = Stage(steerable(bank), tmp_path).play(script, act, there=there(*said("x ", "y ")), rules=PUSH)
    # Where nobody can push, the `else` comes with the next token, also when that is in the same frame.
    assert text(answer) == "w0 w1 x y "
    assert [each["event"] for each in scene.rig.records("steer")] == ["refused", "else"]
    assert [each["action"] for each in scene.rig.records("verdict")] == ["steer", "reroute"]
    assert scene.rig.records("reply")[0]["course"] == {"0": ["running", "rerouting", "rerouted", "ended"]}
