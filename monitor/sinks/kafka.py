"""Kafka: verdicts as records. The publisher tails the ledger, so nothing is published that is not recorded."""

from __future__ import annotations

import json
import logging
import os
import threading
from typing import Any

from kafka import KafkaProducer
from kafka.errors import KafkaError

from monitor.audit.disk import Disk
from monitor.audit.ledger import Ledger
from monitor.audit.note import MAX_NOTE
from monitor.audit.reader import Reader
from monitor.config import KafkaConfig
from monitor.errors import BarographError
from monitor.sinks.prometheus import Metrics
from probes.files import read_plain

log = logging.getLogger("barograph.kafka")

PASSWORD = "BAROGRAPH_KAFKA_PASSWORD"
KINDS = ("verdict", "failure", "steer", "reroute", "tenant")
OUTCOMES = ("command",)
SCORES = ("scores", "stream")  # what a replay needs
BATCH = 500
RETRY_S = 1.0


class KafkaPublisher:
    """A thread that sends the ledger's verdicts, in order, at least once.

    Only what is durable is published. How many records the broker has acknowledged is kept in a file beside the ledger (`<ledger>.kafka`),
    so a broker that is away delays records and never loses them. Consumers drop doubles by `seq`.
    """

    def __init__(self, config: KafkaConfig, ledger: Ledger, metrics: Metrics) -> None:
        self._config = config
        self._ledger = ledger
        self._mark = ledger.path.with_name(ledger.path.name + ".kafka")
        self._metrics = metrics
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
        reader = Reader(self._ledger.path, self._acknowledged())
        while True:
            at = reader.at
            try:
                producer = producer or self._connect()
                moved = self._send(producer, reader)
                self._send_checkpoint(producer)
            except (KafkaError, OSError, AssertionError, BarographError) as error:
                self._metrics.publish_errors.inc()
                log.warning("kafka %s: %s: %s; trying again", self._config.bootstrap, type(error).__name__, error)
                reader.close()
                reader = Reader(self._ledger.path, at)
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
        config = self._config
        secrets: dict[str, Any] = {}
        if config.username is not None:
            secrets = {
                "sasl_mechanism": "SCRAM-SHA-512",
                "sasl_plain_username": config.username,
                "sasl_plain_password": os.environ.get(PASSWORD, ""),
            }
        return KafkaProducer(
            bootstrap_servers=config.bootstrap.split(","), security_protocol=config.security, client_id="barograph",
            acks="all", max_block_ms=5000, request_timeout_ms=10_000, **secrets,
        )  # fmt: skip

    def _acknowledged(self) -> int:
        try:
            return min(int(self._mark.read_text()), self._ledger.kept)
        except FileNotFoundError:
            return 0
        except (ValueError, OSError) as error:
            log.error("%s: %s; publishing the ledger from its beginning", self._mark, error)
            return 0

    def _send(self, producer: Any, reader: Reader) -> bool:
        """Publish the next records, and keep how far the broker has acknowledged. False when there were none."""
        if not (some := reader.take(min(BATCH, self._ledger.kept - reader.at))):
            return False
        sent = [self._one(producer, record) for record in some]
        for future in sent:
            if future is not None:
                future.get(timeout=15)
                self._metrics.published.inc()
        Disk().put({self._mark: str(reader.at).encode()})
        return True

    def _send_checkpoint(self, producer: Any) -> None:
        """The newest signed checkpoint, as it lies on the disk: whoever keeps it can tell a ledger that was rolled back."""
        topic, newest = self._config.checkpoints_topic, self._ledger.checkpoint
        if topic is not None and newest.size != self._told:
            signed = read_plain(self._ledger.path / "checkpoint", MAX_NOTE)
            producer.send(topic, value=signed, key=newest.origin.encode()).get(timeout=15)
            self._told = newest.size

    def _one(self, producer: Any, line: bytes) -> Any:
        record = json.loads(line)
        kind = record.get("kind")
        commands = self._config.commands
        topic = self._config.topic if kind in KINDS else self._config.scores_topic if kind in SCORES else None
        if kind in OUTCOMES and commands is not None:
            topic = commands.outcomes_topic
        if topic is None:
            return None
        return producer.send(topic, value=line, key=str(record.get("stream", "")).encode())
