"""Kafka: verdicts as records. The publisher tails the ledger, so nothing is published that is not recorded."""

from __future__ import annotations

import contextlib
import json
import logging
import threading
import time
from datetime import UTC, datetime
from typing import Any

from kafka import KafkaProducer
from kafka.admin import KafkaAdminClient
from kafka.errors import (
    InvalidRecordError,
    InvalidTimestampError,
    InvalidTopicError,
    KafkaError,
    KafkaTimeoutError,
    MessageSizeTooLargeError,
    PolicyViolationError,
    RecordListTooLargeError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
)

from monitor.audit.ledger import Ledger
from monitor.audit.note import MAX_NOTE
from monitor.audit.reader import Reader
from monitor.config import KafkaConfig
from monitor.sinks.cursor import Cursor
from monitor.sinks.prometheus import Metrics
from monitor.sinks.reasons import REASONS
from monitor.sinks.topics import connection
from monitor.sinks.trouble import Trouble
from probes.files import read_plain

log = logging.getLogger("barograph.kafka")

KINDS = ("verdict", "failure", "steer", "reroute", "tenant")
OUTCOMES = ("command",)
BATCH = 500
RETRY_S = 1.0
ACK_S = 15.0
GONE_S = 10.0  # a topic that is not there is asked for again so often
# What is wrong with the record or its topic. Everything else is wrong with the broker, the network or our password, and is tried until it is right.
FOR_GOOD = (
    InvalidRecordError, InvalidTimestampError, InvalidTopicError, MessageSizeTooLargeError, PolicyViolationError, RecordListTooLargeError,
    TopicAuthorizationFailedError, ValueError,
)  # fmt: skip


