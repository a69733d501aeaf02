"""Prometheus: what the sidecar counts. Labels come from fixed sets: probes, rules, conditions; never a request."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from monitor import __version__
from monitor.sinks.histogram import ScoreHistogram
from probes.drift import Drift

MAX_MODELS = 16  # that are named in metrics; what taps call themselves must not make series without end
OTHER = "other"
REFUSALS = ("host", "origin", "form", "token", "role")
ACTING = ("throttle", "steer", "reroute", "halt")  # actions that do something to a reply

DELAYS = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.1, 1)  # seconds
MAX_LAG_S = 3600.0  # what a tap says of its clock beyond that says nothing


class DriftGauges(Collector):
    """The running score distribution beside the card's, worked out when somebody asks."""

    TEXTS = {
        "shift": "Running mean of the scores, in standard deviations of the calibration",
        "deviation": "Running standard deviation of the scores; 1 at the calibration, near 0 for a probe that is stuck",
        "exceedance": "How many times more often than calibrated the 1 % threshold is exceeded",
        "divergence": "Divergence of the running score distribution from the calibrated one, in nats: 0 where mean and deviation are the card's",
    }

    def __init__(self, probes: tuple[str, ...], drift: Drift) -> None:
        self._probes, self._drift = probes, drift

    def collect(self) -> Iterator[Metric]:
        for name, values in self._drift.gauges().items():
            family = GaugeMetricFamily(f"barograph_drift_{name}", self.TEXTS[name], labels=["probe"])
            for probe, value in zip(self._probes, values, strict=True):
                family.add_metric([probe], float(value))
            yield family


@dataclass(frozen=True)
class Running:
    """Of a model's running generations: how many there are, in all and in each state, for how many each rule fires, and the highest score of each probe."""

    streams: int
    states: dict[str, int]
    firing: dict[str, int]
    peaks: dict[str, float]


class StreamGauges(Collector):
    """What runs, by model: counted when somebody asks."""

    def __init__(self, running: Callable[[], dict[str, Running]]) -> None:
        self._running = running

    def collect(self) -> Iterator[Metric]:
        running = GaugeMetricFamily("barograph_streams_running", "Generations that are running", labels=["model"])
        states = GaugeMetricFamily(
            "barograph_streams_state",
            "Generations that are running, by what becomes of their tokens: judged, throttled, ending, or lost (a score is missing or no number)",
            labels=["state", "model"],
        )
        firing = GaugeMetricFamily("barograph_streams_firing", "Running generations for which a rule fires now", labels=["rule", "model"])
        peaks = GaugeMetricFamily(
            "barograph_streams_peak", "Highest score so far of the generations that are running", labels=["probe", "model"]
        )
        for model, found in self._running().items():
            running.add_metric([model], found.streams)
            for state, number in found.states.items():
                states.add_metric([state, model], number)
            for rule, number in found.firing.items():
                firing.add_metric([rule, model], number)
            for probe, value in found.peaks.items():
                peaks.add_metric([probe, model], value)
        yield running
        yield states
        yield firing
        yield peaks


