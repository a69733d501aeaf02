from __future__ import annotations

import numpy as np
import pytest

from probes.drift import divergence
from probes.label_free import compare

NAMES = tuple(f"p{i}" for i in range(12))


def scores(seed: int, shift: float = 0.0, spread: float = 1.0) -> list[np.ndarray]:
    """Replies of 20 to 60 tokens, each with a level of its own, as real ones have."""
    random = np.random.default_rng(seed)
    return [
        (shift + spread * (random.normal(size=(1, 12)) * 0.4 + random.normal(size=(random.integers(20, 60), 12)))).astype(np.float32)
        for _ in range(120)
    ]


def test_the_divergence_is_that_of_normal_distributions() -> None:
    assert divergence(np.array([0.0]), np.array([1.0]))[0] == 0
    assert divergence(np.array([1.0]), np.array([1.0]))[0] == pytest.approx(0.5)
    assert divergence(np.array([0.0]), np.array([2.0]))[0] == pytest.approx((4 - 1 - np.log(4)) / 2)
    assert np.isfinite(divergence(np.array([0.0]), np.array([0.0]))[0])


def test_another_run_of_the_same_model_passes() -> None:
    found = compare(scores(0), scores(1), NAMES)
    assert found.verdict == "PASS"
    assert found.divergence[0] < 0.05


def test_one_token_with_a_massive_activation_is_no_other_model() -> None:
    other = scores(1)
    other[7][11] = 380.0
    assert compare(scores(0), other, NAMES).verdict == "PASS"


@pytest.mark.parametrize(("shift", "spread"), [(0.8, 1.0), (0.0, 0.5), (-0.6, 1.4)])
def test_scores_that_moved_or_spread_otherwise_are_seen(shift: float, spread: float) -> None:
    found = compare(scores(0), scores(1, shift, spread), NAMES)
    assert found.verdict == "DRIFTED"
    assert found.auroc > 0.99
    assert found.moved[0][0] in NAMES


def test_little_traffic_says_that_it_cannot_tell() -> None:
    found = compare(scores(0)[:6], scores(1, 0.25)[:6], NAMES)
    assert found.verdict in ("INCONCLUSIVE", "PASS")
