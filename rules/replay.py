"""Replay: what rules would have said of scores that were recorded. Pure; where recordings come from is monitor/audit/recordings.py."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from rules.engine import RuleEngine
from rules.selector import Request
from rules.verdict import Verdict

AT_ONCE = 256  # streams


@dataclass(frozen=True)
class Recording:
    """One generation's scores [tokens, probes] and the time of each token [tokens], in seconds."""

    stream: str
    scores: NDArray[np.float32]
    times: NDArray[np.float64]
    request: Request = field(default_factory=dict)
    conversation: str = ""


@dataclass(frozen=True)
class Fire:
    """A rule that fired in a recording."""

    stream: str
    time: float
    verdict: Verdict

    @property
    def key(self) -> tuple[str, str, int]:
        return (self.verdict.rule.rule, self.stream, self.verdict.position)


@dataclass
class Replay:
    """What one rule set said. seconds: from the first recorded token to the last."""

    rules: tuple[str, ...]
    fires: list[Fire] = field(default_factory=list)
    tokens: int = 0
    streams: int = 0
    first: float = np.inf
    last: float = -np.inf

    @property
    def seconds(self) -> float:
        return max(0.0, self.last - self.first) if self.streams else 0.0

    def of(self, rule: str) -> list[Fire]:
        return [fire for fire in self.fires if fire.verdict.rule.rule == rule]

    def per_thousand(self, rule: str) -> float:
        """Fires a thousand tokens."""
        return 1000 * len(self.of(rule)) / self.tokens if self.tokens else 0.0

    def per_day(self, rule: str) -> float | None:
        """Fires a day at the pace of the recording; None for less than a minute of it."""
        return 86_400 * len(self.of(rule)) / self.seconds if self.seconds >= 60 else None


def replay(engine: RuleEngine, recordings: Iterable[Recording]) -> Replay:
    """Judge recordings, many at a time. Those of one conversation are taken in the order in which they come."""
    found = Replay(tuple(rule.rule for rule in engine.rules))
    for batch in _batches(recordings):
        _judge(engine, batch, found)
    found.fires.sort(key=lambda fire: (fire.time, fire.stream, fire.verdict.position))
    return found


def _batches(recordings: Iterable[Recording]) -> Iterator[list[Recording]]:
    """At most AT_ONCE at a time, and no conversation twice in one batch."""
    left = iter(recordings)
    waiting: list[Recording] = []
    while batch := [*waiting, *islice(left, AT_ONCE - len(waiting))]:
        seen: set[str] = set()
        now: list[Recording] = []
        waiting = []
        for each in batch:
            (waiting if each.conversation and each.conversation in seen else now).append(each)
            seen.add(each.conversation)
        yield now


def _judge(engine: RuleEngine, batch: list[Recording], found: Replay) -> None:
    batch = sorted((each for each in batch if len(each.scores)), key=lambda each: -len(each.scores))  # so that those that go on come first
    if not batch:
        return
    lengths = np.array([len(each.scores) for each in batch])
    scores = np.zeros((len(batch), lengths[0], len(engine.probes)), np.float32)
    times = np.zeros((len(batch), lengths[0]))
    for slot, each in enumerate(batch):
        scores[slot, : len(each.scores)], times[slot, : len(each.times)] = each.scores, each.times
        engine.begin(slot, each.request, each.conversation)
        found.first, found.last = min(found.first, float(each.times[0])), max(found.last, float(each.times[-1]))
    for position in range(lengths[0]):
        running = np.arange(int((lengths > position).sum()))
        for verdict in engine.judge(running, np.full(len(running), position), scores[running, position], times[running, position]):
            if not verdict.ended:
                found.fires.append(Fire(batch[verdict.slot].stream, float(times[verdict.slot, position]), verdict))
    for slot in range(len(batch)):
        engine.end(slot)
    found.tokens += int(lengths.sum())
    found.streams += len(batch)
