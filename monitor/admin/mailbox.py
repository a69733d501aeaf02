"""Commands that policy engines send over Kafka, each signed by its issuer."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import logging
import threading
import time
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError

from monitor.admin.command import Command, CommandError
from monitor.admin.commander import Commander
from monitor.config import CommandsConfig, KafkaConfig
from monitor.http import jsons
from monitor.sinks.prometheus import Metrics
from monitor.sinks.reasons import REASONS
from monitor.sinks.topics import connection
from monitor.sinks.trouble import Trouble

log = logging.getLogger("barograph.commands")

SIGNATURE = "barograph-signature"  # the header with the Ed25519 signature of the value's bytes, in base64
MAX_COMMAND = 64 << 10
POLL_MS, RETRY_S, ASIDE_S = 500, 1.0, 30.0
AHEAD_S = 30.0  # how far an issuer's clock may be ahead of ours


class Mailbox:
    """A thread that reads the topic, and hands what it reads to the event loop one by one.

    Every replica reads all commands, from the age on that would still be taken: those of before are refused by their age, and those that
    come twice by their id.
    """

    def __init__(self, kafka: KafkaConfig, config: CommandsConfig, commander: Commander, metrics: Metrics) -> None:
        """Raises ValueError for a key that is none."""
        self._kafka = kafka
        self._config = config
        self._commander = commander
        self._metrics = metrics
        self._keys = {name: Ed25519PublicKey.from_public_bytes(base64.b64decode(key)) for name, key in config.issuers.items()}
        self.trouble = Trouble(metrics, "commands", log, f"kafka {kafka.bootstrap}, topic {config.topic}")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="barograph-commands", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join(2)

    async def take(self, value: bytes | None, signature: bytes | None) -> None:
        """One message. What it says is carried out or refused, and recorded either way."""
        try:
            command, issuer = self._opened(value or b"", signature)
            await self._commander.carry_out(command, issuer, "kafka")
        except CommandError as error:
            log.warning("a command was refused: %s", error)

    def _opened(self, value: bytes, signature: bytes | None) -> tuple[Command, str]:
        """The command and its issuer. Raises CommandError when it is not what it must be."""
        name, issuer = "", ""
        try:
            if len(value) > MAX_COMMAND:
                raise CommandError(f"it has {len(value)} bytes; expected at most {MAX_COMMAND}")
            try:
                payload = jsons.decode_strictly(value)
            except ValueError:
                raise CommandError("it is no JSON; expected an object in UTF-8") from None
            if not isinstance(payload, dict):
                raise CommandError(f"it is a JSON {type(payload).__name__}; expected an object")
            name, issuer = str(payload.get("id", ""))[:128], str(payload.get("issuer", ""))[:64]
            self._verify(issuer, value, signature)
            command = Command.read(payload)
            self._in_time(command)
        except CommandError as error:
            raise self._commander.refuse(name, issuer, "kafka", str(error)) from None
        return command, issuer

    def _verify(self, issuer: str, value: bytes, signature: bytes | None) -> None:
        key = self._keys.get(issuer)
        if key is None:
            raise CommandError(f"its issuer '{issuer}' has no key in sidecar.kafka.commands.issuers")
        if signature is None:
            raise CommandError(f"it is not signed; expected the header {SIGNATURE}")
        try:
            key.verify(base64.b64decode(signature, validate=True), value)
        except (InvalidSignature, binascii.Error, ValueError):
            raise CommandError(f"its signature is not one of {issuer}") from None

    def _in_time(self, command: Command) -> None:
        now = time.time()
        if command.issued_at is None:
            raise CommandError("it has no issued_at; expected the time at which it was made, so that it cannot be replayed")
        if now - command.issued_at > self._config.max_age_s:
            raise CommandError(f"it was issued {now - command.issued_at:.0f} s ago; expected at most {self._config.max_age_s:g}")
        if command.issued_at - now > AHEAD_S:
            raise CommandError(f"it was issued {command.issued_at - now:.0f} s in the future; expected at most {AHEAD_S:g}")

    def _run(self) -> None:
        while not self._stop.is_set():
            consumer: Any = None
            try:
                consumer = self._connect()
                self._read(consumer)
            except (KafkaError, OSError, AssertionError, ValueError) as error:
                self._metrics.command_errors.inc()
                self.trouble.is_that(f"{REASONS.of(error)}; it is tried again")
                self._stop.wait(RETRY_S)
            finally:
                if consumer is not None:
                    consumer.close()

    def _connect(self) -> Any:
        return KafkaConsumer(
            enable_auto_commit=False, group_id=None, auto_offset_reset="latest", max_partition_fetch_bytes=4 << 20,
            **{**connection(self._kafka), "client_id": "barograph-commands"},
        )  # fmt: skip

    def _read(self, consumer: Any) -> None:
        """Read all partitions of the topic, those that come later too, until told to stop."""
        known: set[int] = set()
        looked = 0.0
        while not self._stop.is_set():
            if time.monotonic() - looked > (ASIDE_S if known else RETRY_S):
                looked = time.monotonic()
                present = consumer.partitions_for_topic(self._config.topic) or set()
                if fresh := set(present) - known:
                    self._assign(consumer, known | fresh, fresh)
                    known |= fresh
            if not known:
                self._stop.wait(RETRY_S)
                continue
            self.trouble.is_over()
            for records in consumer.poll(timeout_ms=POLL_MS, max_records=64).values():
                for record in records:
                    self._hand_over(record.value, dict(record.headers or ()).get(SIGNATURE))

    def _assign(self, consumer: Any, all_: set[int], fresh: set[int]) -> None:
        topic = self._config.topic
        at = {partition: consumer.position(TopicPartition(topic, partition)) for partition in all_ - fresh}
        consumer.assign([TopicPartition(topic, partition) for partition in sorted(all_)])
        since = int((time.time() - self._config.max_age_s) * 1000)
        found = consumer.offsets_for_times({TopicPartition(topic, partition): since for partition in fresh})
        for partition in fresh:
            place = found.get(TopicPartition(topic, partition))
            if place is not None:
                consumer.seek(TopicPartition(topic, partition), place.offset)
            else:
                consumer.seek_to_end(TopicPartition(topic, partition))
        for partition, offset in at.items():
            consumer.seek(TopicPartition(topic, partition), offset)

    def _hand_over(self, value: bytes | None, signature: bytes | None) -> None:
        """Wait until it is carried out, so that a flood waits in Kafka and not here."""
        assert self._loop is not None
        try:
            asyncio.run_coroutine_threadsafe(self.take(value, signature), self._loop).result(timeout=60)
        except (RuntimeError, TimeoutError) as error:
            log.error("a command was not carried out: %s", type(error).__name__)


def sign(key: Any, command: dict[str, Any]) -> tuple[bytes, list[tuple[str, bytes]]]:
    """A message's value and headers: the command as JSON, and `key`'s (an Ed25519PrivateKey) signature of these very bytes."""
    value = json.dumps(command).encode()
    return value, [(SIGNATURE, base64.b64encode(key.sign(value)))]
