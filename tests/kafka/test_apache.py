"""Verdicts to a real Apache Kafka: passwords, TLS, permissions, limits."""

from __future__ import annotations

import base64
import json
import shutil
from pathlib import Path

import pytest
from kafka.admin import ScramMechanism, UserScramCredentialUpsertion

from monitor.config import CommandsConfig
from tests.kafka.authority import Authority
from tests.kafka.broker import RECORD, USERS
from tests.kafka.publication import Publication
from tests.stack import eventually

ISSUERS = {"somebody": base64.b64encode(bytes(32)).decode()}


def test_verdicts_arrive_with_their_keys_and_headers(publication: Publication) -> None:
    publication.broker.create("barograph.whole", partitions=3)
    publication.start(topic="barograph.whole")
    numbers = [publication.verdict(turn, f"s{turn % 5}#0") for turn in range(100)]
    publication.all_sent()
    found = publication.read("barograph.whole", 100)
    assert sorted(json.loads(message.value)["turn"] for message in found) == list(range(100))
    for message in found:
        record, headers = json.loads(message.value), dict(message.headers)
        assert message.key.decode() == record["stream"]
        assert record["seq"] == numbers[record["turn"]]
        assert headers["ce_id"].decode() == f"example.com/barograph/{record['seq']}"
        assert {name: headers[name] for name in ("ce_type", "ce_specversion", "content-type")} == {
            "ce_type": b"barograph.verdict.fired", "ce_specversion": b"1.0", "content-type": b"application/json",
        }  # fmt: skip
    assert len({(message.key, message.partition) for message in found}) == 5  # a stream stays in its partition, and so in order
    assert publication.sample("published_total") == 100
    assert publication.sample("waiting") == 0


def test_a_wrong_password_loses_nothing(publication: Publication) -> None:
    """It was changed at the broker, and is changed back."""
    broker = publication.broker

    def password(said: str) -> None:
        with broker.owner() as admin:
            admin.alter_user_scram_credentials([UserScramCredentialUpsertion("barograph", ScramMechanism.SCRAM_SHA_512, said)])

    broker.create("barograph.password")
    password("another")
    try:
        publication.start(topic="barograph.password")
        for turn in range(3):
            publication.verdict(turn)
        eventually(lambda: "SaslAuthenticationFailedError" in publication.publisher.trouble.now, "the reason is said", 90)
        assert publication.sample("errors_total") >= 1
        assert publication.sample("waiting") >= 3
    finally:
        password(USERS["barograph"])
    publication.all_sent()
    assert publication.turns("barograph.password") == [0, 1, 2]
    assert publication.refused() == {}
    assert publication.set_aside() == []


def test_a_wrong_authority_loses_nothing_and_is_mended_in_place(publication: Publication, tmp_path: Path) -> None:
    publication.broker.create("barograph.authority")
    trusted = Authority(tmp_path, "stranger").file
    publication.start(topic="barograph.authority", ca_file=trusted)
    publication.verdict(0)
    eventually(lambda: publication.sample("errors_total") >= 1, "the publisher noticed")
    eventually(lambda: "certificate verify failed" in publication.publisher.trouble.now, "the reason is said", 90)
    shutil.copy(publication.broker.authority.file, trusted)
    publication.all_sent()
    assert publication.turns("barograph.authority") == [0]


def test_a_broker_under_a_name_that_it_cannot_prove_gets_nothing(publication: Publication, caplog: pytest.LogCaptureFixture) -> None:
    publication.broker.create("barograph.name")
    publication.start(topic="barograph.name", bootstrap=publication.broker.secure.replace("127.0.0.1", "localhost"))
    publication.verdict(0)
    eventually(lambda: publication.sample("errors_total") >= 2, "the publisher noticed")
    eventually(lambda: "not valid for 'localhost'" in publication.publisher.trouble.now, "the reason is said", 90)
    lines = [record for record in caplog.records if record.name == "barograph.kafka" and "nothing is lost" in record.getMessage()]
    assert len(lines) == 1
    assert publication.read("barograph.name") == []
    publication.publisher.close(timeout=30)
    publication.start(topic="barograph.name")
    publication.all_sent()
    assert publication.turns("barograph.name") == [0]


