"""The three dashboards. Fleet: is anything rising, where? Incident: one rule over time, and what was done. Health: does the monitor itself do its work?"""

from __future__ import annotations

from typing import Any

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import units

from monitor.grafana.panels import AMBER, GREEN, RED, Board

# Beside what is chosen: verdicts that act, and those of what is shown.
MODEL, TENANT, RULE = 'model=~"$model"', 'tenant=~"$tenant"', 'rule=~"$rule"'
EVERY = "$__rate_interval"
UNIT_Z = "none"


def dashboards() -> dict[str, str]:
    """JSON by name, as Grafana takes it."""
    made = {"fleet": _fleet(), "incident": _incident(), "health": _health()}
    return {name: JSONEncoder(sort_keys=True, indent=1).encode(each) + "\n" for name, each in made.items()}


def _quantile(q: float, histogram: str, by: str = "", where: str = "") -> str:
    """With the least bucket where nothing happened, so that a quiet hour is no hole."""
    return f"histogram_quantile({q}, sum by (le{', ' + by if by else ''}) (rate({histogram}_bucket{{{where}}}[{EVERY}])))"


def _sum(metric: str, where: str = "", by: str = "", over: str = f"rate[{EVERY}]") -> str:
    """Of a counter that may not have counted yet: nothing is 0."""
    function, _, window = over.partition("[")
    inner = f"{function}({metric}{{{where}}}[{window})" if function else f"{metric}{{{where}}}"
    return f"sum by ({by}) ({inner})" if by else f"sum({inner}) or vector(0)"


def _fleet() -> Any:
    board = Board("barograph-fleet", "Barograph / Fleet", "Is anything rising? In which model, for which tenant?")
    board.choose("model", "model", "label_values(barograph_streams_running, model)")
    board.choose("tenant", "tenant", "label_values(barograph_verdicts_total, tenant)")
    board.choose("probe", "probe", "label_values(barograph_score_bucket, probe)", one="desperation")
    board.stat("Generations running", "Now, over all engines.", _sum("barograph_streams_running", MODEL, over=""))
    board.stat("Tokens judged a second", "Each was scored and judged before it left.", _sum("barograph_tokens_judged_total"))
    board.stat(
        "Armed verdicts", "Rules that fired and acted, in the time shown.",
        _sum("barograph_verdicts_total", f'mode="armed", {MODEL}, {TENANT}', over="increase[$__range]"), bounds=((1, AMBER),),
    )  # fmt: skip
    board.stat(
        "Verdicts in shadow", "Rules that fired and only recorded.",
        _sum("barograph_verdicts_total", f'mode="shadow", {MODEL}, {TENANT}', over="increase[$__range]"),
    )  # fmt: skip
    board.stat(
        "Actions taken", "Halts, throttles, re-routes and pushes, in the time shown.",
        _sum("barograph_actions_total", over="increase[$__range]"), bounds=((1, AMBER),),
    )  # fmt: skip
    board.stat(
        "Coverage", "Share of the produced tokens that were judged.",
        "1 - sum(increase(barograph_tokens_missed_total[$__range])) / (sum(increase(barograph_tokens_missed_total[$__range])) + sum(increase(barograph_tokens_judged_total[$__range])))",
        unit=units.PercentUnit, bounds=((0, RED), (0.999, GREEN)),
    )  # fmt: skip
    board.row("Is anything rising?")
    board.lines(
        "Scores: the highest of 1 in 100 tokens, by probe", "z values: standard deviations above the model's own neutral text. A quiet probe is no proof of calm.",
        (_quantile(0.99, "barograph_score", "probe", MODEL), "{{probe}}"), unit=UNIT_Z, bounds=((3, AMBER),),
    )  # fmt: skip
    board.lines(
        "Share of tokens above 3, by probe", "What stays up is not noise: of neutral text, less than one token in a hundred is there.",
        (
            f'1 - sum by (probe) (rate(barograph_score_bucket{{le="3.0", {MODEL}}}[{EVERY}])) / sum by (probe) (rate(barograph_score_bucket{{le="+Inf", {MODEL}}}[{EVERY}]) > 0)',
            "{{probe}}",
        ),
        unit=units.PercentUnit,
    )  # fmt: skip
    board.heat(
        "Scores of $probe", "Each column is a moment, each row a range of z values; the colour is how many tokens.",
        f'sum by (le) (rate(barograph_score_bucket{{probe="$probe", {MODEL}}}[{EVERY}]))',
    )  # fmt: skip
    board.lines(
        "Highest score of the generations that run now", "By probe. It falls when the generation ends.",
        (f"max by (probe) (barograph_streams_peak{{{MODEL}}})", "{{probe}}"), unit=UNIT_Z,
    )  # fmt: skip
    board.row("Where?")
    board.lines(
        "Armed verdicts a minute, by model", "", (f'60 * {_sum("barograph_verdicts_total", f"mode=~{chr(34)}armed{chr(34)}, {MODEL}, {TENANT}", "model")}', "{{model}}"),
        width=8, stacked=True,
    )  # fmt: skip
    board.lines(
        "Armed verdicts a minute, by tenant", "Those of gateway.tenants by name, the others together; no name: requests without a tenant.",
        (f'60 * {_sum("barograph_verdicts_total", f"mode=~{chr(34)}armed{chr(34)}, {MODEL}, {TENANT}", "tenant")}', "tenant {{tenant}}"),
        width=8, stacked=True,
    )  # fmt: skip
    board.table(
        "Rules that fired", "In the time shown.",
        f"sort_desc(sum by (rule, action, severity, mode) (increase(barograph_verdicts_total{{{MODEL}, {TENANT}}}[$__range])))", width=8,
    )  # fmt: skip
    board.lines(
        "Share of the running generations for which a rule fires", "",
        (f"sum by (rule) (barograph_streams_firing{{{MODEL}}}) / scalar(clamp_min(sum(barograph_streams_running{{{MODEL}}}), 1))", "{{rule}}"),
        unit=units.PercentUnit,
    )  # fmt: skip
    board.lines(
        "Drift: how much more often than calibrated a threshold is passed", "1 is as calibrated. See the runbook of drift.",
        ("max by (probe) (barograph_drift_exceedance)", "{{probe}}"), unit=UNIT_Z, bounds=((3, AMBER),),
    )  # fmt: skip
    return board.build()


