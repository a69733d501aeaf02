"""Windowed scores of whole generations, as the rules see them while a generation runs (`rules.windows`)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

from probes.bank import MOST

WINDOWS = ("last", "ewma(4)", "ewma(8)", "mean(8)", "mean(16)", "max(8)", "max(16)")

Floats = NDArray[np.floating]


def windowed(scores: Floats, window: str) -> Floats:
    """Scores [tokens, k] as windowed values, none beyond `MOST` counted. A mean or maximum begins when its window is full; an average starts from the first score."""
    kind, _, size = window.rstrip(")").partition("(")
    scores = scores.clip(-MOST, MOST)
    if kind == "last":
        return scores
    if kind == "ewma":
        decay = 0.5 ** (1 / int(size))
        smooth: Floats = lfilter([1 - decay], [1, -decay], scores, axis=0, zi=decay * scores[:1])[0]
        return smooth
    if len(scores) < int(size):
        return scores[:0]
    views = np.lib.stride_tricks.sliding_window_view(scores, int(size), axis=0)
    values: Floats = views.mean(axis=-1) if kind == "mean" else views.max(axis=-1)
    return values
