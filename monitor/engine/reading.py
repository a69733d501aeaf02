"""Reads text that another model wrote: a small model of ours is led through it, and the tap scores every token on the way.

What comes of it are the reader's own activations over somebody else's words (`grade: text`), which is less than the writer's: it sees what
the text shows, after it was written. Text is tokenized piece by piece as it comes, so words may be split otherwise than the reader would.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import DynamicCache

from monitor.engine.loading import LoadedModel
from monitor.errors import BarographError
from monitor.tap.tap import Tap
from probes.bank import Bank

MAX_STREAMS = 512
MAX_PROMPT = 2048  # tokens of a conversation that are read before its reply: the last ones
MAX_PIECE = 1 << 16  # characters
IDLE_S = 600.0  # a reply of which nothing comes for so long is over


class ReadingError(BarographError):
    """A text that cannot be read; nothing of it is scored."""


@dataclass
class Text:
    """One reply on its way. `pending`: the last token, whose state will produce the next one; `cached`: those before it."""

    cache: Any
    pending: int
    cached: int
    tokens: int = 0
    moved: float = field(default_factory=time.monotonic)


class Readings:
    """All replies that are being read. One at a time goes through the model."""

    def __init__(self, model: LoadedModel, bank: Bank, socket: Path) -> None:
        self.model = model
        self.texts: dict[tuple[str, int], Text] = {}
        self.tap = Tap(model.wrapper, bank, lambda: self._rows, socket, model.name, connect=False, grade="text")
        self._rows: tuple[list[str], list[int]] = ([], [])
        self._lock = threading.Lock()

    def begin(self, request: str, index: int, prompt: list[int]) -> None:
        """A reply to `prompt` starts. Raises ReadingError."""
        key = request, index
        with self._lock:
            self._sweep()
            if key in self.texts:
                raise ReadingError(f"{request}#{index} is being read already")
            if len(self.texts) >= MAX_STREAMS:
                raise ReadingError(f"{MAX_STREAMS} replies are being read; expected at most that many")
            prompt = prompt[-min(MAX_PROMPT, self.model.context // 2) :]
            text = Text(DynamicCache(config=self.model.module.config), prompt[-1], 0)
            self._forward(text, prompt[:-1], [])
            self.texts[key] = text
            self.tap.begin(_name(key), request, index)

    def read(self, request: str, index: int, piece: str) -> int:
        """Score one more piece. Returns how many tokens the reply has now. Raises ReadingError."""
        key = request, index
        if len(piece) > MAX_PIECE:
            raise ReadingError(f"a piece of {len(piece)} characters; expected at most {MAX_PIECE}")
        with self._lock:
            text = self.texts.get(key)
            if text is None:
                raise ReadingError(f"{request}#{index} was not begun")
            ids = list(self.model.tokenizer(piece, add_special_tokens=False)["input_ids"])
            if text.cached + 1 + len(ids) > self.model.context:
                raise ReadingError(f"{request}#{index} is longer than the {self.model.context} tokens that the reader can hold")
            if ids:
                self._rows = [_name(key)] * len(ids), [text.tokens + i for i in range(len(ids))]
                self._forward(text, [text.pending, *ids[:-1]], list(range(len(ids))))
                text.pending, text.tokens = ids[-1], text.tokens + len(ids)
            text.moved = time.monotonic()
            return text.tokens

    def end(self, request: str) -> None:
        with self._lock:
            for key in [key for key in self.texts if key[0] == request]:
                self.tap.end(_name(key), self.texts.pop(key).tokens)

    @torch.no_grad()
    def _forward(self, text: Text, ids: list[int], picked: list[int]) -> None:
        """Let the model read on. `picked`: the places among `ids` whose states are scored."""
        if not ids:
            return
        device = self.model.module.device
        more = {"logits_indices": torch.tensor(picked, device=device)} if picked else {}
        self.model.module(
            input_ids=torch.tensor([ids], device=device), past_key_values=text.cache, use_cache=True, logits_to_keep=1, **more
        )  # fmt: skip
        text.cached += len(ids)

    def _sweep(self) -> None:
        now = time.monotonic()
        for key in [key for key, text in self.texts.items() if now - text.moved > IDLE_S]:
            self.tap.end(_name(key), self.texts.pop(key).tokens)


def _name(key: tuple[str, int]) -> str:
    return f"{key[0]}#{key[1]}"
