"""What is remembered of a conversation between its requests: a few numbers a signal, fading with every request.

The half-life is in requests, so nothing here needs a clock. Conversations are known by an opaque key; the oldest is forgotten
when there are too many.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rules.signal import Signal

MOST = 4096  # conversations

Floats = NDArray[np.float64]


class Conversations:
    """Five numbers a signal, of earlier requests: weight, Σy, Σx, Σxy and Σx².

    mean and count_above: weight and Σy run over tokens. max: Σy is the faded peak. slope: over requests, each with its mean as y and
    its place x (0 for the present one, -1 for the one before) and weight 1 when it ended.
    """

    def __init__(self, signals: Sequence[Signal]) -> None:
        self.signals = tuple(signals)
        self._decay = np.array([0.5 ** (1 / signal.size) for signal in signals])[:, None]
        self._kinds = [signal.kind for signal in signals]
        self._memory: OrderedDict[str, Floats] = OrderedDict()

    def __len__(self) -> int:
        return len(self._memory)

    def begin(self, key: str) -> Floats:
        """A request of a conversation begins: what is remembered [signals, 5], one request older. Zeros for an unknown one."""
        memory = self._memory.get(key) if key else None
        if memory is None:
            memory = np.zeros((len(self.signals), 5))
        else:
            self._memory.move_to_end(key)
            w, wy, wx, wxy, wxx = memory.T
            older = np.stack([w, wy, wx - w, wxy - wy, wxx - 2 * wx + w], axis=1)
            memory = np.where(np.array(self._kinds)[:, None] == "slope", older, memory) * self._decay
            for i, kind in enumerate(self._kinds):  # a peak fades towards 0, the neutral mean, and from below not at all
                if kind == "max" and memory[i, 1] < 0:
                    memory[i, 1] /= self._decay[i, 0]
        if key:
            self._memory[key] = memory
            if len(self._memory) > MOST:
                self._memory.popitem(last=False)
        return memory

    def end(self, key: str, sums: Floats, peaks: Floats) -> None:
        """A request of a conversation is over: sums [signals, 5] and peaks [signals] of its stream are remembered."""
        memory = self._memory.get(key)
        if memory is None:  # forgotten meanwhile
            return
        memory = memory.copy()
        for i, kind in enumerate(self._kinds):
            n, y = sums[i, 0], sums[i, 1]
            if not n:
                continue
            if kind == "max":
                memory[i, :2] = 1, max(memory[i, 1], peaks[i]) if memory[i, 0] else peaks[i]
            elif kind == "slope":
                memory[i, :2] += 1, y / n
            else:
                memory[i, :2] += n, y
        self._memory[key] = memory

    def adopt(self, other: Conversations) -> None:
        """Take over what another rule set remembers of the signals that both have."""
        places = [(i, other.signals.index(signal)) for i, signal in enumerate(self.signals) if signal in other.signals]
        for key, memory in other._memory.items():
            mine = np.zeros((len(self.signals), 5))
            for i, j in places:
                mine[i] = memory[j]
            self._memory[key] = mine
