"""Live drift: the running distribution of every probe's scores beside the one that its card was calibrated on.

By calibration a probe has mean 0 and deviation 1 on the model's neutral replies. Traffic is not all neutral, so the gauge
alone proves nothing; a step in it after a deployment does, and so does a probe that no longer varies.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from probes.bank import MOST, Bank

WINDOW = "ewma(8)"


def divergence(shift: NDArray[np.float64], deviation: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of normal distributions with these means and deviations from the standard one, elementwise, in nats."""
    square = np.maximum(deviation, 1e-6) ** 2
    found: NDArray[np.float64] = (square + shift**2 - 1 - np.log(square)) / 2
    return found


class Drift:
    """Exponential means over tokens, updated by whole frames. `half_life` is in tokens."""

    def __init__(self, bank: Bank, half_life: int) -> None:
        probes = len(bank.names)
        self.names = bank.names
        self.seen = 0
        self._decay = 0.5 ** (1 / half_life)
        self._mean, self._square, self._above = np.zeros(probes), np.ones(probes), np.zeros(probes)
        self._rate = np.zeros(probes)
        self._limit = np.full(probes, np.inf)
        for i, card in enumerate(bank.card.probes):
            for threshold in card.thresholds.get("last", [])[:1]:
                self._rate[i], self._limit[i] = threshold.rate, threshold.value

    def observe(self, scores: NDArray[np.float32]) -> None:
        """Scores [n, k] of a frame; a row with a value that is not finite is left out."""
        rows = scores[np.isfinite(scores).all(axis=1)].astype(np.float64)
        if not len(rows):
            return
        kept = self._decay ** len(rows)
        self.seen += len(rows)
        near = rows.clip(-MOST, MOST)
        for state, values in ((self._mean, near), (self._square, near**2), (self._above, rows > self._limit)):
            state *= kept
            state += (1 - kept) * values.mean(axis=0)

    def gauges(self) -> dict[str, NDArray[np.float64]]:
        """By name, one value a probe: mean shift in z, ratio of deviations, how many times its rate the 1 % threshold is exceeded, and the divergence of the
        running distribution from the calibrated one, in nats: one number for a model that broke, whichever way its scores went."""
        weight = 1 - self._decay**self.seen if self.seen else 1.0
        # The averages began at the card's own values; what they have not yet forgotten of them is taken out.
        mean = self._mean / weight
        square = (self._square - (1 - weight)) / weight if self.seen else self._square
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.where(self._rate > 0, self._above / weight / self._rate, np.nan)
        deviation = np.sqrt(np.maximum(square - mean**2, 0))
        return {"shift": mean, "deviation": deviation, "exceedance": ratio, "divergence": divergence(mean, deviation)}
