"""The state behind signals, for all streams at once. `update` takes one token of each stream, without a loop over streams.

Slots are the rows of the state arrays; a stream has one while it lives. NaN is the value of a window that is not full yet or holds a
score that is not a number, and never satisfies a condition. A token costs the same however long its stream is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rules.conversations import Conversations
from rules.signal import CONVERSATION, MOST, STREAM, TOKENS, Signal
from rules.totals import Totals

Floats = NDArray[np.float64]
Slots = NDArray[np.intp]


class Windows:
    """The state of every signal of a rule set.

    ring [probes in use, slots, length]: the last scores. smooth [slots, averages]: running ewma. count [slots]: tokens in the
    ring. `totals` keeps what whole streams and conversations need.
    """

    def __init__(self, probes: tuple[str, ...], signals: Sequence[Signal], slots: int = 16) -> None:
        self.signals = tuple(signals)
        self.probes = probes
        self._column = {signal: probes.index(signal.probe) for signal in self.signals}
        self._ewma = [signal for signal in signals if signal.kind == "ewma"]
        self._ewma_columns = [self._column[signal] for signal in self._ewma]
        self._decay = np.array([0.5 ** (1 / signal.size) for signal in self._ewma])
        ringed = [signal for signal in signals if signal.scope == TOKENS and signal.kind not in ("last", "ewma")]
        self.length = max((signal.size for signal in ringed), default=0)
        self.used = tuple(dict.fromkeys(signal.probe for signal in ringed))
        self._used_columns = [probes.index(probe) for probe in self.used]
        # Signals of one size look at the same places.
        self._groups = {
            size: [signal for signal in ringed if signal.size == size] for size in dict.fromkeys(signal.size for signal in ringed)
        }
        self._ring = np.zeros((len(self.used), slots, self.length), np.float32)
        self._smooth = np.full((slots, len(self._ewma)), np.nan)
        self._count = np.zeros(slots, np.int64)
        wide = [signal for signal in signals if signal.scope in (STREAM, CONVERSATION)]
        self._totals = Totals(wide, [self._column[signal] for signal in wide], slots) if wide else None
        remembered = [signal for signal in wide if signal.scope == CONVERSATION]
        self.conversations = Conversations(remembered) if remembered else None

    @property
    def bytes_a_stream(self) -> int:
        arrays: list[NDArray[Any]] = [
            self._ring.swapaxes(0, 1),
            self._smooth,
            self._count,
            *(self._totals.arrays() if self._totals else ()),
        ]
        return sum(int(array[:1].nbytes) for array in arrays)

    def grow(self, slots: int) -> None:
        ring = np.zeros((len(self.used), slots, self.length), np.float32)
        ring[:, : self._ring.shape[1]] = self._ring
        self._ring = ring
        for name, fill in (("_smooth", np.nan), ("_count", 0)):
            old = getattr(self, name)
            new = np.full((slots, *old.shape[1:]), fill, old.dtype)
            new[: len(old)] = old
            setattr(self, name, new)
        if self._totals is not None:
            self._totals.grow(slots)

    def begin(self, slot: int, conversation: str = "") -> None:
        """A new stream starts in `slot`. Averages start from its first score: from 0 on they would say little of a short reply."""
        self._smooth[slot] = np.nan
        self._count[slot] = 0
        if self._totals is not None:
            memory = self.conversations.begin(conversation) if self.conversations is not None else None
            self._totals.begin(slot, memory)

    def end(self, slot: int, conversation: str) -> None:
        """A stream is over: its conversation remembers it."""
        if self._totals is not None and self.conversations is not None and conversation:
            self.conversations.end(conversation, *self._totals.of_conversation(slot))

    def update(self, slots: Slots, scores: Floats) -> dict[Signal, Floats]:
        """Take one token of each of `slots` [n, distinct], scores [n, probes]; return each signal's values [n].

        A score that is not finite counts as the token that it is, and leaves averages and totals as they were.
        """
        scores = bounded(scores)
        values: dict[Signal, Floats] = {signal: scores[:, self._column[signal]] for signal in self.signals if signal.kind == "last"}
        if self._ewma:
            new = scores[:, self._ewma_columns]
            old = self._smooth[slots]
            smooth = np.where(np.isnan(new), old, np.where(np.isnan(old), new, old * self._decay + new * (1 - self._decay)))
            self._smooth[slots] = smooth
            smooth = np.where(np.isnan(new), np.nan, smooth)
            values |= {signal: smooth[:, i] for i, signal in enumerate(self._ewma)}
        count = self._count[slots]
        if self.length:
            self._ring[:, slots, count % self.length] = scores[:, self._used_columns].T
        count += 1
        self._count[slots] = count
        for size, signals in self._groups.items():
            values |= self._windowed(size, signals, slots, count)
        if self._totals is not None:
            values |= self._totals.update(slots, scores)
        return values

    def _windowed(self, size: int, signals: list[Signal], slots: Slots, count: NDArray[np.int64]) -> dict[Signal, Floats]:
        """Values of all signals over the last `size` tokens; a window [n, size] is oldest token first."""
        places = slots[:, None] * self.length + (count[:, None] - size + np.arange(size)) % self.length
        young = count < size if (count < size).any() else None
        values = {}
        for probe in dict.fromkeys(signal.probe for signal in signals):
            window = self._ring[self.used.index(probe)].reshape(-1).take(places)
            ordered = None
            for signal in signals:
                if signal.probe != probe:
                    continue
                if signal.kind == "quantile":
                    ordered = np.sort(window, axis=1) if ordered is None else ordered
                    value = quantile(ordered, signal.argument or 0.0)
                else:
                    value = over(signal, window)
                values[signal] = value if young is None else np.where(young, np.nan, value)
        return values

    def adopt(self, other: Windows, slots: Slots) -> None:
        """Take over what another rule set's state knows of running streams, so that a reload forgets as little as it can.

        A signal that both have goes on. A window that is longer than what is there, or of a probe that was not kept, fills anew.
        """
        kept = min(self.length, other.length)
        if kept:
            # Laid from place 0 on, oldest first: places before a stream's first token hold what nobody reads.
            have = np.minimum(other._count[slots], kept)
            places = (other._count[slots, None] - have[:, None] + np.arange(kept)) % other.length
            for place, probe in enumerate(self.used):
                known = other._ring[other.used.index(probe), slots[:, None], places] if probe in other.used else np.nan
                self._ring[place, slots[:, None], np.arange(kept)] = known
            self._count[slots] = have
        for i, signal in enumerate(self._ewma):
            if signal in other._ewma:
                self._smooth[slots, i] = other._smooth[slots, other._ewma.index(signal)]
        if self._totals is not None and other._totals is not None:
            self._totals.adopt(other._totals, slots)
        if self.conversations is not None and other.conversations is not None:
            self.conversations.adopt(other.conversations)


def bounded(scores: NDArray[np.floating]) -> Floats:
    """Scores as they count: none beyond `MOST` deviations, and NaN for what is no finite number."""
    return np.where(np.isfinite(scores), scores, np.nan).clip(-MOST, MOST).astype(np.float64, copy=False)


def over(signal: Signal, window: NDArray[np.float32]) -> Floats:
    """[n] of windows [n, size]. A score that is missing makes the whole window unknown."""
    value: Floats
    if signal.kind == "mean":
        value = window.mean(axis=1, dtype=np.float64)
    elif signal.kind == "slope":
        steps = np.arange(window.shape[1]) - (window.shape[1] - 1) / 2
        value = window.astype(np.float64) @ (steps / (steps @ steps))
    elif signal.kind == "count_above":
        above = (window > (signal.argument or 0.0)).sum(axis=1)
        value = np.where(np.isnan(window).any(axis=1), np.nan, above)
    else:
        value = (window.max(axis=1) if signal.kind == "max" else window.min(axis=1)).astype(np.float64)
    return value


def quantile(ordered: NDArray[np.float32], q: float) -> Floats:
    """Linear interpolation between the two nearest of `ordered` [n, size], in which missing scores stand last."""
    place = q * (ordered.shape[1] - 1)
    low = int(place)
    high = min(low + 1, ordered.shape[1] - 1)
    lower, upper = ordered[:, low].astype(np.float64), ordered[:, high].astype(np.float64)
    return np.where(np.isnan(ordered[:, -1]), np.nan, lower + (upper - lower) * (place - low))
