"""The way of a frame: decode → meter → judge → act → record → publish. One direction; only `act` sends something back."""

from __future__ import annotations

import logging
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from monitor import wire
from monitor.audit.ledger import Ledger
from monitor.config import SidecarConfig
from monitor.errors import WireError
from monitor.pipeline.proof import Proof
from monitor.pipeline.scores import ScoreLog
from monitor.pipeline.source import Source
from monitor.pipeline.streams import Stream, StreamTable
from monitor.sinks.prometheus import Metrics, StreamGauges
from probes.bank import Bank
from probes.drift import Drift
from probes.passport import Passport
from rules.engine import RuleEngine, distinct_rounds
from rules.schema import Action
from rules.verdict import Verdict, strongest

log = logging.getLogger("barograph.pipeline")


@dataclass
class Batch:
    """A packet on its way: arrays over its rows (slot, position, scores), and what the stages found."""

    source: Source
    packet: bytes
    slots: NDArray[np.intp] = field(default_factory=lambda: np.empty(0, np.intp))
    positions: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    scores: NDArray[np.float32] = field(default_factory=lambda: np.empty((0, 0), np.float32))
    lost: int = 0
    failed: str = ""
    began: list[Stream] = field(default_factory=list)
    ended: list[tuple[Stream, int]] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)


@dataclass(frozen=True)
class Parts:
    """What a pipeline works with. The wiring makes it; a test makes its own."""

    bank: Bank
    rules: RuleEngine
    ledger: Ledger
    metrics: Metrics
    drift: Drift
    config: SidecarConfig = field(default_factory=SidecarConfig)
    tenants: frozenset[str] = frozenset()
    proof: Proof | None = None
    wake_publisher: Callable[[], None] = lambda: None


