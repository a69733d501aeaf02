"""The hold: whether the tokens of a chunk may leave."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection
from dataclasses import dataclass

from monitor.audit.ledger import Ledger
from monitor.config import GatewayConfig, Lag
from monitor.gateway.failures import Condition, decision
from monitor.pipeline.streams import StreamTable, Ticket
from monitor.sinks.prometheus import Metrics
from rules.verdict import Verdict


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
    """Judges the chunks of one request. Every decision without a good score is counted and in the ledger.

    `opened`: the conditions under which something left all the same; `lagged`: whether a token left before it was judged; `early`: how many did.
    """

    def __init__(self, config: GatewayConfig, streams: StreamTable, ticket: Ticket, ledger: Ledger, metrics: Metrics) -> None:
        self._config = config
        self._streams = streams
        self._ticket = ticket
        self._ledger = ledger
        self._metrics = metrics
        self._decided: set[tuple[int, Condition]] = set()
        self._ahead = config.hold.lag if isinstance(config.hold, Lag) else None if config.hold == "off" else 0
        self.mode = "strict" if self._ahead == 0 else "off" if self._ahead is None else "lag"
        self.opened: list[Condition] = []
        self.lagged = False
        self.early = 0
        self.longest = 0.0  # in seconds, that a chunk waited for its scores

    async def outcome(self, index: int, tokens: int) -> Outcome:
        """What becomes of the chunk that ends with token number `tokens` of choice `index`. Waits for its scores."""
        started = time.monotonic()
        deadline = started + self._config.judge_timeout_s
        while (found := self.look(index, tokens)) is None:
            if not await self._moved(deadline):
                found = self.fail("missing_score", "late", index)
                break
        waited = time.monotonic() - started
        self._metrics.hold.observe(waited, self._metrics.exemplar(self._ticket.trace))
        self.longest = max(self.longest, waited)
        return found

    async def whole(self, indexes: Collection[int], tokens: int | None) -> Outcome:
        """What becomes of a reply of `tokens` tokens in the choices `indexes`, of which the engine is done with every one.

        Without a count of tokens the tap's own word counts that its streams are over. A halted choice is no concern here: the caller
        cuts it. `indexes` may be empty where the engine alone knows them.
        """
        deadline = time.monotonic() + self._config.judge_timeout_s
        table, streams = self._streams, self._ticket.streams
        while True:
            if self._ledger.failed and isinstance(failure := self.fail("ledger", "the ledger cannot be written", 0), Failure):
                return failure
            slots = [stream.slot for stream in streams.values()]
            if table.nan[slots].any():
                return self.fail("nan_score", "a score is not a number", 0)
            if table.gap[slots].any():
                return self.fail("missing_score", "scores were lost", 0)
            judged, over = int(table.judged[slots].sum()), bool(slots) and bool(table.ended[slots].all())
            if streams.keys() >= set(indexes) and slots and (judged >= tokens if tokens is not None else over):
                return RELEASE
            if tokens is not None and over and streams.keys() >= set(indexes):
                return self.fail("wrong_count", f"the engine counts {tokens} tokens, its tap {judged}", 0)
            if self._ahead is None:
                self.lagged = True
                return RELEASE
            if not await self._moved(deadline):
                return self.fail("missing_score", "late", 0)

    async def _moved(self, deadline: float) -> bool:
        """Wait until something happens to the request's streams. False when it is too late for that."""
        if (left := deadline - time.monotonic()) <= 0:
            return False
        self._ticket.moved.clear()
        self._metrics.held.inc()
        try:
            async with asyncio.timeout(left):
                await self._ticket.moved.wait()
        except TimeoutError:
            pass  # one more look: what came in the last moment counts
        finally:
            self._metrics.held.dec()
        return True

    def at_once(self, index: int, tokens: int) -> Outcome | None:
        """As `look`, for a chunk that may not have to wait."""
        found = self.look(index, tokens)
        if found is not None:
            self._metrics.hold.observe(0.0, self._metrics.exemplar(self._ticket.trace))
        return found

    def unrecorded(self, found: Outcome) -> bool:
        """Whether the disk has to be waited for: before a stop is acted on, and with durability `sync` before anything leaves."""
        acts = isinstance(found, Stop) or (self._ledger.durability == "sync" and isinstance(found, Release))
        return acts and not self._ledger.settled

    async def recorded(self, found: Outcome, index: int) -> Outcome:
        """The same outcome once all that led to it is durable; when it does not become so, what the setting says."""
        if self.unrecorded(found) and not await self._ledger.durable(self._ledger.newest):
            failure = self.fail("ledger", "the ledger does not keep what is recorded", index)
            if isinstance(failure, Failure):
                return failure
        return found

    def left(self, index: int, first: int, end: int) -> None:
        """The tokens of a choice from number `first` up to `end` leave now: those that nobody has judged yet are counted."""
        stream = self._ticket.streams.get(index)
        judged = int(self._streams.judged[stream.slot]) if stream is not None else 0
        self.early += max(0, end - max(first, judged))

    def halted(self, late: int) -> None:
        """A reply was halted after `late` tokens from the verdict's own on had left."""
        self._metrics.after_verdict.labels(self.mode).observe(max(0, late))

    def look(self, index: int, tokens: int) -> Outcome | None:
        """The outcome as things stand, or None while scores are still to come.

        The ledger is looked at first: nobody hears of a verdict that is not recorded. Tokens before a verdict were judged good and
        leave, so a halt cuts at the same token however fast it came.
        """
        stream = self._ticket.streams.get(index)
        if self._ledger.failed and isinstance(failure := self.fail("ledger", "the ledger cannot be written", index), Failure):
            return failure
        if stream is None:
            return self._unheld(tokens, 0)
        if stream.acting is not None and stream.acting.position < tokens:
            return Stop(stream.acting)
        slot = stream.slot
        if self._streams.nan[slot]:
            return self.fail("nan_score", "a score is not a number", index)
        judged = int(self._streams.judged[slot])
        if self._streams.gap[slot] or (self._streams.ended[slot] and judged < tokens):
            return self.fail("missing_score", "scores were lost", index)
        return RELEASE if judged >= tokens else self._unheld(tokens, judged)

    def fail(self, condition: Condition, why: str, index: int) -> Outcome:
        """What the setting for a condition says. The first one of a choice is recorded."""
        setting = decision(self._config, condition)
        self._metrics.decisions.labels(condition, setting).inc()
        if (index, condition) not in self._decided:
            self._decided.add((index, condition))
            stream = self._ticket.streams.get(index)
            name = stream.name if stream is not None else f"{self._ticket.request}#{index}"
            self._ledger.append("failure", stream=name, condition=condition, why=why, decision=setting)
        if setting == "closed":
            return Failure(condition, why)
        if condition not in self.opened:
            self.opened.append(condition)
        return RELEASE

    def _unheld(self, tokens: int, judged: int) -> Outcome | None:
        """Whether tokens may leave before they are judged."""
        if self._ahead is not None and tokens - judged > self._ahead:
            return None
        self.lagged = True
        return RELEASE
