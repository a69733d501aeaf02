"""Verdicts to a real broker that speaks Kafka's protocol."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import jsonschema
import pytest
from kafka import KafkaProducer

from deploy.events import FOLDER
from probes.bank import Bank
from tests import ledgers
from tests.stack import Stack, eventually, free_port
from tests.tansu import AUDIT, CHECKPOINTS, SCORES, TOPIC, broker, consume, consume_raw, consume_whole

RULES = "rules:\n- {rule: each, desc: d, when: calm.last > -99, do: alert, mode: armed}\n"


def test_verdicts_reach_kafka_and_wait_while_it_is_away(tmp_path: Path) -> None:
    port = free_port()
    with Stack(tmp_path, {"sidecar": {"kafka": {"bootstrap": f"127.0.0.1:{port}"}}}, RULES) as stack:
        # The broker is away: the verdict waits in the ledger, and nobody else waits.
        started = time.monotonic()
        assert stack.chat(max_tokens=4).status_code == 200
        assert time.monotonic() - started < 10
        eventually(lambda: stack.metric("barograph_kafka_errors_total") >= 1, "the publisher noticed")
        with broker(port, tmp_path / "broker.log") as address:
            assert stack.chat(max_tokens=4).status_code == 200
            eventually(lambda: stack.metric("barograph_kafka_published_total") == 2, "both are published")
            published = consume(address, 2)
    recorded = stack.ledger("verdict")
    assert len(recorded) == 2
    assert published == recorded


@pytest.mark.skipif(sys.platform != "linux", reason="the broker is a Linux binary")
def test_every_topic_holds_what_its_schema_says(tmp_path: Path) -> None:
    """Scores of every judged token, verdicts, and the whole ledger, of a real reply; topics made by the command."""
    port = free_port()
    kafka = {"bootstrap": f"127.0.0.1:{port}", "audit_topic": AUDIT, "scores": {"every_s": 0.2}}
    with broker(port, tmp_path / "broker.log") as address, Stack(tmp_path, {"sidecar": {"kafka": kafka}}, RULES) as stack:
        made = subprocess.run(
            [sys.executable, "-m", "monitor", "topics", "create", "--config", stack.config_path], capture_output=True, text=True, check=True
        )
        assert f"{SCORES}: was there" in made.stdout
        assert stack.chat(max_tokens=24).status_code == 200
        eventually(
            lambda: stack.metric("barograph_kafka_scores_total") == stack.metric("barograph_tokens_judged_total") > 0, "all is sent", 60
        )
        eventually(lambda: stack.ledger("reply"), "the reply is recorded")
        eventually(
            lambda: stack.metric("barograph_kafka_waiting") == 0 and stack.metric("barograph_kafka_published_total") > 5,
            "all is published",
            60,
        )
        scores, verdicts = consume_whole(address, 1, topic=SCORES), consume(address, 1)
        audit = consume(address, 5, topic=AUDIT)
        assert stack.metric("barograph_kafka_scores_dropped_total") == 0
    held = [json.loads(message.value) for message in scores]
    for kind, messages in (("scores", held), ("verdicts", verdicts), ("audit", audit)):
        schema = json.loads((FOLDER / f"{kind}.schema.json").read_text())
        for message in messages:
            jsonschema.validate(message, schema)
    (end,) = [each for each in audit if each["kind"] == "stream" and each["event"] == "end"]
    assert [position for each in held for position in each["positions"]] == list(range(end["tokens"]))
    assert {len(values) for each in held for values in each["scores"].values()} == {len(each["positions"]) for each in held}
    peak = max(value for each in held for value in each["scores"]["calm"])
    assert peak == pytest.approx(end["peak"]["calm"], abs=1e-3)
    assert {message.key.decode() for message in scores} == {end["stream"]}
    assert [record["seq"] for record in audit] == list(range(len(audit)))
    assert dict(scores[0].headers)["ce_type"] == b"barograph.scores"


@pytest.mark.skipif(sys.platform != "linux", reason="the broker is a Linux binary")
def test_a_restart_goes_on_where_it_was(tmp_path: Path, bank: Bank) -> None:
    """The mark beside the ledger: a second publisher sends only what came since."""
    from prometheus_client import CollectorRegistry

    from monitor.config import KafkaConfig
    from monitor.sinks.kafka import KafkaPublisher
    from monitor.sinks.prometheus import Metrics
    from probes.drift import Drift

    ledger = ledgers.ledger(tmp_path / "ledger")
    with broker(free_port(), tmp_path / "broker.log") as address:
        for turn in range(2):
            ledger.append("verdict", stream="s#0", turn=turn)
            ledger.append("stream", event="begin")
            assert ledger.flush()
            publisher = KafkaPublisher(KafkaConfig(bootstrap=address), ledger, Metrics(CollectorRegistry(), bank.names, Drift(bank, 100)))
            publisher.start()
            publisher.close(timeout=20)
        assert [record["turn"] for record in consume(address, 2)] == [0, 1]


@pytest.mark.skipif(sys.platform != "linux", reason="the broker is a Linux binary")
def test_a_record_that_is_refused_for_good_is_set_aside(tmp_path: Path, bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those behind it go on; the metric counts it, and the ledger names it and still has it."""
    from prometheus_client import CollectorRegistry

    from monitor.config import KafkaConfig
    from monitor.sinks import kafka
    from monitor.sinks.prometheus import Metrics
    from probes.drift import Drift

    monkeypatch.setattr(kafka, "KafkaProducer", lambda **more: KafkaProducer(max_request_size=3000, **more))
    ledger, registry = ledgers.ledger(tmp_path / "ledger"), CollectorRegistry()
    for turn, size in enumerate((10, 5000, 20)):
        ledger.append("verdict", event="fired", stream=f"s{turn}#0", filler="x" * size)
    assert ledger.flush()
    with broker(free_port(), tmp_path / "broker.log") as address:
        publisher = kafka.KafkaPublisher(KafkaConfig(bootstrap=address), ledger, Metrics(registry, bank.names, Drift(bank, 100)))
        publisher.start()
        publisher.close(timeout=20)
        assert [record["stream"] for record in consume(address, 2)] == ["s0#0", "s2#0"]
        headers = dict(consume_whole(address, 1)[0].headers)
    assert headers["ce_id"] == b"example.com/barograph/0"
    assert headers["ce_type"] == b"barograph.verdict.fired"
    assert (headers["ce_specversion"], headers["ce_subject"], headers["content-type"]) == (b"1.0", b"s0#0", b"application/json")
    assert registry.get_sample_value("barograph_kafka_refused_total", {"topic": TOPIC, "reason": "MessageSizeTooLargeError"}) == 1
    (named,) = [each for each in ledgers.records(ledger.path, ledger) if each["kind"] == "publish"]
    assert (named["records"], named["topic"]) == ([1], TOPIC)


