"""Fleet rules become PromQL, or are refused with what is known. promtool itself is asked in tests/e2e/test_prometheus.py."""

from __future__ import annotations

import pytest
import yaml

from rules.document import DocumentError
from rules.fleet import prometheus
from rules.ruleset import RuleSet


def fleet(when: str, **more: object) -> RuleSet:
    rules = [
        {"rule": "up", "desc": "d {{ x }}", "when": "panic.last > 1", "do": "alert"},
        {"rule": "seen", "desc": "d", "when": "panic.last > 1", "do": "observe"},
    ]
    return RuleSet.from_text(yaml.safe_dump({"rules": rules, "fleet": [{"fleet": "f", "desc": "d", "when": when, **more}]}), "f.yaml")


@pytest.mark.parametrize(
    ("when", "expected"),
    [
        ("rate(halt[5m]) by tenant > 0.1", 'sum by (tenant) (rate(barograph_verdicts_total{action="halt"}[5m])) > 0.1'),
        ("rate(up[1h]) >= 2", 'sum (rate(barograph_verdicts_total{rule="up"}[1h])) >= 2'),
        ("count(up[1d]) by model, tenant < 3", 'sum by (model, tenant) (increase(barograph_verdicts_total{rule="up"}[1d])) < 3'),
        (
            "share(up) by model > 5%",
            'sum by (model) (barograph_streams_firing{rule="up"}) / sum by (model) (barograph_streams_running) > 0.05',
        ),
    ],
)
def test_expressions(when: str, expected: str) -> None:
    groups = {group["name"]: group["rules"] for group in prometheus(fleet(when, arm=["up"]))["groups"]}
    (rule,) = groups["barograph-fleet"]
    assert rule["expr"] == expected
    assert rule["labels"]["barograph_arm"] == "up"
    assert [alert["labels"]["rule"] for alert in groups["barograph-rules"]] == ["up"]  # what is only observed alerts nobody
    assert "{{" not in groups["barograph-rules"][0]["annotations"]["summary"]


@pytest.mark.parametrize(
    ("when", "expected"),
    [
        ("rate(halt) > 1", "rate needs a time, such as halt[5m]"),
        ("share(up[5m]) > 1%", "share takes no time"),
        ("share(halt) > 1%", "unknown rule 'halt'"),
        ("rate(halted[5m]) > 1", "unknown rule or action 'halted'; did you mean 'halt'?"),
        ("rate(halt[5m]) by tennant > 1", "unknown label 'tennant'; did you mean 'tenant'?"),
        ("share(up) by tenant > 1%", "unknown label 'tenant'; known are: model"),
        ("rate(halt[5m]) > 1 or vector(1)", "cannot read"),
    ],
)
def test_what_is_refused(when: str, expected: str) -> None:
    with pytest.raises(DocumentError, match=r"f\.yaml: fleet rule 'f', when: ") as caught:
        prometheus(fleet(when))
    assert expected in str(caught.value)


def test_an_unknown_rule_to_arm_is_refused() -> None:
    with pytest.raises(DocumentError, match="fleet rule 'f': unknown rule 'upp'; did you mean 'up'"):
        fleet("rate(halt[5m]) > 1", arm=["upp"])
