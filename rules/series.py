"""Series of scores as tests write them: `0x8 1+0.5x4 _`, in the manner of promtool."""

from __future__ import annotations

import math
import re

MOST = 100_000
_ITEM = re.compile(r"(?P<start>-?\d+(?:\.\d+)?|_)(?:(?P<step>[+-]\d+(?:\.\d+)?))?(?:x(?P<times>\d{1,6}))?")


def series(text: str) -> list[float]:
    """`2` is one token, `2x3` three, `2+0.5x3` is 2, 2.5, 3, and `_` a score that is missing. Raises ValueError."""
    values: list[float] = []
    for item in text.split():
        found = _ITEM.fullmatch(item)
        if found is None or (found["start"] == "_" and found["step"]):
            raise ValueError(
                f"'{item[:40]}' is no part of a series; expected such as 2, 2x3 (three tokens), 1+0.5x4 (rising), or _ (missing)"
            )
        times = int(found["times"] or 1)
        if len(values) + times > MOST:
            raise ValueError(f"a series of more than {MOST} tokens")
        start, step = (math.nan if found["start"] == "_" else float(found["start"])), float(found["step"] or 0)
        values += [start + step * i for i in range(times)]
    if not values:
        raise ValueError("an empty series; expected such as: 0x8 3x4")
    return values
