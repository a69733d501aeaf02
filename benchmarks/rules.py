"""How fast rules are judged: token × rule evaluations a second on one core, with 256 streams, ten rules and six probes.

A frame holds one token of every stream, as in decoding. The naive engine of the tests judges the same rules on a few streams beside it. The cost a
token is looked at again after a hundred thousand tokens of the same streams.
"""

from __future__ import annotations

import argparse
import gc
import time

import numpy as np
import yaml

from benchmarks.report import emit, spread
from rules.engine import RuleEngine
from rules.facts import ProbeFacts

PROBES = ("desperation", "panic", "hostility", "frustration", "calm", "arousal")
RULES = (
    "desperation.ewma(8) > fpr(0.001)",
    "panic.ewma(8) > fpr(0.001) and panic.slope(16) > 0",
    "hostility.ewma(8) > 1.8 or hostility.max(8) > 6",
    "frustration.mean(16) > 1.5",
    "desperation.ewma(8) - calm.ewma(8) > 3",
    "arousal.quantile(16, 0.9) > 3 and not calm.last > 1",
    "desperation.count_above(32, 2) >= 12",
    "panic.mean(8) > 2 and desperation.mean(8) > 1",
    "desperation.mean(stream) > 1",
    "hostility.min(4) > 2 or (frustration.slope(16) > 0.2 and arousal.ewma(4) > 2)",
)
STREAMS = 256


def engine() -> RuleEngine:
    facts = [ProbeFacts(name, {"ewma(8)": {0.001: 1.5}}, True) for name in PROBES]
    rules = [{"rule": f"rule_{i}", "desc": "d", "when": when, "for": "4 tokens", "do": "alert"} for i, when in enumerate(RULES)]
    return RuleEngine.from_text(yaml.safe_dump({"rules": rules}, width=10_000), facts)


def frames(judge: RuleEngine, first: int, count: int, scores: np.ndarray) -> list[float]:
    """Seconds of each of `count` frames."""
    slots = np.arange(STREAMS)
    times = []
    for i in range(count):
        positions = np.full(STREAMS, first + i)
        start = time.perf_counter()
        judge.judge(slots, positions, scores[i % len(scores)], (first + i) * 0.03)
        times.append(time.perf_counter() - start)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=2000)
    parser.add_argument("--long", type=int, default=100_000, help="tokens of the long streams")
    options = parser.parse_args()
    judge = engine()
    scores = np.random.default_rng(0).normal(0, 1, (512, STREAMS, len(PROBES))).astype(np.float32)
    for slot in range(STREAMS):
        judge.begin(slot)
    frames(judge, 0, 200, scores)
    gc.collect()
    gc.freeze()
    before = judge.bytes_a_stream
    early = frames(judge, 200, options.frames, scores)
    frames(judge, 200 + options.frames, options.long - options.frames, scores)
    late = frames(judge, 200 + options.long, options.frames, scores)
    evaluations = STREAMS * len(RULES)
    emit(
        "rules",
        streams=STREAMS,
        rules=len(RULES),
        probes=len(PROBES),
        signals=len(judge._windows.signals),
        evaluations_per_s=round(evaluations / float(np.median(early))),
        frame_ms={**spread([1000 * each for each in early], 3), "p99": round(1000 * float(np.quantile(early, 0.99)), 3)},
        bytes_a_stream=judge.bytes_a_stream,
        bytes_grew=judge.bytes_a_stream - before,
        late_over_early=round(float(np.median(late) / np.median(early)), 3),
        tokens_between=options.long,
    )


if __name__ == "__main__":
    main()
