"""Re-routing a reply: whether it can go on at a target, what the target is asked, and how its chunks become part of the reply."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from monitor.gateway.asked import CHAT, COMPLETIONS, Asked
from rules.verdict import Verdict

Chunk = dict[str, Any]
Way = Literal["continue", "restart", "halt"]

_REASONING = ("reasoning", "reasoning_content")
# What holds a model to a form: the state of that is the engine's and cannot be carried over.
_CONSTRAINED = ("structured_outputs", "guided_json", "guided_regex", "guided_choice", "guided_grammar")
_LIMITS = ("max_tokens", "max_completion_tokens", "min_tokens")


@dataclass
class Delivered:
    """What has left of one choice."""

    pieces: list[str] = field(default_factory=list)
    role: bool = False
    calls: bool = False
    reasoning: bool = False

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    @property
    def anything(self) -> bool:
        return bool(self.pieces) or self.calls or self.reasoning

    def add(self, part: Chunk) -> None:
        delta = part.get("delta")
        if not isinstance(delta, dict):
            self._say(part.get("text"))
            return
        self._say(delta.get("content"))
        self.role |= "role" in delta
        self.calls |= bool(delta.get("tool_calls") or delta.get("function_call"))
        self.reasoning |= any(delta.get(name) for name in _REASONING)

    def _say(self, text: Any) -> None:
        if text:
            self.pieces.append(str(text))


@dataclass(frozen=True)
class Turn:
    """A rule re-routes a reply at `verdict`.

    `text`: what the client has of it, in `tokens` tokens; `roles`: the choices whose role it has. `head`: what every chunk of the reply says.
    `ending`: the chunks that end it when the target does not take it.
    """

    verdict: Verdict
    way: Way
    text: str = ""
    tokens: int = 0
    roles: frozenset[int] = frozenset()
    head: Chunk = field(default_factory=dict)
    prompt_tokens: int | None = None
    ending: list[Chunk] = field(default_factory=list)


def plan(asked: Asked, delivered: dict[int, Delivered], how: str, continues: bool) -> tuple[Way, str]:
    """How a reply of which `delivered` has left can go on at a target, and why. docs/actions.md has this as a table.

    `how`: what the rule says. `continues`: whether the target was seen to go on from a prefix.
    """
    if not any(each.anything for each in delivered.values()):
        return "restart", "nothing has left"
    if asked.choices != 1:
        return "halt", "one of several choices cannot go on elsewhere"
    sent = next(iter(delivered.values()))
    if sent.calls:
        return "halt", "a tool call has left"
    if how == "restart":
        return "restart", "the rule says so"
    if sent.reasoning:
        return "halt", "reasoning has left, which is no prefix that a model goes on from"
    if constraint := _constraint(asked):
        return "halt", f"'{constraint}' holds the model to a form that has begun"
    if not _extensible(asked):
        return "halt", "the request's own prompt is no text that can be extended"
    if asked.route == CHAT and not continues:
        return "halt", "the target does not go on from a prefix"
    return "continue", "the target goes on from what has left"


def body_for(asked: Asked, turn: Turn, model: str | None) -> Asked:
    """What the target is asked. Nothing is put into the prompt but what has left of the reply."""
    payload = dict(asked.payload)
    if model is not None:
        payload["model"] = model
    if turn.way != "continue":
        return replace(asked, payload=payload)
    text = turn.text
    if asked.route == COMPLETIONS:
        payload["prompt"] = payload["prompt"] + text
    elif payload.get("continue_final_message"):
        *before, last = payload["messages"]
        payload["messages"] = [*before, {**last, "content": last["content"] + text}]
    else:
        payload["messages"] = [*payload["messages"], {"role": "assistant", "content": text}]
        payload |= {"continue_final_message": True, "add_generation_prompt": False}
    for name in _LIMITS:
        if isinstance(payload.get(name), int):
            payload[name] = max(int(name != "min_tokens"), payload[name] - turn.tokens)
    return replace(asked, payload=payload)


class Seam:
    """Makes a target's chunks part of the reply: one id, one role, the counts added up, and the model that really speaks."""

    def __init__(self, asked: Asked, turn: Turn) -> None:
        self._asked = asked
        self._turn = turn

    def through(self, chunk: Chunk) -> Chunk | None:
        """The chunk as the client gets it; None for one that says nothing new."""
        kept: Chunk = {name: self._turn.head[name] for name in ("id", "object", "created") if name in self._turn.head}
        made = {**chunk, **kept}
        if isinstance(usage := made.get("usage"), dict):
            made["usage"] = self._added(usage)
        parts = [self._part(part) if isinstance(part, dict) else part for part in made.get("choices") or ()]
        if parts and not any(_says(part) for part in parts) and made.get("usage") is None:
            return None
        return {**made, "choices": parts}

    def _part(self, part: Chunk) -> Chunk:
        delta = part.get("delta")
        if part.get("index") in self._turn.roles and isinstance(delta, dict) and "role" in delta:
            kept: Chunk = {name: value for name, value in delta.items() if name != "role"}
            return {**part, "delta": kept}
        return part

    def _added(self, usage: Chunk) -> Chunk:
        """The client's own prompt counts once, and all tokens that it got."""
        prompt = self._turn.prompt_tokens if self._turn.prompt_tokens is not None else _count(usage, "prompt_tokens")
        produced = self._turn.tokens + _count(usage, "completion_tokens")
        return {**usage, "prompt_tokens": prompt, "completion_tokens": produced, "total_tokens": prompt + produced}


def _count(usage: Chunk, name: str) -> int:
    """A count of the target's; 0 for what is none."""
    value = usage.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else 0


def _says(part: Any) -> bool:
    if not isinstance(part, dict):
        return True
    delta = part.get("delta")
    body = any(value for value in delta.values()) if isinstance(delta, dict) else bool(part.get("text"))
    return body or bool(part.get("finish_reason")) or bool(part.get("logprobs"))


def _constraint(asked: Asked) -> str:
    payload = asked.payload
    form = payload.get("response_format")
    if isinstance(form, dict) and form.get("type") not in (None, "text"):
        return "response_format"
    if payload.get("tool_choice") not in (None, "auto", "none"):
        return "tool_choice"
    return next((name for name in _CONSTRAINED if payload.get(name) is not None), "")


def _extensible(asked: Asked) -> bool:
    """Whether what has left can be put behind the request's prompt as text."""
    payload = asked.payload
    if asked.route == COMPLETIONS:
        return isinstance(payload.get("prompt"), str) and not asked.echo and not payload.get("suffix") and not payload.get("prompt_embeds")
    messages = payload.get("messages")
    if not isinstance(messages, list) or not messages:
        return False
    if payload.get("continue_final_message"):
        return isinstance(messages[-1], dict) and isinstance(messages[-1].get("content"), str)
    return True
