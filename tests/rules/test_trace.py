"""The picture of a stream shows what was judged: every signal at every token, as the windows had it."""

from __future__ import annotations

import numpy as np
import pytest

from rules.signal import CONVERSATION, STREAM, Signal
from rules.trace import trace
from rules.windows import Windows

PROBES = ("a", "b")
SIGNALS = (
    Signal("a", "last"), Signal("a", "ewma", 8), Signal("b", "ewma", 4), Signal("a", "mean", 8), Signal("b", "max", 16), Signal("a", "min", 4),
    Signal("a", "slope", 16), Signal("b", "quantile", 8, argument=0.9), Signal("a", "count_above", 8, argument=0.5), Signal("a", "mean", scope=STREAM),
    Signal("b", "max", scope=STREAM), Signal("a", "slope", scope=STREAM), Signal("b", "count_above", scope=STREAM, argument=1.0),
    Signal("a", "mean", 3, CONVERSATION),
)  # fmt: skip


@pytest.mark.parametrize("tokens", [0, 1, 7, 40])
def test_every_signal_is_what_the_windows_say(tokens: int) -> None:
    random = np.random.default_rng(tokens)
    scores = random.normal(size=(tokens, 2)).astype(np.float32)
    scores[random.random(scores.shape) < 0.05] = np.nan
    if tokens > 20:
        scores[20, 0] = np.inf
    windows = Windows(PROBES, SIGNALS)
    windows.begin(0)
    slot = np.zeros(1, np.intp)
    steps = [windows.update(slot, scores[i : i + 1].astype(np.float64)) for i in range(tokens)]
    found = trace(SIGNALS, PROBES, scores)
    assert set(found) == set(SIGNALS)
    for signal in SIGNALS:
        expected = np.array([step[signal][0] for step in steps])
        np.testing.assert_allclose(found[signal], expected, rtol=1e-5, atol=1e-6, err_msg=str(signal))
