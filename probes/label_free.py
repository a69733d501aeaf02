"""Has a model changed? Told without labels, from what the probes' scores look like on ordinary traffic and on canaries.

A quantisation that breaks a model moves the scores of its own replies: their means, their spread, or both. The distance is the divergence of two
normal distributions (Kullback and Leibler 1951) a probe, averaged over all probes of the bank: 0 where nothing moved, in nats. How much of it chance makes
is asked of the first model itself, by drawing its prompts twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from probes.bank import MOST, Bank
from probes.canaries import CANARIES
from probes.drift import divergence
from probes.methods import Floats
from probes.prompts import Prompt, checking, of_kind
from probes.reader import Reader, Say
from probes.replies import replies
from probes.scoring import read
from probes.statistics import auroc

DRAWS = 200
SURE = 0.99  # of what chance makes of the first model
SMALL = 0.02  # nats: a shift of 0.2 deviations; less changes no rate that a rule asks for

Array = NDArray[np.float64]


@dataclass(frozen=True)
class LabelFree:
    """divergence: of B's scores from A's, median and 95 % of the `draws`. chance: what A's own prompts reach in 99 of 100 draws. auroc: of one
    against the other. moved: the probes that moved most, with shift and ratio of deviations."""

    verdict: str
    divergence: tuple[float, tuple[float, float]]
    chance: float
    auroc: float
    moved: list[tuple[str, float, float]]
    draws: list[float]


def traffic() -> list[Prompt]:
    """Ordinary prompts that set no threshold, and prompts whose replies must raise a probe."""
    asked = [Prompt("canaries", "ordinary", (text,), True) for texts in CANARIES.values() for text in texts]
    return [*of_kind(checking(), "ordinary"), *asked]


def scores_of(reader: Reader, bank: Bank, work: Path, say: Say) -> list[Floats]:
    """Scores [tokens, k] of the model's own replies to the traffic, one a prompt."""
    made = replies(reader, traffic(), 1, work, say, seed=3)
    return read(reader, bank, [(each.ids, each.start) for each in made], say)


def compare(a: Sequence[Floats], b: Sequence[Floats], names: Sequence[str]) -> LabelFree:
    """Of scores of the same prompts by two models, or by one in two configurations."""
    first, second = _Sums(a), _Sums(b)
    random = np.random.default_rng(0)
    picks = [random.integers(len(a), size=(2, len(a))) for _ in range(DRAWS)]
    chance = np.array([_distance(first, one, first, two) for one, two in picks])
    found = np.array([_distance(first, one, second, two) for one, two in picks])
    limit = float(np.quantile(chance, SURE))
    middle = float(np.median(found))
    low, high = (float(each) for each in np.quantile(found, [0.025, 0.975]))
    # Chance alone makes a distance: what is beyond it must count.
    beyond = middle - float(np.median(chance))
    verdict = "PASS" if beyond < SMALL else "DRIFTED" if low > limit else "INCONCLUSIVE"
    whole = np.arange(len(a))
    shift, deviation = _moves(first, whole, second, whole)
    order = np.argsort(-divergence(shift, deviation))[:5]
    return LabelFree(
        verdict,
        (middle, (low, high)),
        limit,
        auroc(found, chance),
        [(names[i], round(float(shift[i]), 3), round(float(deviation[i]), 3)) for i in order],
        found.tolist(),
    )


class _Sums:
    """Count, sum and sum of squares of each reply's scores, none beyond `MOST`: a draw of prompts is then a sum of rows."""

    def __init__(self, scores: Sequence[Floats]) -> None:
        scores = [each.clip(-MOST, MOST) for each in scores]
        self.count = np.array([len(each) for each in scores], np.float64)
        self.sum = np.array([each.sum(axis=0, dtype=np.float64) for each in scores])
        self.square = np.array([np.square(each, dtype=np.float64).sum(axis=0) for each in scores])

    def drawn(self, pick: NDArray[np.intp]) -> tuple[Array, Array]:
        count = self.count[pick].sum()
        mean = self.sum[pick].sum(axis=0) / count
        return mean, np.sqrt(np.maximum(self.square[pick].sum(axis=0) / count - mean**2, 1e-12))


def _moves(a: _Sums, one: NDArray[np.intp], b: _Sums, two: NDArray[np.intp]) -> tuple[Array, Array]:
    (mean, std), (mean_b, std_b) = a.drawn(one), b.drawn(two)
    return (mean_b - mean) / std, std_b / std


def _distance(a: _Sums, one: NDArray[np.intp], b: _Sums, two: NDArray[np.intp]) -> float:
    return float(divergence(*_moves(a, one, b, two)).mean())
