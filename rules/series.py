"""Series of scores as tests write them: `0*8 1+0.5*4 _`, in the manner of promtool.

promtool writes x for *, which is understood too; but YAML takes `0x40` alone for a number, which is then refused.
"""

from __future__ import annotations

import math
import re

MOST = 100_000
_ITEM = re.compile(r"(?P<start>-?\d+(?:\.\d+)?|_)(?:(?P<step>[+-]\d+(?:\.\d+)?))?(?:[x*](?P<times>\d{1,6}))?")


def series(text: str) -> list[float]:
    """`2` is one token, `2*3` three, `2+0.5*3` is 2, 2.5, 3, and `_` a score that is missing. Raises ValueError."""
    values: list[float] = []
    for item in text.split():
        found = _ITEM.fullmatch(item)
        if found is None or (found["start"] == "_" and found["step"]):
            raise ValueError(
                f"'{item[:40]}' is no part of a series; expected such as 2, 2*3 (three tokens), 1+0.5*4 (rising), or _ (missing)"
            )
        times = int(found["times"] or 1)
        if len(values) + times > MOST:
            raise ValueError(f"a series of more than {MOST} tokens")
        start, step = (math.nan if found["start"] == "_" else float(found["start"])), float(found["step"] or 0)
        values += [start + step * i for i in range(times)]
    if not values:
        raise ValueError("an empty series; expected such as: 0*8 3*4")
    return values
