"""The topics that a configuration names, the way to their broker, and how they are made."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

from kafka.admin import KafkaAdminClient
from kafka.errors import KafkaError, TopicAlreadyExistsError

from monitor.config import KafkaConfig
from monitor.errors import BarographError
from monitor.sinks.reasons import REASONS

PASSWORD, KEY_PASSWORD = "BAROGRAPH_KAFKA_PASSWORD", "BAROGRAPH_KAFKA_KEY_PASSWORD"
DAY_MS = 24 * 3600 * 1000
KEPT_DAYS = {
    "scores": 1,
    "commands": 1,
    "verdicts": 30,
    "outcomes": 30,
    "audit": 184,
    "checkpoints": 184,
}  # six months is what the EU asks of logs


class TopicError(BarographError):
    """Topics that could not be made."""


@dataclass(frozen=True)
class Topic:
    """`use`: what it is for, a key of KEPT_DAYS."""

    name: str
    use: str
    settings: dict[str, str] = field(default_factory=dict)


def connection(config: KafkaConfig) -> dict[str, Any]:
    """What every client of the broker is made with."""
    made: dict[str, Any] = {
        "bootstrap_servers": config.bootstrap.split(","),
        "security_protocol": config.security,
        "client_id": "barograph",
    }
    if config.username is not None:
        made |= {
            "sasl_mechanism": config.mechanism, "sasl_plain_username": config.username, "sasl_plain_password": os.environ.get(PASSWORD, ""),
        }  # fmt: skip
    files = {"ssl_cafile": config.ca_file, "ssl_certfile": config.cert_file, "ssl_keyfile": config.key_file}
    made |= {name: str(file) for name, file in files.items() if file is not None}
    if config.key_file is not None and (password := os.environ.get(KEY_PASSWORD)):
        made["ssl_password"] = password
    return made


def topics(config: KafkaConfig) -> list[Topic]:
    """Those that the configuration uses."""
    named = {"verdicts": config.topic, "audit": config.audit_topic, "checkpoints": config.checkpoints_topic}
    named["scores"] = config.scores.topic if config.scores is not None else None
    if config.commands is not None:
        named |= {"commands": config.commands.topic, "outcomes": config.commands.outcomes_topic}
    uses: dict[str, str] = {}  # one topic may serve several uses; then the longest keeps it
    for use, name in named.items():
        if name is not None and KEPT_DAYS[use] > KEPT_DAYS.get(uses.get(name, ""), 0):
            uses[name] = use
    return [Topic(name, use, {"retention.ms": str(KEPT_DAYS[use] * DAY_MS)}) for name, use in uses.items()]


def create(config: KafkaConfig, partitions: int, replicas: int) -> dict[str, str]:
    """Make those that are not there: 'made' or 'was there' by name. Commands have one partition, so that they have one order. Raises TopicError."""
    found: dict[str, str] = {}
    try:
        admin = KafkaAdminClient(bootstrap_timeout_ms=10_000, request_timeout_ms=15_000, **connection(config))
        try:
            known = set(admin.list_topics())
            for topic in topics(config):
                number = 1 if topic.use in ("commands", "outcomes", "checkpoints") else partitions
                found[topic.name] = "was there" if topic.name in known else _made(admin, topic, number, replicas)
        finally:
            admin.close()
    except (KafkaError, OSError, ValueError) as error:
        done = f"; made before that: {', '.join(name for name, how in found.items() if how == 'made')}" if "made" in found.values() else ""
        raise TopicError(f"kafka {config.bootstrap}: {REASONS.of(error)}{done}") from None
    return found


def _made(admin: Any, topic: Topic, partitions: int, replicas: int) -> str:
    try:
        admin.create_topics({topic.name: {"num_partitions": partitions, "replication_factor": replicas, "configs": topic.settings}})
    except TopicAlreadyExistsError:  # somebody else was quicker
        return "was there"
    return "made"
