"""Signals: windowed values of probes, for all streams at once.

Slots are the rows of the state arrays; a stream has one while it lives. NaN is the value of a window that is not
full yet, and never satisfies a condition.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MAX_WINDOW = 512  # tokens

Floats = NDArray[np.float64]
Slots = NDArray[np.intp]

KINDS = ("last", "ewma", "mean", "max", "min", "slope")


@dataclass(frozen=True)
class Signal:
    """One windowed value of one probe. `size` is in tokens: the half-life for ewma, the length for the others."""

    probe: str
    kind: str
    size: int = 1

    def __str__(self) -> str:
        return f"{self.probe}.{self.kind}" + ("" if self.kind == "last" else f"({self.size})")


class Windows:
    """The state of every signal of a rule set. `update` is vectorised over streams."""

    def __init__(self, probes: tuple[str, ...], signals: tuple[Signal, ...], slots: int = 16) -> None:
        self.signals = signals
        self._column = {signal: probes.index(signal.probe) for signal in signals}
        self._ewma = [signal for signal in signals if signal.kind == "ewma"]
        self._decay = np.array([0.5 ** (1 / signal.size) for signal in self._ewma])
        self._length = max((signal.size for signal in signals if signal.kind in ("mean", "max", "min", "slope")), default=0)
        self._ring = np.zeros((slots, self._length, len(probes)))
        self._smooth = np.zeros((slots, len(self._ewma)))
        self._count = np.zeros(slots, np.int64)

    def grow(self, slots: int) -> None:
        for name in ("_ring", "_smooth", "_count"):
            old = getattr(self, name)
            new = np.zeros((slots, *old.shape[1:]), old.dtype)
            new[: len(old)] = old
            setattr(self, name, new)

    def clear(self, slot: int) -> None:
        """A new stream starts in `slot`. Averages start at 0, the neutral text's mean."""
        self._smooth[slot] = 0
        self._count[slot] = 0

    def update(self, slots: Slots, scores: Floats) -> dict[Signal, Floats]:
        """Take one token of each of `slots` [n, distinct], scores [n, probes]; return each signal's values [n].

        A score that is not finite counts as the token that it is, but leaves averages as they were.
        """
        finite = np.isfinite(scores)
        if self._ewma:
            columns = [self._column[signal] for signal in self._ewma]
            old = self._smooth[slots]
            new = np.where(finite[:, columns], old * self._decay + scores[:, columns] * (1 - self._decay), old)
            self._smooth[slots] = new
        if self._length:
            self._ring[slots, self._count[slots] % self._length] = scores
        self._count[slots] += 1
        return {signal: self._value(signal, slots, scores) for signal in self.signals}

    def _value(self, signal: Signal, slots: Slots, scores: Floats) -> Floats:
        column = self._column[signal]
        if signal.kind == "last":
            return scores[:, column]
        if signal.kind == "ewma":
            value: Floats = self._smooth[slots, self._ewma.index(signal)]
            return np.where(np.isfinite(scores[:, column]), value, np.nan)
        count = self._count[slots]
        # Row i holds the window of stream i, oldest first.
        places = (count[:, None] - signal.size + np.arange(signal.size)) % self._length
        window = self._ring[slots[:, None], places, column]
        if signal.kind == "mean":
            value = window.mean(axis=1)
        elif signal.kind == "slope":
            steps = np.arange(signal.size) - (signal.size - 1) / 2
            value = window @ steps / (steps @ steps)
        else:
            value = window.max(axis=1) if signal.kind == "max" else window.min(axis=1)
        return np.where(count >= signal.size, value, np.nan)
