"""A connected tap, as the sidecar sees it."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import numpy as np
from numpy.typing import NDArray

from monitor import wire
from monitor.pipeline.streams import Stream

_END = np.iinfo(np.int64).max  # stands behind all numbers, so that a look-up never runs off the table


class Source:
    """One connected tap, and which slot each of its streams has."""

    def __init__(self, hello: wire.Hello, stale: list[str] | None = None, label: str = "") -> None:
        self.hello = msgspec.structs.replace(hello, secret="")  # whoever prints a source prints no secret
        self.stale = stale or []
        self.label = label  # the model's name in metrics
        self.seq: int | None = None
        self.failed = ""
        self.check: wire.Check | None = None  # how the tap proved itself; None until it has
        self.send: Callable[[bytes], bool] = lambda packet: False  # to the tap, without waiting; False when it does not take it
        self.refused = 0  # begins that were refused
        self.streams: dict[int, Stream] = {}
        # Sorted, for a vectorised look-up whose size is that of the streams, whatever their numbers are.
        self._numbers = np.array([_END], np.int64)
        self._slots = np.array([-1], np.intp)

    @property
    def checked(self) -> str:
        """For people: pending, ok, or failed and why."""
        return "pending" if self.check is None else "ok" if self.check.ok else f"failed: {self.check.why}"

    def add(self, stream: Stream) -> None:
        place = np.searchsorted(self._numbers, stream.number)
        self._numbers = np.insert(self._numbers, place, stream.number)
        self._slots = np.insert(self._slots, place, stream.slot)
        self.streams[stream.number] = stream

    def remove(self, stream: Stream) -> None:
        del self.streams[stream.number]
        place = np.searchsorted(self._numbers, stream.number)
        self._numbers, self._slots = np.delete(self._numbers, place), np.delete(self._slots, place)

    def slots(self, numbers: NDArray[np.uint32]) -> NDArray[np.intp]:
        """Slots [n] of stream numbers [n]; -1 for a stream that is not known or over."""
        places = np.searchsorted(self._numbers, numbers)
        return np.where(self._numbers[places] == numbers, self._slots[places], -1)