class Metrics:
    """All metrics, in a registry of the caller's."""

    def __init__(self, registry: CollectorRegistry, probes: tuple[str, ...], drift: Drift) -> None:
        def counter(name: str, text: str, labels: Iterable[str] = ()) -> Counter:
            return Counter(f"barograph_{name}", text, tuple(labels), registry=registry)

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(f"barograph_{name}", text, registry=registry)

        self.registry = registry
        Info("barograph_build", "This sidecar", registry=registry).info({"version": __version__, "python": platform.python_version()})
        self.bank_info = Info("barograph_bank", "The bank of probes that is judged by", registry=registry)
        self._models: set[str] = set()
        self.scores = ScoreHistogram(probes)
        registry.register(self.scores)
        registry.register(DriftGauges(probes, drift))
        self.tokens = counter("tokens_judged", "Produced tokens that were scored and judged")
        self.missed = counter(
            "tokens_missed",
            "Produced tokens whose scores never came or were no numbers, as far as is known: holes, and what an end tells; frames that are lost with their generations are in frames_lost",
        )
        self.nan = counter("scores_not_finite", "Tokens with a score that is not a finite number")
        self.frames = counter("frames", "Frames received from taps")
        self.tap_lag = Histogram(
            "barograph_tap_lag_seconds", "From the tap's reading of a step's scores to their arrival", registry=registry, buckets=DELAYS
        )
        self.verdict_delay = Histogram(
            "barograph_verdict_delay_seconds",
            "From the tap's reading of a step's scores to the verdict that they led to",
            registry=registry,
            buckets=DELAYS,
        )
        self.lost = counter("frames_lost", "Frames that taps dropped or that never arrived")
        self.refused = counter("packets_refused", "Packets or connections that were refused", ["reason"])
        self.taps = gauge("taps_connected", "Taps that are connected")
        self.tap_failed = gauge("taps_failed", "Taps that stopped scoring")
        self.stale = gauge("taps_stale", "Taps that run on something else than the bank was calibrated for")
        self.unproved = gauge("taps_unproved", "Taps whose check of themselves has not come or has failed")
        self.checks = counter("tap_checks", "Checks of themselves that taps reported", ["outcome"])
        self.task_failures = counter("task_failures", "Background tasks of the sidecar that died; they are started again", ["task"])
        self.quiet = Gauge("barograph_canary_quiet", "1 when none of a probe's canaries raises it any more", ["probe"], registry=registry)
        self.canary_errors = counter("canary_errors", "Rounds of canaries that could not be sent")
        self.follow_errors = counter(
            "follow_errors", "Frames on which a follower of the scores failed: the page, or Kafka's topic of scores"
        )
        self.verdicts = counter("verdicts", "Rules that fired", ["rule", "action", "severity", "mode", "model", "tenant"])
        self.actions = counter(
            "actions", "What was done because rules or people said so: halt, throttle, reroute, steer", ["rule", "action"]
        )
        self.steers = counter(
            "steers", "Pushes of replies, by probe: asked, waits, refused, began; fell, else, withdrawn, ended", ["probe", "event"]
        )
        self.limited = counter("actions_limited", "Verdicts whose action was weakened by a rule's limit", ["rule"])
        self.unmatched = counter("rules_unmatched", "Requests for which a rule's match could not tell; the rule applied")
        self.reload_failed = gauge("rules_reload_failed", "1 while the last change of the rule files is refused")
        self.frozen = gauge("rules_frozen", "1 while reloads are blocked")
        self.rules_info = Info("barograph_rules", "The rules in force", registry=registry)
        self.decisions = counter(
            "failure_decisions", "Chunks decided without a good score, by condition and decision", ["condition", "decision"]
        )
        self.requests = counter("gateway_requests", "Requests that the gateway answered", ["endpoint", "status"])
        self.stalled = counter("gateway_clients_stalled", "Clients dropped because they read nothing")
        self.hold = Histogram(
            "barograph_gateway_hold_seconds",
            "How long a chunk waited for its scores",
            registry=registry,
            buckets=(0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1, 5),
        )
        self.after_verdict = Histogram(
            "barograph_gateway_tokens_after_verdict",
            "Tokens that left from the verdict's own on, of halted choices, by hold mode",
            ["mode"],
            registry=registry,
            buckets=(0, 1, 2, 4, 8, 16, 32, 64, 128),
        )
        self.held = gauge("gateway_chunks_held", "Chunks of replies that wait for their scores now")
        self.judged = counter("gateway_replies", "Replies by how they were judged: judged, lagged, or open and why", ["how"])
        self.admin_refused = counter("admin_refused", "Requests that the admin address refused: host, origin, form, token or role", ["why"])
        for why in REFUSALS:  # their series begin at 0, so that the first one is seen as an increase
            self.admin_refused.labels(why)
        self.certificates = Gauge(
            "barograph_certificate_expires_seconds",
            "When the certificate that a listener serves ends, in seconds since 1970",
            ["listener"],
            registry=registry,
        )
        self.commands = counter("commands", "Commands by verb and outcome", ["verb", "outcome"])
        self.command_errors = counter("command_errors", "Failures of reading commands from Kafka; it is tried again")
        self.tenants_throttled = Gauge(
            "barograph_tenants_throttled",
            "Tenants that are throttled; those not named in gateway.tenants together",
            ["tenant"],
            registry=registry,
        )
        self.stops = gauge("stops_standing", "Stops that stand: what they name is refused")
        self.reroutes = counter("reroutes", "Replies that a rule re-routed, by target and what became of it", ["target", "outcome"])
        self.upstream = counter("gateway_upstream_failures", "Requests that the engine failed, by condition", ["condition"])
        self.records = counter("ledger_records", "Records in the ledger since the start")
        self.ledger_waiting = gauge("ledger_waiting", "Records that are not durable yet")
        self.ledger_sealed = gauge("ledger_sealed", "Records that the newest signed checkpoint covers")
        self.archived = gauge("ledger_archived", "Records that an archive has")
        self.archive_failed = gauge("ledger_archive_failed", "1 while the archive or the retention fails")
        self.unwitnessed = gauge("ledger_witnesses_missing", "Witnesses that did not cosign the newest checkpoint")
        self.ledger_failed = gauge("ledger_failed", "1 while the ledger refuses records")
        self.published = counter("kafka_published", "Records that Kafka acknowledged")
        self.publish_refused = counter("kafka_refused", "Records that Kafka refused for good; the ledger names them", ["topic", "reason"])
        self.sink_failing = Gauge(
            "barograph_sink_failing",
            "1 while things cannot be sent there: kafka, kafka_topics (one refuses records), scores, commands, otel, otel_metrics, otel_logs",
            ["sink"],
            registry=registry,
        )
        self.troubles: dict[str, Callable[[], str]] = {}  # by sink, what is wrong with it now
        self.scores_sent = counter("kafka_scores", "Tokens whose scores Kafka took")
        self.scores_dropped = counter("kafka_scores_dropped", "Tokens whose scores never reached Kafka: it was slow or away")
        self.spans = counter("otel_spans", "Spans that a collector took")
        self.spans_lost = counter("otel_spans_lost", "Spans that no collector took")
        self.kafka_waiting = gauge("kafka_waiting", "Durable records that are not published yet")
        self.publish_errors = counter("kafka_errors", "Failed attempts to publish")

    def lag(self, histogram: Histogram, time_ns: int) -> None:
        """Note how long ago a tap read its scores, by the machine's steady clock."""
        seconds = time.monotonic() - time_ns / 1e9
        if 0 <= seconds < MAX_LAG_S:
            histogram.observe(seconds)

    @staticmethod
    def exemplar(trace: str) -> dict[str, str] | None:
        """By which a picture leads to a trace."""
        return {"trace_id": trace} if trace else None

    def model_label(self, model: str) -> str:
        """A model's name as a label: its own for the first MAX_MODELS names, 'other' for what comes after them."""
        if model not in self._models and len(self._models) < MAX_MODELS:
            self._models.add(model)
        return model if model in self._models else OTHER

    def expect(self, rules: Iterable[tuple[str, str, str]], model: str, tenants: Iterable[str]) -> None:
        """Series of verdicts begin at 0: what Prometheus first sees at 1 has no increase, and would alert nobody. rules: (name, action, severity)."""
        tenants = tuple(tenants)
        for rule, action, severity in rules:
            if action in ACTING:
                self.actions.labels(rule, action)
            for mode in ("armed", "shadow"):
                for tenant in tenants:
                    self.verdicts.labels(rule, action, severity, mode, model, tenant)
