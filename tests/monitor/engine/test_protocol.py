from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitor.engine.protocol import ChatRequest, CompletionRequest, parse
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
        ({"stop": [""]}, "stop.0", "at least 1 character"),
        ({"tools": [{}]}, "tools", "not supported"),
        ({"logprobs": True}, "logprobs", "not supported"),
        ({"wibble": 1}, "wibble", "not a parameter"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role", "'system', 'developer', 'user' or 'assistant'"),
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
    parse(ChatRequest, {**CHAT, "frequency_penalty": 0, "tools": [], "logprobs": False, "response_format": {"type": "text"}})


@pytest.mark.parametrize(("prompt", "count"), [("a", 1), (["a", "b"], 2), ([1, 2, 3], 1), ([[1], [2]], 2)])
def test_prompts_in_all_four_forms(prompt: Any, count: int) -> None:
    assert len(parse(CompletionRequest, {"model": "m", "prompt": prompt}).prompts()) == count


WILD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from(("model", "messages", "prompt", "n", "stop", "stream", "logit_bias", "x")), WILD))
def test_wild_bodies_are_read_or_refused(payload: dict[str, Any]) -> None:
    for kind in (ChatRequest, CompletionRequest):
        try:
            parse(kind, payload)
        except OpenAIError as error:
            assert error.status == 400
