"""The same asked of an engine and of the gateway before it, and what each said, made comparable."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import openai

Client = openai.OpenAI
Case = Callable[[Client, str], Any]

USER = [{"role": "user", "content": "What is the capital of France?"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
NEAR = 0.06  # log probabilities in bfloat16
_ID = re.compile(r"^(modelperm|chatcmpl|cmpl|resp|msg|call|chatcmpl-tool|rs|fc)[-_].+$")


def plain(value: Any) -> Any:
    """Data without ids and times, which may differ; they must still be of the same form. What is ours is left out."""
    if hasattr(value, "model_dump"):
        value = value.model_dump()
    if isinstance(value, Mapping):
        return {
            name: _shape(each)
            if name in ("id", "item_id", "response_id")
            else 0
            if name in ("created", "created_at", "completed_at")
            else plain(each)
            for name, each in value.items()
            if name not in ("barograph", "response_metadata", "signature")
        }
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return value


def _shape(value: Any) -> Any:
    return found[1] if isinstance(value, str) and (found := _ID.match(value)) else value


def stream(events: Any) -> Any:
    """The chunks of a stream, those of each choice in their order: which choice comes first is the batch's to say."""
    found = [plain(event) for event in events]
    return sorted(found, key=lambda chunk: chunk["choices"][0]["index"] if chunk.get("choices") else 1 << 30)


def said(case: Case, client: Client, model: str) -> Any:
    """What a case gives, or status and body of the refusal."""
    try:
        return case(client, model)
    except openai.APIStatusError as error:
        return {"status": error.status_code, "body": error.body}
    except openai.APIError as error:  # an event of a stream
        return {"event": error.body}


def differences(one: Any, other: Any, where: str = "") -> list[str]:
    """Where two answers differ. Numbers may by what a batch's neighbours move them."""
    if isinstance(one, dict) and isinstance(other, dict):
        names = [*one, *(name for name in other if name not in one)]
        return [each for name in names for each in differences(one.get(name, "absent"), other.get(name, "absent"), f"{where}.{name}")]
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return [each for i, (a, b) in enumerate(zip(one, other, strict=True)) for each in differences(a, b, f"{where}[{i}]")]
    if isinstance(one, float) and isinstance(other, float) and abs(one - other) <= NEAR:
        return []
    return [] if one == other and type(one) is type(other) else [f"{where}: {str(one)[:200]} | {str(other)[:200]}"]


def chat(**body: Any) -> tuple[Case, Case]:
    """A chat as it is, and streamed."""
    asked: dict[str, Any] = {"messages": USER, "temperature": 0, "max_tokens": 16, "seed": 1, **body}
    options = {"include_usage": True}
    return (
        lambda client, model: plain(client.chat.completions.create(model=model, **asked)),
        lambda client, model: stream(client.chat.completions.create(model=model, stream=True, stream_options=options, **asked)),
    )


def text(**body: Any) -> tuple[Case, Case]:
    """A text completion as it is, and streamed without usage."""
    asked: dict[str, Any] = {"prompt": "The sea is", "temperature": 0, "max_tokens": 12, "seed": 1, **body}
    return (
        lambda client, model: plain(client.completions.create(model=model, **asked)),
        lambda client, model: stream(client.completions.create(model=model, stream=True, **asked)),
    )


def no_chat(**body: Any) -> tuple[Case, ...]:
    """A chat that is refused."""
    return chat(**{"max_tokens": 4, **body})


def _history(client: Client, model: str) -> Any:
    """The reply goes back as the SDK dumps it, nulls and all."""
    first = client.chat.completions.create(model=model, messages=USER, temperature=0, max_tokens=8)
    messages = [*USER, first.choices[0].message.model_dump(), {"role": "user", "content": "And of Norway?"}]
    return plain(client.chat.completions.create(model=model, messages=messages, temperature=0, max_tokens=8))


CASES: dict[str, tuple[Case, ...]] = {
    "chat": chat(),
    "chat with a system": chat(messages=[{"role": "system", "content": "Be short."}, *USER]),
    "chat with nulls": chat(
        messages=[*USER, {"role": "assistant", "content": "Paris", "refusal": None, "tool_calls": None}, *USER], stop=None
    ),
    "history": (_history,),
    "three choices": chat(n=3),
    "log probabilities": chat(logprobs=True, top_logprobs=3),
    "log probabilities of two choices": chat(logprobs=True, n=2),
    "stop": chat(stop=["Paris", "."]),
    "one token": chat(max_tokens=1),
    "unicode": chat(messages=[{"role": "user", "content": "Repeat: Grüße, 你好, 🙂"}], max_tokens=24),
    "text": text(),
    "text echoed": text(echo=True),
    "text with log probabilities": text(logprobs=2),
    "text echoed with log probabilities": text(echo=True, logprobs=1),
    "prompts": text(prompt=["The sea is", "A house has"]),
    "prompts with two choices each": text(prompt=["The sea is", "A house has"], n=2),
    "token ids as a prompt": text(prompt=[504, 3426, 314]),
    "no such model": tuple(lambda client, model, case=case: case(client, "other") for case in chat()),
    "no messages": no_chat(messages=[]),
    "negative length": no_chat(max_tokens=-1),
    "temperature of a hundred": no_chat(temperature=100),
    "too many log probabilities": no_chat(logprobs=True, top_logprobs=500),
    "a role that is none": no_chat(messages=[{"role": "wizard", "content": "x"}]),
    "models": (lambda client, model: plain(list(client.models.list())), lambda client, model: plain(client.models.retrieve(model))),
    "no such model's card": (lambda client, model: plain(client.models.retrieve("other")),),
}

# Generations that share a batch move each other's numbers, so two equal ones may part where two tokens are as good as equal.
NOISY = frozenset({"three choices", "log probabilities of two choices", "prompts", "prompts with two choices each"})

TOOLS: dict[str, tuple[Case, ...]] = {
    "tools": chat(tools=[WEATHER], max_tokens=48),
    "a tool by name": chat(tools=[WEATHER], tool_choice={"type": "function", "function": {"name": "weather"}}, max_tokens=48),
    "some tool": chat(tools=[WEATHER], tool_choice="required", max_tokens=48),
    "no tool": chat(tools=[WEATHER], tool_choice="none"),
    "a tool's answer": chat(
        messages=[
            *USER,
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": "a", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Paris"}'}}],
            },
            {"role": "tool", "tool_call_id": "a", "content": "rain"},
        ],
        tools=[WEATHER],
    ),
}