def _incident() -> Any:
    board = Board(
        "barograph-incident", "Barograph / Incident", "One rule over time: what rose, what fired, what was done, what was held.", "now-3h"
    )
    board.choose("rule", "rule", "label_values(barograph_verdicts_total, rule)")
    board.choose("model", "model", "label_values(barograph_streams_running, model)")
    board.choose("probe", "probe", "label_values(barograph_score_bucket, probe)", one="desperation")
    where = f"{RULE}, {MODEL}"
    board.stat("Fires now", "Running generations.", _sum("barograph_streams_firing", where, over=""), bounds=((1, AMBER),))
    board.stat(
        "Armed verdicts", "", _sum("barograph_verdicts_total", f'mode="armed", {where}', over="increase[$__range]"), bounds=((1, AMBER),)
    )
    board.stat("Actions taken", "", _sum("barograph_actions_total", RULE, over="increase[$__range]"), bounds=((1, AMBER),))
    board.stat("Stops that stand", "What they name is refused until somebody resumes.", "sum(barograph_stops_standing)", bounds=((1, RED),))
    board.stat("Tenants throttled", "", _sum("barograph_tenants_throttled", over=""), bounds=((1, AMBER),))
    board.stat("Rules frozen", "Nothing changes while somebody looks.", "max(barograph_rules_frozen)", bounds=((1, AMBER),))
    board.row("What happened")
    board.lines(
        "Verdicts a minute", "A point is an exemplar: it leads to the trace of one request.",
        (f'60 * {_sum("barograph_verdicts_total", where, "rule, mode")}', "{{rule}} ({{mode}})"), exemplars=True,
    )  # fmt: skip
    board.lines(
        "Generations for which it fires", "", (_sum("barograph_streams_firing", where, "rule", over=""), "{{rule}}"),
    )  # fmt: skip
    board.lines(
        "Scores of $probe", "Half of the tokens are below the first line, nine in ten below the second, 99 in a hundred below the third.",
        *((_quantile(q, "barograph_score", "", f'probe="$probe", {MODEL}'), name) for q, name in ((0.5, "half"), (0.9, "90 %"), (0.99, "99 %"))),
        unit=UNIT_Z, bounds=((3, AMBER),),
    )  # fmt: skip
    board.heat("Tokens by score of $probe", "", f'sum by (le) (rate(barograph_score_bucket{{probe="$probe", {MODEL}}}[{EVERY}]))')
    board.row("What was done")
    board.lines(
        "Actions a minute", "Halts, throttles, re-routes, pushes.", (f"60 * ({_sum('barograph_actions_total', RULE, 'action')})", "{{action}}"), stacked=True,
    )  # fmt: skip
    board.lines(
        "Commands, and verdicts that a limit weakened", "What people and policy engines told it to do.",
        (f"60 * ({_sum('barograph_commands_total')})", "commands a minute"), (f"60 * ({_sum('barograph_actions_limited_total')})", "limited a minute"),
    )  # fmt: skip
    board.lines(
        "Re-routes and pushes a minute", "", (f"60 * ({_sum('barograph_reroutes_total')})", "re-routes"), (f"60 * ({_sum('barograph_steers_total')})", "steps of pushes"),
    )  # fmt: skip
    board.row("What was held")
    board.lines(
        "How long chunks were held", "A point is an exemplar.",
        *((_quantile(q, "barograph_gateway_hold_seconds"), name) for q, name in ((0.5, "half"), (0.99, "99 %"))), unit=units.Seconds, exemplars=True,
    )  # fmt: skip
    board.lines(
        "Replies, by how they were judged", "judged; lagged; open, and why.", (_sum("barograph_gateway_replies_total", "", "how"), "{{how}}"), stacked=True,
    )  # fmt: skip
    board.lines(
        "Chunks decided without a good score", "By condition, and by what the setting for it says.",
        (_sum("barograph_failure_decisions_total", "", "condition, decision"), "{{condition}}: {{decision}}"), stacked=True,
    )  # fmt: skip
    board.lines(
        "Generations by what becomes of their tokens", "", (f"sum by (state) (barograph_streams_state{{{MODEL}}})", "{{state}}"), stacked=True,
    )  # fmt: skip
    return board.build()


