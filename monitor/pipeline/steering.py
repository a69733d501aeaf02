"""Pushes that rules ask for: what was asked of which tap, when it began, and the rule's `else` where it did not help.

The `else` never depends on the tap: a push that nobody can give, or that never begins, comes to its end all the same.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monitor import wire
from monitor.pipeline.bounds import MAX_WHY
from monitor.pipeline.records import Records
from monitor.pipeline.source import Source
from monitor.pipeline.streams import Stream, StreamTable
from monitor.sinks.prometheus import Metrics
from rules.engine import RuleEngine
from rules.schema import Action, Steer
from rules.verdict import Verdict
from rules.windows import bounded

WINDOW = 8  # tokens whose mean score stands in the record, before the push and at its end
NEVER = np.iinfo(np.int64).max
AHEAD = 16  # tokens that a tap may be ahead of what is judged here


@dataclass
class Push:
    """One rule's push of one stream. `due`: the token at which its outcome is looked at. `first`: the first pushed token, -1 before it began."""

    number: int
    source: Source
    stream: Stream
    verdict: Verdict
    steer: Steer
    before: float
    due: int
    first: int = -1
    refused: bool = False


class Steering:
    """All pushes that go on. A stream gets one at a time; a second rule's waits for its own `for` without one."""

    def __init__(self, streams: StreamTable, names: tuple[str, ...], records: Records, metrics: Metrics) -> None:
        self._streams, self._names, self._records, self._metrics = streams, names, records, metrics
        self._numbers = itertools.count(time.time_ns() >> 20)  # a tap may still know pushes of the sidecar before this one
        self._pushes: dict[int, list[Push]] = {}  # by slot
        self._due = np.empty(0, np.int64)  # [slots] the earliest of each slot's pushes is due then
        self._by_number: dict[int, Push] = {}  # those that a tap was asked for
        self._unasked: list[Push] = []

    def note(self, source: Source, stream: Stream, verdict: Verdict) -> None:
        """A rule wants its stream pushed. From now on it counts, whatever else the frame holds; `ask` asks for it."""
        steer = verdict.rule.do.steer
        if steer is None:
            return
        push = Push(next(self._numbers), source, stream, verdict, steer, 0.0, verdict.position + 1 + steer.span.tokens)
        push.before = self._mean(push, verdict.position)
        others = self._pushes.setdefault(stream.slot, [])
        waits = any(not each.refused for each in others)
        others.append(push)
        self._settle(stream.slot)
        if waits:
            self._tell("waits", push)
        elif steer.probe not in source.hello.steers:
            self._refused(push, "the engine's tap does not steer along it", verdict.position + 1)
        else:
            self._unasked.append(push)

    def ask(self) -> None:
        """Tell the taps of what was noted, if it is still wanted."""
        for push in self._unasked:
            if push not in self._pushes.get(push.stream.slot, ()):
                continue
            self._by_number[push.number] = push
            steer = push.steer
            packet = wire.encode(wire.Steer(push.number, push.stream.number, steer.probe, steer.dose, steer.span.tokens))
            if push.source.send(packet):
                self._tell("asked", push)
            else:
                self._refused(push, "the engine's tap does not listen", push.verdict.position + 1)
        self._unasked = []

    def heard(self, source: Source, steered: Iterable[wire.Steered]) -> None:
        """A tap says what became of pushes. What it says of others' is nothing."""
        for each in steered:
            push = self._by_number.get(each.push)
            if push is None or push.source is not source or push.refused:
                continue
            judged = int(self._streams.judged[push.stream.slot])
            if each.why:
                self._refused(push, each.why[:MAX_WHY], judged)
            elif push.first < 0:
                push.first = min(max(each.first, push.verdict.position + 1), judged + AHEAD)
                push.due = push.first + push.steer.span.tokens
                self._settle(push.stream.slot)
                self._metrics.actions.labels(push.verdict.rule.rule, "steer").inc()
                self._tell("began", push, first=push.first, late=push.first - push.verdict.position - 1)

    def due(self, slots: NDArray[np.intp], positions: NDArray[np.int64], rules: RuleEngine) -> list[Verdict]:
        """Pushes whose time is over at these tokens, one of each stream: the `else` of those whose rule still fires."""
        if not self._pushes:
            return []
        found = []
        for row in np.flatnonzero(positions >= self._due[np.minimum(slots, len(self._due) - 1)]):
            slot, position = int(slots[row]), int(positions[row])
            for push in [each for each in self._pushes[slot] if position >= each.due]:
                now = rules.find(push.verdict.rule.rule)  # the rule in force, which may say something else by now
                fires = now is not None and rules.fires(slot, now.rule.rule)
                self._close(push, position, "else" if fires else "fell")
                if now is not None and fires:
                    action = Action.REROUTE if now.rule.do.turning is not None else Action.HALT
                    shadow = rules.shadow(now.rule, slot)
                    found.append(replace(push.verdict, rule=now.rule, digest=now.digest, position=position, action=action, shadow=shadow))
        return found

    def end(self, stream: Stream) -> None:
        """A stream is over, and its pushes with it."""
        for push in list(self._pushes.get(stream.slot, ())):
            self._close(push, int(self._streams.judged[stream.slot]), "ended")

    def withdraw(self, rules: RuleEngine) -> None:
        """Rules have changed: nothing is pushed any more for one that is gone, asks for less by now, or may not act."""
        for push in [each for pushes in self._pushes.values() for each in pushes]:
            now = rules.find(push.verdict.rule.rule)
            if now is None or now.rule.action < Action.STEER or rules.shadow(now.rule, push.stream.slot):
                self._close(push, int(self._streams.judged[push.stream.slot]), "withdrawn")

    def _settle(self, slot: int) -> None:
        """Note when the first of a slot's pushes is due."""
        if slot >= len(self._due) - 1:  # the last place stands for all slots behind it
            self._due = np.concatenate([self._due, np.full(slot + 17 - len(self._due), NEVER)])
        self._due[slot] = min((each.due for each in self._pushes.get(slot, ())), default=NEVER)

    def _refused(self, push: Push, why: str, due: int) -> None:
        push.refused, push.due = True, due
        self._settle(push.stream.slot)
        self._tell("refused", push, why=why)

    def _close(self, push: Push, position: int, outcome: str) -> None:
        slot = push.stream.slot
        self._pushes[slot].remove(push)
        if self._by_number.pop(push.number, None) is not None and outcome != "ended":
            # Also where it should be over: it is the tap's word that it is.
            push.source.send(wire.encode(wire.Steer(push.number, push.stream.number, push.steer.probe, push.steer.dose, 0)))
        if not self._pushes[slot]:
            del self._pushes[slot]
        self._settle(slot)
        pushed = max(0, min(position - push.first, push.steer.span.tokens)) if push.first >= 0 else 0
        self._tell(outcome, push, at=position, tokens=pushed, before=_number(push.before), after=_number(self._mean(push, position - 1)))

    def _mean(self, push: Push, last: int) -> float:
        """Mean score of the push's probe over the tokens up to `last`; not a number without any."""
        recent = self._streams.recent(push.stream.slot, max(0, last + 1 - WINDOW), last + 1)[:, self._names.index(push.steer.probe)]
        return float(bounded(recent).mean()) if len(recent) else float("nan")

    def _tell(self, event: str, push: Push, **more: Any) -> None:
        self._metrics.steers.labels(push.steer.probe, event).inc()
        self._records.steer(event, push.stream, push.verdict, **more)


def _number(value: float) -> float | None:
    return round(value, 3) if np.isfinite(value) else None
