"""Scores as histograms, classic and native, from whole frames: `Histogram.observe` of the library takes one number at a time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from prometheus_client.core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import BucketSpan, NativeHistogram

BUCKETS = (-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0)
SCHEMA = 1  # of the native form: two buckets for each doubling
LEAST, MOST = -6, 10  # places of its first and last bound: 2 ** (LEAST / 2) = 0.125 and 32; what is nearer to zero is zero there
PLACES = np.arange(LEAST, MOST + 1)
BOUNDS = 2.0 ** (PLACES / 2**SCHEMA)
# All bounds of both forms, so that one look-up serves both.
EDGES: NDArray[np.float32] = np.unique(np.concatenate([-BOUNDS, BOUNDS, BUCKETS]).astype(np.float32))
CELLS = len(EDGES) + 1  # the last one is of what is above all
CLASSIC = np.searchsorted(EDGES, np.array(BUCKETS, np.float32))  # by bucket, the last cell that belongs to it


class NativeFamily(HistogramMetricFamily):
    """A classic family that has the native form of each series beside it. Both are exact but for scores that are a bound: negative ones count one bucket further down."""

    def __init__(self, name: str, text: str, labels: list[str]) -> None:
        super().__init__(name, text, labels=labels)
        self.native: list[tuple[dict[str, str], NativeHistogram]] = []


class ScoreHistogram(Collector):
    """By probe and model."""

    def __init__(self, probes: tuple[str, ...]) -> None:
        self._probes = probes
        self._width = CELLS + 1  # the last cell is of what is not finite, and told to nobody
        self._first = np.arange(len(probes)) * self._width  # of a probe's cells, all in one row
        self._counts: dict[str, NDArray[np.int64]] = {}
        self._sums: dict[str, NDArray[np.float64]] = {}
        self._ones = np.ones(256, np.float32)

    def observe(self, scores: NDArray[np.float32], model: str) -> None:
        """Scores [n, k]; what is not finite is left out (it is counted elsewhere). `model`: one of a few names."""
        if len(scores) > len(self._ones):
            self._ones = np.ones(2 * len(scores), np.float32)
        places = EDGES.searchsorted(scores.ravel()).reshape(scores.shape)
        total = self._ones[: len(scores)] @ scores
        if not np.isfinite(total).all():  # so something in there is not
            finite = np.isfinite(scores)
            places[~finite] = CELLS
            total = np.where(finite, scores, np.float32(0)).sum(axis=0, dtype=np.float64)
        places += self._first
        size = len(self._probes) * self._width
        if model not in self._counts:
            self._counts[model], self._sums[model] = np.zeros(size, np.int64), np.zeros(len(self._probes))
        self._counts[model] += np.bincount(places.ravel(), minlength=size)
        self._sums[model] += total

    def collect(self) -> Iterator[Metric]:
        family = NativeFamily("barograph_score", "Scores of judged tokens, in standard deviations above neutral text", ["probe", "model"])
        bounds = [*map(str, BUCKETS), "+Inf"]
        for model, counts in list(self._counts.items()):
            for probe, row, total in zip(self._probes, counts.reshape(-1, self._width)[:, :CELLS], self._sums[model], strict=True):
                running = row.cumsum()
                places = list(zip(bounds, map(float, [*running[CLASSIC], running[-1]]), strict=True))
                family.add_metric([probe, model], places, None)  # scores may be negative, so the classic form tells no sum
                family.native.append(({"probe": probe, "model": model}, native(row, float(total))))
        yield family


def native(cells: NDArray[np.int64], total: float) -> NativeHistogram:
    """Cells [CELLS] as a native histogram."""
    uppers = np.append(EDGES.astype(np.float64), np.inf)
    lowers = np.append(-np.inf, EDGES.astype(np.float64))
    middle = (lowers >= -BOUNDS[0]) & (uppers <= BOUNDS[0])
    sides = []
    for inner, outer in ((lowers, uppers), (-uppers, -lowers)):
        there = inner >= BOUNDS[0]
        place = np.minimum(np.searchsorted(BOUNDS, outer[there] - 1e-9), len(PLACES))  # above the last bound: one bucket more
        sides.append(np.bincount(place, weights=cells[there], minlength=len(PLACES) + 1).astype(int))
    (above, below) = (_spans(side) for side in sides)
    return NativeHistogram(
        count_value=float(cells.sum()), sum_value=total, schema=SCHEMA, zero_threshold=float(BOUNDS[0]), zero_count=float(cells[middle].sum()),
        pos_spans=above[0], pos_deltas=above[1], neg_spans=below[0], neg_deltas=below[1],
    )  # fmt: skip


def _spans(counts: NDArray[np.int64]) -> tuple[list[BucketSpan], list[int]]:
    """One span from the first bucket that has something to the last, and each bucket's count less the one before."""
    filled = np.flatnonzero(counts)
    if not len(filled):
        return [], []
    some = counts[filled[0] : filled[-1] + 1]
    return [BucketSpan(int(PLACES[0] + filled[0]), len(some))], np.diff(some, prepend=0).tolist()