class Pipeline:
    """Takes packets in the order in which they come; every stage handles the whole batch."""

    def __init__(self, parts: Parts) -> None:
        self.bank = parts.bank
        self.proof = parts.proof
        self._config = parts.config
        self._tenants = parts.tenants
        self.rules = parts.rules
        self.streams = StreamTable(len(parts.bank.names))
        self.ledger = parts.ledger
        self.metrics = parts.metrics
        self.drift = parts.drift
        self.sources: set[Source] = set()
        self.stages: tuple[Callable[[Batch], None], ...] = (self.decode, self.meter, self.judge, self.act, self.record, self.publish)
        self._wake_publisher = parts.wake_publisher
        self._unmatched = 0
        self.scores = ScoreLog(self.bank.names, self.streams, self.ledger) if self._config.record_scores else None
        self.metrics.registry.register(StreamGauges(self._running))

    def use(self, rules: RuleEngine) -> None:
        """Judge by other rules from the next frame on. Running streams keep what they have been through."""
        rules.adopt(self.rules, {stream.slot: stream.about for source in self.sources for stream in source.streams.values()})
        self.rules, self._unmatched = rules, 0
        self._expect()

    @property
    def scoring(self) -> bool:
        """Whether at least one tap is connected and well."""
        return any(not source.failed for source in self.sources)

    def connect(self, hello: wire.Hello) -> Source:
        """A tap says hello. Raises WireError when it scores with another bank."""
        if hello.bank != self.bank.digest or tuple(hello.probes) != self.bank.names:
            raise WireError(
                f"tap of {hello.model} scores with bank {hello.bank[:12]}; this sidecar judges with bank {self.bank.digest[:12]}: give both the same"
            )
        source = Source(hello, self._stale(hello))
        self.sources.add(source)
        self._expect()
        self._gauges()
        self.ledger.append(
            "tap",
            event="connected",
            source=hello.source,
            model=hello.model,
            engine=hello.engine,
            dtype=hello.dtype,
            bank=hello.bank,
            rules=self.rules.digest,
            passport=hello.passport,
            stale=source.stale,
            rules_in_shadow=self.shadowed(source),
        )
        if self.shadowed(source):
            log.warning("all rules are in shadow for %s: its thresholds are stale (%s)", hello.model, ", ".join(source.stale))
        return source

    def shadowed(self, source: Source) -> bool:
        """Whether its thresholds are stale, and the setting says that nothing may act on them."""
        return bool(source.stale) and self._config.on_stale_thresholds == "shadow"

    def _expect(self) -> None:
        rules = [(rule.rule, rule.action.name.lower()) for rule in self.rules.rules]
        for model in {source.hello.model for source in self.sources}:
            self.metrics.expect(rules, model, ("", "other", *sorted(self._tenants)))

    def _stale(self, hello: wire.Hello) -> list[str]:
        """Fields in which what the tap runs on differs from what the bank was calibrated for: its thresholds are stale then."""
        try:
            running = Passport.model_validate(hello.passport)
        except ValidationError as error:
            raise WireError(
                f"passport of {hello.model}: {error.errors()[0]['msg']}; known are {', '.join(Passport.model_fields)}"
            ) from None
        if self.proof is not None and self.proof.covers(self.bank.digest, running):
            return []
        found = self.bank.card.passport.differences(running)
        for what, (here, there) in found.items():
            log.warning("thresholds are stale: bank calibrated for %s %s, tap of %s runs %s", what, here, hello.model, there)
        return sorted(found)

    def disconnect(self, source: Source) -> None:
        """A tap is gone: its streams get no more scores."""
        self.sources.discard(source)
        for stream in list(source.streams.values()):
            if self.scores is not None:
                self.scores.end(stream)
            self._lose(stream)
            self._end(source, stream)
            self.ledger.append(
                "stream", event="lost", stream=stream.name, source=source.hello.source, tokens=int(self.streams.judged[stream.slot])
            )
        self._gauges()
        self.ledger.append("tap", event="disconnected", source=source.hello.source)

    def take(self, source: Source, packet: bytes) -> None:
        """One packet through all stages. Raises WireError when it is malformed; the state is then as before."""
        batch = Batch(source, packet)
        for stage in self.stages:
            stage(batch)

    def decode(self, batch: Batch) -> None:
        message = wire.decode(batch.packet)
        source = batch.source
        if isinstance(message, wire.Hello):
            raise WireError("a second hello on one connection")
        if isinstance(message, wire.Check):
            source.check = message
            return
        if isinstance(message, wire.Live):
            self._reconcile(batch, message)
            return
        numbers, positions, scores = message.arrays(len(self.bank.names))
        batch.lost = 0 if source.seq is None else max(0, message.seq - source.seq - 1)
        source.seq = message.seq
        batch.failed = message.failed
        for begin in message.begins:
            self._begin(batch, begin)
        slots = source.slots(numbers)
        known = slots >= 0
        batch.slots, batch.positions, batch.scores = slots[known], positions[known].astype(np.int64), scores[known]
        ends = {end.stream: end.tokens for end in message.ends if end.stream in source.streams}
        batch.ended = [(source.streams[number], tokens) for number, tokens in ends.items()]

    def meter(self, batch: Batch) -> None:
        metrics = self.metrics
        metrics.frames.inc()
        metrics.lost.inc(batch.lost)
        metrics.tokens.inc(len(batch.slots))
        if len(batch.slots):
            metrics.scores.observe(batch.scores)
            self.drift.observe(batch.scores)
            metrics.nan.inc(int((~np.isfinite(batch.scores)).any(axis=1).sum()))

    def judge(self, batch: Batch) -> None:
        now = time.monotonic()
        for rows in distinct_rounds(batch.slots):
            slots, positions, scores = batch.slots[rows], batch.positions[rows], batch.scores[rows]
            verdicts = self.rules.judge(slots, positions, scores, now)
            for verdict in verdicts:
                stream = self.streams.by_slot[verdict.slot]
                stream.verdicts.append(verdict)
                stream.acting = stream.acting or halting(verdict)
            # Only now: a token counts as judged when its verdicts stand, whatever fails on the way.
            self.streams.take(slots, positions, scores)
            batch.verdicts += verdicts

    def act(self, batch: Batch) -> None:
        if batch.failed and not batch.source.failed:
            batch.source.failed = batch.failed
            for stream in batch.source.streams.values():
                self._lose(stream)
        for stream in self.streams.awaited(batch.slots):
            stream.wake()
        for stream, tokens in batch.ended:
            if self.streams.judged[stream.slot] < tokens:
                self._lose(stream)

    def record(self, batch: Batch) -> None:
        source = batch.source.hello.source
        for stream in batch.began:
            self.ledger.append("stream", event="begin", stream=stream.name, source=source, request=self._recorded(stream))
        if batch.lost:
            self.ledger.append("gap", source=source, frames=batch.lost)
        if batch.failed:
            self.ledger.append("tap", event="failed", source=source, reason=batch.failed)
        for verdict in batch.verdicts:
            rule, stream = verdict.rule, self.streams.by_slot[verdict.slot]
            if verdict.ended:
                self.ledger.append("verdict", event="ended", stream=stream.name, source=source, position=verdict.position, rule=rule.rule)
                continue
            self.ledger.append(
                "verdict", event="fired", stream=stream.name, source=source, position=verdict.position, rule=rule.rule,
                rules=self.rules.digest, digest=verdict.digest, action=verdict.action.name.lower(), mode=verdict.mode, shadow=verdict.shadow,
                limited=verdict.limited, severity=rule.severity, risk=rule.risk, tags=rule.tags, runbook=rule.runbook, desc=rule.desc,
                when=rule.when, until=rule.until, hold_for=rule.hold_for.model_dump(), signals=verdict.signals, thresholds=verdict.thresholds,
                model_signal=self._tail(verdict),
            )  # fmt: skip
        if self.scores is not None:
            self.scores.frame(batch.slots, batch.positions)
        for stream, tokens in batch.ended:
            if self.scores is not None:
                self.scores.end(stream)
            peak = self.streams.peak[stream.slot]
            self.ledger.append(
                "stream",
                event="end",
                stream=stream.name,
                source=source,
                tokens=tokens,
                judged=int(self.streams.judged[stream.slot]),
                peak=self._named(peak),
            )

    def publish(self, batch: Batch) -> None:
        for verdict in batch.verdicts:
            if verdict.ended:
                continue
            about = self.streams.by_slot[verdict.slot].about
            tenant = about.get("tenant", "")
            tenant = tenant if tenant in self._tenants else "other" if tenant else ""
            self.metrics.verdicts.labels(
                verdict.rule.rule, verdict.action.name.lower(), verdict.mode, batch.source.hello.model, tenant
            ).inc()
            if verdict.limited:
                self.metrics.limited.labels(verdict.rule.rule).inc()
        self.metrics.unmatched.inc(self.rules.unmatched - self._unmatched)
        self._unmatched = self.rules.unmatched
        for stream, _ in batch.ended:
            self._end(batch.source, stream)
        self._gauges()
        if batch.verdicts:
            self._wake_publisher()

    def _begin(self, batch: Batch, begin: wire.Begin) -> None:
        source = batch.source
        if begin.stream in source.streams or len(source.streams) >= wire.MAX_STREAMS:
            return
        stream = self.streams.open((begin.request[: wire.MAX_REQUEST_ID], begin.index), source.hello.source, begin.stream, time.time())
        source.add(stream)
        model = str(stream.about.get("model", ""))
        adapter = model if model and model != source.hello.model else ""
        stream.about = {**stream.about, "model": model or source.hello.model, "adapter": adapter, "engine": source.hello.engine}
        lot = zlib.crc32(stream.name.encode()) / 2**32
        self.rules.begin(stream.slot, stream.about, stream.conversation, lot, self.shadowed(source))
        batch.began.append(stream)

    def _reconcile(self, batch: Batch, live: wire.Live) -> None:
        """After drops: what the tap no longer runs is over, what we did not know begins (late, so with a gap)."""
        running = {begin.stream for begin in live.begins}
        batch.ended = [(stream, 0) for number, stream in batch.source.streams.items() if number not in running]
        for begin in live.begins:
            self._begin(batch, begin)

    def _lose(self, stream: Stream) -> None:
        self.streams.gap[stream.slot] = True
        stream.wake()

    def _end(self, source: Source, stream: Stream) -> None:
        self.rules.end(stream.slot)
        source.remove(stream)
        self.streams.end(stream)

    def _tail(self, verdict: Verdict) -> dict[str, list[float | None]]:
        """The last 32 scores of every probe up to the verdict."""
        recent = self.streams.recent(verdict.slot, max(0, verdict.position - 31), verdict.position + 1)
        return {name: [round(float(x), 3) if np.isfinite(x) else None for x in recent[:, i]] for i, name in enumerate(self.bank.names)}

    def _named(self, values: NDArray[np.float32]) -> dict[str, float | None]:
        return {name: round(float(x), 3) if np.isfinite(x) else None for name, x in zip(self.bank.names, values, strict=True)}

    def _recorded(self, stream: Stream) -> dict[str, str]:
        """What the ledger says of a request: nothing of its content, and no headers. The conversation only for replay."""
        about = {name: str(stream.about.get(name, "")) for name in ("model", "tenant", "route", "adapter", "engine")}
        return {**about, "conversation": stream.conversation} if self.scores is not None else about

    def _running(self) -> dict[str, tuple[int, dict[str, int]]]:
        """By model: how many streams run, and for how many of them each rule fires."""
        slots: dict[str, list[int]] = {}
        for source in self.sources:
            slots.setdefault(source.hello.model, []).extend(stream.slot for stream in source.streams.values())
        names = [rule.rule for rule in self.rules.rules]
        return {
            model: (len(each), dict(zip(names, self.rules.firing(np.array(each, np.intp)).tolist(), strict=True)))
            for model, each in slots.items()
        }

    def _gauges(self) -> None:
        self.metrics.taps.set(len(self.sources))
        self.metrics.tap_failed.set(sum(bool(source.failed) for source in self.sources))
        self.metrics.stale.set(sum(bool(source.stale) for source in self.sources))
        self.metrics.ledger_failed.set(bool(self.ledger.failed))


def halting(verdict: Verdict) -> Verdict | None:
    """The verdict itself when it is one that the gateway must act on."""
    chosen = strongest([verdict])
    return chosen if chosen is not None and chosen.action == Action.HALT else None
