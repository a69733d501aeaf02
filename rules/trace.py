"""What every signal was at every token of a stream that is known whole: for a picture of it, not for judging."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rules.signal import TOKENS, Signal
from rules.totals import Totals
from rules.windows import Floats, bounded, over, quantile


def trace(signals: Sequence[Signal], probes: Sequence[str], scores: NDArray[np.floating]) -> dict[Signal, Floats]:
    """By signal its values [n], of scores [n, probes] from a stream's first token on: what `Windows` says token by token.

    A conversation's signal knows this stream alone.
    """
    known = bounded(scores)
    wide = [signal for signal in signals if signal.scope != TOKENS]
    found = {signal: _trace(signal, known[:, probes.index(signal.probe)]) for signal in signals if signal.scope == TOKENS}
    return found | _totals(wide, probes, known)


def _trace(signal: Signal, series: Floats) -> Floats:
    if signal.kind == "last":
        return series
    if signal.kind == "ewma":
        return _ewma(series, 0.5 ** (1 / signal.size))
    value = np.full(len(series), np.nan)
    if len(series) >= signal.size:
        windows = np.lib.stride_tricks.sliding_window_view(series.astype(np.float32), signal.size)
        if signal.kind == "quantile":
            value[signal.size - 1 :] = quantile(np.sort(windows, axis=1), signal.argument or 0.0)
        else:
            value[signal.size - 1 :] = over(signal, windows)
    return value


def _ewma(series: Floats, decay: float) -> Floats:
    smooth, found = np.nan, []
    for score in series.tolist():
        if score == score:
            smooth = score if smooth != smooth else smooth * decay + score * (1 - decay)
        found.append(smooth if score == score else np.nan)
    return np.array(found)


def _totals(signals: list[Signal], probes: Sequence[str], scores: Floats) -> dict[Signal, Floats]:
    if not signals or not len(scores):
        return {signal: np.empty(0) for signal in signals}
    totals = Totals(signals, [probes.index(signal.probe) for signal in signals], 1)
    totals.begin(0, None)
    slot = np.zeros(1, np.intp)
    steps = [totals.update(slot, scores[i : i + 1]) for i in range(len(scores))]
    return {signal: np.concatenate([step[signal] for step in steps]) for signal in signals}
