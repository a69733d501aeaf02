"""Calls of tools in a model's text: `<tool_call>{"name": …, "arguments": {…}}</tool_call>`, the form of Hermes and Qwen.

transformers 5.19 has a parser of its own (`utils/chat_parsing`), which keeps a call until it is whole and writes its arguments anew.
This one hands the arguments on piece by piece, as the model wrote them, so that each chunk carries the tokens that it came from.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable
from typing import Any

from monitor.engine.text import overlap

OPEN, CLOSE = "<tool_call>", "</tool_call>"
# A call in the usual order of its keys: its arguments may leave before their end is there.
_HEAD = re.compile(r'\s*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=\{)')

Delta = dict[str, Any]


def understood(template: str) -> bool:
    """Whether a chat template tells the model of tools in the form that is read here."""
    return "tools" in template and OPEN in template and "<function=" not in template


class ToolStream:
    """Splits one generation's text into content and calls. A call of a function that nobody offered stays text."""

    def __init__(self, names: frozenset[str], parallel: bool) -> None:
        self._names = names
        self._parallel = parallel
        self._held = self._blank = ""  # `_blank` stood before the call in hand
        self._state: Callable[[dict[int, Delta]], str] = self._content
        self._arguments = _Object()
        self.calls = 0  # whose arguments are whole

    @property
    def full(self) -> bool:
        """No more may come: one call at a time was asked for, and it is there."""
        return self.calls > 0 and not self._parallel

    def push(self, text: str) -> tuple[str, list[Delta]]:
        """Content and pieces of calls that may leave now; at most one piece a call."""
        self._held += text
        content, deltas = "", dict[int, Delta]()
        while True:
            state = self._state
            content += state(deltas)
            if self._state == state or self.full:
                return content, list(deltas.values())

    def finish(self) -> str:
        """Content that was held back. A call that broke off in its arguments stays as it left."""
        held, self._held = self._held, ""
        if self._state == self._call:
            return self._blank + OPEN + held
        return held if self._state == self._content and (held.strip() or not self.calls) else ""

    # The states. Each takes what it can from what is held, and says what follows it.

    def _content(self, deltas: dict[int, Delta]) -> str:
        """White space may stand before a call, where it is nobody's content: it waits."""
        at = self._held.find(OPEN)
        if at >= 0:
            text = self._held[:at].rstrip()
            self._blank, self._held = self._held[len(text) : at], self._held[at + len(OPEN) :]
            self._state = self._call
            return text
        text = self._held[: len(self._held) - overlap(self._held, OPEN)].rstrip()
        self._held = self._held[len(text) :]
        return text

    def _call(self, deltas: dict[int, Delta]) -> str:
        head, end = _HEAD.match(self._held), self._held.find(CLOSE)
        name = _string(head[1]) if head else None
        if head and name in self._names:
            self._held = self._held[head.end() :]
            self._arguments = _Object()
            self._state = self._argument
            deltas[self.calls] = _delta(self.calls, name)
            return ""
        if end < 0:
            return ""
        inside, self._held = self._held[:end], self._held[end + len(CLOSE) :]
        self._state = self._content
        whole = _whole(inside)
        if whole is None or whole[0] not in self._names:
            return self._blank + OPEN + inside + CLOSE
        deltas[self.calls] = _delta(self.calls, *whole)
        self.calls += 1
        return ""

    def _argument(self, deltas: dict[int, Delta]) -> str:
        piece, self._held = self._arguments.take(self._held)
        if piece:
            delta = deltas.setdefault(self.calls, {"index": self.calls, "function": {"arguments": ""}})
            delta["function"]["arguments"] += piece
        if self._arguments.closed:
            self.calls += 1
            self._state = self._tail
        return ""

    def _tail(self, deltas: dict[int, Delta]) -> str:
        end = self._held.find(CLOSE)
        if end >= 0:
            self._held = self._held[end + len(CLOSE) :]
            self._state = self._content
        return ""


class _Object:
    """Finds the end of a JSON object in a text that comes in pieces."""

    def __init__(self) -> None:
        self.closed = False
        self._depth = 0
        self._quoted = self._escaped = False

    def take(self, text: str) -> tuple[str, str]:
        """What belongs to the object, and what comes after it."""
        for at, char in enumerate(text):
            if self._escaped:
                self._escaped = False
            elif self._quoted:
                self._escaped, self._quoted = char == "\\", char != '"'
            elif char == '"':
                self._quoted = True
            elif char in "{[":
                self._depth += 1
            elif char in "}]":
                self._depth -= 1
                if self._depth == 0:
                    self.closed = True
                    return text[: at + 1], text[at + 1 :]
        return text, ""


def _delta(index: int, name: str, arguments: str = "") -> Delta:
    return {
        "index": index,
        "id": f"call_{secrets.token_hex(12)}",
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }


def _string(text: str) -> str | None:
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, str) else None


def _whole(text: str) -> tuple[str, str] | None:
    """Name and arguments of a call whose keys stand in another order."""
    try:
        call = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(call, dict) or not isinstance(call.get("name"), str):
        return None
    arguments = call.get("arguments", call.get("parameters", {}))
    return call["name"], arguments if isinstance(arguments, str) else json.dumps(arguments)
