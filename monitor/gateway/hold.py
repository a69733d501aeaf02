"""The hold: whether the tokens of a chunk may leave."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Literal

from monitor.audit.ledger import Ledger
from monitor.config import GatewayConfig
from monitor.pipeline.streams import Stream, StreamTable, Ticket
from monitor.sinks.prometheus import Metrics
from rules.verdict import Verdict

Condition = Literal["missing_score", "nan_score", "ledger"]


@dataclass(frozen=True)
class Release:
    """The chunk may leave."""


@dataclass(frozen=True)
class Stop:
    """A rule halts the generation at `verdict.position`."""

    verdict: Verdict


@dataclass(frozen=True)
class Failure:
    """The chunk has no good score, and the setting for that says closed."""

    condition: Condition
    why: str


Outcome = Release | Stop | Failure
RELEASE = Release()


class Hold:
    """Judges chunks of one request. Every decision without a good score is counted and in the ledger."""

    def __init__(self, config: GatewayConfig, streams: StreamTable, ticket: Ticket, ledger: Ledger, metrics: Metrics) -> None:
        self._config = config
        self._streams = streams
        self._ticket = ticket
        self._ledger = ledger
        self._metrics = metrics
        self._open: set[tuple[int, Condition]] = set()

    async def outcome(self, index: int, tokens: int) -> Outcome:
        """What becomes of the chunk that ends with token number `tokens` of choice `index`. Waits for its scores."""
        started = time.monotonic()
        while True:
            self._ticket.moved.clear()
            stream = self._ticket.streams.get(index)
            found = self._look(stream, index, tokens)
            if found is None and self._config.hold == "off":
                found = RELEASE
            left = started + self._config.judge_timeout_s - time.monotonic()
            if found is None and left <= 0:
                found = self._fail("missing_score", "late", index, stream)
            if found is not None:
                self._metrics.hold.observe(time.monotonic() - started)
                return found
            try:
                await asyncio.wait_for(self._ticket.moved.wait(), left)
            except TimeoutError:
                pass

    def _look(self, stream: Stream | None, index: int, tokens: int) -> Outcome | None:
        """The outcome as things stand, or None while scores are still to come."""
        if stream is None:
            return None
        # Tokens before the verdict were judged good and leave; so a halt cuts at the same token however fast it came.
        if stream.acting is not None and stream.acting.position < tokens:
            return Stop(stream.acting)
        if self._ledger.failed:
            return self._fail("ledger", "the ledger cannot be written", index, stream)
        slot = stream.slot
        if self._streams.nan[slot]:
            return self._fail("nan_score", "a score is not a number", index, stream)
        if self._streams.judged[slot] >= tokens and not self._streams.gap[slot]:
            return RELEASE
        if self._streams.gap[slot] or self._streams.ended[slot]:
            return self._fail("missing_score", "scores were lost", index, stream)
        return None

    def _fail(self, condition: Condition, why: str, index: int, stream: Stream | None) -> Outcome:
        setting = {
            "missing_score": self._config.on_missing_score,
            "nan_score": self._config.on_nan_score,
            "ledger": self._config.on_ledger_failure,
        }[condition]
        self._metrics.decisions.labels(condition, setting).inc()
        if (index, condition) not in self._open:
            self._open.add((index, condition))
            name = stream.name if stream is not None else f"{self._ticket.request}#{index}"
            self._ledger.append("failure", stream=name, condition=condition, why=why, decision=setting)
        return RELEASE if setting == "open" else Failure(condition, why)
