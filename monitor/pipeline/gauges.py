"""What runs now, for the metrics: counted when somebody asks, not at every frame."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from monitor.sinks.prometheus import Running, StreamGauges

if TYPE_CHECKING:
    from monitor.pipeline.pipeline import Pipeline


def watch(pipeline: Pipeline) -> None:
    """Let the pipeline's metrics read off its taps, its streams and its ledger."""
    metrics, sources, ledger = pipeline.metrics, pipeline.sources, pipeline.ledger
    metrics.registry.register(StreamGauges(lambda: running(pipeline)))
    metrics.taps.set_function(lambda: len(sources))
    metrics.tap_failed.set_function(lambda: sum(bool(source.failed) for source in sources))
    metrics.unproved.set_function(lambda: sum(source.check is None or not source.check.ok for source in sources))
    metrics.stale.set_function(lambda: sum(bool(source.stale) for source in sources))
    metrics.ledger_failed.set_function(lambda: bool(ledger.failed))
    metrics.ledger_waiting.set_function(lambda: ledger.waiting)
    metrics.ledger_sealed.set_function(lambda: ledger.checkpoint.size)


def running(pipeline: Pipeline) -> dict[str, Running]:
    """By the model's label."""
    slots: dict[str, list[int]] = {}
    for source in pipeline.sources:
        slots.setdefault(source.label, []).extend(stream.slot for stream in source.streams.values())
    names = [rule.rule for rule in pipeline.rules.rules]
    found = {}
    for model, each in slots.items():
        firing = dict(zip(names, pipeline.rules.firing(np.array(each, np.intp)).tolist(), strict=True))
        highest = pipeline.streams.peak[each].max(axis=0).tolist() if each else []
        peaks = {name: peak for name, peak in zip(pipeline.bank.names, highest, strict=False) if np.isfinite(peak)}
        found[model] = Running(len(each), _states(pipeline, each), firing, peaks)
    return found


def _states(pipeline: Pipeline, slots: list[int]) -> dict[str, int]:
    table = pipeline.streams
    lost = table.gap[slots] | table.nan[slots]
    found = dict.fromkeys(("judged", "throttled", "ending", "lost"), 0)
    for slot, is_lost in zip(slots, lost.tolist(), strict=True):
        stream = table.by_slot[slot]
        found["ending" if stream.acting is not None else "lost" if is_lost else "throttled" if stream.throttles else "judged"] += 1
    return found
