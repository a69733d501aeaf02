"""Why a rule fired, from its record in the ledger, in one screen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from monitor.audit.reader import records
from monitor.commands.charts import chart, spark
from monitor.errors import BarographError

COLOURS = {"info": "cyan", "warning": "yellow", "critical": "red"}
WHY_SHADOW = {
    "mode": "its mode is shadow, so nothing was done",
    "stale": "the thresholds are of another engine, so nothing was done",
    "canary": "the stream is not among those in which it acts (canary), so nothing was done",
    "": "",
}


def explain(which: str, ledger: Path) -> None:
    """`which`: the seq of a verdict, or `last`. Raises BarographError."""
    show(find(which, ledger), Console())


def find(which: str, ledger: Path) -> dict[str, Any]:
    if which != "last" and not which.isdigit():
        raise BarographError(f"'{which}' is no verdict; expected its seq in the ledger, such as 42, or last")
    found: dict[str, Any] | None = None
    verdicts = []
    for record in records(ledger):
        if record.get("kind") == "verdict" and record.get("event", "fired") == "fired":
            verdicts.append(record["seq"])
            if which == "last" or record["seq"] == int(which):
                found = record
    if found is None:
        known = f"the last are {', '.join(map(str, verdicts[-5:]))}" if verdicts else "it holds none"
        raise BarographError(f"{ledger}: no verdict {which}; {known}")
    return found


def show(record: dict[str, Any], console: Console) -> None:
    """Rule, condition with its values, what was done, and the probes' last scores up to the token."""
    colour = COLOURS.get(record.get("severity", ""), "white")
    title = Text(f"{record['rule']} ", style=f"bold {colour}")
    title.append(f"{record['action']}, {record['mode']}, {record.get('severity', '')}", style=colour)
    console.print(title)
    console.print(f"  {record.get('desc', '')}", highlight=False)
    hold = record.get("hold_for") or {}
    span = f"{hold['seconds']:g} s" if hold.get("seconds") else f"{hold.get('tokens', 1)} token{'s' if hold.get('tokens', 1) != 1 else ''}"
    lines = [
        ("at", f"token {record['position']} of stream {record['stream']}"),
        ("when", f"{record['when']}   held for {span}"),
        ("until", record.get("until") or ""),
        ("values", "   ".join(f"{name} = {_number(value)}" for name, value in record.get("signals", {}).items())),
        ("thresholds", "   ".join(f"{name} = {value:.3f}" for name, value in record.get("thresholds", {}).items())),
        ("done", WHY_SHADOW.get(record.get("shadow", ""), record.get("shadow", "")) or record["action"]),
        ("limit", "reached: the action was weakened" if record.get("limited") else ""),
        ("rule", f"{record.get('digest', '')[:12]} of rules {record.get('rules', '')[:12]}"),
        ("risk", record.get("risk") or ""),
        ("runbook", record.get("runbook") or ""),
    ]
    for name, value in lines:
        if value:
            console.print(Text(f"  {name:<11}", style="dim") + Text(str(value)))
    _series(record, console)
    console.print(
        Text("  A score is in standard deviations above the model's own neutral text; it says nothing about feelings.", style="dim")
    )


def _series(record: dict[str, Any], console: Console) -> None:
    series = record.get("model_signal") or {}
    named = list(dict.fromkeys(signal.split(".")[0] for signal in record.get("signals", {})))
    position = record["position"]
    for probe in named[:2]:
        values = series.get(probe, [])
        # A threshold is drawn where it is on the scale of single scores.
        line = next((value for name, value in record.get("thresholds", {}).items() if name.startswith(f"{probe}.last ")), None)
        console.print(Text(f"\n  {probe}, the last {len(values)} scores", style="bold"))
        for row in chart(values, 7, line):
            console.print(Text(f"  {row}"))
        console.print(Text(f"  {'':7} └{'─' * len(values)}"))
        first = str(position - len(values) + 1)
        console.print(Text(f"  {'':9}{first}{str(position).rjust(max(1, len(values) - len(first)))}", style="dim"))
    others = [probe for probe in series if probe not in named]
    if others:
        console.print(Text("\n  the others", style="bold"))
    for probe in others:
        values = series[probe]
        last = values[-1] if values else None
        console.print(Text(f"  {probe:<14}{spark(values, -3, 6)}  {_number(last)}"))


def _number(value: float | None) -> str:
    return "missing" if value is None or value != value else f"{value:.3f}"
