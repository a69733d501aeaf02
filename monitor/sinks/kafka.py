"""Kafka: verdicts as records. The publisher tails the ledger, so nothing is published that is not recorded."""

from __future__ import annotations

import json
import logging
import threading
from datetime import UTC, datetime
from typing import Any

from kafka import KafkaProducer
from kafka.admin import KafkaAdminClient
from kafka.errors import KafkaError, KafkaTimeoutError, UnknownTopicOrPartitionError

from monitor.audit.ledger import Ledger
from monitor.audit.note import MAX_NOTE
from monitor.audit.reader import Reader
from monitor.config import KafkaConfig
from monitor.sinks.cursor import Cursor
from monitor.sinks.prometheus import Metrics
from monitor.sinks.topics import connection
from monitor.sinks.trouble import Trouble
from probes.files import read_plain

log = logging.getLogger("barograph.kafka")

KINDS = ("verdict", "failure", "steer", "reroute", "tenant")
OUTCOMES = ("command",)
BATCH = 500
RETRY_S = 1.0


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
        self.trouble = Trouble(metrics, "kafka", log, f"kafka {config.bootstrap}")
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._told = 0  # how many records the last checkpoint covers that the broker has
        self._thread = threading.Thread(target=self._run, name="barograph-kafka", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def notify(self) -> None:
        self._wake.set()

    def close(self, timeout: float = 5.0) -> None:
        """Send what is left, for at most `timeout` seconds; the rest goes out after the next start."""
        self._stop.set()
        self._wake.set()
        self._thread.join(timeout)

    def _run(self) -> None:
        producer: Any = None
        reader: Reader | None = None
        at: int | None = None
        while True:
            try:
                at = self._cursor.read() if at is None else at
                reader = reader or Reader(self._ledger.path, at)
                producer = producer or self._connect()
                moved = self._send(producer, reader)
                at = reader.at
                self._metrics.kafka_waiting.set(max(0, self._ledger.kept - at))
                self._send_checkpoint(producer)
                self.trouble.is_over()
            except Exception as error:  # whatever it was: a publisher that died would be silence
                if reader is not None:
                    reader.close()
                    reader = None  # what it took is taken once more
                self._metrics.publish_errors.inc()
                self.trouble.is_that(f"{type(error).__name__}: {error}; nothing is lost, it is tried again")
                if self._stop.wait(RETRY_S):
                    break
                continue
            if moved:
                continue
            if self._stop.is_set():
                break
            self._wake.wait(timeout=1.0)
            self._wake.clear()
        if producer is not None:
            producer.close(timeout=2)

    def _connect(self) -> Any:
        return KafkaProducer(acks="all", max_block_ms=5000, request_timeout_ms=10_000, **connection(self._config))

    def _send(self, producer: Any, reader: Reader) -> bool:
        """Publish the next records, and keep how far the broker has acknowledged. False when there were none."""
        if not (some := reader.take(min(BATCH, max(0, self._ledger.kept - reader.at)))):
            return False
        sent = [(line, topic, self._one(producer, line, topic)) for line in some for topic in self._topics(line)]
        for line, topic, future in sent:
            try:
                if isinstance(future, Exception):
                    raise future
                future.get(timeout=15)
                self._metrics.published.inc()
            except (KafkaError, ValueError) as error:
                if not self._for_good(error, topic):
                    raise
                self._set_aside(line, topic, error)
        self._cursor.keep(reader.at, some[-1])
        return True

    def _one(self, producer: Any, line: bytes, topic: str) -> Any:
        """The broker's answer to come, or the error that it was not even sent with."""
        record = json.loads(line)
        try:
            return producer.send(topic, value=line, key=str(record.get("stream", "")).encode(), headers=self._headers(record))
        except (KafkaError, ValueError) as error:
            return error

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

    def _for_good(self, error: Exception, topic: str) -> bool:
        """Whether the broker will refuse it again: too large, no permission, no such topic. A broker that does not answer refuses nothing."""
        if isinstance(error, (KafkaTimeoutError, UnknownTopicOrPartitionError)):
            admin = KafkaAdminClient(**connection(self._config))
            try:
                return topic not in admin.list_topics()
            finally:
                admin.close()
        return not getattr(error, "retriable", False)

    def _set_aside(self, line: bytes, topic: str, error: Exception) -> None:
        number, why = json.loads(line)["seq"], type(error).__name__
        self._metrics.publish_refused.labels(topic, why).inc()
        log.error("kafka %s: record %d is set aside: %s refuses it: %s: %s", self._config.bootstrap, number, topic, why, error)
        self._ledger.append("publish", event="refused", record=number, topic=topic, why=f"{why}: {error}"[:300])

    def _send_checkpoint(self, producer: Any) -> None:
        """The newest signed checkpoint, as it lies on the disk: whoever keeps it can tell a ledger that was rolled back."""
        topic, newest = self._config.checkpoints_topic, self._ledger.checkpoint
        if topic is not None and newest.size != self._told:
            signed = read_plain(self._ledger.path / "checkpoint", MAX_NOTE)
            producer.send(topic, value=signed, key=newest.origin.encode()).get(timeout=15)
            self._told = newest.size
