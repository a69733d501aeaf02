"""What it takes to note a frame's scores in the metrics, in both forms of the histogram: 256 rows of 6 probes. Goal: 20 µs. Beside it, in turns, the same by one call
of `observe` for each score; and what it takes to keep the frame for Kafka's topic of scores.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
from prometheus_client import CollectorRegistry, Histogram

from benchmarks import report
from monitor.config import Config, KafkaConfig, ScoresConfig
from monitor.sinks.histogram import BUCKETS, ScoreHistogram
from monitor.sinks.prometheus import Metrics
from monitor.sinks.scores import ScoreFeed
from probes.drift import Drift

ROWS, PROBES, TURNS = 256, 6, 200


def main() -> None:
    names = tuple(f"probe{i}" for i in range(PROBES))
    scores = np.random.default_rng(0).normal(0, 2, (ROWS, PROBES)).astype(np.float32)
    ours = ScoreHistogram(names)
    single = Histogram("score", "beside", ["probe"], buckets=BUCKETS, registry=CollectorRegistry())

    def one_by_one() -> None:
        for row in scores.tolist():
            for name, value in zip(names, row, strict=True):
                single.labels(name).observe(value)

    bank = Config().load_bank()
    kafka = KafkaConfig(bootstrap="127.0.0.1:9", scores=ScoresConfig())
    feed = ScoreFeed(kafka, ScoresConfig(), names, "log", Metrics(CollectorRegistry(), bank.names, Drift(bank, 100)))
    began = [SimpleNamespace(slot=slot, name=f"{slot}#0", grade="activations", about={}) for slot in range(ROWS)]
    positions = np.zeros(ROWS, np.int64)
    feed.follow(SimpleNamespace(began=began, slots=np.arange(ROWS), positions=positions, scores=scores))
    judged = SimpleNamespace(began=[], slots=np.arange(ROWS), positions=positions, scores=scores)

    frame: list[float] = []
    each: list[float] = []
    kept: list[float] = []
    for _ in range(TURNS):
        frame.append(timed(lambda: ours.observe(scores, "m"), 20))
        each.append(timed(one_by_one, 1))
        kept.append(timed(lambda: feed.follow(judged), 3))
    report.emit(
        "metrics", rows=ROWS, probes=PROBES, frame_us=report.spread(frame, 2), one_by_one_us=report.spread(each, 1), kept_for_kafka_us=report.spread(kept, 2),
        ratio=round(statistics.median(a / b for a, b in zip(each, frame, strict=True)), 1),
    )  # fmt: skip


def timed(work: Callable[[], None], times: int) -> float:
    """Microseconds of one."""
    started = time.perf_counter()
    for _ in range(times):
        work()
    return (time.perf_counter() - started) / times * 1e6


if __name__ == "__main__":
    main()
