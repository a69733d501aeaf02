"""`barograph tail`: what rules say and what is done about it, as it is recorded."""

from __future__ import annotations

import json
import sys
import time
from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from monitor.audit.reader import Reader

LOOK_S = 0.2
KINDS = ("verdict", "failure", "steer", "reroute", "tenant", "command")
STREAMS = 10_000  # generations whose tenant and model are remembered
STYLES = {"halt": "bold white on red", "reroute": "black on magenta", "throttle": "black on yellow", "alert": "yellow", "steer": "cyan"}


@dataclass(frozen=True)
class Wanted:
    """What is shown; an empty field leaves all in."""

    rules: tuple[str, ...] = ()
    tenants: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    actions: tuple[str, ...] = ()
    mode: str = ""
    kinds: tuple[str, ...] = KINDS

    def has(self, record: dict[str, Any]) -> bool:
        return (
            record["kind"] in self.kinds
            and _in(record.get("rule"), self.rules)
            and _in(record.get("tenant"), self.tenants)
            and _in(record.get("model"), self.models)
            and _in(record.get("action"), self.actions)
            and (not self.mode or record.get("mode") == self.mode)
        )


@dataclass
class Joined:
    """Records with the tenant and the model of their generation, which only its beginning names."""

    _about: OrderedDict[str, dict[str, str]] = field(default_factory=OrderedDict)

    def take(self, record: dict[str, Any]) -> dict[str, Any]:
        if record["kind"] == "stream" and record.get("event") == "begin":
            self._about[record["stream"]] = record.get("request") or {}
            if len(self._about) > STREAMS:
                self._about.popitem(last=False)
        about = self._about.get(str(record.get("stream", "")), {})
        return {**{name: about[name] for name in ("tenant", "model") if about.get(name)}, **record}


def tail(ledger: Path, wanted: Wanted, count: int, follow: bool, as_json: bool) -> None:
    """Print the last `count` records that are wanted, and with `follow` those that come. Raises ReadError."""
    console, joined, reader = Console(), Joined(), Reader(ledger)
    last: deque[dict[str, Any]] = deque(maxlen=count)
    while some := list(_taken(reader, joined, wanted)):
        last.extend(each for each in some if each is not None)
    for record in last:
        _show(console, record, as_json)
    while follow:
        some = list(_taken(reader, joined, wanted))
        for found in some:
            if found is not None:
                _show(console, found, as_json)
        if not some:
            time.sleep(LOOK_S)


def _taken(reader: Reader, joined: Joined, wanted: Wanted) -> Iterator[dict[str, Any] | None]:
    """Nothing for a record that is not wanted, so that the caller can tell the end from a boring stretch."""
    for entry in reader.take():
        try:
            record = joined.take(json.loads(entry))
            yield record if wanted.has(record) else None
        except (ValueError, KeyError, TypeError, AttributeError):
            print("barograph: a record that cannot be read is left out; barograph audit verify says which", file=sys.stderr)
            yield None


def _show(console: Console, record: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(record, separators=(",", ":")), flush=True)
        return
    record = {name: printable(value) if isinstance(value, str) else value for name, value in record.items()}
    line = Text(datetime.fromtimestamp(float(record.get("time") or 0)).strftime("%H:%M:%S "), style="dim")
    what = str(record.get("action") or record["kind"])
    shadow = record.get("mode") == "shadow"
    line.append(f"{what:<9}", style="dim" if shadow else STYLES.get(what, "bold"))
    line.append(f" {record.get('rule') or record.get('condition') or record.get('verb') or ''}", style="bold")
    line.append(f" {_more(record)}{' (shadow)' if shadow else ''}", style="dim" if shadow else "")
    about = [str(record[name]) for name in ("tenant", "model") if record.get(name)]
    line.append(f"  {' · '.join(about)}" if about else "", style="cyan")
    line.append(f"  {record.get('stream', '')!s}", style="dim")
    console.print(line, soft_wrap=True, highlight=False)
    sys.stdout.flush()


def _more(record: dict[str, Any]) -> str:
    if record["kind"] == "verdict":
        signals = ", ".join(
            f"{name} = {value:.2f}" for name, value in (record.get("signals") or {}).items() if isinstance(value, int | float)
        )
        return f"{'ended' if record.get('event') == 'ended' else 'fired'} at token {record.get('position', '?')}{f': {signals}' if signals else ''}"
    said = (record.get("event"), record.get("decision"), record.get("outcome"), record.get("to"), record.get("why"), record.get("reason"))
    return ", ".join(str(each) for each in said if each)


def printable(text: str) -> str:
    """What clients call their tenants and models must not move the cursor."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def _in(value: object, names: tuple[str, ...]) -> bool:
    return not names or value in names
