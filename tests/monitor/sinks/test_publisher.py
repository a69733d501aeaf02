"""The publisher before brokers that misbehave in ways that no real one can be made to, so a test plays their part; tests/kafka has a real one."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kafka.errors import MessageSizeTooLargeError, NotLeaderForPartitionError, TopicAuthorizationFailedError
from prometheus_client import CollectorRegistry

from monitor.config import KafkaConfig
from monitor.sinks import kafka
from monitor.sinks.kafka import KafkaPublisher
from monitor.sinks.prometheus import Metrics
from probes.bank import Bank
from probes.drift import Drift
from tests import ledgers
from tests.stack import eventually

VERDICTS, AUDIT = "barograph.verdicts", "barograph.audit"
Rule = Callable[[str], Exception | None]  # what a topic answers


class Played:
    """A producer whose broker answers by rule."""

    def __init__(self, rule: Rule, broken: bool = False) -> None:
        self.rule, self.broken, self.sent = rule, broken, 0

    def send(self, topic: str, **_: Any) -> Any:
        error = self.rule(topic)
        self.sent += error is None

        class Answer:
            def get(self, timeout: float) -> None:
                if error is not None:
                    raise error

        return Answer()

    def close(self, timeout: float) -> None:
        if self.broken:
            raise RuntimeError("cannot be closed")


class Play:
    def __init__(self, folder: Path, bank: Bank, producer: Played, **config: Any) -> None:
        self.ledger = ledgers.ledger(folder / "ledger")
        self.metrics = Metrics(CollectorRegistry(), bank.names, Drift(bank, 100))
        self.publisher = KafkaPublisher(KafkaConfig(bootstrap="127.0.0.1:9", **config), self.ledger, self.metrics)
        self.publisher._connect = lambda: producer  # type: ignore[method-assign]

    def verdicts(self, number: int) -> None:
        for _ in range(number):
            self.ledger.append("verdict", event="fired", stream="s#0", rule="r")
        assert self.ledger.flush()

    def sample(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(f"barograph_{name}", labels) or 0.0

    def named(self) -> list[int]:
        records = ledgers.records(self.ledger.path, self.ledger)
        return [number for each in records if each["kind"] == "publish" for number in each.get("records", ())]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka, "RETRY_S", 0.02)


def test_a_topic_that_takes_nothing_is_one_line_and_health_names_it(tmp_path: Path, bank: Bank, caplog: pytest.LogCaptureFixture) -> None:
    allowed = []
    play = Play(tmp_path, bank, Played(lambda topic: None if allowed else TopicAuthorizationFailedError(topic)))
    play.verdicts(2000)
    with caplog.at_level(logging.INFO, "barograph.kafka"):
        play.publisher.start()
        eventually(
            lambda: play.sample("kafka_refused_total", topic=VERDICTS, reason="TopicAuthorizationFailedError") == 2000,
            "all are set aside",
            30,
        )
        assert "barograph.verdicts refuses" in play.metrics.troubles["kafka_topics"]()
        assert play.sample("sink_failing", sink="kafka_topics") == 1
        allowed.append(True)
        play.verdicts(1)
        play.publisher.notify()
        eventually(lambda: not play.metrics.troubles["kafka_topics"](), "it takes records again")
        play.publisher.close()
    assert len([line for line in caplog.messages if "refuses" in line]) == 1
    assert play.named() == list(range(2000))
    assert len(ledgers.records(play.ledger.path, play.ledger)) < 2020  # named together, so that refusals fill no ledger


def test_what_was_set_aside_is_not_set_aside_again_when_the_rest_is_tried_once_more(tmp_path: Path, bank: Bank) -> None:
    tries: list[int] = []

    def rule(topic: str) -> Exception | None:
        if topic == VERDICTS:
            return MessageSizeTooLargeError(topic)
        tries.append(1)
        return NotLeaderForPartitionError(topic) if len(tries) < 20 else None

    play = Play(tmp_path, bank, Played(rule), audit_topic=AUDIT)
    play.verdicts(1)
    play.publisher.start()
    eventually(lambda: play.publisher.position == play.ledger.kept > 1, "all is through")
    play.publisher.close()
    assert len(tries) >= 20
    assert play.sample("kafka_refused_total", topic=VERDICTS, reason="MessageSizeTooLargeError") == 1
    assert play.named() == [0]


def test_a_producer_that_cannot_even_be_closed_ends_no_thread(tmp_path: Path, bank: Bank) -> None:
    play = Play(tmp_path, bank, Played(NotLeaderForPartitionError, broken=True))
    play.verdicts(1)
    play.publisher.start()
    eventually(lambda: play.sample("kafka_errors_total") >= 5, "it is tried again and again")
    assert play.publisher._thread.is_alive()
    play.publisher.close()


def test_what_was_purged_before_it_was_published_is_named(tmp_path: Path, bank: Bank, caplog: pytest.LogCaptureFixture) -> None:
    producer = Played(lambda topic: None)
    play = Play(tmp_path, bank, producer)
    play.verdicts(700)
    play.ledger.seal()
    (play.ledger.path / "tile" / "entries" / "000").unlink()  # as a purge of the oldest bundle does
    play.publisher.start()
    eventually(lambda: producer.sent == 700 - 256, "the rest is sent")
    eventually(
        lambda: [each for each in ledgers.records(play.ledger.path, play.ledger) if each.get("event") == "purged"], "it is recorded", 30
    )
    play.publisher.close()
    assert "records 0 to 255 were purged before they were published" in caplog.text
    assert play.sample("kafka_refused_total", topic=VERDICTS, reason="Purged") == 256
