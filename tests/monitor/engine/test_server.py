"""The embedded engine's answers, whole and streamed, on a tiny model."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest

from tests.monitor.engine.served import TEMPLATE, TOOLS, Served, with_engine

CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo", "days": [1, {"x": "}"}]}}\n</tool_call>'
TWO = f'Let me see. \n{CALL}\n<tool_call>\n{{"arguments": {{"city": "Rome"}}, "name": "time"}}\n</tool_call>'


def folded(chunks: list[dict[str, Any]]) -> dict[str, Any]:
    """What a client that knows nothing but OpenAI's deltas makes of one choice's chunks."""
    message: dict[str, Any] = {"content": None, "calls": {}, "logprobs": [], "ids": [], "finish": None, "role": None}
    for choice in (chunk["choices"][0] for chunk in chunks if chunk["choices"]):
        delta = choice.get("delta", {"content": choice.get("text")})
        message["role"] = delta.get("role", message["role"])
        if delta.get("content") is not None:
            message["content"] = (message["content"] or "") + delta["content"]
        for call in delta.get("tool_calls", []):
            known = message["calls"].setdefault(call["index"], {"name": "", "arguments": ""})
            known["name"] += call["function"].get("name", "")
            known["arguments"] += call["function"]["arguments"]
        message["logprobs"] += (choice["logprobs"] or {}).get("content", [])
        message["ids"] += choice.get("token_ids", [])
        message["finish"] = choice["finish_reason"] or message["finish"]
    return message


def test_a_history_as_the_sdk_sends_it_back(tiny: str) -> None:
    empty = {"refusal": None, "tool_calls": None, "audio": None, "function_call": None, "annotations": []}
    history = [
        {"role": "user", "content": "Hello."},
        {"role": "assistant", "content": "Hello!", **empty},
        {"role": "assistant", "content": "Hello!", **empty, "annotations": None},
        {"role": "user", "content": [{"type": "text", "text": "And?"}], "name": None},
    ]
    nothing = dict.fromkeys(
        ("reasoning_effort", "tools", "tool_choice", "logprobs", "top_logprobs", "stop", "n", "seed", "stream_options", "wibble")
    )

    async def work(engine: Served) -> None:
        answer = await engine.ask(messages=history, **nothing)
        assert answer.status_code == 200, answer.text
        assert answer.json()["usage"]["completion_tokens"] == 8

    with_engine(tiny, work)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_logprobs_are_the_models_own_streamed_and_whole(tiny: str, path: str) -> None:
    asked = {"logprobs": True, "top_logprobs": 3} if "chat" in path else {"logprobs": 3}

    async def work(engine: Served) -> None:
        hot = {"temperature": 1.7, "top_p": 0.5, "seed": 4, "return_token_ids": True, **asked}
        whole = (await engine.ask(path, **hot)).json()
        chunks = await engine.events(path, **hot)
        choice = whole["choices"][0]
        tokens, prompt = choice["token_ids"], whole.get("prompt_token_ids") or choice["prompt_token_ids"]
        assert len(tokens) == 8
        import torch

        with torch.no_grad():
            engine.model.module.set_attn_implementation("eager")
            logits = engine.model.module(input_ids=torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1]
        expected = logits.log_softmax(-1)
        own = [float(expected[i, token]) for i, token in enumerate(tokens)]
        top = expected.topk(3, dim=-1).values.tolist()
        if "chat" in path:
            entries = choice["logprobs"]["content"]
            assert [entry["logprob"] for entry in entries] == pytest.approx(own, abs=1e-3)
            assert [[each["logprob"] for each in entry["top_logprobs"]] for entry in entries] == [
                pytest.approx(row, abs=1e-3) for row in top
            ]
            assert b"".join(bytes(entry["bytes"]) for entry in entries).decode(errors="replace") == choice["message"]["content"]
            assert folded(chunks)["logprobs"] == entries
        else:
            found = choice["logprobs"]
            assert found["token_logprobs"] == pytest.approx(own, abs=1e-3)
            assert [max(each.values()) for each in found["top_logprobs"]] == pytest.approx([row[0] for row in top], abs=1e-3)
            pieces = [chunk["choices"][0]["logprobs"] for chunk in chunks if chunk["choices"]]
            assert {name: [each for piece in pieces for each in piece[name]] for name in found} == found
        assert folded(chunks)["ids"] == tokens
        assert all(math.isfinite(each) for each in own)

    with_engine(tiny, work)


def test_rows_that_ask_for_no_logprobs_get_none_beside_one_that_does(tiny: str) -> None:
    async def work(engine: Served) -> None:
        one, other = await asyncio.gather(engine.ask(logprobs=True), engine.ask())
        assert one.json()["choices"][0]["logprobs"]["content"][0]["top_logprobs"] == []
        assert other.json()["choices"][0]["logprobs"] is None
        assert one.json()["choices"][0]["message"] == other.json()["choices"][0]["message"]

    with_engine(tiny, work)


def test_calls_of_tools_whole_and_streamed(tiny: str) -> None:
    async def work(engine: Served) -> None:
        whole = (await engine.ask(tools=TOOLS, max_tokens=150)).json()
        (choice,) = whole["choices"]
        assert choice["finish_reason"] == "tool_calls"
        assert choice["message"]["content"] == "Let me see."
        first, second = choice["message"]["tool_calls"]
        assert first["type"] == second["type"] == "function"
        assert first["id"] != second["id"]
        assert first["function"] == {"name": "weather", "arguments": '{"city": "Oslo", "days": [1, {"x": "}"}]}'}
        assert second["function"] == {"name": "time", "arguments": '{"city": "Rome"}'}
        chunks = await engine.events(tools=TOOLS, max_tokens=150)
        got = folded(chunks)
        assert (got["role"], got["content"], got["finish"]) == ("assistant", "Let me see.", "tool_calls")
        assert list(got["calls"].values()) == [call["function"] for call in (first, second)]
        counts = [chunk["usage"]["completion_tokens"] for chunk in chunks[:-1]]
        assert counts == list(range(1, whole["usage"]["completion_tokens"] + 1))  # one token a chunk, held back or not
        assert sum("tool_calls" in chunk["choices"][0]["delta"] for chunk in chunks[:-1]) > 3  # arguments come as they are made

    with_engine(tiny, work, TEMPLATE, TWO)


def test_one_call_at_a_time_ends_after_the_first(tiny: str) -> None:
    async def work(engine: Served) -> None:
        choice = (await engine.ask(tools=TOOLS, max_tokens=150, parallel_tool_calls=False)).json()["choices"][0]
        assert [call["function"]["name"] for call in choice["message"]["tool_calls"]] == ["weather"]
        assert choice["finish_reason"] == "tool_calls"
        assert folded(await engine.events(tools=TOOLS, max_tokens=150, parallel_tool_calls=False))["calls"].keys() == {0}

    with_engine(tiny, work, TEMPLATE, TWO)


def test_what_is_no_call_stays_text(tiny: str) -> None:
    async def work(engine: Served) -> None:
        unasked = (await engine.ask(max_tokens=100)).json()["choices"][0]
        assert unasked["message"] == {"role": "assistant", "content": CALL}
        kept = (await engine.ask(tools=TOOLS, tool_choice="none", max_tokens=100)).json()["choices"][0]
        assert kept["message"]["content"] == CALL
        other = (await engine.ask(tools=TOOLS[1:], max_tokens=100)).json()["choices"][0]  # of a function that nobody offered
        assert (other["message"], other["finish_reason"]) == ({"role": "assistant", "content": CALL}, "stop")

    with_engine(tiny, work, TEMPLATE, CALL)


def test_a_call_that_breaks_off(tiny: str) -> None:
    async def work(engine: Served) -> None:
        choice = (await engine.ask(tools=TOOLS, max_tokens=20)).json()["choices"][0]
        assert choice["finish_reason"] == "length"
        assert '{"city": "Oslo", "days"'.startswith(choice["message"]["tool_calls"][0]["function"]["arguments"])

    with_engine(tiny, work, TEMPLATE, CALL)


def test_a_conversation_with_tools(tiny: str) -> None:
    history = [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "a", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}]},
        {"role": "tool", "tool_call_id": "a", "content": "Rain."},
    ]  # fmt: skip

    async def work(engine: Served) -> None:
        answer = (await engine.ask(messages=history, tools=TOOLS, return_token_ids=True)).json()
        prompt = engine.model.tokenizer.decode(answer["prompt_token_ids"])
        assert '{"name": "weather", "arguments": {"city": "Oslo"}}' in prompt
        assert "<|im_start|>tool\nRain." in prompt
        assert "None" not in prompt

    with_engine(tiny, work, TEMPLATE)


def test_a_template_without_tools_says_so(tiny: str) -> None:
    async def work(engine: Served) -> None:
        answer = await engine.ask(tools=TOOLS)
        assert answer.status_code == 400
        assert "calls no tools" in answer.json()["error"]["message"]
        answer = await engine.ask(messages=[{"role": "tool", "tool_call_id": "a", "content": "Rain."}])
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "messages")

    with_engine(tiny, work)


def test_a_template_that_fails_is_the_requests_fault(tiny: str) -> None:
    async def work(engine: Served) -> None:
        answer = await engine.ask()
        assert answer.status_code == 400
        assert "TypeError" in answer.json()["error"]["message"]

    with_engine(tiny, work, "{{ messages[0].content + 1 }}")


def test_echo_comes_first_and_counts_no_token(tiny: str) -> None:
    async def work(engine: Served) -> None:
        whole = (await engine.ask("/v1/completions", prompt=["The sea", "A"], echo=True)).json()
        assert [choice["text"][:1] for choice in whole["choices"]] == ["T", "A"]
        assert whole["choices"][0]["text"].startswith("The sea")
        chunks = await engine.events("/v1/completions", prompt="The sea", echo=True)
        assert (chunks[0]["choices"][0]["text"], chunks[0]["usage"]["completion_tokens"]) == ("The sea", 0)
        assert folded(chunks)["content"] == whole["choices"][0]["text"]

    with_engine(tiny, work)


def test_too_many_are_refused_before_anything_is_read(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(engine: Served) -> None:
        monkeypatch.setattr(type(engine.model.tokenizer), "__call__", lambda *_: pytest.fail("a prompt was tokenized"))
        answer = await engine.ask("/v1/completions", prompt=["x"] * 375_000)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "n")
        answer = await engine.ask("/v1/completions", prompt=["x"] * 5, n=2)
        assert "make 10 generations; expected at most 8" in answer.json()["error"]["message"]
        answer = await engine.ask(messages=[1] * 500_000)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "messages")

    with_engine(tiny, work)
