"""Topics made by the command's code, and every token's scores, on a real Apache Kafka."""

from __future__ import annotations

import json

import pytest
from kafka.admin import ConfigResource, ConfigResourceType

from monitor.config import KafkaConfig, ScoresConfig
from monitor.sinks.scores import ScoreFeed
from monitor.sinks.topics import TopicError, create
from tests.kafka.publication import Publication
from tests.monitor.sinks.test_scores import PROBES, began, frame
from tests.stack import eventually


def test_topics_are_made_by_whoever_may_and_a_second_time_nothing_is(publication: Publication) -> None:
    wanted = {"topic": "barograph.made", "audit_topic": "barograph.made.audit", "scores": ScoresConfig(topic="barograph.made.scores")}
    with pytest.raises(TopicError, match="AuthorizationFailed"):
        create(publication.config(**wanted), 3, 1)  # the sidecar's own user
    owner = KafkaConfig(bootstrap=publication.broker.plain, **wanted)
    assert set(create(owner, 3, 1).values()) == {"made"}
    assert set(create(owner, 3, 1).values()) == {"was there"}
    with publication.broker.owner() as admin:
        about = {topic["name"]: topic for topic in admin.describe_topics(["barograph.made", "barograph.made.scores"])}
        assert {name: len(topic["partitions"]) for name, topic in about.items()} == {"barograph.made": 3, "barograph.made.scores": 3}
        (settings,) = admin.describe_configs(
            [ConfigResource(ConfigResourceType.TOPIC, "barograph.made.scores", {"retention.ms": None})]
        ).values()
    assert "86400000" in str(settings)
    with pytest.raises(TopicError, match="InvalidReplicationFactor"):
        create(KafkaConfig(bootstrap=publication.broker.plain, topic="barograph.many"), 3, 3)


def test_scores_of_every_token_arrive_in_order_over_tls(publication: Publication) -> None:
    publication.broker.create("barograph.scores", partitions=3)
    scores = ScoresConfig(every_s=0.1)
    feed = ScoreFeed(publication.config(scores=scores), scores, PROBES, "example.com/barograph", publication._metrics)
    feed.start()
    try:
        for position in range(200):
            new = tuple(began(slot, f"s{slot}#0") for slot in range(5)) if position == 0 else ()
            feed.follow(frame([(slot, position) for slot in range(5)], new))
        eventually(lambda: publication.sample("scores_total") == 1000, "the broker has all")
    finally:
        feed.close(20)
    found: dict[str, list[int]] = {}
    for message in publication.read("barograph.scores", 5):
        found.setdefault(message.key.decode(), []).extend(json.loads(message.value)["positions"])
    assert found == {f"s{slot}#0": list(range(200)) for slot in range(5)}
    assert publication.sample("scores_dropped_total") == 0


def test_scores_that_may_not_be_written_are_counted_and_named(publication: Publication) -> None:
    publication.broker.create("forbidden.scores")
    scores = ScoresConfig(topic="forbidden.scores", every_s=0.1)
    feed = ScoreFeed(publication.config(scores=scores), scores, PROBES, "example.com/barograph", publication._metrics)
    feed.start()
    try:
        feed.follow(frame([(0, 0), (0, 1)], (began(0, "a#0"),)))
        eventually(lambda: publication.sample("scores_dropped_total") == 2, "they are counted")
        assert "TopicAuthorizationFailed" in feed.trouble.now
    finally:
        feed.close(20)
