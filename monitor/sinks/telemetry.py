"""OpenTelemetry's other signals, where somebody wants them by OTLP: the metrics that /metrics shows, and the log's lines. Best effort, beside everything else."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric as Family

from monitor import __version__
from monitor.config import OtelConfig
from monitor.sinks.prometheus import Metrics
from monitor.sinks.trouble import Trouble

log = logging.getLogger("barograph.otel")

LOGGER = "barograph"  # whose lines go out: ours, none of a library
QUEUE, BATCH = 2048, 512  # lines that wait, that go together
OURS = ("barograph_", "process_")


class Telemetry:
    """Metrics every `metrics_every_s`, log lines as they come. Names and labels are those of /metrics; a counter's name is without its `_total`."""

    def __init__(self, config: OtelConfig, metrics: Metrics, loop: asyncio.AbstractEventLoop | None = None) -> None:
        """`loop`: where what the metrics count is changed, so where they are read; without it, here."""
        from opentelemetry.sdk.resources import Resource

        self._loop = loop

        self._config = config
        self._registry: CollectorRegistry = metrics.registry
        self._resource = Resource.create({"service.name": config.service, "service.version": __version__})
        self._began = time.time_ns()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._logs: Any = None
        endpoint = config.endpoint.rstrip("/")
        if config.metrics:
            from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter

            self._exporter = OTLPMetricExporter(endpoint=f"{endpoint}/v1/metrics", timeout=config.timeout_s)
            self._trouble = Trouble(metrics, "otel_metrics", log, f"{endpoint}/v1/metrics")
            self._thread = threading.Thread(target=self._run, name="barograph-otel-metrics", daemon=True)
            self._thread.start()
        if config.logs:
            self._logs = self._logging(f"{endpoint}/v1/logs", Trouble(metrics, "otel_logs", log, f"{endpoint}/v1/logs"))

    def close(self) -> None:
        """Send what is there once more, within the timeout of one export for each signal."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(self._config.timeout_s)  # what hangs longer is a daemon's, and ends with the process
        if self._logs is not None:
            provider, handler = self._logs
            logging.getLogger(LOGGER).removeHandler(handler)
            provider.shutdown()

    def _run(self) -> None:
        from opentelemetry.sdk.metrics.export import MetricExportResult

        stopping = False
        while not stopping:
            stopping = self._stop.wait(self._config.metrics_every_s)
            try:
                result = self._exporter.export(self._data(), timeout_millis=1000 * self._config.timeout_s)
                self._trouble.is_over() if result is MetricExportResult.SUCCESS else self._trouble.is_that("metrics are lost")
            except Exception as error:  # whatever it was: a thread that died would be silence
                self._trouble.is_that(f"{type(error).__name__}: {error}")

    def _data(self) -> Any:
        from opentelemetry.sdk.metrics.export import MetricsData, ResourceMetrics, ScopeMetrics
        from opentelemetry.sdk.util.instrumentation import InstrumentationScope

        found = list(converted(self._families(), self._began, time.time_ns()))
        scope = ScopeMetrics(InstrumentationScope("barograph", __version__), found, "")
        return MetricsData([ResourceMetrics(self._resource, [scope], "")])

    def _families(self) -> list[Family]:
        if self._loop is None:
            return list(self._registry.collect())

        async def collected() -> list[Family]:
            return list(self._registry.collect())

        return asyncio.run_coroutine_threadsafe(collected(), self._loop).result(self._config.timeout_s)

    def _logging(self, endpoint: str, trouble: Trouble) -> Any:
        from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
        from opentelemetry.sdk._logs import LoggerProvider, LoggingHandler
        from opentelemetry.sdk._logs.export import BatchLogRecordProcessor, LogRecordExporter, LogRecordExportResult

        class Told(LogRecordExporter):
            """The exporter, whose failures are said once."""

            def __init__(self, inner: OTLPLogExporter) -> None:
                self._inner = inner

            def export(self, batch: Any) -> LogRecordExportResult:
                result: LogRecordExportResult = self._inner.export(batch)
                trouble.is_over() if result is LogRecordExportResult.SUCCESS else trouble.is_that("log lines are lost")
                return result

            def force_flush(self, timeout_millis: int = 10_000) -> bool:
                return True  # it keeps nothing back

            def shutdown(self) -> None:
                self._inner.shutdown()  # type: ignore[no-untyped-call]

        provider = LoggerProvider(resource=self._resource, shutdown_on_exit=False)
        exporter = Told(OTLPLogExporter(endpoint=endpoint, timeout=self._config.timeout_s))
        provider.add_log_record_processor(
            BatchLogRecordProcessor(exporter, 2000, BATCH, max_queue_size=QUEUE, export_timeout_millis=1000 * self._config.timeout_s)
        )
        handler = LoggingHandler(logging.INFO, provider)
        logging.getLogger(LOGGER).addHandler(handler)
        return provider, handler


def converted(families: Iterable[Family], began: int, now: int) -> Iterator[Any]:
    """Each family as OpenTelemetry says it. began, now: nanoseconds since 1970."""
    from opentelemetry.sdk.metrics.export import AggregationTemporality, Gauge, Histogram, Metric, NumberDataPoint, Sum

    for family in families:
        if not family.name.startswith(OURS):
            continue
        unit = "s" if family.name.endswith("_seconds") else "By" if family.name.endswith("_bytes") else ""
        data: Any
        if family.type == "histogram":
            data = Histogram(list(_histograms(family, began, now)), AggregationTemporality.CUMULATIVE)
        else:
            counts = family.type == "counter"
            points = [
                NumberDataPoint(sample.labels, began if counts else 0, now, sample.value)
                for sample in family.samples if not counts or sample.name.endswith("_total")
            ]  # fmt: skip
            data = Sum(points, AggregationTemporality.CUMULATIVE, True) if counts else Gauge(points)
        yield Metric(family.name + ("_info" if family.type == "info" else ""), family.documentation, unit, data)


def _histograms(family: Family, began: int, now: int) -> Iterator[Any]:
    from opentelemetry.sdk.metrics.export import HistogramDataPoint

    series: dict[tuple[tuple[str, str], ...], dict[str, Any]] = {}
    for sample in family.samples:
        labels = {name: value for name, value in sample.labels.items() if name != "le"}
        of = series.setdefault(tuple(sorted(labels.items())), {"labels": labels, "bounds": [], "totals": [], "sum": None})
        if sample.name.endswith("_bucket"):
            of["bounds"].append(float(sample.labels["le"]))
            of["totals"].append(int(sample.value))
        elif sample.name.endswith("_sum"):
            of["sum"] = sample.value
    for of in series.values():
        totals = of["totals"]  # running totals there, single buckets here
        counts = [after - before for before, after in zip([0, *totals], totals, strict=False)]
        yield HistogramDataPoint(of["labels"], began, now, totals[-1] if totals else 0, of["sum"], counts, of["bounds"][:-1], None, None)  # type: ignore[arg-type]
