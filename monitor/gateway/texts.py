"""What replies say, token by token, for people who look on: in memory, of the last few replies, where the configuration asks for it."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from monitor.pipeline.streams import Key

MAX_CHARACTERS = 64 << 10  # of one reply
MAX_PIECES = 4096


class Text:
    """Of one choice: pieces as they left, each with the places of its tokens. Past a bound nothing more is kept of it."""

    def __init__(self) -> None:
        self.pieces: list[tuple[int, int, str]] = []
        self._room = MAX_CHARACTERS

    def add(self, first: int, end: int, said: str) -> None:
        if len(self.pieces) >= MAX_PIECES or len(said) > self._room:
            self._room = 0
            return
        self._room -= len(said)
        self.pieces.append((first, end, said))


class Texts:
    """Of the last `limit` choices. Nothing of it goes to a disk or a log."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept: OrderedDict[Key, Text] = OrderedDict()

    def left(self, key: Key, first: int, end: int, part: dict[str, Any]) -> None:
        """Part of a choice leaves the gateway: its tokens from `first` to `end`."""
        said = _said(part)
        if not said:
            return
        if key not in self._kept:
            self._kept[key] = Text()
            if len(self._kept) > self._limit:
                self._kept.popitem(last=False)
        self._kept[key].add(first, end, said)

    def of(self, key: Key) -> list[tuple[int, int, str]]:
        """First token, end and text of each piece; empty where none is kept."""
        kept = self._kept.get(key)
        return kept.pieces if kept is not None else []


def _said(part: dict[str, Any]) -> str:
    """The text that a person would read, of a chat or a completion; a tool call's arguments are text too."""
    delta = part.get("delta")
    if not isinstance(delta, dict):
        return _text(part.get("text"))
    said = "".join(_text(delta.get(name)) for name in ("reasoning_content", "reasoning", "content"))
    calls = delta.get("tool_calls")
    for call in calls if isinstance(calls, list) else []:
        function = call.get("function") if isinstance(call, dict) else None
        if isinstance(function, dict):
            said += _text(function.get("name")) + _text(function.get("arguments"))
    return said


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
