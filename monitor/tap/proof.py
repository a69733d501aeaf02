"""The tap's proof of itself on vLLM: the states beside its first scores, projected anew on the host."""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import NDArray

from monitor import wire
from monitor.tap.check import SAME_RUN, judge
from monitor.tap.project import KEPT, Keeping, Reader
from monitor.tap.requests import Step
from probes.bank import Bank

TOKENS = 4
STEPS = 8  # that wait for their tokens; asynchronous scheduling runs one ahead

States = dict[int, NDArray[np.float32]]


class Proof:
    """Gathers states and scores of the first tokens whose rows lie among the kept ones. Made before the engine compiles or captures.

    It sees that the operator runs in every step, reads the sum of a layer's pair, multiplies with the bank's numbers, and that rows and
    columns find their way to the sender. Whether the layer is the right one only another engine can say: `barograph verify-tap`.
    """

    def __init__(self, bank: Bank, readers: dict[int, Reader]) -> None:
        self._bank = bank
        self._readers = readers
        self._waiting: deque[tuple[Step, States]] = deque(maxlen=STEPS)
        self._scores: list[NDArray[np.float32]] = []
        self._states: list[States] = []
        for reader in readers.values():
            reader.states.fill_(float("nan"))  # what no step has written proves nothing
        Keeping.on = True

    def keep(self, step: Step) -> None:
        """A step has run: copy the states of its candidates before the next one writes over them."""
        rows = np.minimum(step.rows, KEPT - 1)
        self._waiting.append((step, {layer: reader.states.cpu().numpy()[rows] for layer, reader in self._readers.items()}))

    def look(self, step: Step, kept: NDArray[np.intp], scores: NDArray[np.float32]) -> wire.Check | None:
        """What became tokens, and their scores as they were sent. The proof, once there are enough."""
        states = next((states for known, states in self._waiting if known is step), None)
        near = step.rows[kept] < KEPT
        if states is None or not near.any():
            return None
        self._scores.append(scores[near])
        self._states.append({layer: each[kept[near]] for layer, each in states.items()})
        if sum(map(len, self._scores)) < TOKENS:
            return None
        Keeping.on = False
        whole = {layer: np.concatenate([each[layer] for each in self._states]) for layer in self._readers}
        return judge(self._bank, np.concatenate(self._scores), whole, SAME_RUN)
