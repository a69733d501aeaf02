from __future__ import annotations

import numpy as np

from probes.bank import Bank
from probes.drift import Drift


def test_neutral_scores_show_no_drift(bank: Bank) -> None:
    drift, random = Drift(bank, 2000), np.random.default_rng(0)
    for _ in range(500):
        drift.observe(random.normal(size=(8, len(bank.names))).astype(np.float32))
    gauges = drift.gauges()
    assert np.abs(gauges["shift"]).max() < 0.1
    assert np.abs(gauges["deviation"] - 1).max() < 0.1


def test_a_shift_shows_soon_and_a_stuck_probe_too(bank: Bank) -> None:
    drift, random = Drift(bank, 2000), np.random.default_rng(0)
    for _ in range(50):
        scores = random.normal(size=(8, len(bank.names))).astype(np.float32)
        scores[:, 0] += 2
        scores[:, 1] = 0.1
        drift.observe(scores)
    gauges = drift.gauges()
    assert abs(gauges["shift"][0] - 2) < 0.2
    assert gauges["deviation"][1] < 0.05
    assert gauges["exceedance"][0] > 3


def test_one_token_with_a_massive_activation_is_no_drift(bank: Bank) -> None:
    """It scores in the hundreds on every probe."""
    drift, random = Drift(bank, 2000), np.random.default_rng(0)
    for turn in range(500):
        scores = random.normal(size=(8, len(bank.names))).astype(np.float32)
        if turn == 490:
            scores[3] = 380
        drift.observe(scores)
    gauges = drift.gauges()
    assert gauges["divergence"].max() < 0.05
    assert np.abs(gauges["shift"]).max() < 0.2


def test_what_is_not_finite_is_left_out(bank: Bank) -> None:
    drift = Drift(bank, 100)
    drift.observe(np.full((3, len(bank.names)), np.nan, np.float32))
    assert drift.seen == 0
    assert np.isfinite(drift.gauges()["shift"]).all()
