"""What becomes of a sidecar when its broker is killed for a minute under load, and comes back: python -m benchmarks.kafka_outage

A real Apache Kafka (deploy/kafka.sh), a synthetic engine whose tokens are judged as ever, verdicts and every token's scores on the way to the broker. Said are tokens judged
a second before, during and after; verdicts lost and doubled; what waited; the sidecar's memory. Goal: none lost, the engine's speed unchanged, memory bounded.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
from kafka import KafkaConsumer, TopicPartition

from benchmarks.report import emit
from tests.kafka.broker import Broker
from tests.load import Load
from tests.stack import Stack, eventually

TOPIC, SCORES = "barograph.verdicts", "barograph.scores"
RULES = """
rules:
- {rule: each, desc: Fires in every stream., when: panic.last > -99, do: alert, mode: armed}
- {rule: often, desc: Comes and goes., when: desperation.last > 0.5, do: alert, mode: shadow}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--outage", type=float, default=60)
    parser.add_argument("--beside", type=float, default=30, help="seconds before and after")
    parser.add_argument("--clients", type=int, default=24)
    options = parser.parse_args()
    jars = subprocess.run([Path(__file__).parents[1] / "deploy" / "kafka.sh"], stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
    with tempfile.TemporaryDirectory() as folder, Broker(made(folder, "kafka"), jars) as broker:
        broker.create(TOPIC, SCORES, partitions=3)
        settings = {"sidecar": {"kafka": {"bootstrap": broker.plain, "scores": {"every_s": 0.5}}}}
        with Stack(made(folder, "stack"), settings, RULES, engine=False) as stack, Load(stack, options.clients):
            found = measure(stack, broker, options)
            verdicts = {record["seq"] for record in stack.ledger("verdict")}
        times = published(broker)
    emit(
        "kafka_outage", outage_s=options.outage, clients=options.clients, **found, verdicts=len(verdicts), lost=len(verdicts - set(times)),
        doubled=sum(times.values()) - len(times),
    )  # fmt: skip


def made(folder: str, name: str) -> Path:
    path = Path(folder) / name
    path.mkdir()
    return path


def measure(stack: Stack, broker: Broker, options: argparse.Namespace) -> dict[str, Any]:
    sidecar = psutil.Process(stack.processes["sidecar"].pid)

    def rate(seconds: float) -> float:
        """Tokens judged a second."""
        count, began = stack.metric("barograph_tokens_judged_total"), time.perf_counter()
        time.sleep(seconds)
        return (stack.metric("barograph_tokens_judged_total") - count) / (time.perf_counter() - began)

    time.sleep(5)
    before = rate(options.beside)
    memory = sidecar.memory_info().rss
    broker.kill()
    during = rate(options.outage)
    waiting, grown = stack.metric("barograph_kafka_waiting"), sidecar.memory_info().rss - memory
    broker.start()
    after = rate(options.beside)
    eventually(lambda: stack.metric("barograph_kafka_waiting") < 50, "what waited is sent", 120)
    return {
        "tokens_per_s": {"before": round(before, 1), "during": round(during, 1), "after": round(after, 1)}, "during_over_before": round(during / before, 3),
        "waiting_at_its_end": int(waiting), "grown_mib": round(grown / 2**20, 1), "scores_sent": int(stack.metric("barograph_kafka_scores_total")),
        "scores_dropped": int(stack.metric("barograph_kafka_scores_dropped_total")), "unjudged": int(stack.metric("barograph_failure_decisions_total")),
    }  # fmt: skip


def published(broker: Broker) -> Counter[int]:
    """How often each record is in the topic of verdicts."""
    consumer = KafkaConsumer(bootstrap_servers=broker.plain, enable_auto_commit=False, consumer_timeout_ms=3000)
    try:
        partitions = [TopicPartition(TOPIC, number) for number in consumer.partitions_for_topic(TOPIC)]
        consumer.assign(partitions)
        consumer.seek_to_beginning()
        records = (json.loads(message.value) for message in consumer)
        return Counter(record["seq"] for record in records if record["kind"] == "verdict")
    finally:
        consumer.close()


if __name__ == "__main__":
    main()
