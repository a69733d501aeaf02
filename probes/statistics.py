"""Error figures with 95 % bootstrap intervals. Positives and negatives are resampled apart."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score

from probes.bank import Figure

BOOTSTRAPS = 1000

Floats = NDArray[np.floating]
Interval = tuple[float, float]


def auroc(positive: Floats, negative: Floats) -> float:
    """The chance that a positive scores above a negative; a tie counts half."""
    ordered = np.sort(negative)
    below = np.searchsorted(ordered, positive, "left") + np.searchsorted(ordered, positive, "right")
    return float(below.mean() / (2 * len(negative)))


def auprc(positive: Floats, negative: Floats) -> float:
    truth = np.r_[np.ones(len(positive)), np.zeros(len(negative))]
    return float(average_precision_score(truth, np.r_[positive, negative]))


def bootstrap(measure: Callable[..., float], *samples: Floats, draws: int = BOOTSTRAPS) -> Interval:
    """95 % interval of a measure of independent samples."""
    random = np.random.default_rng(0)
    values = [measure(*(random.choice(sample, len(sample)) for sample in samples)) for _ in range(draws)]
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def paired(measure: Callable[..., float], *columns: Floats, draws: int = BOOTSTRAPS) -> Interval:
    """95 % interval of a measure of columns whose rows belong together."""
    random = np.random.default_rng(0)
    rows = len(columns[0])
    picks = (random.integers(rows, size=rows) for _ in range(draws))
    low, high = np.nanquantile([measure(*(column[pick] for column in columns)) for pick in picks], [0.025, 0.975])
    return float(low), float(high)


def share_above(limit: float) -> Callable[[Floats], float]:
    return lambda scores: float((scores > limit).mean())


def figure(suite: str, positive: Floats, negative: Floats, limit: float, draws: int = BOOTSTRAPS) -> Figure:
    """A figure for a suite. Where one side is empty, only the other side's rate at the threshold `limit` is told."""
    found: dict[str, object] = {"suite": suite, "positives": len(positive), "negatives": len(negative)}
    above = share_above(limit)
    if len(positive) and len(negative):
        found |= {"auroc": auroc(positive, negative), "auroc_ci": bootstrap(auroc, positive, negative, draws=draws)}
        found |= {"auprc": auprc(positive, negative), "auprc_ci": bootstrap(auprc, positive, negative, draws=min(draws, 200))}
    if len(positive):
        found |= {"tpr": above(positive), "tpr_ci": bootstrap(above, positive, draws=draws)}
    if len(negative):
        found |= {"fpr": above(negative), "fpr_ci": bootstrap(above, negative, draws=draws)}
    return Figure.model_validate(found)


def ranking(suite: str, positive: Floats, negative: Floats) -> Figure:
    """A figure without rates, where the scores are of another kind than those that the threshold is for."""
    none = dict.fromkeys(("tpr", "tpr_ci", "fpr", "fpr_ci"))
    return figure(suite, positive, negative, 0.0, 300).model_copy(update=none)
