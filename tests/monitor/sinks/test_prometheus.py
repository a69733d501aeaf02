"""What Prometheus is told."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
from prometheus_client import CollectorRegistry

from deploy import metrics as page
from monitor import wire
from monitor.audit.levels import Level, Levels
from monitor.sinks.prometheus import Metrics
from probes.bank import Bank
from probes.drift import Drift
from tests.monitor.pipeline.rig import Rig


def test_what_a_tap_says_of_its_clock_is_believed_within_bounds(bank: Bank) -> None:
    registry = CollectorRegistry()
    metrics = Metrics(registry, bank.names, Drift(bank, 100))
    for time_ns in (0, -(2**60), 2**63, time.monotonic_ns() + 10**12):
        metrics.lag(metrics.tap_lag, time_ns)
    count = lambda: registry.get_sample_value("barograph_tap_lag_seconds_count")  # noqa: E731
    assert count() in (0, 1)  # a machine that started within the hour has a clock near 0
    before = count()
    metrics.lag(metrics.tap_lag, time.monotonic_ns())
    assert count() == before + 1


def test_a_frame_is_timed_and_its_verdict(bank: Bank, tmp_path: Path) -> None:
    rig = Rig(bank, tmp_path / "ledger")
    for seq, value in ((1, 0.0), (2, 9.0)):
        scores = np.full((1, len(bank.names)), value, "<f4")
        streams, positions = np.array([0], "<u4"), np.array([seq - 1], "<u4")
        frame = wire.Frame(
            seq,
            0,
            time.monotonic_ns(),
            streams.tobytes(),
            positions.tobytes(),
            scores.tobytes(),
            [wire.Begin(0, "r", 0)] if seq == 1 else [],
        )
        rig.pipeline.take(rig.source, wire.encode(frame))
    assert rig.sample("barograph_tap_lag_seconds_count") == 2
    assert rig.sample("barograph_verdict_delay_seconds_count") == 1
    assert rig.sample("barograph_streams_peak", probe="panic", model="m") == 9.0
    assert rig.sample("barograph_bank_info", digest=bank.digest, model=bank.card.model.name, probes=str(len(bank.names))) == 1


def test_no_request_makes_a_series(bank: Bank, tmp_path: Path) -> None:
    rig = Rig(bank, tmp_path / "ledger")

    def series() -> int:
        return sum(len(family.samples) for family in rig.registry.collect())

    def play(number: int) -> None:
        rig.pipeline.streams.expect(
            f"request-{number}", {"tenant": f"tenant-{number}", "model": f"model-{number}"}, f"conversation-{number}"
        )
        rig.frame([(number, 0, 9.0)], begins=[(number, f"request-{number}", 0)], ends=[(number, 1)])

    play(0)
    before = series()
    for number in range(1, 1000):
        play(number)
    assert series() == before


def test_the_page_of_metrics_is_current() -> None:
    assert page.PAGE.read_text("utf-8") == page.page()


def test_what_clients_call_themselves_makes_no_series(bank: Bank, tmp_path: Path) -> None:
    """Twenty thousand requests of as many tenants, for as many models, each with a verdict: the number of series stays as it was."""
    rig = Rig(bank, tmp_path / "ledger", levels=Levels(Level.NONE))
    metrics = rig.pipeline.metrics
    series: list[int] = []
    for turn in range(200):
        names = [f"{turn}-{number}" for number in range(100)]
        tickets = [rig.pipeline.streams.expect(name, {"tenant": f"t{name}", "model": f"m{name}", "route": f"/{name}"}) for name in names]
        rows = list(range(100))
        rig.frame([(row, 0, 9.0) for row in rows], begins=[(row, names[row], 0) for row in rows], ends=[(row, 1) for row in rows])
        for ticket in tickets:
            rig.pipeline.streams.forget(ticket)
        if turn in (1, 199):
            series.append(sum(len(list(family.samples)) for family in metrics.registry.collect()))
    assert rig.sample("barograph_tokens_judged_total") == 20_000
    assert series[0] == series[1]
