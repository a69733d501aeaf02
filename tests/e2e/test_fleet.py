"""The example of windows over a fleet, on a real broker: scores as a sidecar sends them, and the means that come out."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from kafka.admin import KafkaAdminClient
from prometheus_client import CollectorRegistry

from monitor.config import KafkaConfig, ScoresConfig
from monitor.sinks.prometheus import Metrics
from monitor.sinks.scores import ScoreFeed
from monitor.sinks.topics import create
from probes.bank import Bank
from probes.drift import Drift
from tests.monitor.sinks.test_scores import began, frame
from tests.stack import free_port
from tests.tansu import SCORES, broker, consume

HOME = Path(__file__).parents[2]
PYTHON = HOME / ".venv-streams" / "bin" / "python"  # Quix Streams pins an older pydantic than ours


@pytest.mark.skipif(not PYTHON.exists(), reason="needs the environment of make .venv-streams/.ready")
def test_the_mean_of_each_tenant_and_window(tmp_path: Path, bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1_800_000_000.0]
    monkeypatch.setattr("monitor.sinks.scores.time.time", lambda: now[0])
    with broker(free_port(), tmp_path / "broker.log") as address:
        config = KafkaConfig(bootstrap=address, scores=ScoresConfig(every_s=60))
        admin = KafkaAdminClient(bootstrap_servers=address)
        admin.delete_topics([SCORES])  # the fixture's has no retention, which Quix Streams asks for
        admin.close()
        assert create(config, 1, 1)[SCORES] == "made"
        assert config.scores is not None
        feed = ScoreFeed(
            config, config.scores, ("desperation", "panic"), "example.com/log", Metrics(CollectorRegistry(), bank.names, Drift(bank, 100))
        )
        producer = feed._connect()
        for position in range(130):  # a token a second: two whole minutes, and ten seconds of a third that closes them
            now[0] = 1_800_000_000.0 + position
            new = (began(2, "a#0"), began(5, "b#0")) if position == 0 else ()
            if new:
                new[1].about["tenant"] = ""
            feed.follow(frame([(2, position), (5, position)], new))
            if position % 10 == 9:
                feed._flush(producer)
        producer.flush()
        producer.close()
        command = [
            str(PYTHON),
            str(HOME / "examples" / "fleet_mean.py"),
            "--brokers",
            address,
            "--state",
            str(tmp_path / "state"),
            "--stop-after",
            "10",
        ]
        done = subprocess.run([*command, "--grace", "5"], capture_output=True, text=True, timeout=180)
        assert done.returncode == 0, done.stderr
        found = {(each["tenant"], each["since"] - 1_800_000_000): each for each in consume(address, 4, topic="barograph.fleet")}
    assert set(found) == {(tenant, since) for tenant in ("acme", "none") for since in (0, 60)}
    for (tenant, _), each in found.items():
        assert (each["probe"], each["tokens"], each["mean"]) == (
            "desperation",
            60,
            2.0 if tenant == "acme" else 5.0,
        )  # the slot is the score
