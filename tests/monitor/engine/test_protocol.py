from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from starlette.requests import Request

from monitor.engine.conversation import ChatMessage
from monitor.engine.protocol import ChatRequest, CompletionRequest, parse
from monitor.http import openai
from monitor.http.openai import OpenAIError

CHAT = {"model": "m", "messages": [{"role": "user", "content": "x"}]}


@pytest.mark.parametrize(
    ("change", "param", "expected"),
    [
        ({"temperature": 3}, "temperature", "less than or equal to 2"),
        ({"temperature": "hot"}, "temperature", "valid number"),
        ({"temperature": float("nan")}, "temperature", "finite number"),
        ({"max_tokens": 0}, "max_tokens", "greater than or equal to 1"),
        ({"n": 99}, "n", "less than or equal to 16"),
        ({"top_p": 0}, "top_p", "greater than 0"),
        ({"stop": [""]}, "stop", "none of them empty"),
        ({"stop": list("abcde")}, "stop", "at most 4"),
        ({"stop": 3}, "stop", "a string, or a list"),
        ({"tools": [{}]}, "tools.0", "required"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools.0.function.name", "pattern"),
        ({"tools": [{"type": "function", "function": {"name": "a", "strict": True}}]}, "tools.0.function.strict", "False"),
        ({"tool_choice": "required"}, "tool_choice", "supported are 'auto' and 'none'"),
        ({"tool_choice": {"type": "function", "function": {"name": "a"}}}, "tool_choice", "supported are 'auto' and 'none'"),
        ({"top_logprobs": 2}, "top_logprobs", "only allowed with"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "less than or equal to 20"),
        ({"logit_bias": {"1": 2}}, "logit_bias", "not supported"),
        ({"echo": True}, "echo", "not a parameter"),
        ({"messages": [{"role": "user", "content": "x", "wibble": 1}]}, "messages.0.wibble", "none that this engine knows there"),
        ({"messages": [{"role": "assistant", "content": None}]}, "messages.0", "neither 'content' nor 'tool_calls'"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0", "tool_call_id"),
        ({"messages": [1] * 4097}, "messages", "expected at most 4096"),
        ({"messages": [1] * 4096}, "messages.0", "valid dictionary"),
        ({"wibble": 1}, "wibble", "not a parameter"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role", "'system', 'developer', 'user', 'assistant' or 'tool'"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]}, "messages.0.content", ""),
        ({"messages": "hello"}, "messages", "valid list"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "only allowed with"),
        ({"seed": 2**80}, "seed", "less than"),
    ],
)
def test_wrong_parameters_are_named(change: dict[str, Any], param: str, expected: str) -> None:
    with pytest.raises(OpenAIError) as caught:
        parse(ChatRequest, {**CHAT, **change})
    error = caught.value.body["error"]
    assert caught.value.status == 400
    assert (error["param"] or "").startswith(param)
    assert expected in error["message"]


def test_neutral_values_of_unsupported_parameters_pass() -> None:
    parse(ChatRequest, {**CHAT, "frequency_penalty": 0, "tools": [], "response_format": {"type": "text"}})


@pytest.mark.parametrize(("prompt", "count"), [("a", 1), (["a", "b"], 2), ([1, 2, 3], 1), ([[1], [2]], 2)])
def test_prompts_in_all_four_forms(prompt: Any, count: int) -> None:
    assert len(parse(CompletionRequest, {"model": "m", "prompt": prompt}).prompts()) == count


def test_the_first_error_ends_the_reading() -> None:
    with pytest.raises(ValidationError) as caught:
        ChatRequest.model_validate({**CHAT, "messages": [1] * 1000})
    assert caught.value.error_count() == 1
    with pytest.raises(ValidationError) as caught:
        CompletionRequest.model_validate({"model": "m", "prompt": ["x", *[1] * 1000]})
    assert caught.value.error_count() < 8


@pytest.mark.parametrize("kind", [ChatRequest, CompletionRequest])
def test_null_means_absent_for_every_parameter(kind: type[ChatRequest] | type[CompletionRequest]) -> None:
    needed: dict[str, Any] = {"model": "m", "messages": CHAT["messages"]} if kind is ChatRequest else {"model": "m", "prompt": "x"}
    nulls = dict.fromkeys([*kind.model_fields, "logit_bias", "reasoning_effort", "response_format", "whatever"])
    assert parse(kind, {**nulls, **needed}) == parse(kind, needed)


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 50_000 + b"]" * 50_000,
        b'{"n": 1e999}',
        b'{"n": ' + b"9" * 5000 + b"}",
        b'{"model": "\\ud800"}',
        b'{"seed": 1, "seed": {}}',
        b"\xff",
        b"nul",
    ],
)
def test_bodies_that_no_parser_likes(body: bytes) -> None:
    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def read() -> None:
        payload = await openai.read_json(Request({"type": "http", "headers": []}, receive), 1 << 20)
        parse(ChatRequest, payload)

    with pytest.raises(OpenAIError) as caught:
        asyncio.run(read())
    assert caught.value.status == 400


WILD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


WILD_MESSAGES = st.lists(
    st.dictionaries(
        st.sampled_from((*ChatMessage.model_fields, "type", "function", "x")), WILD | st.sampled_from(("user", "tool", "assistant"))
    )
)


@settings(max_examples=300, deadline=None)
@given(WILD_MESSAGES, st.lists(st.fixed_dictionaries({"type": st.just("function"), "function": WILD}), max_size=2))
def test_wild_conversations_are_read_or_refused(messages: list[Any], tools: list[Any]) -> None:
    try:
        asked = parse(ChatRequest, {"model": "m", "messages": messages, "tools": tools})
    except OpenAIError as error:
        assert error.status == 400
    else:
        assert all(isinstance(message.plain()["content"], str) for message in asked.messages)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from((*ChatRequest.model_fields, *CompletionRequest.model_fields, "logit_bias", "x")), WILD))
def test_wild_bodies_are_read_or_refused(payload: dict[str, Any]) -> None:
    for kind in (ChatRequest, CompletionRequest):
        try:
            parse(kind, payload)
        except OpenAIError as error:
            assert error.status == 400
