"""Metrics and log lines through a real collector: it takes them, and passes on what we said."""

from __future__ import annotations

import logging

import numpy as np
from prometheus_client import CollectorRegistry

from monitor.config import OtelConfig
from monitor.sinks.prometheus import Metrics
from monitor.sinks.telemetry import Telemetry
from probes.bank import Bank
from probes.drift import Drift
from tests.otel.backend import Collector
from tests.otlp import Came
from tests.stack import eventually


def test_a_collector_takes_metrics_and_lines_also_when_it_comes_late(bank: Bank, collector: Collector, came: Came) -> None:
    metrics = Metrics(CollectorRegistry(), bank.names, Drift(bank, 100))
    metrics.tokens.inc(7)
    metrics.scores.observe(np.full((3, len(bank.names)), 1.5, np.float32), "m")
    config = OtelConfig(endpoint=collector.endpoint, metrics=True, metrics_every_s=0.2, logs=True, timeout_s=1)
    telemetry = Telemetry(config, metrics)
    try:
        eventually(lambda: metrics.troubles["otel_metrics"](), "it is named")
        collector.start()
        eventually(lambda: not metrics.troubles["otel_metrics"](), "it is well again")
        logging.getLogger("barograph.x").warning("a line")
        eventually(lambda: came.lines and came.metrics, "both have come through")
    finally:
        telemetry.close()
    found = {metric.name: metric for metric in came.metrics}
    assert found["barograph_tokens_judged"].sum.data_points[0].as_double == 7
    assert found["barograph_score"].histogram.data_points[0].count == 3
    assert any(line.body.string_value == "a line" for line in came.lines)
