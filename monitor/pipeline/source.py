"""A connected tap, as the sidecar sees it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from monitor import wire
from monitor.pipeline.streams import Stream


class Source:
    """One connected tap, and which slot each of its streams has."""

    def __init__(self, hello: wire.Hello, stale: list[str] | None = None) -> None:
        self.hello = hello
        self.stale = stale or []
        self.seq: int | None = None
        self.failed = ""
        self.check: wire.Check | None = None  # how the tap proved itself; None until it has
        self.streams: dict[int, Stream] = {}
        # Slot by stream number modulo the size: a vectorised look-up. `_number` tells an old tenant from the new one.
        self._slot = np.full(1024, -1, np.intp)
        self._number = np.zeros(1024, np.int64)

    def add(self, stream: Stream) -> None:
        while self._slot[stream.number % len(self._slot)] >= 0:
            self._resize()
        self.streams[stream.number] = stream
        self._put(stream)

    def remove(self, stream: Stream) -> None:
        del self.streams[stream.number]
        self._slot[stream.number % len(self._slot)] = -1

    def slots(self, numbers: NDArray[np.uint32]) -> NDArray[np.intp]:
        """Slots [n] of stream numbers [n]; -1 for a stream that is not known or over."""
        places = numbers % len(self._slot)
        return np.where(self._number[places] == numbers, self._slot[places], -1)

    def _put(self, stream: Stream) -> None:
        place = stream.number % len(self._slot)
        self._slot[place], self._number[place] = stream.slot, stream.number

    def _resize(self) -> None:
        self._slot = np.full(2 * len(self._slot), -1, np.intp)
        self._number = np.zeros(len(self._slot), np.int64)
        for stream in self.streams.values():
            self._put(stream)
