"""The way of a frame: decode → meter → judge → act → record → publish. One direction; only `act` sends something back."""

from __future__ import annotations

import hmac
import logging
import os
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from monitor import wire
from monitor.audit.ledger import Ledger
from monitor.audit.levels import Level, Levels
from monitor.config import SidecarConfig
from monitor.errors import WireError
from monitor.pipeline.bounds import (
    IDLE_S,
    MAX_RECORDED,
    MAX_TABLE,
    MAX_WHY,
    Refused,
    check_begins,
    check_failed,
    check_frame,
    check_hello,
    readable,
)
from monitor.pipeline.gauges import watch
from monitor.pipeline.proof import Proof
from monitor.pipeline.records import Records
from monitor.pipeline.scores import ScoreLog
from monitor.pipeline.source import Source
from monitor.pipeline.steering import Steering
from monitor.pipeline.streams import Stream, StreamTable
from monitor.sinks.prometheus import Metrics
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
    time_ns: int = 0  # when the tap read the scores, by the machine's steady clock
    failed: str = ""
    gave_up: bool = False  # the source failed just now
    checked: bool = False  # and said how it proved itself
    refused: list[tuple[Stream, str]] = field(default_factory=list)
    began: list[Stream] = field(default_factory=list)
    ended: list[tuple[Stream, int]] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    steered: list[wire.Steered] = field(default_factory=list)


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
    levels: Levels = field(default_factory=Levels)
    wake_publisher: Callable[[], None] = lambda: None
    followers: tuple[Callable[[Batch], None], ...] = ()  # who else wants each judged frame: one that fails costs nobody else anything


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
        self.wake_publisher = parts.wake_publisher
        self._followers = parts.followers
        self._unmatched = 0
        self._failing = False  # whether a follower's failure was said
        self.levels = parts.levels
        self._scores = ScoreLog(self.bank.names, self.streams, self.ledger)
        self._records = Records(self.ledger, self.streams, self.bank.names)
        self._steering = Steering(self.streams, self.bank.names, self._records, self.metrics)
        self.engine_state = "waiting for the engine"  # what the gateway knows of it: ok, or what is wrong
        self.on_throttle: Callable[[Verdict, Stream], None] = lambda verdict, stream: None  # who throttles tenants
        self.metrics.bank_info.info({"digest": self.bank.digest, "model": self.bank.card.model.name, "probes": str(len(self.bank.names))})
        watch(self)

    def use(self, rules: RuleEngine) -> None:
        """Judge by other rules from the next frame on. Running streams keep what they have been through."""
        running = [stream for source in self.sources for stream in source.streams.values()]
        rules.adopt(self.rules, {stream.slot: stream.about for stream in running})
        names = {rule.rule for rule in rules.rules}
        for stream in running:
            stream.throttles = {rule: verdict for rule, verdict in stream.throttles.items() if rule in names}
        self.rules, self._unmatched = rules, 0
        self.reviewed()
        self._expect()

    def reviewed(self) -> None:
        """Rules were armed, put in shadow or changed: what they no longer may do ends."""
        self._steering.withdraw(self.rules)

    @property
    def scoring(self) -> bool:
        """Whether at least one tap is connected, well, and has proved itself where that is required."""
        optional = self._config.self_check == "off"
        return any(not source.failed and (optional or (source.check is not None and source.check.ok)) for source in self.sources)

    @property
    def unproved(self) -> list[Source]:
        """Taps that have not yet proved themselves on their running engine, where that is required."""
        wanted = self._config.self_check == "required"
        return [source for source in self.sources if wanted and source.check is None and not source.failed]

    def connect(self, hello: wire.Hello) -> Source:
        """A tap says hello. Raises WireError when it is not the engine's, or scores with another bank."""
        check_hello(hello)
        key = os.environ.get(wire.TAP_KEY, "")
        if key and not hmac.compare_digest(hello.secret.encode(), key.encode()):
            raise Refused("secret", f"a tap without the secret; give its engine the same {wire.TAP_KEY} as this sidecar has")
        if hello.bank != self.bank.digest or tuple(hello.probes) != self.bank.names:
            raise WireError(
                f"tap of {hello.model} scores with bank {hello.bank[:12]}; this sidecar judges with bank {self.bank.digest[:12]}: give both the same"
            )
        source = Source(hello, self._stale(hello), self.metrics.model_label(hello.model))
        self.sources.add(source)
        self._expect()
        self._records.connected(source, self.rules.digest, self.shadowed(source))
        if self.shadowed(source):
            log.warning("all rules are in shadow for %s: its thresholds are stale (%s)", hello.model, ", ".join(source.stale))
        return source

    def shadowed(self, source: Source) -> bool:
        """Whether its thresholds are stale, and the setting says that nothing may act on them."""
        return bool(source.stale) and self._config.on_stale_thresholds == "shadow"

    def _expect(self) -> None:
        rules = [(rule.rule, rule.action.name.lower(), rule.severity) for rule in self.rules.rules]
        for model in {source.label for source in self.sources}:
            self.metrics.expect(rules, model, ("", "other", *sorted(self._tenants)))

    def _stale(self, hello: wire.Hello) -> list[str]:
        """Fields in which what the tap runs on differs from what the bank was calibrated for: its thresholds are stale then."""
        try:
            running = Passport.model_validate(hello.passport)
        except ValidationError as error:
            raise WireError(
                f"passport of {hello.model}: {error.errors()[0]['msg']}; known are {', '.join(Passport.model_fields)}"
            ) from None
        text = ["grade"] if hello.grade != "activations" else []  # calibrated on what the model says, not on what it reads
        if text:
            log.warning("thresholds are stale: bank calibrated for activations of the model that writes, tap of %s reads text", hello.model)
        if self.proof is not None and self.proof.covers(self.bank.digest, running):
            return text
        found = self.bank.card.passport.differences(running)
        for what, (here, there) in found.items():
            log.warning("thresholds are stale: bank calibrated for %s %s, tap of %s runs %s", what, here, hello.model, there)
        return sorted([*found, *text])

    def disconnect(self, source: Source) -> None:
        """A tap is gone: its streams get no more scores."""
        self.sources.discard(source)
        for stream in list(source.streams.values()):
            self._drop(source, stream)
        self._records.disconnected(source)

    def sweep(self, now: float) -> None:
        """Give up streams that have had no token for very long: their end was lost, or they were never meant to have one."""
        for source in self.sources:
            for stream in list(source.streams.values()):
                if now - self.streams.moved[stream.slot] > IDLE_S:
                    self.metrics.refused.labels("idle").inc()
                    self._drop(source, stream)

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
            self._prove(batch, message)
            return
        if isinstance(message, wire.Live):
            check_begins(message.begins)
            self._reconcile(batch, message)
            return
        numbers, positions, scores = message.arrays(len(self.bank.names))
        check_frame(message, positions)
        batch.lost = 0 if source.seq is None else max(0, message.seq - source.seq - 1)
        batch.time_ns = message.time_ns
        source.seq = message.seq if source.seq is None else max(source.seq, message.seq)
        batch.failed = message.failed[:MAX_WHY]
        batch.steered = message.steered
        for begin in message.begins:
            self._begin(batch, begin)
        slots = source.slots(numbers)
        known = slots >= 0
        batch.slots, batch.positions, batch.scores = slots[known], positions[known].astype(np.int64), readable(scores[known])
        ends = {end.stream: end.tokens for end in message.ends if end.stream in source.streams}
        batch.ended = [(source.streams[number], tokens) for number, tokens in ends.items()]

    def meter(self, batch: Batch) -> None:
        metrics = self.metrics
        metrics.frames.inc()
        metrics.lost.inc(batch.lost)
        if len(batch.slots):
            metrics.lag(metrics.tap_lag, batch.time_ns)
            metrics.tokens.inc(len(batch.slots))
            metrics.scores.observe(batch.scores, batch.source.label)
            self.drift.observe(batch.scores)
            unknown = int((~np.isfinite(batch.scores)).any(axis=1).sum())
            metrics.nan.inc(unknown)
            metrics.missed.inc(unknown)

    def judge(self, batch: Batch) -> None:
        now = time.monotonic()
        self._steering.heard(batch.source, batch.steered)
        for rows in distinct_rounds(batch.slots):
            slots, positions, scores = batch.slots[rows], batch.positions[rows], batch.scores[rows]
            verdicts = self.rules.judge(slots, positions, scores, now)
            verdicts += self._steering.due(slots, positions, self.rules)
            for verdict in verdicts:
                stream = self.streams.by_slot[verdict.slot]
                stream.verdicts.append(verdict)
                stream.acting = deciding(stream.acting, verdict)
            self.metrics.missed.inc(self.streams.holes(slots, positions))
            # Only now: a token counts as judged when its verdicts stand, whatever fails on the way.
            self.streams.take(slots, positions, scores)
            for verdict in verdicts:
                if verdict.action == Action.STEER and not verdict.shadow and not verdict.ended:
                    self._steering.note(batch.source, self.streams.by_slot[verdict.slot], verdict)
            batch.verdicts += verdicts
        if batch.verdicts:
            self.metrics.lag(self.metrics.verdict_delay, batch.time_ns)

    def act(self, batch: Batch) -> None:
        source = batch.source
        if batch.failed and not source.failed:
            source.failed, batch.gave_up = batch.failed, True
            for stream in source.streams.values():
                self._lose(stream)
        for verdict in batch.verdicts:
            self._throttle(verdict, self.streams.by_slot[verdict.slot])
        self._steering.ask()
        for stream in self.streams.awaited(batch.slots):
            stream.wake()
        for stream, tokens in batch.ended:
            if (missed := tokens - int(self.streams.judged[stream.slot])) > 0:
                self.metrics.missed.inc(missed)
                self._lose(stream)

    def record(self, batch: Batch) -> None:
        records = self._records
        for first, reason in batch.refused:
            records.refused(batch.source, first, reason)
        for stream in batch.began:
            records.began(stream, self.rules.digest)
        if batch.lost:
            records.gap(batch.source, batch.lost)
        if batch.checked:
            records.checked(batch.source)
        if batch.gave_up:
            records.failed(batch.source)
        for verdict in batch.verdicts:
            records.verdict(verdict, self.streams.by_slot[verdict.slot], self.rules.digest)
        if self.levels.highest >= Level.SCORES:
            self._scores.frame(batch.slots, batch.positions)
        for stream, tokens in batch.ended:
            self._scores.end(stream)
            records.ended(stream, tokens, self.rules.digest)

    def publish(self, batch: Batch) -> None:
        for verdict in batch.verdicts:
            if verdict.ended:
                continue
            stream = self.streams.by_slot[verdict.slot]
            tenant = stream.about.get("tenant", "")
            tenant = tenant if tenant in self._tenants else "other" if tenant else ""
            rule, trace = verdict.rule, stream.ticket.trace if stream.ticket is not None else ""
            self.metrics.verdicts.labels(
                rule.rule, verdict.action.name.lower(), rule.severity, verdict.mode, batch.source.label, tenant
            ).inc(exemplar=self.metrics.exemplar(trace))
            if verdict.limited:
                self.metrics.limited.labels(verdict.rule.rule).inc()
        if self.rules.unmatched != self._unmatched:
            self.metrics.unmatched.inc(self.rules.unmatched - self._unmatched)
            self._unmatched = self.rules.unmatched
        for follow in self._followers:
            self._follow(follow, batch)
        for stream, _ in batch.ended:
            self._end(batch.source, stream)
        if batch.verdicts:
            self.wake_publisher()

    def _follow(self, follow: Callable[[Batch], None], batch: Batch) -> None:
        try:
            follow(batch)
        except Exception:
            if not self._failing:
                log.exception("a follower of the scores failed; it is asked again at the next frame")
            self._failing = True
            self.metrics.follow_errors.inc()

    def _begin(self, batch: Batch, begin: wire.Begin) -> None:
        source, key = batch.source, (begin.request, begin.index)
        known = source.streams.get(begin.stream)
        if known is not None and known.key == key:
            return  # told again: a Live, and the packets that waited behind it
        if self.streams.is_trial(begin.request):
            return  # its scores are of interest to the tap alone, which proves itself by them
        rival = self.streams.claimed(key)
        if known is not None or (rival is not None and not self._is_lost(rival)):
            # One of the two is not what it says it is, and nobody can tell which: neither may be released.
            for first, reason in ((known, "stream number in use"), (rival, "second begin of a request and choice")):
                if first is not None:
                    self._lose(first)
                    self._refuse(batch, first, reason)
            return
        if len(source.streams) >= wire.MAX_STREAMS or len(self.streams.by_slot) >= MAX_TABLE:
            self.metrics.refused.labels("streams").inc()  # it gets no scores, so that the gateway follows on_missing_score
            return
        stream = self.streams.open(key, source.hello.source, begin.stream, time.time())
        source.add(stream)
        model = str(stream.about.get("model", ""))
        adapter = model if model and model != source.hello.model else ""
        stream.about = {**stream.about, "model": model or source.hello.model, "adapter": adapter, "engine": source.hello.engine}
        stream.grade = source.hello.grade
        stream.level = self.levels.of(stream.about)
        lot = zlib.crc32(stream.name.encode()) / 2**32
        self.rules.begin(stream.slot, stream.about, stream.conversation, lot, self.shadowed(source), stream.grade)
        if source.failed or source in self.unproved:
            self._lose(stream)
        batch.began.append(stream)

    def _refuse(self, batch: Batch, first: Stream, reason: str) -> None:
        source = batch.source
        source.refused += 1
        self.metrics.refused.labels("begin").inc()
        if source.refused <= MAX_RECORDED:
            batch.refused.append((first, reason))
            log.warning("refused a begin of %s (%s); the stream that was there counts as lost", source.hello.model, reason)

    def _throttle(self, verdict: Verdict, stream: Stream) -> None:
        if verdict.ended:
            stream.throttles.pop(verdict.rule.rule, None)
        elif verdict.action == Action.THROTTLE and not verdict.shadow:
            stream.throttles[verdict.rule.rule] = verdict
            self.metrics.actions.labels(verdict.rule.rule, "throttle").inc()
            self.on_throttle(verdict, stream)

    def _prove(self, batch: Batch, check: wire.Check) -> None:
        """A tap says how it proved itself. What it says again is of interest only when it is worse."""
        source, why = batch.source, check_failed(check)
        if source.failed or (source.check is not None and not why):
            return
        source.check = wire.Check(not why, check.tokens, check.worst, why)
        batch.checked = True
        batch.failed = f"its check of itself failed: {why}" if why else ""
        self.metrics.checks.labels("failed" if why else "ok").inc()
        if why:
            log.error("the tap of %s failed its check of itself: %s", source.hello.model, why)

    def _reconcile(self, batch: Batch, live: wire.Live) -> None:
        """After drops: what the tap no longer runs is over, what we did not know begins (late, so with a gap)."""
        running = {begin.stream for begin in live.begins}
        source = batch.source
        for stream in [stream for number, stream in source.streams.items() if number not in running]:
            self._scores.end(stream)
            self._records.ended(stream, 0, self.rules.digest)
            self._end(source, stream)
        for begin in live.begins:
            self._begin(batch, begin)

    def _drop(self, source: Source, stream: Stream) -> None:
        """A stream gets no more scores, and did not end."""
        self._scores.end(stream)
        self._lose(stream)
        self._records.lost(stream)
        self._end(source, stream)

    def _is_lost(self, stream: Stream) -> bool:
        return bool(self.streams.ended[stream.slot] and self.streams.gap[stream.slot])

    def _lose(self, stream: Stream) -> None:
        self.streams.gap[stream.slot] = True
        stream.wake()

    def _end(self, source: Source, stream: Stream) -> None:
        self._steering.end(stream)
        self.rules.end(stream.slot)
        source.remove(stream)
        self.streams.end(stream)


def deciding(before: Verdict | None, verdict: Verdict) -> Verdict | None:
    """The verdict that ends a stream here: the first by its token, and the strongest of those at one token."""
    chosen = strongest([verdict])
    if chosen is None or chosen.action < Action.REROUTE:
        return before
    stronger = before is not None and chosen.position == before.position and chosen.action > before.action
    return chosen if before is None or stronger else before
