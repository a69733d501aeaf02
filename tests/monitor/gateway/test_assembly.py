from __future__ import annotations

import copy
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from monitor.gateway.assembly import Assembly, merge
from monitor.gateway.calls import Calls
from monitor.gateway.cut import cut
from tests.monitor.gateway.scene import chunk, usage

texts = st.text(max_size=6)
calls = st.lists(
    st.fixed_dictionaries({"id": st.text(min_size=1, max_size=4), "name": st.text(min_size=1, max_size=4), "arguments": texts}), max_size=3
)


def pieces(draw: Any, text: str) -> list[str]:
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=3)))
    return [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]


@given(st.data(), texts, texts, calls)
def test_a_message_comes_back_from_its_deltas(data: st.DataObject, content: str, reasoning: str, made: list[dict[str, str]]) -> None:
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    deltas += [{"reasoning_content": piece} for piece in pieces(data.draw, reasoning)]
    deltas += [{"content": piece} for piece in pieces(data.draw, content)]
    for index, call in enumerate(made):
        first, *rest = pieces(data.draw, call["arguments"])
        deltas.append(
            {"tool_calls": [{"index": index, "id": call["id"], "type": "function", "function": {"name": call["name"], "arguments": first}}]}
        )
        deltas += [{"tool_calls": [{"index": index, "function": {"arguments": piece}}]} for piece in rest]
    assembly = Assembly()
    for count, delta in enumerate(deltas):
        assembly.add({**chunk(None, count), "choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
    assembly.add(chunk(None, len(deltas), finish="stop"))
    assembly.add(usage(len(deltas)))
    (choice,) = assembly.whole()["choices"]
    message = choice["message"]
    assert (message["content"] or "") == content
    assert message.get("reasoning_content", "") == reasoning
    assert message.get("tool_calls", []) == [
        {"id": call["id"], "type": "function", "function": {"name": call["name"], "arguments": call["arguments"]}} for call in made
    ]
    assert choice["finish_reason"] == "stop"


def test_unknown_fields_merge_as_openais_client_merges_them() -> None:
    message: dict[str, Any] = {}
    for delta in (
        {"a": "x", "b": [1], "c": {"d": "u"}, "n": 1, "f": True, "z": None, "l": [{"index": 1, "t": "p"}]},
        {"a": "y", "b": [2], "c": {"d": "v", "e": 1}, "n": 2, "f": False, "z": "s", "l": [{"index": 0, "t": "q"}, {"index": 1, "t": "r"}]},
        {"a": None, "role": "assistant"},
        {"role": "assistant"},
    ):
        merge(message, copy.deepcopy(delta))
    assert message == {
        "a": "xy", "b": [1, 2], "c": {"d": "uv", "e": 1}, "n": 3, "f": False, "z": "s", "role": "assistant",
        "l": [{"index": 1, "t": "pr"}, {"index": 0, "t": "q"}],
    }  # fmt: skip


def test_empty_fields_come_from_a_known_reply() -> None:
    shape = {
        "service_tier": None, "system_fingerprint": "f", "choices": [{"stop_reason": None, "message": {"refusal": None, "audio": None, "content": "w"}}],
        "usage": {"prompt_tokens": 1, "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": None}},
    }  # fmt: skip
    assembly = Assembly(shape)
    assembly.add(chunk("a", 1, finish="stop"))
    assembly.add(usage(1, prompt_tokens_details={"cached_tokens": 4}))
    whole = assembly.whole()
    assert whole["service_tier"] is None
    assert "system_fingerprint" not in whole  # which this reply did not have
    assert whole["choices"][0]["stop_reason"] is None
    assert whole["choices"][0]["message"] == {"role": "assistant", "content": "a", "refusal": None, "audio": None}
    assert whole["usage"]["prompt_tokens_details"] == {"cached_tokens": 4, "audio_tokens": None}


def through(*chunks: dict[str, Any]) -> list[dict[str, Any]]:
    kept = Calls()
    return [each for part in chunks for each in kept.through(part, part["choices"][0])]


def test_calls_wait_until_they_are_complete() -> None:
    def piece(index: int, arguments: str) -> dict[str, Any]:
        return chunk(None, 1, tool_calls=[{"index": index, "function": {"arguments": arguments}}])

    first, more, second, end = piece(0, "{"), piece(0, "}"), piece(1, "{}"), chunk("", 2, finish="tool_calls")
    assert through(first, more) == []
    assert through(first, more, second) == [first, more]
    assert through(first, more, second, end) == [first, more, second, end]
    word = chunk("and", 3)
    assert through(first, more, word) == [first, more, word]
    assert through(word, first) == [word]


@given(st.lists(st.text(min_size=1, max_size=3), min_size=1, max_size=5), st.integers(0, 6))
def test_a_cut_keeps_whole_tokens(tokens: list[str], keep: int) -> None:
    part = {
        "index": 0, "delta": {"content": "".join(tokens)}, "finish_reason": "stop", "token_ids": list(range(len(tokens))),
        "logprobs": {"content": [{"token": token} for token in tokens]},
    }  # fmt: skip
    kept = cut(part, len(tokens), keep)
    if keep == 0:
        assert kept is None
        return
    assert kept is not None
    assert kept["delta"]["content"] == "".join(tokens[:keep])
    assert kept["token_ids"] == list(range(len(tokens)))[:keep]
    assert [each["token"] for each in kept["logprobs"]["content"]] == tokens[:keep]
    assert kept["finish_reason"] is None
    assert cut({**part, "delta": {**part["delta"], "reasoning": "r"}}, len(tokens), keep) is None  # parsed text is never cut
