"""The wall clock beside the steady one: a record's time may jump when somebody sets it, and the ledger says so."""

from __future__ import annotations

import time

STEP_S = 0.5  # a wall clock that moves against the steady one by so much has been set


class Clock:
    """Knows how far the wall clock is ahead of the steady one."""

    def __init__(self) -> None:
        self._ahead = _ahead()

    def step(self) -> float:
        """By how many seconds the clock was set since the last look; 0 where it was not."""
        ahead = _ahead()
        step = ahead - self._ahead
        if abs(step) <= STEP_S:
            return 0.0
        self._ahead = ahead
        return step


def _ahead() -> float:
    """In seconds. The quickest of three readings: a thread may be put aside between its two looks."""
    readings = []
    for _ in range(3):
        before, wall, after = time.monotonic(), time.time(), time.monotonic()
        readings.append((after - before, wall - before))
    return min(readings)[1]
