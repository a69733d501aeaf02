"""How a tap proves itself on the live engine: its scores of some produced tokens against hidden states that were read another way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monitor import wire
from probes.bank import Bank

# Standard deviations by which two runs of a model may differ for rounding alone: a step of a batch beside one pass over the whole text.
# Measured with the shipped bank on eight texts of eight tokens, all 178 probes: at most 0.0004 in float32 and 0.076 in bfloat16, while a
# neighbouring layer differs by 0.77 or more and a neighbouring row by 1.5 or more in the worst probe of every text.
TWO_RUNS = {"float32": 0.02, "float16": 0.1, "bfloat16": 0.3}
# The same states, projected in the engine in float32 and here in float64.
SAME_RUN = 0.01


def judge(bank: Bank, scores: NDArray[np.float32], states: Mapping[int, NDArray[Any]], tolerance: float) -> wire.Check:
    """Scores [tokens, probes] as the tap made them against states {layer: [tokens, width]}, in float64."""
    weight, bias = (each.astype(np.float64) for each in bank.affine())
    tokens = len(scores)
    if not tokens:
        return wire.Check(False, 0, 0.0, "the tap scored no token of the trial")
    expected = np.stack([states[layer].astype(np.float64) @ weight[:, i] + bias[i] for i, layer in enumerate(bank.layers)], axis=1)
    apart = np.abs(scores - expected)
    worst = float(apart.max()) if np.isfinite(apart).all() else float("inf")
    if worst <= tolerance:
        return wire.Check(True, tokens, worst)
    place, probe = np.unravel_index(np.nan_to_num(apart, nan=np.inf).argmax(), apart.shape)
    why = (
        f"the score of {bank.names[probe]} (layer {bank.layers[probe]}) at token {place} is {scores[place, probe]:.3g}; "
        f"recomputed {expected[place, probe]:.3g}, expected within {tolerance}"
    )
    return wire.Check(False, tokens, min(worst, 1e9), why)
