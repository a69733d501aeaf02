"""Where a rule halts: nothing from the verdict's token on leaves, in no field, in no form; and what ends is told as its API tells it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from tests.monitor.gateway.scene import ASK, CHAT, DONE, Exchange, Scene, Script, Stage, chunk, error, events, scored, text, usage
from tests.stack import PATIENCE_S

COMPLETIONS, RESPONSES, MESSAGES = "/v1/completions", "/v1/responses", "/v1/messages"
SECRET = "blackmail"


def halted_at(position: int, of: int = 8) -> tuple[float, ...]:
    """Scores of a reply in which the rule fires at this token."""
    return (*(0.0,) * position, 9.0, *(0.0,) * (of - position - 1))


def logprobs(*tokens: str) -> dict[str, Any]:
    return {"content": [{"token": token, "logprob": -1.0, "bytes": list(token.encode()), "top_logprobs": []} for token in tokens]}


def test_the_halted_token_and_what_follows_stay(stage: Stage) -> None:
    said = [chunk("one ", 1), chunk("two ", 2), chunk(SECRET, 3), chunk(SECRET, 4, finish="stop"), usage(4), DONE]
    response = stage.ask(scored(*said, panic=halted_at(2)), stream=True, stream_options={"include_usage": True})
    assert text(response).startswith("one two ")
    assert SECRET not in response.text
    ending, last = events(response)[-2:]
    assert ending["choices"][0]["finish_reason"] == "content_filter"
    assert ending["barograph"]["verdicts"] == [{"rule": "high", "action": "halt", "mode": "armed", "position": 2}]
    assert last["usage"] == {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}
    assert response.text.endswith(": x-barograph: judged\n\ndata: [DONE]\n\n")
    whole = stage.ask(scored(*said, panic=halted_at(2)))
    assert whole.json()["choices"][0]["message"]["content"].startswith("one two ")
    assert whole.json()["choices"][0]["finish_reason"] == "content_filter"
    assert SECRET not in whole.text


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning", "refusal", "unknown"])
@pytest.mark.parametrize("streams", [True, False])
def test_a_halt_counts_in_every_field(stage: Stage, field: str, streams: bool) -> None:
    said = [chunk(None, 1, **{field: "fine"}), chunk(None, 2, **{field: SECRET}), usage(2), DONE]
    response = stage.ask(scored(*said, panic=halted_at(1)), stream=streams)
    assert "fine" in response.text
    assert SECRET not in response.text


def test_a_chunk_of_several_tokens_is_cut_where_its_tokens_are_known(stage: Stage) -> None:
    several = chunk("one two " + SECRET, 3)
    assert text(stage.ask(scored(several, DONE, panic=halted_at(2)), stream=True)).find("one") < 0  # nobody says which token is which
    several["choices"][0]["logprobs"] = logprobs("one ", "two ", SECRET)
    several["choices"][0]["token_ids"] = [1, 2, 3]
    response = stage.ask(scored(several, DONE, panic=halted_at(2)), stream=True)
    first = events(response)[0]["choices"][0]
    assert (first["delta"]["content"], first["token_ids"]) == ("one two ", [1, 2])
    assert [each["token"] for each in first["logprobs"]["content"]] == ["one ", "two "]
    assert SECRET not in response.text
    several["choices"][0]["logprobs"] = logprobs("one", "two", SECRET)  # which do not spell the text
    assert "one" not in text(stage.ask(scored(several, DONE, panic=halted_at(2)), stream=True))


CALL = [
    chunk("I look. ", 1),
    chunk(None, 2, tool_calls=[{"index": 0, "id": "a", "type": "function", "function": {"name": "pay", "arguments": ""}}]),
    chunk(None, 3, tool_calls=[{"index": 0, "function": {"arguments": '{"to": "'}}]),
    chunk(None, 4, tool_calls=[{"index": 0, "function": {"arguments": SECRET}}]),
    chunk(None, 5, tool_calls=[{"index": 0, "function": {"arguments": '"}'}}], finish="tool_calls"),
    usage(5),
    DONE,
]


def test_a_halt_within_a_call_leaves_none_of_it(stage: Stage) -> None:
    response = stage.ask(scored(*CALL, panic=halted_at(3)), stream=True)
    assert "I look. " in text(response)
    assert "tool_calls" not in response.text
    assert events(response)[-1]["choices"][0]["finish_reason"] == "content_filter"
    parts = stage.ask(scored(*CALL, panic=halted_at(3)), settings={"tool_calls": "stream"}, stream=True)
    assert '{"to": "' in "".join(
        call["function"]["arguments"]
        for event in events(parts)
        for part in event["choices"]
        for call in part["delta"].get("tool_calls", ())
    )
    assert SECRET not in parts.text


def test_a_call_that_is_complete_stays_when_the_next_is_halted(stage: Stage) -> None:
    second = [
        chunk(None, 6, tool_calls=[{"index": 1, "id": "b", "type": "function", "function": {"name": SECRET, "arguments": ""}}]),
        chunk(None, 7, tool_calls=[{"index": 1, "function": {"arguments": SECRET}}]),
    ]
    first = json.loads(json.dumps(CALL[4]))
    first["choices"][0]["finish_reason"] = None
    clean = [json.loads(json.dumps(part).replace(SECRET, "Ann")) if isinstance(part, dict) else part for part in (*CALL[:4], first)]
    response = stage.ask(scored(*clean, *second, DONE, panic=halted_at(6)), stream=True)
    called = [call for event in events(response) for part in event["choices"] for call in part["delta"].get("tool_calls", ())]
    assert "".join(call["function"]["arguments"] for call in called) == '{"to": "Ann"}'
    assert SECRET not in response.text


def test_all_choices_end_when_one_is_halted_early(stage: Stage) -> None:
    """The first choice halts before the others have said a word."""

    async def script(exchange: Exchange) -> None:
        streams = [exchange.begin(index) for index in range(3)]
        exchange.start()
        exchange.scores(streams[0], 0, 9.0)
        exchange.send(chunk(SECRET, 1, 0))
        await exchange.writer.drain()
        await asyncio.sleep(0.2)
        for index in (1, 2):
            exchange.scores(streams[index], 0, 0.0, 0.0)
            exchange.send(chunk(f"c{index}", 1, index), chunk("", 2, index, finish="stop"))
        exchange.send(usage(5), DONE)

    response = stage.ask(script, stream=True, n=3)
    ends = {part["index"]: part["finish_reason"] for event in events(response) for part in event["choices"] if part["finish_reason"]}
    assert ends == {0: "content_filter", 1: "stop", 2: "stop"}
    whole = stage.ask(script, n=3).json()
    assert [(choice["index"], choice["finish_reason"]) for choice in whole["choices"]] == [(0, "content_filter"), (1, "stop"), (2, "stop")]
    assert whole["choices"][2]["message"]["content"] == "c2"


def test_the_engine_is_cut_off_when_every_choice_is_halted(stage: Stage) -> None:
    async def script(exchange: Exchange) -> None:
        streams = [exchange.begin(index) for index in range(2)]
        exchange.start()
        for index in (1, 0):
            exchange.scores(streams[index], 0, 9.0)
            exchange.send(chunk(SECRET, 1, index))
        await exchange.writer.drain()
        await asyncio.wait_for(exchange.gone.wait(), PATIENCE_S)

    response = stage.ask(script, stream=True, n=2)
    assert [part["finish_reason"] for event in events(response) for part in event["choices"]] == ["content_filter"] * 2


def test_prompts_of_a_list_end_each_for_itself(stage: Stage) -> None:
    def part(said: str, index: int, count: int, finish: str | None = None) -> dict[str, Any]:
        made: dict[str, Any] = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "m"}
        made["choices"] = [{"index": index, "text": said, "logprobs": None, "finish_reason": finish}]
        return {**made, "usage": {"prompt_tokens": 3, "completion_tokens": count, "total_tokens": 3 + count}}

    async def script(exchange: Exchange) -> None:
        streams = [exchange.begin(index) for index in range(4)]
        exchange.start()
        for index in range(4):
            exchange.scores(streams[index], 0, 9.0 if index == 0 else 0.0)
            exchange.send(part(f"c{index}", index, 1, "length"))
        exchange.send(DONE)

    body = {"model": "m", "prompt": ["a", "b"], "n": 2}

    async def act(client: httpx.AsyncClient, scene: Scene) -> None:
        whole = (await client.post(COMPLETIONS, json=body)).json()
        assert [choice["finish_reason"] for choice in whole["choices"]] == ["content_filter", "length", "length", "length"]
        assert [choice["text"] for choice in whole["choices"]][1:] == ["c1", "c2", "c3"]
        assert scene.seen[0].request.endswith("0002")  # by which the tap numbers the choices of later prompts

    stage.play(script, act)


REPLIES: dict[str, dict[str, Any]] = {
    RESPONSES: {"id": "resp_1", "object": "response", "status": "completed", "output": [{"content": [{"text": SECRET}]}], "usage": {"output_tokens": 3}},
    MESSAGES: {"id": "m", "type": "message", "content": [{"type": "text", "text": SECRET}], "usage": {"input_tokens": 1, "output_tokens": 3}},
    CHAT: {"id": "c", "choices": [{"index": 0, "message": {"content": SECRET}, "finish_reason": "stop"}], "usage": {"completion_tokens": 3}},
}  # fmt: skip


def whole(panic: tuple[float, ...], route: str, runs_on: bool = False) -> Script:
    """An unstreamed reply of three tokens. `runs_on`: the engine would go on for ever."""

    async def script(exchange: Exchange) -> None:
        stream = exchange.begin()
        exchange.scores(stream, 0, *panic)
        if runs_on:
            await exchange.writer.drain()
            await asyncio.wait_for(exchange.gone.wait(), PATIENCE_S)
            return
        exchange.end(stream, len(panic))
        exchange.answer(REPLIES[route])

    return script


@pytest.mark.parametrize("route", REPLIES)
@pytest.mark.parametrize("runs_on", [False, True])
def test_what_is_held_whole_is_halted_whole(stage: Stage, route: str, runs_on: bool) -> None:
    body = {"tools": [{"type": "function", "function": {"name": "f"}}], "max_tokens": 9, "input": "x"}
    response = stage.ask(whole(halted_at(1, 3), route, runs_on), route, **body)
    assert response.status_code == 200
    assert SECRET not in response.text
    said = response.json()
    if route == RESPONSES:
        assert (said["status"], said["incomplete_details"]) == ("incomplete", {"reason": "content_filter"})
    elif route == MESSAGES:
        assert said["stop_reason"] == "refusal"
    else:
        assert said["choices"][0]["finish_reason"] == "content_filter"
    calm = stage.ask(whole((0.0,) * 3, route), route, **body)
    assert calm.json() == REPLIES[route]
    assert calm.headers["x-barograph"] == "judged"


@pytest.mark.parametrize(("route", "ends"), [(RESPONSES, "response.incomplete"), (MESSAGES, "message_stop")])
def test_streams_without_counts_are_held_whole(stage: Stage, route: str, ends: str) -> None:
    raw = f'event: a\ndata: {{"type": "a", "delta": "{SECRET}"}}\n\nevent: b\ndata: {{"type": "b", "usage": {{"output_tokens": 3}}}}\n\n'.encode()

    def script(*panic: float) -> Script:
        async def said(exchange: Exchange) -> None:
            stream = exchange.begin()
            exchange.start()
            exchange.send(raw[:30])
            await exchange.writer.drain()
            exchange.scores(stream, 0, *panic)
            exchange.end(stream, 3)
            exchange.send(raw[30:])

        return said

    calm = stage.ask(script(0.0, 0.0, 0.0), route, stream=True, max_tokens=3, input="x")
    assert calm.content.startswith(raw)
    assert calm.content.removeprefix(raw) == b": x-barograph: judged\n\n"
    stopped = stage.ask(script(*halted_at(1, 3)), route, stream=True, max_tokens=3, input="x")
    assert SECRET not in stopped.text
    assert f"event: {ends}\n" in stopped.text


def test_an_error_on_another_route_is_told_as_that_api_tells_it(stage: Stage) -> None:
    async def unscored(exchange: Exchange) -> None:
        exchange.answer(REPLIES[MESSAGES])

    response = stage.ask(unscored, MESSAGES, max_tokens=3)
    assert response.status_code == 503
    assert response.json()["type"] == "error"
    assert "missing_score" in response.json()["error"]["message"]


def test_lag_lets_so_many_leave_and_off_all(stage: Stage) -> None:
    async def script(exchange: Exchange) -> None:
        stream = exchange.begin()
        exchange.start()
        exchange.send(*(chunk(f"w{i} ", i + 1) for i in range(6)))
        await exchange.writer.drain()
        await asyncio.sleep(0.2)
        exchange.scores(stream, 0, *halted_at(3, 6))
        exchange.send(chunk("end", 7, finish="stop"), usage(7), DONE)

    def words(**settings: Any) -> tuple[str, str]:
        response = stage.ask(script, settings={"judge_timeout_s": 2, **settings}, stream=True)
        how = response.text.split(": x-barograph: ")[1].split("\n")[0]
        return text(response).split("This")[0], how

    assert words()[0].split()[:3] == ["w0", "w1", "w2"]
    assert "w3" not in words()[0]
    said, how = words(hold={"lag": 2})
    assert "w3" not in said
    assert how == "lagged"
    said, how = words(hold={"lag": 5})
    assert "w4" in said
    assert "w5" not in said
    said, how = words(hold="off")
    assert "w5" in said
    assert "end" not in said
    assert how == "open:hold_off"


def test_a_standing_halt_cuts_what_counts_no_token(stage: Stage) -> None:
    """With lag a verdict may come for a token that has left; then nothing else leaves, whatever its count."""

    async def script(exchange: Exchange) -> None:
        stream = exchange.begin()
        exchange.start()
        exchange.send(chunk("a", 1), chunk("b", 2))
        await exchange.writer.drain()
        await asyncio.sleep(0.2)
        exchange.scores(stream, 0, 9.0, 0.0)
        exchange.send(chunk(None, 2, finish="stop", unknown=""), usage(2), DONE)

    response = stage.ask(script, settings={"hold": {"lag": 4}}, stream=True)
    assert events(response)[-1]["choices"][0]["finish_reason"] == "content_filter"


def test_the_error_is_for_the_unjudged_only(stage: Stage) -> None:
    """What was judged good leaves before the failure of what was not."""

    async def script(exchange: Exchange) -> None:
        exchange.scores(exchange.begin(), 0, 0.0)
        exchange.start()
        exchange.send(chunk("good", 1), chunk(SECRET, 2), DONE)

    response = stage.ask(script, stream=True)
    assert (text(response), error(response)["code"]) == ("good", "missing_score")


def test_scores_for_those_who_ask(stage: Stage) -> None:
    async def act(client: httpx.AsyncClient, scene: Scene) -> None:
        response = await client.post(CHAT, json={**ASK, "stream": True}, headers={"x-barograph-scores": "1"})
        told = [event["barograph"] for event in events(response)]
        assert [each["position"] for each in told] == [0, 1]
        assert [each["scores"]["panic"] for each in told] == [[1.5], [2.5]]
        assert told[1]["verdicts"][0]["rule"] == "look"

    stage.play(scored(chunk("a", 1), chunk("b", 2, finish="stop"), usage(2), DONE, panic=(1.5, 2.5)), act)
