"""Fills the technical documentation of Annex IV as far as cards, configuration, ledger and figures reach, and marks what only the provider knows."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from monitor import __version__
from monitor.audit.reader import ReadError, records
from monitor.config import Config, read_text
from monitor.errors import BarographError
from monitor.pipeline import rulefiles
from rules.engine import RuleEngine

TEMPLATE = Path(__file__).with_name("technical.md")
CHANGES = 100  # the last ones


def technical_file(config: Config, figures: Path | None) -> str:
    """Markdown. figures: a folder of benchmark results, a JSON object in each. Raises BarographError."""
    bank = config.load_bank()
    engine = RuleEngine(rulefiles.load(config.rules, config.trust.plain), rulefiles.facts(bank), rulefiles.abilities(config))
    gateway, retention = config.gateway, config.audit.retention
    passport = ", ".join(f"{name} {value}" for name, value in bank.card.passport.model_dump().items() if value)
    changes: list[str] = []
    try:
        changes = [_change(each) for each in records(config.sidecar.ledger) if _is_change(each)][-CHANGES:]
    except ReadError:
        pass  # the file says so
    page = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False).from_string(
        TEMPLATE.read_text("utf-8")
    )
    return page.render(
        made=_day(datetime.now(UTC).timestamp()), version=__version__, engine=gateway.upstream, hold=gateway.hold, passport=passport, card=bank.card,
        probes=[probe for probe in bank.card.probes if probe.name in bank.names], self_check=config.sidecar.self_check,
        failure_modes={name: getattr(gateway, name) for name in type(gateway).model_fields if name.startswith("on_")}, digest=engine.digest, rules=engine.rules,
        ledger=config.sidecar.ledger, changes=changes, retention=f"{retention.days:g} days" if retention.days else "good: no retention is set",
        figures=_figures(figures) if figures is not None else [],
    )  # fmt: skip


def _is_change(record: dict[str, Any]) -> bool:
    kind, event = record["kind"], record.get("event")
    return (kind, event) in (("sidecar", "start"), ("rules", "loaded"), ("rules", "reloaded"), ("tap", "connected"), ("key", "rotated"))


def _change(record: dict[str, Any]) -> str:
    said = {name: record[name] for name in ("version", "bank", "digest", "rules", "by", "reason", "model", "engine") if record.get(name)}
    plain = {name: " ".join(str(value).split()) for name, value in said.items()}
    short = ", ".join(f"{name} {value[:16] if name in ('bank', 'digest', 'rules') else value}" for name, value in plain.items())
    return f"{_day(record['time'])}, record {record['seq']}: {record['kind']} {record['event']} ({short})"


def _figures(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise BarographError(f"{folder}: no such folder; expected one with results of benchmarks, such as benchmarks/results")
    found = []
    for path in sorted(folder.glob("*.json")):
        try:
            for line in read_text(path).splitlines():
                result = json.loads(line)
                plain = {
                    name: value
                    for name, value in result.items()
                    if isinstance(value, int | float | str) and name not in ("benchmark", "machine")
                }
                numbers = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in list(plain.items())[:8])
                found.append(f"{result.get('benchmark', path.stem)} on {result.get('machine', 'a machine that is not named')}: {numbers}")
        except (ValueError, AttributeError, RecursionError) as error:
            raise BarographError(f"{path}: {error}; expected one JSON object a line") from None
    return found


def _day(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
