"""From tokens to text as they come: whole characters only, and nothing past a stop string."""

from __future__ import annotations

from typing import Any

from tokenizers.decoders import DecodeStream


class TextStream:
    """The text of one generation. `push` returns what may leave now; `finish` what was held back."""

    def __init__(self, tokenizer: Any, stops: list[str]) -> None:
        self._tokenizer = tokenizer
        self._decoder = DecodeStream(skip_special_tokens=True)
        self._stops = stops
        self._unread: list[int] = []  # tokens that do not make whole characters yet
        self._held = ""
        self.stopped = False

    def push(self, token: int) -> str:
        fresh = self._decoder.step(self._tokenizer, token)
        self._unread = [*self._unread, token] if fresh is None else []
        self._held += fresh or ""
        found = [at for at in (self._held.find(stop) for stop in self._stops) if at >= 0]
        if found:
            self.stopped = True
            ready, self._held = self._held[: min(found)], ""
            return ready
        # What could still become a stop string waits for the next token.
        keep = max((overlap(self._held, stop) for stop in self._stops), default=0)
        cut = len(self._held) - keep
        ready, self._held = self._held[:cut], self._held[cut:]
        return ready

    def finish(self) -> str:
        ready = self._held + (self._tokenizer.decode(self._unread, skip_special_tokens=True) if self._unread and not self.stopped else "")
        self._held, self._unread = "", []
        return ready


def overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` with which `stop` begins."""
    return next((size for size in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:size])), 0)
