"""Charts for a terminal: a series of scores, and marks in it."""

from __future__ import annotations

import math
from collections.abc import Sequence

BARS = "▁▂▃▄▅▆▇█"


def spark(values: Sequence[float | None], low: float | None = None, high: float | None = None) -> str:
    """One character a value; a missing one is a dot."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    low = min(known, default=0.0) if low is None else low
    high = max(known, default=1.0) if high is None else high
    span = (high - low) or 1.0
    return "".join(
        "·" if value is None or not math.isfinite(value) else BARS[min(7, max(0, int((value - low) / span * 8)))] for value in values
    )


def chart(values: Sequence[float | None], height: int = 8, line: float | None = None) -> list[str]:
    """A plot of `height` rows with its scale at the left. `line` draws a threshold."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    if line is not None:
        known.append(line)
    low, high = min([0.0, *known]), max([1.0, *known])
    step = (high - low) / (height - 1)
    rows = []
    for row in range(height - 1, -1, -1):
        level = low + row * step
        mark = line is not None and abs(level - line) <= step / 2
        cells = "".join(
            "·"
            if value is None or not math.isfinite(value)
            else "█"
            if value >= level
            else "▄"
            if value >= level - step / 2
            else "─"
            if mark
            else " "
            for value in values
        )
        rows.append(f"{level:7.2f} {'┤' if not mark else '┼'}{cells}")
    return rows