@pytest.mark.skipif(sys.platform != "linux", reason="the broker is a Linux binary")
@pytest.mark.parametrize("what", ["empty", "damaged", "of another ledger", "of more than there is"])
def test_a_place_that_is_not_of_this_ledger_starts_over(tmp_path: Path, bank: Bank, what: str) -> None:
    """A ledger that was moved away, cut, or put back from a copy: every verdict arrives."""
    from prometheus_client import CollectorRegistry

    from monitor.config import KafkaConfig
    from monitor.sinks.kafka import KafkaPublisher
    from monitor.sinks.prometheus import Metrics
    from probes.drift import Drift

    ledger = ledgers.ledger(tmp_path / "ledger")
    for turn in range(3):
        ledger.append("verdict", stream="s#0", turn=turn)
    assert ledger.flush()
    said = {
        "empty": "",
        "damaged": '{"records": ',
        "of another ledger": '{"records": 2, "last": "00"}',
        "of more than there is": '{"records": 99, "last": "00"}',
    }
    (tmp_path / "ledger.kafka").write_text(said[what])
    with broker(free_port(), tmp_path / "broker.log") as address:
        publisher = KafkaPublisher(KafkaConfig(bootstrap=address), ledger, Metrics(CollectorRegistry(), bank.names, Drift(bank, 100)))
        publisher.start()
        publisher.close(timeout=20)
        assert [record["turn"] for record in consume(address, 3)] == [0, 1, 2]
    assert json.loads((tmp_path / "ledger.kafka").read_text())["records"] == 3


