"""What Prometheus gets. A scrape must not make a token wait: of many at once one is answered by work, the others by its result."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from prometheus_client import CollectorRegistry, disable_created_metrics
from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder

from monitor.sinks import protobuf

OPEN_ASKED, OPEN = (
    "application/openmetrics-text",
    "application/openmetrics-text; version=1.0.0",
)  # one of three forms, whatever else is asked

disable_created_metrics()  # type: ignore[no-untyped-call]  # when each series began: as many series again, which nobody asks for


@dataclass(frozen=True)
class _Taken:
    """Families as they were at one moment: all that an encoder asks of a registry."""

    families: list[Metric]

    def collect(self) -> Iterable[Metric]:
        return self.families


def _binary(taken: _Taken) -> bytes:
    return protobuf.encode(taken.families)


class Exposition:
    """Reads the metrics on the event loop, where what they count is changed, and writes them in a thread. Whoever asks before a reading has begun shares it, so that what they get is never older than their question."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._next: dict[str, asyncio.Task[bytes]] = {}  # by content type, the reading that has not begun
        self._one = asyncio.Lock()

    async def text(self, accept: str) -> tuple[bytes, str]:
        """The text, and its content type. `accept`: what the server asks for."""
        encode, kind = (
            (_binary, protobuf.CONTENT_TYPE) if protobuf.asked_for(accept) else choose_encoder(OPEN if OPEN_ASKED in accept else "")
        )
        if (reading := self._next.get(kind)) is None:
            reading = self._next[kind] = asyncio.create_task(self._read(kind, encode))
        return await asyncio.shield(reading), kind

    async def _read(self, kind: str, encode: Callable[[Any], bytes]) -> bytes:
        async with self._one:
            del self._next[kind]  # who comes from here on gets the one after this
            return await asyncio.to_thread(encode, _Taken(await self._collected()))

    async def _collected(self) -> list[Metric]:
        """On the event loop, which others get between two collectors."""
        found: list[Metric] = []
        for collector in list(self._registry._collector_to_names):
            found += collector.collect()
            await asyncio.sleep(0)
        return found
