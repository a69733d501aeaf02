"""The broker dies under load and comes back."""

from __future__ import annotations

import gc
import json
import os
import statistics
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.kafka.publication import Publication
from tests.stack import eventually

OUTAGE_S = float(os.environ.get("BAROGRAPH_OUTAGE_S", "20"))
EVERY_S = 0.01
BESIDE_S = 5.0  # of load before and after
TOPIC, STREAMS = "barograph.killed", 8
GROWTH = 24 << 20  # bytes that the process may grow by: two producers, what the ledger has not sealed yet


class Load(threading.Thread):
    """A verdict every few milliseconds, of several streams in turn. `took`: how long the ledger kept it, by phase."""

    def __init__(self, publication: Publication) -> None:
        super().__init__(daemon=True)
        self._publication = publication
        self.phase, self.count, self.halt = "before", 0, threading.Event()
        self.took: dict[str, list[float]] = defaultdict(list)

    def run(self) -> None:
        while not self.halt.wait(EVERY_S):
            begun = time.perf_counter()
            self._publication.verdict(self.count, f"s{self.count % STREAMS}#0", filler="x" * 300)
            self.took[self.phase].append(time.perf_counter() - begun)
            self.count += 1


def resident() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.timeout(600)
def test_no_verdict_is_lost_when_the_broker_is_killed_under_load(
    publication: Publication, capsys: pytest.CaptureFixture[str], record_property: Callable[[str, object], None]
) -> None:
    broker = publication.broker
    broker.create(TOPIC, partitions=3)
    publication.start(topic=TOPIC)
    load = Load(publication)
    load.start()
    time.sleep(BESIDE_S)
    eventually(lambda: publication.sample("published_total") > 0, "verdicts arrive")
    size = resident()
    load.phase = "outage"
    broker.kill()
    time.sleep(OUTAGE_S)
    waiting = publication.sample("waiting")
    grown = resident() - size
    load.phase = "after"
    broker.start()
    time.sleep(BESIDE_S)
    load.halt.set()
    load.join()
    publication.all_sent()

    found = publication.read(TOPIC, load.count)
    times = Counter(dict(message.headers)["ce_id"] for message in found)
    median = {phase: statistics.median(took) for phase, took in load.took.items()}
    said = {
        "outage_s": OUTAGE_S, "verdicts": load.count, "lost": load.count - len(times), "doubles": len(found) - len(times), "waited": waiting,
        "append_us": {phase: round(1e6 * value, 1) for phase, value in median.items()}, "grown_mib": round(grown / 2**20, 1),
    }  # fmt: skip
    record_property("killed", said)
    with capsys.disabled():
        print(json.dumps(said))
    assert len(times) == load.count
    assert waiting >= OUTAGE_S / EVERY_S / 10  # a busy machine makes fewer
    eventually(lambda: publication.sample("waiting") == 0, "the gauge returns")
    assert publication.refused() == {}
    assert grown < GROWTH
    assert median["outage"] < 5 * median["before"] + 0.001

    bodies: dict[bytes, bytes] = {}
    order: dict[bytes, list[int]] = defaultdict(list)
    for message in found:
        number = dict(message.headers)["ce_id"]
        if number in bodies:
            assert bodies[number] == message.value  # a double is the same record
        else:
            bodies[number] = message.value
            order[message.key].append(json.loads(message.value)["turn"])
    assert len(order) == STREAMS
    for turns in order.values():
        assert turns == sorted(turns)