def _health() -> Any:
    board = Board("barograph-health", "Barograph / Health", "Does the monitor itself do its work: taps, hold, ledger, Kafka, traces?")
    board.stat("Taps that score", "", "sum(barograph_taps_connected) - sum(barograph_taps_failed)", bounds=((0, RED), (1, GREEN)))
    board.stat("Taps unproved", "Their check of themselves has not come, or failed.", "sum(barograph_taps_unproved)", bounds=((1, AMBER),))
    board.stat("Taps with stale thresholds", "", "sum(barograph_taps_stale)", bounds=((1, AMBER),))
    board.stat("Ledger refuses records", "", "max(barograph_ledger_failed)", bounds=((1, RED),))
    board.stat("Sinks failing", "Kafka, commands, scores, OpenTelemetry.", _sum("barograph_sink_failing", over=""), bounds=((1, AMBER),))
    board.stat(
        "Background tasks that died",
        "They are started again.",
        _sum("barograph_task_failures_total", over="increase[$__range]"),
        bounds=((1, RED),),
    )
    board.row("Tap and pipeline")
    board.lines(
        "From the tap's reading to the verdict", "The engine does not wait for this; a chunk does.",
        (_quantile(0.99, "barograph_tap_lag_seconds"), "to the sidecar, 99 %"), (_quantile(0.99, "barograph_verdict_delay_seconds"), "to the verdict, 99 %"),
        unit=units.Seconds,
    )  # fmt: skip
    board.lines(
        "Frames a second", "", (_sum("barograph_frames_total"), "received"), (_sum("barograph_frames_lost_total"), "lost"), (_sum("barograph_packets_refused_total"), "refused"),
    )  # fmt: skip
    board.lines(
        "Tokens a second", "", (_sum("barograph_tokens_judged_total"), "judged"), (_sum("barograph_tokens_missed_total"), "never scored"),
        (_sum("barograph_scores_not_finite_total"), "not a number"),
    )  # fmt: skip
    board.lines(
        "Drift of the scores", "Mean against the calibration, in standard deviations.", ("max by (probe) (barograph_drift_shift)", "{{probe}}"), unit=UNIT_Z,
    )  # fmt: skip
    board.row("Gateway")
    board.lines("Requests a second, by status", "", (_sum("barograph_gateway_requests_total", "", "status"), "{{status}}"), stacked=True)
    board.lines(
        "How long chunks are held", "", *((_quantile(q, "barograph_gateway_hold_seconds"), name) for q, name in ((0.5, "half"), (0.99, "99 %"))), unit=units.Seconds,
    )  # fmt: skip
    board.lines(
        "Failures a second", "", (_sum("barograph_gateway_upstream_failures_total"), "of the engine"), (_sum("barograph_gateway_clients_stalled_total"), "clients that read nothing"),
        (_sum("barograph_failure_decisions_total", 'decision="open"'), "chunks let go unjudged"),
    )  # fmt: skip
    board.lines(
        "The sidecar itself", "", ("sum(rate(process_cpu_seconds_total{job=~\"barograph.*\"}[$__rate_interval]))", "cores"),
        ('sum(process_resident_memory_bytes{job=~"barograph.*"}) / 2^30', "memory, GiB"), ('sum(process_open_fds{job=~"barograph.*"}) / 1000', "open files, thousands"),
    )  # fmt: skip
    board.row("Ledger")
    board.lines("Records a second", "", (_sum("barograph_ledger_records_total"), "written"))
    board.lines(
        "Records that wait", "For the disk; for Kafka; for witnesses.", ("sum(barograph_ledger_waiting)", "to be durable"), ("sum(barograph_kafka_waiting)", "for Kafka"),
        ("sum(barograph_ledger_witnesses_missing)", "witnesses that did not cosign"),
    )  # fmt: skip
    board.row("Kafka and OpenTelemetry")
    board.lines(
        "Sent a second", "", (_sum("barograph_kafka_published_total"), "records"), (_sum("barograph_kafka_scores_total"), "tokens' scores"), (_sum("barograph_otel_spans_total"), "spans"),
    )  # fmt: skip
    board.lines(
        "Not sent, a second", "Refused records stay in the ledger, scores and spans are gone.",
        (_sum("barograph_kafka_refused_total"), "records refused for good"), (_sum("barograph_kafka_errors_total"), "failed attempts"),
        (_sum("barograph_kafka_scores_dropped_total"), "tokens' scores dropped"), (_sum("barograph_otel_spans_lost_total"), "spans lost"),
    )  # fmt: skip
    return board.build()
