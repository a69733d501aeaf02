"""Kafka: the scores of every judged token, as they come. Best effort: a broker that is slow or away costs scores, which are counted, and nothing more."""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

import msgspec
import numpy as np
from kafka import KafkaProducer
from kafka.errors import MessageSizeTooLargeError
from numpy.typing import NDArray

from monitor.config import KafkaConfig, ScoresConfig
from monitor.sinks.prometheus import Metrics
from monitor.sinks.reasons import REASONS
from monitor.sinks.topics import connection
from monitor.sinks.trouble import Trouble

log = logging.getLogger("barograph.kafka")

MAX_WAITING = 2_000_000  # numbers that wait for the thread: 300,000 tokens of seven probes
MAX_MESSAGE = 400_000  # bytes of one, about: half of what brokers take by default
RETRY_S = 1.0
ABOUT = ("model", "tenant", "route", "adapter", "engine")


class Stream(Protocol):
    """What the pipeline knows of a stream."""

    slot: int
    grade: str
    about: Any

    @property
    def name(self) -> str: ...


class Judged(Protocol):
    """A frame that was judged: the streams that began with it, and of its rows the slot, the position, the scores."""

    began: list[Any]
    slots: NDArray[np.intp]
    positions: NDArray[np.int64]
    scores: NDArray[np.float32]


@dataclass(frozen=True)
class Rows:
    """Of one frame. `streams` are numbers of ours, as a slot is used again before its rows are sent."""

    streams: NDArray[np.int64]
    positions: NDArray[np.int64]
    scores: NDArray[np.float32]
    time: float


