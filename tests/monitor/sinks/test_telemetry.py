"""Metrics and log lines over real OTLP, decoded with the protocol's own messages."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from monitor.config import OtelConfig
from monitor.sinks.histogram import BUCKETS
from monitor.sinks.prometheus import Metrics
from monitor.sinks.telemetry import Telemetry
from probes.bank import Bank
from probes.drift import Drift
from tests.otlp import attributes, receiver
from tests.stack import eventually, free_port


@pytest.fixture
def metrics(bank: Bank) -> Metrics:
    return Metrics(CollectorRegistry(), bank.names, Drift(bank, 100))


def test_metrics_are_those_that_prometheus_gets(bank: Bank, metrics: Metrics) -> None:
    metrics.tokens.inc(7)
    metrics.taps.set(2)
    metrics.hold.observe(0.003)
    metrics.scores.observe(np.full((3, len(bank.names)), 1.5, np.float32), "m")
    with receiver() as came:
        telemetry = Telemetry(OtelConfig(endpoint=came.address, metrics=True, metrics_every_s=3600), metrics)
        telemetry.close()  # what is there goes out at the end
    (resource,) = came.resources
    assert attributes(resource.attributes)["service.name"] == "barograph"
    found = {each.name: each for each in came.metrics}
    assert {family.name + "_info" * (family.type == "info") for family in metrics.registry.collect()} <= set(found)
    tokens = found["barograph_tokens_judged"].sum
    assert (tokens.is_monotonic, tokens.data_points[0].as_double) == (True, 7)
    assert found["barograph_taps_connected"].gauge.data_points[0].as_double == 2
    hold = found["barograph_gateway_hold_seconds"]
    assert (hold.unit, hold.histogram.data_points[0].count, hold.histogram.data_points[0].sum) == ("s", 1, 0.003)
    for point in found["barograph_score"].histogram.data_points:
        assert list(point.explicit_bounds) == list(BUCKETS)
        assert (point.count, list(point.bucket_counts)) == (3, [3 * (edge == 2.0) for edge in (*BUCKETS, np.inf)])
        assert not point.HasField("sum")
        assert {each.key for each in point.attributes} == {"probe", "model"}


def test_lines_of_the_log_go_out_and_those_of_libraries_do_not(metrics: Metrics) -> None:
    with receiver() as came:
        telemetry = Telemetry(OtelConfig(endpoint=came.address, logs=True), metrics)
        logging.getLogger("barograph.kafka").warning("%s is away", "the broker")
        logging.getLogger("kafka").warning("noise")
        telemetry.close()
        logging.getLogger("barograph.kafka").warning("after the end")
    assert [(line.body.string_value, line.severity_text) for line in came.lines] == [("the broker is away", "WARN")]


def test_a_collector_that_is_not_there_is_named_and_nothing_ends(metrics: Metrics) -> None:
    config = OtelConfig(endpoint=f"http://127.0.0.1:{free_port()}", metrics=True, metrics_every_s=0.1, logs=True, timeout_s=0.5)
    telemetry = Telemetry(config, metrics)
    logging.getLogger("barograph.x").warning("lost")
    try:
        for sink in ("otel_metrics", "otel_logs"):
            eventually(
                lambda sink=sink: metrics.registry.get_sample_value("barograph_sink_failing", {"sink": sink}) == 1, f"{sink} is named", 30
            )
            assert "127.0.0.1" in metrics.troubles[sink]()
    finally:
        telemetry.close()
    assert telemetry._thread is not None
    assert not telemetry._thread.is_alive()
