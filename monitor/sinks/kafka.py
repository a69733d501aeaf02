"""Kafka: verdicts as records. The publisher tails the ledger, so nothing is published that is not recorded."""

from __future__ import annotations

import json
import logging
import os
import threading
from pathlib import Path
from typing import Any

from kafka import KafkaProducer
from kafka.errors import KafkaError

from monitor.config import KafkaConfig
from monitor.sinks.prometheus import Metrics

log = logging.getLogger("barograph.kafka")

PASSWORD = "BAROGRAPH_KAFKA_PASSWORD"
KINDS = ("verdict", "failure", "steer", "reroute", "tenant")
OUTCOMES = ("command",)
SCORES = ("scores", "stream")  # what a replay needs
BATCH = 500
RETRY_S = 1.0


class KafkaPublisher:
    """A thread that sends the ledger's verdicts, in order, at least once.

    How far it came is kept in a file beside the ledger (`<ledger>.kafka`), moved only when the broker has
    acknowledged, so a broker that is away delays records and never loses them. Consumers drop doubles by `seq`.
    """

    def __init__(self, config: KafkaConfig, ledger: Path, metrics: Metrics) -> None:
        self._config = config
        self._ledger = ledger
        self._mark = ledger.with_name(ledger.name + ".kafka")
        self._metrics = metrics
        self._wake = threading.Event()
        self._stop = threading.Event()
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
        at = int(self._mark.read_text()) if self._mark.exists() else 0
        while True:
            try:
                producer = producer or self._connect()
                moved = self._send(producer, at)
            except (KafkaError, OSError, AssertionError) as error:
                self._metrics.publish_errors.inc()
                log.warning("kafka %s: %s: %s; trying again", self._config.bootstrap, type(error).__name__, error)
                moved = at
                if self._stop.wait(RETRY_S):
                    break
                continue
            if moved != at:
                at = moved
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

    def _send(self, producer: Any, at: int) -> int:
        """Publish whole lines from byte `at` on; return how far the broker has acknowledged."""
        with self._ledger.open("rb") as file:
            file.seek(at)
            chunk = file.read(BATCH * 2000)
        end = chunk.rfind(b"\n") + 1
        if not end:
            return at
        sent = [self._one(producer, line) for line in chunk[:end].splitlines() if line]
        for future in sent:
            if future is not None:
                future.get(timeout=15)
                self._metrics.published.inc()
        self._mark.write_text(str(at + end))
        return at + end

    def _one(self, producer: Any, line: bytes) -> Any:
        try:
            record = json.loads(line)
        except ValueError:
            return None  # a torn line, from a crash of the machine
        kind = record.get("kind")
        commands = self._config.commands
        topic = self._config.topic if kind in KINDS else self._config.scores_topic if kind in SCORES else None
        if kind in OUTCOMES and commands is not None:
            topic = commands.outcomes_topic
        if topic is None:
            return None
        return producer.send(topic, value=line, key=str(record.get("stream", "")).encode())
