"""Metrics and log lines over real OTLP, decoded with the protocol's own messages."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from prometheus_client import CollectorRegistry

from monitor.config import OtelConfig
from monitor.sinks.prometheus import BUCKETS, Metrics
from monitor.sinks.telemetry import Telemetry
from probes.bank import Bank
from probes.drift import Drift
from tests.stack import eventually, free_port

MESSAGES = {"/v1/metrics": ExportMetricsServiceRequest, "/v1/logs": ExportLogsServiceRequest}


@contextmanager
def collector() -> Iterator[tuple[str, list[Any]]]:
    came: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            came.append(MESSAGES[self.path].FromString(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", came
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def metrics(bank: Bank) -> Metrics:
    return Metrics(CollectorRegistry(), bank.names, Drift(bank, 100))


def test_metrics_are_those_that_prometheus_gets(bank: Bank, metrics: Metrics) -> None:
    metrics.tokens.inc(7)
    metrics.taps.set(2)
    metrics.hold.observe(0.003)
    metrics.scores.observe(np.full((3, len(bank.names)), 1.5, np.float32), "m")
    with collector() as (address, came):
        telemetry = Telemetry(OtelConfig(endpoint=address, metrics=True, metrics_every_s=3600), metrics)
        telemetry.close()  # what is there goes out at the end
    (message,) = came
    (resource,) = message.resource_metrics
    assert {each.key: each.value.string_value for each in resource.resource.attributes}["service.name"] == "barograph"
    found = {each.name: each for each in resource.scope_metrics[0].metrics}
    assert {family.name for family in metrics.registry.collect()} <= set(found)
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
    with collector() as (address, came):
        telemetry = Telemetry(OtelConfig(endpoint=address, logs=True), metrics)
        logging.getLogger("barograph.kafka").warning("%s is away", "the broker")
        logging.getLogger("kafka").warning("noise")
        telemetry.close()
        logging.getLogger("barograph.kafka").warning("after the end")
    lines = [record for message in came for each in message.resource_logs for scope in each.scope_logs for record in scope.log_records]
    assert [(line.body.string_value, line.severity_text) for line in lines] == [("the broker is away", "WARN")]


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
