"""A ledger, the publisher that follows it to a real broker, and what a reader finds there."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kafka import KafkaConsumer, TopicPartition
from prometheus_client import CollectorRegistry

from monitor.config import KafkaConfig
from monitor.sinks.kafka import KafkaPublisher
from monitor.sinks.prometheus import Metrics
from probes.bank import Bank
from probes.drift import Drift
from tests import ledgers
from tests.kafka.broker import USERS, Broker
from tests.stack import eventually


class Publication:
    """`settings` of `start` are those of `sidecar.kafka`."""

    def __init__(self, broker: Broker, folder: Path, bank: Bank) -> None:
        self.broker = broker
        self.ledger = ledgers.ledger(folder / "ledger", checkpoint_s=1.0)
        self.registry = CollectorRegistry()
        self._metrics = Metrics(self.registry, bank.names, Drift(bank, 100))
        self.publisher = KafkaPublisher(self.config(), self.ledger, self._metrics)

    def config(self, **settings: Any) -> KafkaConfig:
        secure = {"bootstrap": self.broker.secure, "security": "SASL_SSL", "username": "barograph", "ca_file": self.broker.authority.file}
        return KafkaConfig(**{**secure, **settings})

    def start(self, **settings: Any) -> None:
        """One after another may follow the ledger; the last one is closed with the test."""
        self.publisher = KafkaPublisher(self.config(**settings), self.ledger, self._metrics)
        self.publisher.start()

    def verdict(self, turn: int, stream: str = "s#0", **more: Any) -> int:
        number = self.ledger.append("verdict", event="fired", stream=stream, turn=turn, **more)
        self.publisher.notify()
        return number

    def sample(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(f"barograph_kafka_{name}", labels) or 0.0

    def refused(self) -> dict[tuple[str, str], float]:
        """How many records, by topic and reason."""
        samples = [each for family in self.registry.collect() for each in family.samples]
        return {
            (each.labels["topic"], each.labels["reason"]): each.value for each in samples if each.name == "barograph_kafka_refused_total"
        }

    def set_aside(self) -> list[dict[str, Any]]:
        """What the ledger names."""
        return [record for record in ledgers.records(self.ledger.path, self.ledger) if record["kind"] == "publish"]

    def all_sent(self, seconds: float = 120) -> None:
        self.publisher.notify()
        assert self.ledger.flush()
        eventually(lambda: self.publisher.position >= self.ledger.kept, "nothing waits any more", seconds)

    def read(self, topic: str, atleast: int = 0, seconds: float = 60) -> list[Any]:
        """All messages of a topic, as its reader gets them: of each partition in order."""
        with self._reader() as consumer:
            partitions = [TopicPartition(topic, number) for number in sorted(consumer.partitions_for_topic(topic))]
            consumer.assign(partitions)
            consumer.seek_to_beginning()
            found: list[Any] = []
            until = time.monotonic() + seconds
            while len(found) < atleast or any(consumer.position(each) < end for each, end in consumer.end_offsets(partitions).items()):
                assert time.monotonic() < until, f"{len(found)} messages of {atleast}"
                found += [message for some in consumer.poll(timeout_ms=500).values() for message in some]
            return found

    def turns(self, topic: str) -> list[int]:
        return [json.loads(message.value)["turn"] for message in self.read(topic)]

    @contextmanager
    def _reader(self) -> Iterator[Any]:
        consumer = KafkaConsumer(
            bootstrap_servers=self.broker.secure, security_protocol="SASL_SSL", ssl_cafile=str(self.broker.authority.file),
            sasl_mechanism="SCRAM-SHA-512", sasl_plain_username="reader", sasl_plain_password=USERS["reader"], enable_auto_commit=False,
        )  # fmt: skip
        try:
            yield consumer
        finally:
            consumer.close()
