"""Running totals of whole streams, and of conversations while one of their streams runs.

A stream's totals over its tokens t = 0, 1, … are n, Σy, Σty, Σt and Σt², its peaks, and how many tokens lay above x. What a conversation
brings from earlier requests lies beside them, in `prior`: see rules/conversations.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from rules.signal import STREAM, Signal

Floats = NDArray[np.float64]
PRIOR = 5  # numbers that a conversation keeps for one signal


class Totals:
    """sums [slots, signals, 5]: n, Σy, Σt, Σty, Σt². extreme [slots, signals]: highest (lowest for min) score. prior [slots, signals, 5]."""

    def __init__(self, signals: Sequence[Signal], columns: Sequence[int], slots: int) -> None:
        self.signals = tuple(signals)
        self._columns = np.array(columns, np.intp)
        self._conversing = [i for i, signal in enumerate(signals) if signal.scope != STREAM]
        self._counting = np.array([signal.kind == "count_above" for signal in signals])
        self._limit = np.array([signal.argument if signal.argument is not None else np.inf for signal in signals])
        self._lowest = np.array([signal.kind == "min" for signal in signals])
        self._sums = np.zeros((slots, len(signals), 5))
        self._extreme = np.zeros((slots, len(signals)))
        self._prior = np.zeros((slots, len(self._conversing), PRIOR))
        self._token = np.zeros(slots)

    def arrays(self) -> Iterable[NDArray[np.float64]]:
        return (self._sums, self._extreme, self._prior, self._token)

    def grow(self, slots: int) -> None:
        for name in ("_sums", "_extreme", "_prior", "_token"):
            old = getattr(self, name)
            new = np.zeros((slots, *old.shape[1:]))
            new[: len(old)] = old
            setattr(self, name, new)

    def begin(self, slot: int, memory: Floats | None) -> None:
        """`memory` [conversation signals, 5] is what the conversation remembers."""
        self._sums[slot] = 0
        self._extreme[slot] = np.where(self._lowest, np.inf, -np.inf)
        self._token[slot] = 0
        self._prior[slot] = 0 if memory is None else memory

    def of_conversation(self, slot: int) -> tuple[Floats, Floats]:
        """What a stream adds to its conversation: sums [conversation signals, 5] and peaks [conversation signals]."""
        return self._sums[slot, self._conversing], self._extreme[slot, self._conversing]

    def update(self, slots: NDArray[np.intp], scores: Floats) -> dict[Signal, Floats]:
        y = scores[:, self._columns]  # [n, signals]
        known = ~np.isnan(y)
        added = np.where(known, np.where(self._counting, y > self._limit, y), 0.0)
        t = self._token[slots][:, None]
        self._token[slots] += 1
        sums = self._sums[slots]
        sums += np.stack([known * 1.0, added, known * t, added * t, known * t * t], axis=2)
        self._sums[slots] = sums
        extreme = np.where(self._lowest, np.fmin(self._extreme[slots], y), np.fmax(self._extreme[slots], y))
        self._extreme[slots] = extreme
        prior = self._prior[slots]
        found = {}
        with np.errstate(all="ignore"):
            for i, signal in enumerate(self.signals):
                before = prior[:, self._conversing.index(i)] if i in self._conversing else None
                value = _value(signal, sums[:, i], extreme[:, i], before)
                found[signal] = np.where(known[:, i], value, np.nan)
        return found

    def adopt(self, other: Totals, slots: NDArray[np.intp]) -> None:
        for i, signal in enumerate(self.signals):
            if signal in other.signals:
                j = other.signals.index(signal)
                self._sums[slots, i], self._extreme[slots, i] = other._sums[slots, j], other._extreme[slots, j]
                if i in self._conversing:
                    self._prior[slots, self._conversing.index(i)] = other._prior[slots, other._conversing.index(j)]
        self._token[slots] = other._token[slots]


def _value(signal: Signal, sums: Floats, extreme: Floats, prior: Floats | None) -> Floats:
    """One signal's values [n] from sums [n, 5], extremes [n], and prior [n, 5] for a conversation."""
    n, y, t, ty, tt = sums.T
    value: Floats
    if prior is None:
        if signal.kind == "mean":
            value = y / n
        elif signal.kind == "slope":
            value = (n * ty - t * y) / (n * tt - t * t)  # NaN for a single token
        else:
            value = y if signal.kind == "count_above" else extreme
        return value
    w, wy, wx, wxy, wxx = prior.T
    if signal.kind == "mean":
        value = (wy + y) / (w + n)
    elif signal.kind == "count_above":
        value = wy + y
    elif signal.kind == "max":
        value = np.where(w > 0, np.maximum(wy, extreme), extreme)
    else:
        # The slope of the requests' means: this request stands at 0, earlier ones at -1, -2, …
        w, wy = w + 1, wy + y / n
        value = (w * wxy - wx * wy) / (w * wxx - wx * wx)
    return value