@pytest.mark.parametrize("limit", [RECORD, 4000])
def test_what_is_too_large_is_set_aside_alone(publication: Publication, limit: int) -> None:
    """Those behind it arrive, and small ones whose batch is too large for the topic, all in their order."""
    topic = f"barograph.size{limit}"
    publication.broker.create(topic, **({} if limit == RECORD else {"max.message.bytes": str(limit)}))
    for turn in range(200):
        publication.verdict(turn, filler="x" * 400)
    large = [publication.verdict(200 + i, filler="x" * size) for i, size in enumerate((limit + 2000, 50_000))]
    for turn in range(202, 300):
        publication.verdict(turn)
    publication.start(topic=topic)
    publication.all_sent()
    assert publication.turns(topic) == [turn for turn in range(300) if turn not in (200, 201)]
    assert publication.refused() == {(topic, "MessageSizeTooLargeError"): 2}
    assert [(number, each["topic"]) for each in publication.set_aside() for number in each["records"]] == [
        (number, topic) for number in large
    ]


def test_a_topic_without_permission_holds_up_no_other(publication: Publication) -> None:
    publication.broker.create("barograph.allowed", "forbidden")
    denied = []
    for turn in range(30):
        publication.verdict(turn)
        if turn % 10 == 0:
            denied.append(publication.ledger.append("command", event="done", turn=turn))
    publication.start(
        topic="barograph.allowed", checkpoints_topic="forbidden", commands=CommandsConfig(outcomes_topic="forbidden", issuers=ISSUERS)
    )
    publication.all_sent()
    publication.ledger.seal()
    publication.verdict(30)
    publication.all_sent()
    assert publication.turns("barograph.allowed") == list(range(31))
    assert publication.read("forbidden") == []
    assert [number for each in publication.set_aside() for number in each["records"]] == denied
    eventually(
        lambda: publication.refused()[("forbidden", "TopicAuthorizationFailedError")] > len(denied), "the checkpoint is refused too", 60
    )
    assert publication.sample("errors_total") == 0


def test_an_audit_topic_that_refuses_is_no_loop(publication: Publication) -> None:
    """Records that name refusals go to it too."""
    publication.broker.create("barograph.round", "forbidden.audit")
    numbers = [publication.verdict(turn) for turn in range(3)]
    publication.start(topic="barograph.round", audit_topic="forbidden.audit")
    publication.all_sent()
    assert publication.turns("barograph.round") == [0, 1, 2]
    assert [number for each in publication.set_aside() for number in each["records"]] == numbers
    publication.all_sent()
    named = len(publication.set_aside())  # one for those that were refused together
    assert publication.refused() == {("forbidden.audit", "TopicAuthorizationFailedError"): 3 + named}
    publication.all_sent()
    assert len(publication.set_aside()) == named


def test_a_topic_that_is_deleted_under_way_holds_up_no_other(publication: Publication) -> None:
    broker = publication.broker
    broker.create("barograph.stays", "barograph.goes")
    publication.start(topic="barograph.stays", commands=CommandsConfig(outcomes_topic="barograph.goes", issuers=ISSUERS))

    def both(turns: range) -> list[int]:
        """The numbers of the commands."""
        numbers = []
        for turn in turns:
            numbers.append(publication.ledger.append("command", event="done", turn=turn))
            publication.verdict(turn)
        return numbers

    both(range(20))
    publication.all_sent()
    assert publication.turns("barograph.goes") == list(range(20))
    with broker.owner() as admin:
        admin.delete_topics(["barograph.goes"])
    lost = both(range(20, 60))
    publication.all_sent()
    assert publication.turns("barograph.stays") == list(range(60))
    assert sorted(number for each in publication.set_aside() for number in each["records"]) == lost
    assert sum(publication.refused().values()) == len(lost)
    broker.create("barograph.goes")

    def again() -> bool:
        """It is asked for again after a while; until then what comes is set aside as before."""
        both(range(60, 61))
        publication.all_sent()
        return 60 in publication.turns("barograph.goes")

    eventually(again, "the topic is found again", 90)
