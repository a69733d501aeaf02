"""Tool calls leave whole: the pieces of a call are kept until the call is complete and all of it is judged."""

from __future__ import annotations

from typing import Any


class Calls:
    """One choice's tool calls on their way. What is kept when a rule halts the reply never leaves."""

    def __init__(self) -> None:
        self._kept: list[dict[str, Any]] = []
        self._open: object = None

    def through(self, chunk: dict[str, Any], part: dict[str, Any]) -> list[dict[str, Any]]:
        """Judged chunks that may leave now, in their order. `part` is the chunk's one choice."""
        delta = part.get("delta")
        calls = delta.get("tool_calls") if isinstance(delta, dict) else None
        if calls:
            index = calls[-1].get("index") if isinstance(calls[-1], dict) else None
            done = self._flush() if self._kept and index != self._open else []
            self._kept.append(chunk)
            self._open = index
            return done + (self._flush() if part.get("finish_reason") else [])
        if not self._kept:
            return [chunk]
        self._kept.append(chunk)
        text = isinstance(delta, dict) and any(value for name, value in delta.items() if name not in ("role", "tool_calls"))
        return self._flush() if text or part.get("finish_reason") else []

    def rest(self) -> list[dict[str, Any]]:
        """What is kept when the engine ends the stream without a finish reason."""
        return self._flush()

    def _flush(self) -> list[dict[str, Any]]:
        done, self._kept = self._kept, []
        return done
