"""What one open page hears: the streams and the verdicts once, then what came since, a few times a second."""

from __future__ import annotations

import asyncio
import base64
import math
import time
from collections.abc import AsyncGenerator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monitor.http import openai
from monitor.pipeline.streams import HISTORY
from monitor.pipeline.tracks import Fired, Track, Tracks

BEAT_S = 0.3
STRIP = 256  # tokens of a stream with which a page begins
TENTH = 10  # scores travel as tenths in one byte
MISSING = -128


class Feed:
    """The way of one viewer through the tracks. What a slow one has not heard yet is asked of the tracks when it is ready: nothing queues up."""

    def __init__(self, tracks: Tracks, probe: int) -> None:
        self._tracks = tracks
        self._probe = probe
        self._sent: dict[int, int] = {}  # by track: tokens of which the viewer knows
        self._verdicts = 0

    async def events(self) -> AsyncGenerator[bytes]:
        while True:
            yield openai.event(self.step())
            await asyncio.sleep(BEAT_S)

    def step(self) -> dict[str, Any]:
        """What is new since the last step."""
        tracks = self._tracks
        running = tracks.running
        kept = list(tracks)
        came = [self._new(track) for track in kept if track.number not in self._sent]
        known = {track.number for track in kept}
        gone = [number for number in self._sent if number not in known]
        for number in gone:
            del self._sent[number]
        over = [self._ended(track) for track in kept if track.stream is None and self._sent[track.number] >= 0]
        fired = [told(each) for each in tracks.fired if each.number >= self._verdicts]
        self._verdicts = tracks.verdicts
        found: dict[str, Any] = {"now": time.time(), "running": len(running), "missed": tracks.missed}
        parts = {"came": came, "more": self._more(running), "over": over, "gone": gone, "verdicts": fired}
        return found | {name: part for name, part in parts.items() if part}

    def _new(self, track: Track) -> dict[str, Any]:
        tokens = self._tracks.judged(track)
        first, scores = self._tracks.scores(track, max(0, tokens - STRIP))
        self._sent[track.number] = first + len(scores)
        return about(track) | {"tokens": tokens, "first": first, "z": packed(scores[:, self._probe])}

    def _more(self, running: list[Track]) -> list[list[Any]]:
        """Number, first position and scores of those that moved: one look at the table for all of them."""
        running = [track for track in running if not self._tracks.lost(track)]
        since = np.array([self._sent[track.number] for track in running], np.int64)
        ends, scores = self._tracks.newest(running, since, self._probe)
        tenths = in_tenths(scores)
        found = []
        for i in np.flatnonzero(ends > since).tolist():
            first, end = max(int(since[i]), int(ends[i]) - HISTORY), int(ends[i])
            found.append([running[i].number, first, base64.b64encode(tenths[i, : end - first].tobytes()).decode()])
            self._sent[running[i].number] = end
        return found

    def _ended(self, track: Track) -> list[Any]:
        """Number, tokens, whether scores were lost, and those that the viewer has not got yet."""
        first, scores = self._tracks.scores(track, self._sent[track.number])
        self._sent[track.number] = -1
        return [track.number, track.tokens, track.gap, first, packed(scores[:, self._probe])]


def about(track: Track) -> dict[str, Any]:
    """What a viewer may know of a stream: labels of fixed sets, and a name that is of no use to a tap."""
    return {
        "number": track.number, "name": track.shown, "started": track.started, "model": track.model, "tenant": track.tenant,
        "conversation": track.conversation, "grade": track.grade, "ended": track.ended, "gap": track.gap, "spans": track.spans,
    }  # fmt: skip


def told(fired: Fired) -> dict[str, Any]:
    """A verdict, for a list of them."""
    verdict, track = fired.verdict, fired.track
    return {
        "number": fired.number, "time": fired.time, "rule": verdict.rule.rule, "action": verdict.action.name.lower(), "mode": verdict.mode,
        "shadow": verdict.shadow, "severity": verdict.rule.severity, "position": verdict.position, "limited": verdict.limited,
        "stream": track.shown, "track": track.number, "model": track.model, "tenant": track.tenant,
        "signals": {name: finite(value) for name, value in verdict.signals.items()},
    }  # fmt: skip


def in_tenths(scores: NDArray[np.floating]) -> NDArray[np.int8]:
    """Scores in steps of 0.1 from -12.7 to 12.7; MISSING is one that is not a number."""
    wide = scores.astype(np.float32)
    return np.where(np.isfinite(wide), np.clip(np.nan_to_num(wide, posinf=0, neginf=0) * TENTH, -127, 127).round(), MISSING).astype(np.int8)


def packed(scores: NDArray[np.floating]) -> str:
    return base64.b64encode(in_tenths(scores).tobytes()).decode()


def whole(values: NDArray[np.floating]) -> str:
    """Numbers as they are: float32, little-endian, in base64."""
    return base64.b64encode(values.astype("<f4").tobytes()).decode()


def finite(value: float) -> float | None:
    return round(value, 3) if math.isfinite(value) else None
