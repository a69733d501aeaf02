"""Two sides of one run, compared by neighbouring pairs."""

from __future__ import annotations

import numpy as np


def ratios(blocks: list[tuple[bool, float]]) -> np.ndarray:
    """Speed with the tap over speed without it, one for each neighbouring pair of blocks."""
    pairs = [(blocks[i], blocks[i + 1]) for i in range(0, len(blocks) - 1, 2)]
    return np.array([(b if a_on else a) / (a if a_on else b) for (a_on, a), (_, b) in pairs])


def interval(values: np.ndarray) -> list[float]:
    """95 % bootstrap interval of the median."""
    draws = np.random.default_rng(0).choice(values, (2000, len(values)))
    return [round(float(x), 4) for x in np.quantile(np.median(draws, axis=1), [0.025, 0.975])]
