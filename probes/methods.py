"""Ways to find a direction at one layer. Each takes states [n, width], truth [n] of 0 and 1, and a weight for each row."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from sklearn.covariance import ledoit_wolf
from sklearn.linear_model import LogisticRegression

NEUTRAL_VARIANCE = 0.5
REGULARISATION = 1e-3  # C of the logistic regression on standardised states; a tenth of it was no better on validation topics

Floats = NDArray[np.float32]
Method = Callable[[Floats, NDArray[np.bool_], Floats], Floats]


def unit(direction: NDArray[np.floating]) -> Floats:
    """Rows of length one; a zero row stays zero."""
    length = np.linalg.norm(direction, axis=-1, keepdims=True)
    result: Floats = (direction / np.where(length > 0, length, 1)).astype(np.float32)
    return result


def difference_of_means(states: Floats, truth: NDArray[np.bool_], weight: Floats) -> Floats:
    """arXiv 2604.07729, and the usual choice for steering."""
    inside, outside = (np.average(states[side], axis=0, weights=weight[side]) for side in (truth, ~truth))
    return unit(inside - outside)


def lda(states: Floats, truth: NDArray[np.bool_], weight: Floats) -> Floats:
    """The difference of means, whitened by the covariance within the classes (shrunk after Ledoit and Wolf)."""
    means = [np.average(states[side], axis=0, weights=weight[side]) for side in (truth, ~truth)]
    within = np.where(truth[:, None], states - means[0], states - means[1])
    covariance, _ = ledoit_wolf(within)
    whitened: Floats = np.linalg.solve(covariance, means[0] - means[1]).astype(np.float32)
    return unit(whitened)


def logistic(states: Floats, truth: NDArray[np.bool_], weight: Floats) -> Floats:
    """Logistic regression on standardised states, both classes of equal weight."""
    scale = states.std(axis=0) + 1e-6
    balanced = np.where(truth, weight / weight[truth].sum(), weight / weight[~truth].sum()) * len(truth) / 2
    fitted = LogisticRegression(C=REGULARISATION, max_iter=200).fit((states - states.mean(axis=0)) / scale, truth, balanced)
    return unit((fitted.coef_[0] / scale).astype(np.float32))


METHODS: dict[str, Method] = {"difference of means": difference_of_means, "whitened": lda, "logistic": logistic}


def without(directions: Floats, basis: Floats) -> Floats:
    """Directions with the span of an orthonormal basis [m, width] projected out."""
    return unit(directions - (directions @ basis.T) @ basis)


def neutral_components(states: Floats) -> Floats:
    """Principal components [m, width] of neutral states that explain half of their variance."""
    _, values, vectors = np.linalg.svd(states - states.mean(axis=0), full_matrices=False)
    share = np.cumsum(values**2) / np.sum(values**2)
    basis: Floats = vectors[: int(np.searchsorted(share, NEUTRAL_VARIANCE)) + 1].astype(np.float32)
    return basis