@pytest.mark.skipif(sys.platform != "linux", reason="the broker is a Linux binary")
def test_checkpoints_are_kept_where_the_ledgers_keeper_has_no_hand(tmp_path: Path, bank: Bank) -> None:
    """A ledger that was rolled back does not go on from what the topic has."""
    from prometheus_client import CollectorRegistry

    from monitor.audit import verifier
    from monitor.config import KafkaConfig
    from monitor.sinks.kafka import KafkaPublisher
    from monitor.sinks.prometheus import Metrics
    from probes.drift import Drift

    ledger = ledgers.ledger(tmp_path / "ledger")
    with broker(free_port(), tmp_path / "broker.log") as address:
        config = KafkaConfig(bootstrap=address, checkpoints_topic=CHECKPOINTS)
        publisher = KafkaPublisher(config, ledger, Metrics(CollectorRegistry(), bank.names, Drift(bank, 100)))
        publisher.start()
        for turn in range(3):
            ledger.append("x", turn=turn)
            ledger.seal()
            eventually(lambda turn=turn: publisher._told == turn + 1, "the broker has it")
        publisher.close(timeout=20)
        kept = consume_raw(address, 3, topic=CHECKPOINTS)
    key = verifier.Key.read(ledgers.SIGNER.key.vkey)
    assert [note.split(b"\n")[1] for note in kept] == [b"1", b"2", b"3"]
    assert verifier.verify(ledger.path, [key], since=kept).problems == []
    other = ledgers.ledger(tmp_path / "other")
    other.append("x", turn=0)
    other.seal()
    assert "rolled back" in " ".join(verifier.verify(other.path, [key], since=kept).problems)


@pytest.mark.skipif(sys.platform != "linux", reason="the broker is a Linux binary")
def test_recorded_scores_come_back_from_a_topic(tmp_path: Path, bank: Bank) -> None:
    import numpy as np
    from prometheus_client import CollectorRegistry

    from monitor.audit.levels import Level
    from monitor.audit.recordings import RecordingError, recordings
    from monitor.config import KafkaConfig
    from monitor.pipeline.scores import ScoreLog
    from monitor.pipeline.streams import StreamTable
    from monitor.sinks.kafka import KafkaPublisher
    from monitor.sinks.prometheus import Metrics
    from probes.drift import Drift

    ledger, table = ledgers.ledger(tmp_path / "ledger"), StreamTable(len(bank.names))
    log = ScoreLog(bank.names, table, ledger)
    scores = np.random.default_rng(0).normal(0, 2, (2, 150, len(bank.names))).astype("<f2").astype(np.float32)
    streams = [table.open((name, 0), "source", number, 0.0) for number, name in enumerate("ab")]
    for stream in streams:
        stream.level = Level.SCORES
        ledger.append("stream", event="begin", stream=stream.name, request={"tenant": "acme", "conversation": "k"})
    slots = np.array([stream.slot for stream in streams])
    for position in range(150):
        table.take(slots, np.full(2, position), scores[:, position])
        log.frame(slots, np.full(2, position))
    for stream in streams:
        log.end(stream)
    assert ledger.flush()
    with broker(free_port(), tmp_path / "broker.log") as address:
        metrics = Metrics(CollectorRegistry(), bank.names, Drift(bank, 100))
        publisher = KafkaPublisher(KafkaConfig(bootstrap=address, audit_topic=AUDIT), ledger, metrics)
        publisher.start()
        publisher.close(timeout=20)
        back = recordings(f"kafka://{address}/{AUDIT}", bank.names)
        with pytest.raises(RecordingError, match="no such topic"):
            recordings(f"kafka://{address}/nothing", bank.names)
    assert [each.stream for each in back] == ["a#0", "b#0"]
    for each, wanted in zip(back, scores, strict=True):
        assert np.array_equal(each.scores, wanted)
        assert (each.conversation, each.request["tenant"]) == ("k", "acme")
        assert len(each.times) == 150
    assert len(recordings(str(ledger.path), bank.names)) == 2


def test_a_broker_that_is_away_is_one_line_one_metric_and_doctor_names_it(tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    with Stack(tmp_path, {"sidecar": {"kafka": {"bootstrap": address, "scores": {}}}}, engine=False) as stack:
        assert stack.chat().status_code == 503  # a failure decision, for the topic of verdicts
        eventually(lambda: stack.metric("barograph_kafka_errors_total") >= 4, "it was tried several times")
        assert stack.metric('barograph_sink_failing{sink="kafka"}') == 1
        assert stack.metric("barograph_kafka_waiting") >= 1
        command = [sys.executable, "-m", "monitor", "doctor", "--config", str(stack.config_path)]
        said = subprocess.run(command, capture_output=True, text=True, timeout=60).stdout
        lines = [line for line in stack.log("sidecar").splitlines() if "kafka" in line.lower()]
    assert f"sink kafka: kafka {address}: " in said
    assert "ECONNREFUSED" in said
    assert len([line for line in lines if "nothing is lost" in line]) == 1
    assert len(lines) <= 4  # that one, one of the topic of scores, and what is said at the end
