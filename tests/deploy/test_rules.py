"""Our own Prometheus rules, by promtool: each alert fires in its situation, and in a quiet hour none does."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy import dashboards

RULES = Path(dashboards.__file__).parent / "prometheus" / "rules.yaml"
RUNBOOKS = Path(dashboards.__file__).parents[1]
JOB = 'job="barograph", instance="a:8401"'

needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="needs Debian's package prometheus")


def series(name: str, values: str, **labels: str) -> dict[str, str]:
    named = "".join(f', {label}="{value}"' for label, value in labels.items())
    return {"series": f"{name}{{{JOB}{named}}}", "values": values}


# A sidecar that does its work, minute by minute for two days.
LONG = "x2900"
QUIET = {
    each["series"].split("{")[0] + str(number): each
    for number, each in enumerate([
        series("up", f"1{LONG}"), series("barograph_taps_connected", f"1{LONG}"), series("barograph_taps_failed", f"0{LONG}"), series("barograph_taps_unproved", f"0{LONG}"),
        series("barograph_taps_stale", f"0{LONG}"), series("barograph_frames_lost_total", f"0{LONG}"), series("barograph_tokens_judged_total", f"0+6000{LONG}"),
        series("barograph_tokens_missed_total", f"0+1{LONG}"), series("barograph_gateway_hold_seconds_bucket", f"0+5990{LONG}", le="0.05"),
        series("barograph_gateway_hold_seconds_count", f"0+6000{LONG}"), series("barograph_verdict_delay_seconds_bucket", f"0+100{LONG}", le="0.05"),
        series("barograph_verdict_delay_seconds_bucket", f"0+100{LONG}", le="+Inf"), series("barograph_failure_decisions_total", f"0{LONG}", condition="no_tap", decision="open"),
        series("barograph_failure_decisions_total", f"0{LONG}", condition="no_tap", decision="closed"), series("barograph_gateway_upstream_failures_total", f"0{LONG}", condition="down"),
        series("barograph_gateway_requests_total", f"0+60{LONG}", endpoint="/v1/chat/completions", status="200"), series("barograph_ledger_failed", f"0{LONG}"),
        series("barograph_ledger_waiting", f"0{LONG}"), series("barograph_ledger_sealed", f"0+100{LONG}"), series("barograph_ledger_archive_failed", f"0{LONG}"),
        series("barograph_ledger_witnesses_missing", f"0{LONG}"), series("barograph_rules_reload_failed", f"0{LONG}"), series("barograph_drift_exceedance", f"1{LONG}", probe="panic"),
        series("barograph_drift_deviation", f"1{LONG}", probe="panic"), series("barograph_sink_failing", f"0{LONG}", sink="kafka"),
        series("barograph_kafka_refused_total", f"0{LONG}", topic="t", reason="r"), series("barograph_kafka_waiting", f"20{LONG}"),
        series("barograph_task_failures_total", f"0{LONG}", task="ledger"), series("barograph_stops_standing", f"0{LONG}"),
        series("barograph_admin_refused_total", f"0{LONG}", why="token"), series("barograph_certificate_expires_seconds", f"5000000{LONG}", listener="gateway"),
    ])
}  # fmt: skip

# What is otherwise than in a quiet hour, and when the alert has come. Of the objectives: four times and twenty times the budget.
BAD: dict[str, tuple[list[dict[str, str]], str]] = {
    "Down": ([series("up", "1x10 0x50")], "13m"),
    "TapGone": ([series("barograph_taps_connected", "2x10 1x50")], "17m"),
    "NoTap": ([series("barograph_taps_connected", "1x10 0x50")], "17m"),
    "TapFailed": ([series("barograph_taps_failed", "0x10 1x50")], "13m"),
    "TapUnproved": ([series("barograph_taps_unproved", "0x10 1x50")], "17m"),
    "ThresholdsStale": ([series("barograph_taps_stale", "0x10 1x50")], "17m"),
    "FramesLost": ([series("barograph_frames_lost_total", "0x10 3x50")], "13m"),
    "VerdictsLate": ([series("barograph_verdict_delay_seconds_bucket", "0+90x60", le="0.05"), series("barograph_verdict_delay_seconds_bucket", "0+95x60", le="1.0")], "25m"),
    "FailedOpen": ([series("barograph_failure_decisions_total", "0x10 1x50", condition="no_tap", decision="open")], "13m"),
    "FailedClosed": ([series("barograph_failure_decisions_total", "0x10 20x50", condition="no_tap", decision="closed")], "13m"),
    "UpstreamFails": ([series("barograph_gateway_upstream_failures_total", "0+6x60", condition="down")], "15m"),
    "LedgerFailed": ([series("barograph_ledger_failed", "0x10 1x50")], "13m"),
    "LedgerLate": ([series("barograph_ledger_waiting", "0x10 5x50"), series("barograph_ledger_sealed", "0+100x10 1000x50")], "18m"),
    "ArchiveFailed": ([series("barograph_ledger_archive_failed", "0x10 1x100")], "75m"),
    "WitnessesMissing": ([series("barograph_ledger_witnesses_missing", "0x10 1x100")], "30m"),
    "ReloadFailed": ([series("barograph_rules_reload_failed", "0x10 1x50")], "13m"),
    "Drifts": ([series("barograph_drift_exceedance", "1x10 4x200", probe="panic")], "75m"),
    "ProbeStuck": ([series("barograph_drift_deviation", "1x10 0.1x200", probe="panic")], "45m"),
    "SinkFails": ([series("barograph_sink_failing", "0x10 1x50", sink="kafka")], "17m"),
    "KafkaRefuses": ([series("barograph_kafka_refused_total", "0x10 1x50", topic="t", reason="r")], "13m"),
    "KafkaBehind": ([series("barograph_kafka_waiting", "0+2000x100")], "40m"),
    "TaskDied": ([series("barograph_task_failures_total", "0x10 1x50", task="ledger")], "13m"),
    "AdminRefused": ([series("barograph_admin_refused_total", "0x10 40x50", why="token")], "13m"),
    "CertificateEnds": ([series("barograph_certificate_expires_seconds", "86400x60", listener="gateway")], "20m"),
    "StopStands": ([series("barograph_stops_standing", "0x10 1x100")], "75m"),
    "CoverageBurnsFast": ([series("barograph_tokens_missed_total", "0+120x200")], "2h"),
    "CoverageBurnsSlow": ([series("barograph_tokens_missed_total", f"0+24{LONG}")], "30h"),
    "HoldBurnsFast": ([series("barograph_gateway_hold_seconds_bucket", "0+4800x200", le="0.05")], "2h"),
    "HoldBurnsSlow": ([series("barograph_gateway_hold_seconds_bucket", f"0+5760{LONG}", le="0.05")], "30h"),
}  # fmt: skip


def alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"] if "alert" in rule]


def until(world: list[dict[str, str]], when: str) -> list[dict[str, str]]:
    """No more minutes of it than are looked at, as promtool evaluates them all."""
    return world if when.endswith("h") else [{**each, "values": each["values"].replace(LONG, "x120")} for each in world]


def promtool(folder: Path, world: list[dict[str, str]], asked: dict[str, Any]) -> str:
    """What promtool says when these series are all there is; nothing when it is as expected."""
    test = {"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": [{"interval": "1m", "input_series": world, **asked}]}
    (folder / "test.yaml").write_text(yaml.safe_dump(test))
    done = subprocess.run(["promtool", "test", "rules", str(folder / "test.yaml")], capture_output=True, text=True, timeout=250)
    return "" if done.returncode == 0 else done.stdout + done.stderr


def otherwise(changed: list[dict[str, str]]) -> list[dict[str, str]]:
    named = {each["series"] for each in changed}
    return [*(each for each in QUIET.values() if each["series"] not in named), *changed]


def test_every_alert_has_its_test_and_its_runbook() -> None:
    assert {rule["alert"] for rule in alerts()} == {f"Barograph{name}" for name in BAD}
    for rule in alerts():
        file, _, anchor = rule["annotations"]["runbook_url"].partition("#")
        headings = re.findall(r"^## (.*)$", (RUNBOOKS / file).read_text(), re.MULTILINE)
        assert anchor in [heading.lower().replace(" ", "-") for heading in headings]


@needs_promtool
def test_a_quiet_time_fires_nothing(tmp_path: Path) -> None:
    asked = {
        "alert_rule_test": [
            {"eval_time": when, "alertname": rule["alert"], "exp_alerts": []} for rule in alerts() for when in ("20m", "2d")
        ]
    }
    assert promtool(tmp_path, list(QUIET.values()), asked) == ""


@needs_promtool
@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("KafkaRefuses", series("barograph_kafka_refused_total", "_x12 1x50", topic="t", reason="new")),
        ("TaskDied", series("barograph_task_failures_total", "_x12 1x50", task="new")),
    ],
)
def test_the_first_of_its_kind_is_seen(tmp_path: Path, name: str, first: dict[str, str]) -> None:
    """A series that begins at 1 has no increase."""
    firing = f'sum(ALERTS{{alertname="Barograph{name}", alertstate="firing"}}) > bool 0'
    asked = {"promql_expr_test": [{"expr": firing, "eval_time": "15m", "exp_samples": [{"labels": "{}", "value": 1}]}]}
    assert promtool(tmp_path, until(otherwise([first]), "15m"), asked) == ""


@needs_promtool
def test_a_sidecar_that_nobody_scrapes_is_missed(tmp_path: Path) -> None:
    firing = 'sum(ALERTS{alertname="BarographDown", alertstate="firing"}) > bool 0'
    asked = {"promql_expr_test": [{"expr": firing, "eval_time": "10m", "exp_samples": [{"labels": "{}", "value": 1}]}]}
    other = {"series": 'up{job="other"}', "values": "1x30"}
    assert promtool(tmp_path, [other], asked) == ""


@needs_promtool
def test_a_handful_of_tokens_wakes_nobody(tmp_path: Path) -> None:
    few = [series("barograph_tokens_judged_total", "0+0.1x200"), series("barograph_tokens_missed_total", "0+0.1x200")]
    asked = {
        "alert_rule_test": [
            {"eval_time": "3h", "alertname": f"BarographCoverageBurns{speed}", "exp_alerts": []} for speed in ("Fast", "Slow")
        ]
    }
    assert promtool(tmp_path, few, asked) == ""


@needs_promtool
def test_without_traffic_nothing_burns(tmp_path: Path) -> None:
    still = [
        series(name, "5x200")
        for name in ("barograph_tokens_judged_total", "barograph_tokens_missed_total", "barograph_gateway_hold_seconds_count")
    ]
    names = [rule["alert"] for rule in alerts() if "Burns" in rule["alert"]]
    assert (
        promtool(tmp_path, still, {"alert_rule_test": [{"eval_time": "3h", "alertname": name, "exp_alerts": []} for name in names]}) == ""
    )


@needs_promtool
@pytest.mark.parametrize("name", BAD)
def test_an_alert_fires_in_its_situation(tmp_path: Path, name: str) -> None:
    changed, when = BAD[name]
    firing = f'sum(ALERTS{{alertname="Barograph{name}", alertstate="firing"}}) > bool 0'
    asked = {"promql_expr_test": [{"expr": firing, "eval_time": when, "exp_samples": [{"labels": "{}", "value": 1}]}]}
    assert promtool(tmp_path, until(otherwise(changed), when), asked) == ""


@needs_promtool
@pytest.mark.parametrize("name", ["Coverage", "Hold"])
def test_a_short_dip_is_no_burn(tmp_path: Path, name: str) -> None:
    """Two bad minutes in a good day: the short window sees them, the long one does not mind."""
    dip = {
        "Coverage": series("barograph_tokens_missed_total", "0x600 100 200x800"),
        "Hold": series("barograph_gateway_hold_seconds_bucket", "0+6000x600 3605000 3610000+6000x800", le="0.05"),
    }
    asked = {
        "alert_rule_test": [
            {"eval_time": "10h3m", "alertname": f"Barograph{name}Burns{speed}", "exp_alerts": []} for speed in ("Fast", "Slow")
        ]
    }
    assert promtool(tmp_path, otherwise([dip[name]]), asked) == ""