class KafkaPublisher:
    """A thread that sends the ledger's verdicts, in order, at least once.

    Only what is durable is published. How many records the broker has acknowledged is kept in a file beside the ledger (`<ledger>.kafka`),
    so a broker that is away delays records and never loses them. Consumers drop doubles by the header `ce_id`. A record that the broker refuses for good is
    set aside: counted, and named in the ledger, where it stays; those behind it go on.
    """

    def __init__(self, config: KafkaConfig, ledger: Ledger, metrics: Metrics) -> None:
        self._config = config
        self._ledger = ledger
        self._cursor = Cursor(ledger.path, ledger.path.with_name(ledger.path.name + ".kafka"))
        self._metrics = metrics
        # Asked for, so that it also rises while a broker is away.
        metrics.kafka_waiting.set_function(lambda: max(0, ledger.kept - self.position))
        self.trouble = Trouble(metrics, "kafka", log, f"kafka {config.bootstrap}")
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._at: int | None = None  # the first record that is not published
        self._told = 0  # how many records the last checkpoint covers that the broker has
        self._gone: dict[str, float] = {}  # topics that are not there, and until when that is believed
        self._settled: set[tuple[int, str]] = set()  # records that were set aside and may be taken once more, by number and topic
        self._refusing: set[str] = set()  # topics whose last record was refused
        self.refusals = Trouble(metrics, "kafka_topics", log, f"kafka {config.bootstrap}")
        self._thread = threading.Thread(target=self._run, name="barograph-kafka", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def position(self) -> int:
        """The first record of the ledger that is not published."""
        return self._at or 0

    def notify(self) -> None:
        self._wake.set()

    def close(self, timeout: float = 5.0) -> None:
        """Send what is left, for at most `timeout` seconds; the rest goes out after the next start."""
        self._stop.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(timeout)

    def _run(self) -> None:
        producer: Any = None
        reader: Reader | None = None
        while True:
            try:
                self._at = self._cursor.read() if self._at is None else self._at
                reader = reader or self._reader(self._at)
                producer = producer or self._connect()
                moved = self._send(producer, reader)
                self._send_checkpoint(producer)
                self.trouble.is_over()
            except Exception as error:  # whatever it was: a publisher that died would be silence
                if reader is not None:
                    reader.close()
                    reader = None  # what it took is taken once more
                self._metrics.publish_errors.inc()
                self.trouble.is_that(f"{REASONS.of(error)}; nothing is lost, it is tried again")
                _let_go(producer, ACK_S + 5)  # until what it holds has arrived or expired: that must not come behind what is sent again
                producer = None
                if self._stop.wait(RETRY_S):
                    break
                continue
            if moved:
                continue
            if self._stop.is_set():
                break
            self._wake.wait(timeout=1.0)
            self._wake.clear()
        _let_go(producer, 2)

    def _reader(self, at: int) -> Reader:
        """From record `at` on. What was purged before it was published is gone: said, counted and recorded."""
        reader = Reader(self._ledger.path, at)
        if reader.at > at:
            self._metrics.publish_refused.labels(self._config.topic, "Purged").inc(reader.at - at)
            log.error("kafka %s: records %d to %d were purged before they were published", self._config.bootstrap, at, reader.at - 1)
            self._ledger.append("publish", event="purged", first=at, last=reader.at - 1)
            self._at = reader.at
        return reader

    def _connect(self) -> Any:
        """A broker that is back is found within seconds, however long it was away.

        Not kafka-python's idempotent producer: one record that the broker refuses puts that one out of order for good, and it fails all the
        others with the same error. One request at a time keeps the order just as well, and doubles are told by their id.
        """
        return KafkaProducer(
            acks="all", enable_idempotence=False, max_in_flight_requests_per_connection=1, max_block_ms=5000, request_timeout_ms=10_000, delivery_timeout_ms=int(1000 * ACK_S), bootstrap_timeout_ms=5000, reconnect_backoff_max_ms=2000,
            **connection(self._config),
        )  # fmt: skip

    def _send(self, producer: Any, reader: Reader) -> bool:
        """Publish the next records, and keep how far the broker has acknowledged. False when there were none."""
        if not (some := reader.take(min(BATCH, max(0, self._ledger.kept - reader.at)))):
            return False
        sent = [(n, line, topic, self._one(producer, line, topic)) for n, line in enumerate(some) for topic in self._topics(line)]
        first, done = reader.at - len(some), 0
        aside: dict[tuple[str, str], list[int]] = {}  # by topic and reason
        try:
            for done, line, topic, future in sent:
                if (error := self._refusal(future, topic)) is None:
                    self._metrics.published.inc()
                    self._takes(topic)
                elif (first + done, topic) not in self._settled:
                    self._settled.add((first + done, topic))
                    self._set_aside(line, topic, error, aside)
            done = len(some)
            self._settled.clear()
        finally:
            for (topic, why), numbers in aside.items():
                self._ledger.append("publish", event="refused", records=numbers, topic=topic, why=why)
            if done:
                self._cursor.keep(first + done, some[done - 1])
                self._at = first + done
        return True

    def _one(self, producer: Any, line: bytes, topic: str) -> Any:
        record = json.loads(line)
        return self._sent(producer, topic, line, str(record.get("stream", "")), self._headers(record))

    def _sent(self, producer: Any, topic: str, value: bytes, key: str, headers: Any = ()) -> Any:
        """The broker's answer to come, or the error that it was not even sent with."""
        if self._is_gone(topic):
            return UnknownTopicOrPartitionError(topic)
        try:
            return producer.send(topic, value=value, key=key.encode(), headers=list(headers))
        except (KafkaError, ValueError) as error:
            self._look_for(topic, error)
            return error

    def _refusal(self, future: Any, topic: str) -> Exception | None:
        """Why the broker will never take a record; None when it has. Raises what is worth another try."""
        try:
            if isinstance(future, Exception):
                raise future
            future.get(timeout=0 if self._is_gone(topic) else ACK_S + 5)
        except (KafkaError, ValueError) as error:
            self._look_for(topic, error)
            if isinstance(error, FOR_GOOD) or self._is_gone(topic):
                return error
            raise
        return None

    def _is_gone(self, topic: str) -> bool:
        return time.monotonic() < self._gone.get(topic, 0.0)

    def _look_for(self, topic: str, error: Exception) -> None:
        """Whether the topic is there still, after an error that may mean it. Asked once, not for each record: the answer takes its time."""
        if isinstance(error, (KafkaTimeoutError, UnknownTopicOrPartitionError)) and not self._is_gone(topic):
            admin = KafkaAdminClient(bootstrap_timeout_ms=5000, request_timeout_ms=10_000, **connection(self._config))
            try:
                if topic not in admin.list_topics():
                    self._gone[topic] = time.monotonic() + GONE_S
            finally:
                admin.close()

    def _headers(self, record: dict[str, Any]) -> list[tuple[str, bytes]]:
        """Those of CloudEvents 1.0 in Kafka's binary form."""
        origin = self._ledger.checkpoint.origin
        about = {
            "content-type": "application/json", "ce_specversion": "1.0", "ce_id": f"{origin}/{record['seq']}", "ce_source": origin,
            "ce_type": ".".join(filter(None, ("barograph", record["kind"], str(record.get("event", ""))))),
            "ce_time": datetime.fromtimestamp(record["time"], UTC).isoformat(), "ce_subject": str(record.get("stream", "")),
        }  # fmt: skip
        return [(name, value.encode()) for name, value in about.items() if value]

    def _topics(self, line: bytes) -> list[str]:
        """Where a record goes: by its kind, and all of them to the audit topic."""
        kind, commands = json.loads(line).get("kind"), self._config.commands
        where = self._config.topic if kind in KINDS else commands.outcomes_topic if kind in OUTCOMES and commands is not None else None
        return [topic for topic in (where, self._config.audit_topic) if topic is not None]

    def _set_aside(self, line: bytes, topic: str, error: Exception, aside: dict[tuple[str, str], list[int]]) -> None:
        record = json.loads(line)
        self._refused(f"record {record['seq']}", topic, error)
        if record["kind"] != "publish":  # else the audit topic's refusals would be named for ever
            aside.setdefault((topic, f"{type(error).__name__}: {error}"[:300]), []).append(record["seq"])

    def _takes(self, topic: str) -> None:
        """A topic that refused takes records again."""
        if topic in self._refusing:
            self._refusing.discard(topic)
            if not self._refusing:
                self.refusals.is_over()

    def _refused(self, what: str, topic: str, error: Exception) -> None:
        self._metrics.publish_refused.labels(topic, type(error).__name__).inc()
        self._refusing.add(topic)
        self.refusals.is_that(f"{topic} refuses {what} for good, which is set aside: {type(error).__name__}: {error}")

    def _send_checkpoint(self, producer: Any) -> None:
        """The newest signed checkpoint, as it lies on the disk: whoever keeps it can tell a ledger that was rolled back."""
        topic, newest = self._config.checkpoints_topic, self._ledger.checkpoint
        if topic is not None and newest.size != self._told:
            signed = read_plain(self._ledger.path / "checkpoint", MAX_NOTE)
            if (error := self._refusal(self._sent(producer, topic, signed, newest.origin), topic)) is not None:
                self._refused("a checkpoint", topic, error)  # a record of it would only make another checkpoint
            self._told = newest.size


def _let_go(producer: Any, seconds: float) -> None:
    if producer is not None:
        with contextlib.suppress(Exception):  # whatever it could not send, and whatever becomes of it
            producer.close(timeout=seconds)
