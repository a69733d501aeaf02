"""Every stream's scores in the ledger, for replay: numbers only, a record for each few tokens."""

from __future__ import annotations

import base64
import time

import numpy as np
from numpy.typing import NDArray

from monitor.audit.ledger import Ledger
from monitor.audit.levels import Level
from monitor.pipeline.streams import HISTORY, Stream, StreamTable

CHUNK = HISTORY // 2  # a step of speculative decoding adds several tokens, which must not push others out of the ring


class ScoreLog:
    """Follows the streams of a table whose level asks for it. The scores themselves lie in the table's ring until they are written."""

    def __init__(self, probes: tuple[str, ...], streams: StreamTable, ledger: Ledger) -> None:
        self._probes = probes
        self._streams = streams
        self._ledger = ledger
        self._written: dict[int, tuple[int, float]] = {}  # by slot: tokens that are written, and when the next one came

    def frame(self, slots: NDArray[np.intp], positions: NDArray[np.int64]) -> None:
        """A frame was judged: streams that began or have a chunk ready are looked at, the others are not."""
        now = time.time()
        for slot in slots[positions == 0].tolist():
            if self._streams.by_slot[slot].level >= Level.SCORES:
                self._written[slot] = (0, now)
        for slot in slots[positions % CHUNK == CHUNK - 1].tolist():
            self._write(slot, now)

    def end(self, stream: Stream) -> None:
        """The stream is over: what is left is written."""
        self._write(stream.slot, time.time())
        self._written.pop(stream.slot, None)

    def _write(self, slot: int, now: float) -> None:
        first, since = self._written.get(slot, (None, now))
        end = int(self._streams.judged[slot])
        if self._streams.gap[slot]:
            self._written.pop(slot, None)  # what was recorded before the gap stands; after it places would not be positions
            return
        if first is None or end <= first:
            return  # it was running when the recording began, so that its beginning is missing
        if end - first > HISTORY:  # so many came at once that the first of them are no longer kept: as after a gap
            self._written.pop(slot, None)
            return
        scores = self._streams.recent(slot, first, end).astype("<f2")
        self._written[slot] = (first + len(scores), now)
        self._ledger.append(
            "scores", stream=self._streams.by_slot[slot].name, first=first, tokens=len(scores), probes=self._probes,
            since=since, until=now, scores=base64.b64encode(scores.tobytes()).decode(),
        )  # fmt: skip
