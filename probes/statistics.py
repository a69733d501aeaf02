"""Error figures with 95 % intervals.

Shares have Wilson's interval (1927) and areas under the ROC Newcombe's (2006, method 5), which do not shrink to nothing where ten texts of ten are right.
All else is resampled, positives and negatives apart.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score

from probes.bank import Figure

BOOTSTRAPS = 1000
NORMAL = 1.959964

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


def wilson(hits: int, count: int) -> Interval:
    """95 % interval of a share."""
    if not count:
        return 0.0, 1.0
    share, z2 = hits / count, NORMAL**2
    centre = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = NORMAL * np.sqrt(share * (1 - share) / count + z2 / (4 * count**2)) / (1 + z2 / count)
    return float(max(0.0, centre - half)), float(min(1.0, centre + half))


def auroc_interval(value: float, positives: int, negatives: int) -> Interval:
    """95 % interval of an area under the ROC: the areas from which the value lies within 1.96 of their own standard errors."""
    area = np.linspace(0, 1, 20001)
    more = (positives + negatives) / 2 - 1
    variance = area * (1 - area) * (1 + more * ((1 - area) / (2 - area) + area / (1 + area))) / (positives * negatives)
    near = area[(value - area) ** 2 <= NORMAL**2 * variance + 1e-12]
    return float(min(near[0], value)), float(max(near[-1], value))


def clustered(measure: Callable[..., float], groups: NDArray[np.intp], *columns: Floats, draws: int = 300) -> Interval:
    """95 % interval of a measure of columns whose rows come in groups, such as replies to one prompt: whole groups are drawn."""
    random = np.random.default_rng(0)
    rows = [np.flatnonzero(groups == group) for group in np.unique(groups)]
    values = []
    for _ in range(draws):
        pick = np.concatenate([rows[i] for i in random.integers(len(rows), size=len(rows))])
        values.append(measure(*(column[pick] for column in columns)))
    low, high = np.nanquantile(values, [0.025, 0.975])
    return float(low), float(high)


def share_above(limit: float) -> Callable[[Floats], float]:
    return lambda scores: float((scores > limit).mean())


def figure(suite: str, positive: Floats, negative: Floats, draws: int = 200) -> Figure:
    """How well scores tell two kinds of text apart."""
    found: dict[str, object] = {"suite": suite, "positives": len(positive), "negatives": len(negative)}
    if len(positive) and len(negative):
        area = auroc(positive, negative)
        found |= {"auroc": area, "auroc_ci": auroc_interval(area, len(positive), len(negative))}
        found |= {"auprc": auprc(positive, negative), "auprc_ci": bootstrap(auprc, positive, negative, draws=draws)}
    return Figure.model_validate(found)


def with_rates(made: Figure, positive: NDArray[np.bool_], negative: NDArray[np.bool_]) -> Figure:
    """The figure with the shares of texts for which the default rules' condition is met."""
    found: dict[str, object] = {}
    for name, met in (("tpr", positive), ("fpr", negative)):
        if len(met):
            found |= {name: float(met.mean()), f"{name}_ci": wilson(int(met.sum()), len(met))}
    return made.model_copy(update=found)


def found_at(rate: float, positive: Floats, negative: Floats) -> tuple[float, Interval] | None:
    """The share of positives above what every second negative exceeds at a rate; None with too few for that (rule of three)."""
    if len(negative) < 3 / rate:
        return None
    hits = int((positive > np.quantile(negative[::2], 1 - rate)).sum())
    return hits / len(positive), wilson(hits, len(positive))
