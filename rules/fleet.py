"""Rules over many streams and replicas, as Prometheus rules. Prometheus adds up and Alertmanager fires; nothing here aggregates.

rate(halt[5m]) by tenant > 0.1          verdicts a second of an action, or of one rule
count(panic_rising[1h]) > 20            verdicts in a time
share(panic_rising) by model > 5%       of the running streams, those for which a rule fires now
"""

from __future__ import annotations

import re
from typing import Any

from rules.document import DocumentError
from rules.nearest import unknown
from rules.ruleset import RuleSet
from rules.schema import ACTIONS, Fleet, Rule, Span

LABELS = ("model", "tenant", "rule", "action", "mode")
SHARED = ("model",)  # by which running streams are counted
_FORM = re.compile(
    r"\s*(?P<what>rate|count|share)\s*\(\s*(?P<name>[a-z][a-z0-9_]*)\s*(?:\[\s*(?P<window>\d{1,5}[smhd])\s*\])?\s*\)"
    r"\s*(?:by\s+(?P<by>[a-z]+(?:\s*,\s*[a-z]+)*))?\s*(?P<compare>>=|<=|>|<)\s*(?P<number>\d+(?:\.\d+)?)\s*(?P<percent>%)?\s*"
)


def prometheus(ruleset: RuleSet) -> dict[str, Any]:
    """An alert for each rule and for each rule over many streams, as the document of a Prometheus rule file. Raises DocumentError."""
    alerts = [_alert(rule) for rule in ruleset.rules if rule.mode != "disabled" and rule.do.observe is None]
    fleet = [_fleet(each, ruleset) for each in ruleset.fleet]
    groups = [
        {"name": "barograph-rules", "rules": alerts},
    ]
    return {"groups": [group for group in [*groups, {"name": "barograph-fleet", "rules": fleet}] if group["rules"]]}


def expression(each: Fleet, ruleset: RuleSet) -> str:
    """The PromQL of a fleet rule."""
    found = _FORM.fullmatch(each.when)
    if found is None:
        raise DocumentError(
            f"{ruleset.name}: fleet rule '{each.fleet}', when: cannot read '{each.when[:80]}'; expected such as "
            "rate(halt[5m]) by tenant > 0.1, count(a_rule[1h]) > 20, or share(a_rule) by model > 5%"
        )
    by = [label.strip() for label in (found["by"] or "").split(",") if label.strip()]
    name, number = found["name"], float(found["number"]) / (100 if found["percent"] else 1)
    known = SHARED if found["what"] == "share" else LABELS
    for label in by:
        if label not in known:
            raise DocumentError(f"{ruleset.name}: fleet rule '{each.fleet}', when: {unknown('label', label, known)}")
    grouped = f"sum by ({', '.join(by)}) " if by else "sum "
    rules = [rule.rule for rule in ruleset.rules]
    if found["what"] == "share":
        if found["window"] or name not in rules:
            wrong = "share takes no time" if found["window"] else unknown("rule", name, rules)
            raise DocumentError(f"{ruleset.name}: fleet rule '{each.fleet}', when: {wrong}")
        value = f'{grouped}(barograph_streams_firing{{rule="{name}"}}) / {grouped}(barograph_streams_running)'
    else:
        if not found["window"]:
            raise DocumentError(f"{ruleset.name}: fleet rule '{each.fleet}', when: {found['what']} needs a time, such as {name}[5m]")
        if name not in ACTIONS and name not in rules:
            raise DocumentError(f"{ruleset.name}: fleet rule '{each.fleet}', when: {unknown('rule or action', name, [*ACTIONS, *rules])}")
        label = "action" if name in ACTIONS else "rule"
        function = "rate" if found["what"] == "rate" else "increase"
        value = f'{grouped}({function}(barograph_verdicts_total{{{label}="{name}"}}[{found["window"]}]))'
    return f"{value} {found['compare']} {number:g}"


def _fleet(each: Fleet, ruleset: RuleSet) -> dict[str, Any]:
    labels = {"severity": each.severity, "barograph": "fleet"}
    if each.arm:
        labels["barograph_arm"] = ",".join(each.arm)
    if each.disarm:
        labels["barograph_disarm"] = ",".join(each.disarm)
    return {
        "alert": _camel(each.fleet),
        "expr": expression(each, ruleset),
        "for": _time(each.hold_for),
        "labels": labels,
        "annotations": _annotations(each.desc, each.runbook),
    }


def _alert(rule: Rule) -> dict[str, Any]:
    """An alert for every rule that asks for more than to be observed; verdicts in shadow are told apart by their label."""
    return {
        "alert": _camel(rule.rule),
        "expr": f'sum by (model, mode) (increase(barograph_verdicts_total{{rule="{rule.rule}"}}[5m])) > 0',
        "labels": {"severity": rule.severity, "barograph": "rule", "rule": rule.rule, "action": rule.action.name.lower()},
        "annotations": _annotations(rule.desc, rule.runbook),
    }


def _annotations(desc: str, runbook: str | None) -> dict[str, str]:
    # Prometheus takes {{ for the beginning of a template.
    return {"summary": " ".join(desc.split()).replace("{{", "{ {"), **({"runbook_url": runbook} if runbook else {})}


def _camel(name: str) -> str:
    return "Barograph" + "".join(part.capitalize() for part in name.split("_"))


def _time(span: Span) -> str:
    return f"{max(1, round(span.seconds))}s"
