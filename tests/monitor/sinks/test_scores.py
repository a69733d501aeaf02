"""The scores of every token to Kafka: what is sent, what is dropped, and that each token is one or the other."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kafka.errors import KafkaTimeoutError
from prometheus_client import CollectorRegistry

from monitor.config import KafkaConfig, ScoresConfig
from monitor.sinks import scores as module
from monitor.sinks.prometheus import Metrics
from monitor.sinks.scores import ScoreFeed
from probes.bank import Bank
from probes.drift import Drift
from tests.stack import eventually, free_port

PROBES = ("calm", "panic")


@dataclass
class Future:
    """Of a broker that a test plays: it answers when the test says so."""

    done: list[Any] = field(default_factory=list)
    failed: list[Any] = field(default_factory=list)

    def add_callback(self, call: Any) -> None:
        self.done.append(call)

    def add_errback(self, call: Any) -> None:
        self.failed.append(call)


class Producer:
    """Keeps what it is given, and answers at once; `fails` from some message on."""

    def __init__(self, fails: int | None = None, silent: bool = False) -> None:
        self.sent: list[dict[str, Any]] = []
        self.keys: list[str] = []
        self._fails, self._silent = fails, silent

    def send(self, topic: str, value: bytes, key: bytes, headers: Any) -> Any:
        if self._fails is not None and len(self.sent) >= self._fails:
            raise KafkaTimeoutError("full")
        self.sent.append(json.loads(value))
        self.keys.append(key.decode())
        producer = self

        class Answered(Future):
            def add_callback(self, call: Any) -> None:
                if not producer._silent:
                    call(None)

        return Answered()


def feed(bank: Bank, form: str = "arrays", waiting: int = 1000) -> tuple[ScoreFeed, CollectorRegistry]:
    registry = CollectorRegistry()
    config = KafkaConfig(bootstrap=f"127.0.0.1:{free_port()}")
    each = ScoresConfig(form=form, waiting=waiting, every_s=0.05)  # type: ignore[arg-type]
    return ScoreFeed(config, each, PROBES, "example.com/log", Metrics(registry, bank.names, Drift(bank, 100))), registry


def began(slot: int, name: str) -> Any:
    return SimpleNamespace(slot=slot, name=name, grade="activations", about={"model": "m", "tenant": "acme"})


def frame(rows: list[tuple[int, int]], new: tuple[Any, ...] = ()) -> Any:
    """rows: (slot, position); the score of a token says where it comes from."""
    slots, positions = (np.array([row[i] for row in rows], np.int64) for i in (0, 1))
    return SimpleNamespace(
        began=list(new), slots=slots, positions=positions, scores=np.stack([slots, positions], 1).astype(np.float32).reshape(-1, 2)
    )


def value(registry: CollectorRegistry, name: str) -> float:
    return registry.get_sample_value(f"barograph_{name}_total") or 0.0


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 40), st.booleans()), max_size=60), st.sampled_from(["arrays", "tokens"]), st.integers(1, 50))
def test_each_token_is_sent_once_in_order_however_slots_are_reused(
    bank: Bank, steps: list[tuple[int, bool]], form: str, every: int
) -> None:
    following, registry = feed(bank, form)
    producer = Producer()
    running: dict[int, tuple[str, int]] = {}
    wanted: dict[str, list[int]] = {}
    for number, (slot, anew) in enumerate(steps):
        new: tuple[Any, ...] = ()
        if anew or slot not in running:
            running[slot] = (f"s{number}#0", 0)
            new = (began(slot, running[slot][0]),)
        name, position = running[slot]
        following.follow(frame([(slot, position)], new))
        wanted.setdefault(name, []).append(position)
        running[slot] = (name, position + 1)
        if number % every == 0:
            following._flush(producer)
    following._flush(producer)
    found: dict[str, list[int]] = {}
    for message, key in zip(producer.sent, producer.keys, strict=True):
        assert (message["stream"], message["tenant"], message["route"]) == (key, "acme", "")
        positions = message["positions"] if form == "arrays" else [message["position"]]
        assert np.atleast_1d(message["scores"]["panic"]).tolist() == positions
        found.setdefault(key, []).extend(positions)
    assert found == wanted
    assert value(registry, "kafka_scores") == len(steps)
    assert value(registry, "kafka_scores_dropped") == 0
    assert len(following._about) <= 42  # of the streams whose slots went to others nothing is kept


def test_what_is_no_number_is_null(bank: Bank) -> None:
    following, _ = feed(bank)
    producer = Producer()
    judged = frame([(0, 0)], (began(0, "a#0"),))
    judged.scores[0] = (np.nan, np.inf)
    following.follow(judged)
    following._flush(producer)
    assert producer.sent[0]["scores"] == {"calm": [None], "panic": [None]}


@pytest.mark.parametrize(("producer", "sent"), [(Producer(fails=2), 2), (Producer(silent=True), 0)])
def test_what_a_broker_does_not_take_is_counted(bank: Bank, producer: Producer, sent: int) -> None:
    """It refuses from the third message on, or never answers: each token is sent, waits, or is dropped."""
    following, registry = feed(bank, waiting=100)
    streams = 300
    following.follow(frame([(slot, 0) for slot in range(streams)], tuple(began(slot, f"s{slot}#0") for slot in range(streams))))
    try:
        following._flush(producer)
    except KafkaTimeoutError:
        assert sent
    assert value(registry, "kafka_scores") == sent
    assert value(registry, "kafka_scores_dropped") == streams - len(producer.sent)
    assert len(producer.sent) == (sent or 100)


def test_rows_that_wait_are_bounded(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 20)
    following, registry = feed(bank)
    for position in range(25):
        following.follow(frame([(0, position)], (began(0, "a#0"),) if position == 0 else ()))
    producer = Producer()
    following._flush(producer)
    assert producer.sent[0]["positions"] == list(range(10))
    assert value(registry, "kafka_scores_dropped") == 15


def test_a_broker_that_is_not_there_costs_scores_and_nothing_else(bank: Bank) -> None:
    following, registry = feed(bank)
    following.follow(frame([(0, 0), (1, 0)], (began(0, "a#0"), began(1, "b#0"))))
    following.start()
    eventually(lambda: value(registry, "kafka_scores_dropped") == 2, "they are counted")
    assert registry.get_sample_value("barograph_sink_failing", {"sink": "scores"}) == 1
    following.close(20)
    assert not following._thread.is_alive()
