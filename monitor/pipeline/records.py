"""What the ledger is told of taps, streams and verdicts: numbers and names, nothing of a request's content, no header."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from monitor.audit.ledger import Ledger
from monitor.audit.levels import Level
from monitor.pipeline.source import Source
from monitor.pipeline.streams import Stream, StreamTable
from rules.verdict import Verdict

TAIL = 32  # scores of every probe that a verdict is recorded with


class Records:
    """Writes records. Every method is one kind of them."""

    def __init__(self, ledger: Ledger, streams: StreamTable, names: tuple[str, ...]) -> None:
        self._ledger = ledger
        self._streams = streams
        self._names = names

    def connected(self, source: Source, rules: str, shadowed: bool) -> None:
        hello = source.hello
        self._ledger.append(
            "tap", event="connected", source=hello.source, model=hello.model, engine=hello.engine, dtype=hello.dtype, bank=hello.bank, grade=hello.grade,
            steers=hello.steers, rules=rules, passport=hello.passport, stale=source.stale, rules_in_shadow=shadowed,
        )  # fmt: skip

    def disconnected(self, source: Source) -> None:
        self._ledger.append("tap", event="disconnected", source=source.hello.source)

    def checked(self, source: Source) -> None:
        if (check := source.check) is not None:
            self._ledger.append(
                "tap", event="check", source=source.hello.source, ok=check.ok, tokens=check.tokens, worst=check.worst, why=check.why
            )

    def failed(self, source: Source) -> None:
        self._ledger.append("tap", event="failed", source=source.hello.source, reason=source.failed)

    def refused(self, source: Source, stream: Stream, reason: str) -> None:
        """A begin was not taken; `stream` is the one that was there before, which now counts as lost."""
        self._ledger.append("tap", event="refused", source=source.hello.source, reason=reason, stream=stream.name, first=stream.source)

    def gap(self, source: Source, frames: int) -> None:
        self._ledger.append("gap", source=source.hello.source, frames=frames)

    def began(self, stream: Stream, rules: str) -> None:
        if stream.level == Level.NONE:
            return
        about = {name: str(stream.about.get(name, "")) for name in ("model", "tenant", "route", "adapter", "engine")}
        if stream.level >= Level.SCORES:  # a replay asks for it
            about["conversation"] = stream.conversation
        self._ledger.append("stream", event="begin", stream=stream.name, source=stream.source, rules=rules, request=about)

    def lost(self, stream: Stream) -> None:
        """Recorded whatever the level: it is a failure."""
        self._ledger.append("stream", event="lost", stream=stream.name, source=stream.source, tokens=int(self._streams.judged[stream.slot]))

    def ended(self, stream: Stream, tokens: int, rules: str) -> None:
        """With its coverage: tokens that the engine made, those that were scored and judged, and those whose scores never came."""
        if stream.level == Level.NONE:
            return
        slot = stream.slot
        judged = int(self._streams.judged[slot])
        self._ledger.append(
            "stream", event="end", stream=stream.name, source=stream.source, rules=rules, tokens=tokens, judged=judged, dropped=max(0, tokens - judged),
            gap=bool(self._streams.gap[slot]), nan=bool(self._streams.nan[slot]), peak=self._named(self._streams.peak[slot]),
        )  # fmt: skip

    def verdict(self, verdict: Verdict, stream: Stream, rules: str) -> None:
        rule = verdict.rule
        where: dict[str, Any] = {"stream": stream.name, "source": stream.source, "position": verdict.position, "rule": rule.rule}
        if verdict.ended:
            self._ledger.append("verdict", event="ended", **where)
            return
        self._ledger.append(
            "verdict", event="fired", **where, rules=rules, digest=verdict.digest, action=verdict.action.name.lower(), mode=verdict.mode,
            shadow=verdict.shadow, grade=stream.grade, limited=verdict.limited, severity=rule.severity, risk=rule.risk, tags=rule.tags, runbook=rule.runbook,
            desc=rule.desc, when=rule.when, until=rule.until, hold_for=rule.hold_for.model_dump(), signals=verdict.signals,
            thresholds=verdict.thresholds, model_signal=self._tail(verdict),
        )  # fmt: skip

    def steer(self, event: str, stream: Stream, verdict: Verdict, **more: Any) -> None:
        """A push was asked for, waits behind another rule's, was refused or began; or it is over: the rule no longer fires (`fell`), it does (`else`), the rule may not act any more, the stream ended."""
        if (steer := verdict.rule.do.steer) is not None:
            self._ledger.append(
                "steer", event=event, stream=stream.name, source=stream.source, rule=verdict.rule.rule, position=verdict.position, probe=steer.probe,
                dose=steer.dose, wanted=steer.span.tokens, **more,
            )  # fmt: skip

    def _tail(self, verdict: Verdict) -> dict[str, list[float | None]]:
        """The last scores of every probe up to the verdict."""
        recent = self._streams.recent(verdict.slot, max(0, verdict.position + 1 - TAIL), verdict.position + 1)
        return {name: [_number(x) for x in recent[:, i]] for i, name in enumerate(self._names)}

    def _named(self, values: NDArray[np.float32]) -> dict[str, float | None]:
        return {name: _number(x) for name, x in zip(self._names, values, strict=True)}


def _number(value: np.float32) -> float | None:
    return round(float(value), 3) if np.isfinite(value) else None