class ScoreFeed:
    """A thread that sends what has gathered, a message for each stream every few moments.

    Key is the stream, so that the order within it holds; `ce_id` is the same for the same tokens. Nothing here is durable: what an auditor needs is in the ledger.
    """

    def __init__(self, config: KafkaConfig, scores: ScoresConfig, probes: tuple[str, ...], source: str, metrics: Metrics) -> None:
        """`source`: the name of the ledger, which says whose scores they are."""
        self._config, self._scores = config, scores
        self._probes = probes
        self._source = source
        self._metrics = metrics
        self.trouble = Trouble(metrics, "scores", log, f"kafka {config.bootstrap}, topic {scores.topic}")
        self._lock = threading.Lock()
        self._rows: list[Rows] = []
        self._waiting = 0
        self._numbers = np.zeros(16, np.int64)  # by slot: the stream that has it, from 1 on
        self._about: dict[int, dict[str, str]] = {}  # by number
        self._gone: list[int] = []  # numbers whose slots went to others: nothing of theirs comes any more
        self._last = 0
        self._sent = 0  # messages that the broker has not answered
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="barograph-scores", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self, timeout: float = 5.0) -> None:
        """Send what has gathered, for at most `timeout` seconds."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout)

    def follow(self, judged: Judged) -> None:
        """In the way of every frame, so nothing is made here: arrays are kept as they are."""
        for stream in judged.began:
            self._begin(stream)
        if not len(judged.slots):
            return
        with self._lock:
            if self._waiting + judged.scores.size > MAX_WAITING:
                self._metrics.scores_dropped.inc(len(judged.slots))
                return
            self._rows.append(Rows(self._numbers[judged.slots], judged.positions, judged.scores, time.time()))
            self._waiting += judged.scores.size

    def _begin(self, stream: Stream) -> None:
        if stream.slot >= len(self._numbers):
            self._numbers = np.concatenate([self._numbers, np.zeros(max(len(self._numbers), stream.slot), np.int64)])
        self._last += 1
        about = {"stream": stream.name, "grade": stream.grade, **{name: str(stream.about.get(name, "")) for name in ABOUT}}
        with self._lock:
            if before := int(self._numbers[stream.slot]):
                self._gone.append(before)
            self._about[self._last] = about
        self._numbers[stream.slot] = self._last

    def _run(self) -> None:
        producer: Any = None
        while True:
            stopping = self._stop.wait(self._scores.every_s)
            try:
                producer = producer or self._connect()
                self._flush(producer)
            except Exception as error:  # whatever it was: a thread that died would be silence
                self.trouble.is_that(REASONS.of(error))
                self._metrics.publish_errors.inc()
                self._drop_all()
                if producer is not None:
                    with contextlib.suppress(Exception):  # it may be of no use for good; a new one is made
                        producer.close(timeout=0)
                    producer = None
                self._stop.wait(RETRY_S)
            if stopping:
                break
        if producer is not None:
            producer.close(timeout=2)

    def _connect(self) -> Any:
        return KafkaProducer(
            acks=1, enable_idempotence=False, retries=3, linger_ms=20, max_block_ms=2000, delivery_timeout_ms=20_000, request_timeout_ms=10_000,
            bootstrap_timeout_ms=5000, **connection(self._config),
        )  # fmt: skip

    def _taken(self) -> tuple[list[Rows], list[int]]:
        with self._lock:
            rows, gone = self._rows, self._gone
            self._rows, self._gone, self._waiting = [], [], 0
        return rows, gone

    def _flush(self, producer: Any) -> None:
        rows, gone = self._taken()
        left = sum(len(each.streams) for each in rows)
        try:
            for tokens, key, name, message in self._messages(rows):
                if self._sent < self._scores.waiting:
                    try:
                        self._send(producer, tokens, key, name, message)
                    except (MessageSizeTooLargeError, ValueError) as error:  # of this one alone
                        self.trouble.is_that(REASONS.of(error))
                        continue
                    left -= tokens
        finally:  # what the broker is too slow for, what failed and what came behind it, and streams that began before we followed
            self._metrics.scores_dropped.inc(left)
            for number in gone:
                self._about.pop(number, None)

    def _drop_all(self) -> None:
        rows, gone = self._taken()
        self._metrics.scores_dropped.inc(sum(len(each.streams) for each in rows))
        for number in gone:
            self._about.pop(number, None)

    def _answered(self) -> None:
        with self._lock:
            self._sent -= 1

    def _send(self, producer: Any, tokens: int, key: str, name: str, message: bytes) -> None:
        headers = {
            "content-type": "application/json", "ce_specversion": "1.0", "ce_id": f"{self._source}/{name}", "ce_source": self._source,
            "ce_type": "barograph.scores", "ce_time": datetime.now(UTC).isoformat(), "ce_subject": key,
        }  # fmt: skip

        def sent(_: Any) -> None:
            self._answered()
            self._metrics.scores_sent.inc(tokens)
            self.trouble.is_over()

        def failed(error: BaseException) -> None:
            self._answered()
            self._metrics.scores_dropped.inc(tokens)
            self.trouble.is_that(REASONS.of(error))

        future = producer.send(
            self._scores.topic, value=message, key=key.encode(), headers=[(each, value.encode()) for each, value in headers.items()]
        )
        with self._lock:
            self._sent += 1
        future.add_callback(sent)
        future.add_errback(failed)

    def _messages(self, rows: Sequence[Rows]) -> Iterator[tuple[int, str, str, bytes]]:
        """Of each stream: how many tokens, its key, a name that these tokens alone have, and the message."""
        if not rows:
            return
        numbers = np.concatenate([each.streams for each in rows])
        positions = np.concatenate([each.positions for each in rows])
        scores = np.concatenate([each.scores for each in rows])
        times = np.repeat([each.time for each in rows], [len(each.streams) for each in rows])
        order = np.lexsort((positions, numbers))
        starts = np.flatnonzero(np.r_[True, np.diff(numbers[order]) != 0])
        size = MAX_MESSAGE // (10 * scores.shape[1] + 10) if self._scores.form == "arrays" else 1
        for whole in np.split(order, starts[1:]):
            if (about := self._about.get(int(numbers[whole[0]]))) is None:
                continue
            for part in np.split(whole, np.arange(size, len(whole), size)):
                name = f"{about['stream']}/{positions[part[0]]}"
                yield len(part), about["stream"], name, self._message(about, positions[part], scores[part], times[part])

    def _message(
        self, about: dict[str, str], positions: NDArray[np.int64], scores: NDArray[np.float32], times: NDArray[np.float64]
    ) -> bytes:
        columns = scores.T.astype(np.float64).round(3).tolist()  # as the float that is written short
        if not np.isfinite(scores).all():
            columns = [[value if math.isfinite(value) else None for value in column] for column in columns]
        if self._scores.form == "arrays":
            named = dict(zip(self._probes, columns, strict=True))
            span = {"since": float(times.min()), "until": float(times.max())}
            return msgspec.json.encode({**about, **span, "positions": positions.tolist(), "scores": named})
        one = {probe: column[0] for probe, column in zip(self._probes, columns, strict=True)}
        return msgspec.json.encode({**about, "time": float(times[0]), "position": int(positions[0]), "scores": one})
