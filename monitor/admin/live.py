"""The live view: the running streams and their last scores."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import numpy as np

from monitor.http import openai
from monitor.pipeline.pipeline import Pipeline

WATCH_S = 0.2
MAX_VIEWS = 16
_KEY = secrets.token_bytes(16)  # of this process: nobody outside can tell a request from its shown name


class Views:
    """Who looks on now. Nobody needs a token for it, and each takes time from the event loop, so they are few."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._open = 0

    @property
    def full(self) -> bool:
        return self._open >= MAX_VIEWS

    def snapshots(self) -> AsyncGenerator[bytes]:
        """The running streams and their last scores, a few times a second. No text and no client data."""
        return self.counted(_snapshots(self._pipeline))

    async def counted(self, events: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
        """Events for one who looks on, who has a place as long as they come."""
        self._open += 1
        try:
            async with aclosing(events):
                async for event in events:
                    yield event
        finally:
            self._open -= 1


async def _snapshots(pipeline: Pipeline) -> AsyncGenerator[bytes]:
    while True:
        yield openai.event(snapshot(pipeline))
        await asyncio.sleep(WATCH_S)


def snapshot(pipeline: Pipeline) -> dict[str, Any]:
    table = pipeline.streams
    running = []
    for slot, stream in list(table.by_slot.items()):
        tokens = int(table.judged[slot])
        recent = np.nan_to_num(table.recent(slot, max(0, tokens - 48), tokens), nan=0.0).round(2)
        verdicts = [
            {
                "rule": verdict.rule.rule,
                "action": verdict.action.name.lower(),
                "mode": verdict.mode,
                "position": verdict.position,
            }
            for verdict in stream.verdicts
            if not verdict.ended
        ]
        running.append(
            {
                "stream": shown(*stream.key),
                "started": stream.started,
                "tokens": tokens,
                "ended": bool(table.ended[slot]),
                "gap": bool(table.gap[slot]),
                "scores": recent.T.tolist(),
                "verdicts": verdicts,
            }
        )
    return {"probes": pipeline.bank.names, "taps": len(pipeline.sources), "streams": running}


def shown(request: str, choice: int) -> str:
    """A stream's name for people: always the same while it runs, and of no use to a tap that would take it over."""
    return f"{hashlib.blake2b(request.encode(), key=_KEY, digest_size=5).hexdigest()}#{choice}"
