"""OpenTelemetry: a span for each generation, as the GenAI conventions name things, with a verdict as an event of it. No text, and no id of a request, is in one."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Iterable, Mapping
from typing import Any

from monitor import __version__
from monitor.config import OtelConfig
from monitor.sinks.prometheus import Metrics
from monitor.sinks.trouble import Trouble
from rules.verdict import Verdict

log = logging.getLogger("barograph.otel")

# The names of the conventions, as of November 2026: gen_ai is in development there, and its guardrail attributes are a proposal. What moves is mended here.
OPERATION, PROVIDER, MODEL = "gen_ai.operation.name", "gen_ai.provider.name", "gen_ai.request.model"
INPUT, OUTPUT, REASONS = "gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens", "gen_ai.response.finish_reasons"
EVALUATION, RULE, VALUE = "gen_ai.evaluation.result", "gen_ai.evaluation.name", "gen_ai.evaluation.score.value"
LABEL, EXPLANATION, ERROR = "gen_ai.evaluation.score.label", "gen_ai.evaluation.explanation", "error.type"
OPERATIONS = {"/v1/completions": "text_completion"}  # else it is a chat

QUEUE, BATCH, EVERY_MS = 4096, 512, 2000  # spans that wait, that go together, and how often
EVENTS = 64  # verdicts of one span
WELL = ("ended", "stopped")  # outcomes of a reply that are no error


class Trace:
    """The span of one request, from its arrival to its last byte. `headers`: by which the engine's own spans join the trace."""

    def __init__(self, span: Any, headers: dict[str, str]) -> None:
        self._span = span
        self.headers = headers

    @property
    def id(self) -> str:
        """Of the trace, in hexadecimal; empty when it is not kept."""
        context = self._span.get_span_context()
        return f"{context.trace_id:032x}" if context.trace_flags.sampled else ""

    def end(
        self, outcome: str, how: str, tokens: Mapping[str, int | None], reasons: Iterable[str], verdicts: Iterable[Verdict], engine: str
    ) -> None:
        """The reply is over. tokens: of the prompt (input) and of what the client got (output), where they are known."""
        from opentelemetry.trace import Status, StatusCode

        span = self._span
        known = {INPUT: tokens.get("input"), OUTPUT: tokens.get("output"), REASONS: list(reasons) or None, PROVIDER: engine or "unknown"}
        span.set_attributes(
            {name: value for name, value in known.items() if value is not None} | {"barograph.judged": how, "barograph.outcome": outcome}
        )
        fired = [verdict for verdict in verdicts if not verdict.ended]
        if len(fired) > EVENTS:  # how it began, and how it ended
            fired = [*fired[: EVENTS // 2], *fired[-EVENTS // 2 :]]
        for verdict in fired:
            span.add_event(EVALUATION, _event(verdict))
        if outcome not in WELL:
            span.set_attribute(ERROR, outcome)
            span.set_status(Status(StatusCode.ERROR))
        span.end()


class Tracing:
    """Sends spans over OTLP beside everything else: a collector that is slow or away costs spans, which are counted, and nothing more."""

    def __init__(self, config: OtelConfig, metrics: Metrics) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
        from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        class Counted(SpanExporter):
            """The exporter, whose failures are counted and said once."""

            def __init__(self, inner: SpanExporter) -> None:
                self._inner = inner
                self.over = math.inf  # after that nothing is tried any more

            def export(self, spans: Any) -> SpanExportResult:
                room.release(len(spans))
                result = self._inner.export(spans) if time.monotonic() < self.over else SpanExportResult.FAILURE
                failed = result is not SpanExportResult.SUCCESS
                (metrics.spans_lost if failed else metrics.spans).inc(len(spans))
                trouble.is_that("spans are lost") if failed else trouble.is_over()
                return result

            def shutdown(self) -> None:
                self._inner.shutdown()

            def force_flush(self, timeout_millis: int = 30_000) -> bool:
                return self._inner.force_flush(timeout_millis)

        class Bounded(BatchSpanProcessor):
            """The queue, which drops what is too much without a word; so nothing gets there that has no room."""

            def on_end(self, span: Any) -> None:
                if not span.context.trace_flags.sampled:
                    return
                if room.acquire(blocking=False):
                    super().on_end(span)
                else:
                    metrics.spans_lost.inc()

        room = threading.Semaphore(QUEUE)
        trouble = Trouble(metrics, "otel", log, config.endpoint)
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # it says each failure; we say when it begins and ends
        exporter = OTLPSpanExporter(endpoint=f"{config.endpoint.rstrip('/')}/v1/traces", timeout=config.timeout_s)
        self._exporter, self._timeout_s = Counted(exporter), config.timeout_s
        resource = Resource.create({"service.name": config.service, "service.version": __version__})
        self._provider = TracerProvider(resource=resource, sampler=ParentBased(TraceIdRatioBased(config.sample)), shutdown_on_exit=False)
        self._provider.add_span_processor(Bounded(self._exporter, QUEUE, EVERY_MS, BATCH, export_timeout_millis=1000 * config.timeout_s))
        self._tracer = self._provider.get_tracer("barograph", __version__)
        self._context = TraceContextTextMapPropagator()

    def begin(self, headers: Mapping[str, str], route: str, model: str) -> Trace:
        """The span of a request that has come. headers: the client's, whose trace is gone on with."""
        from opentelemetry.trace import SpanKind, set_span_in_context

        given = {name: headers[name] for name in ("traceparent", "tracestate") if name in headers}
        operation = OPERATIONS.get(route, "chat")
        span = self._tracer.start_span(
            f"{operation} {model}".strip(), context=self._context.extract(given), kind=SpanKind.CLIENT,
            attributes={OPERATION: operation, MODEL: model, "http.route": route},
        )  # fmt: skip
        passed: dict[str, str] = {}
        self._context.inject(passed, context=set_span_in_context(span))
        return Trace(span, passed)

    def close(self) -> None:
        """Send what waits. A collector that hangs gets the timeout of one export more, beside the one that is under way."""
        self._exporter.over = time.monotonic() + self._timeout_s
        self._provider.shutdown()


def _event(verdict: Verdict) -> dict[str, Any]:
    value = next(iter(verdict.signals.values()), None)
    return {
        RULE: verdict.rule.rule, LABEL: verdict.action.name.lower(), EXPLANATION: verdict.rule.desc, "barograph.mode": verdict.mode,
        "barograph.position": verdict.position, "barograph.severity": verdict.rule.severity, **({VALUE: float(value)} if value is not None else {}),
    }  # fmt: skip
