"""`barograph watch`: running generations in the terminal. One line a stream, scores as sparklines, verdicts in colour."""

from __future__ import annotations

import io
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from monitor.commands.charts import BARS
from monitor.config import Config
from monitor.errors import BarographError
from monitor.http.near import Near

LOW, HIGH = -1.0, 6.0  # z values at which a bar is empty and full
WIDTH = 18
VERDICTS = 1  # of a stream, the gravest first; the others are counted
KEEP_S = 30.0  # how long a finished stream stays in view
NOTE = "z values: standard deviations above the model's own neutral text. A quiet probe is no proof of calm."


def watch(config: Config, once: bool, svg: Path | None, seconds: float | None, as_json: bool = False) -> None:
    """Show the live view until Ctrl-C. With `svg`, save the picture that held the most. Raises BarographError."""
    near = config.sidecar.near
    if as_json:
        _print(near, once, seconds)
        return
    view = View()
    console = Console()
    deadline = None if seconds is None else time.monotonic() + seconds
    fullest: tuple[int, Group | None] = (-1, None)
    with Live(console=console, auto_refresh=False, transient=once) as live:
        for snapshot in snapshots(near):
            view.update(snapshot, time.monotonic())
            live.update(view.render(), refresh=True)
            if view.weight >= fullest[0]:
                fullest = view.weight, view.render()
            if once or (deadline is not None and time.monotonic() >= deadline):
                break
    if once:
        console.print(view.render())
    if svg is not None and fullest[1] is not None:
        save_svg(fullest[1], svg)
        console.print(f"saved {svg}")


def _print(near: Near, once: bool, seconds: float | None) -> None:
    deadline = math.inf if seconds is None else time.monotonic() + seconds
    for snapshot in snapshots(near):
        print(json.dumps(snapshot, separators=(",", ":")), flush=True)
        if once or time.monotonic() >= deadline:
            return


def snapshots(near: Near) -> Iterator[dict[str, Any]]:
    url = near.url("/watch")
    try:
        with httpx.stream("GET", url, verify=near.trust, timeout=httpx.Timeout(5, read=None), trust_env=False) as response:
            for line in response.iter_lines():
                if line.startswith("data: "):
                    yield json.loads(line[6:])
    except httpx.HTTPError:
        raise BarographError(f"no sidecar answers at {url}; start one with: barograph up") from None
    raise BarographError(f"the sidecar at {url} has stopped")


class View:
    """What is on the screen: the running streams, and those that ended a moment ago."""

    def __init__(self) -> None:
        self.probes: list[str] = []
        self._taps = 0
        self._streams: dict[str, dict[str, Any]] = {}
        self._seen: dict[str, float] = {}

    @property
    def weight(self) -> int:
        """How much there is to see: tokens and verdicts of the streams in view."""
        return sum(len(stream["scores"][0]) + 20 * len(stream["verdicts"]) for stream in self._streams.values() if stream["scores"])

    def update(self, snapshot: dict[str, Any], now: float) -> None:
        self.probes, self._taps = snapshot["probes"], snapshot["taps"]
        running = {stream["stream"] for stream in snapshot["streams"]}
        for stream in snapshot["streams"]:
            self._streams[stream["stream"]] = stream
            self._seen[stream["stream"]] = now
        for name in list(self._streams):
            if name not in running:
                self._streams[name]["ended"] = True
                if now - self._seen[name] > KEEP_S:
                    del self._streams[name], self._seen[name]

    def render(self) -> Group:
        table = Table(expand=False, box=None, pad_edge=False, header_style="bold")
        table.add_column("stream", no_wrap=True, min_width=10)
        table.add_column("tokens", justify="right", min_width=6)
        for probe in self.probes[:4]:
            table.add_column(probe, no_wrap=True, min_width=WIDTH + 5)
        table.add_column("verdicts", no_wrap=True)
        ordered = sorted(self._streams.values(), key=lambda stream: stream["started"])
        for stream in ordered[-30:]:
            style = "dim" if stream["ended"] else ""
            name, _, choice = stream["stream"].partition("#")
            cells = [spark(scores) for scores in stream["scores"][:4]]
            table.add_row(Text(f"{name[:8]}#{choice}", style=style), Text(str(stream["tokens"]), style=style), *cells, verdict_text(stream))
        running = sum(not stream["ended"] for stream in ordered)
        head = Text.assemble(("Barograph", "bold"), f"   {running} running, {self._taps} tap{'s' if self._taps != 1 else ''} connected")
        return Group(head, Text(""), table, Text(""), Text(NOTE, style="dim italic"))


def spark(scores: list[float]) -> Text:
    """The last scores as bars, and the last one as a number."""
    text = Text()
    for score in scores[-WIDTH:]:
        level = round((score - LOW) / (HIGH - LOW) * (len(BARS) - 1))
        text.append(BARS[min(max(level, 0), len(BARS) - 1)], style=colour(score))
    text.pad_right(max(0, WIDTH - len(scores)))
    text.append(f"{scores[-1]:5.1f}" if scores else "    –", style=colour(scores[-1]) if scores else "dim")
    return text


def colour(score: float) -> str:
    return "red" if score >= 4 else "yellow" if score >= 2 else "green" if score > -1 else "blue"


def verdict_text(stream: dict[str, Any]) -> Text:
    text = Text("scores lost " if stream["gap"] else "", style="magenta")
    ranked = sorted(stream["verdicts"], key=lambda verdict: (verdict["mode"] != "armed", verdict["action"] != "halt", -verdict["position"]))
    for verdict in ranked[:VERDICTS]:
        style = {"halt": "bold white on red", "alert": "black on yellow"}.get(verdict["action"], "cyan")
        shadow = verdict["mode"] == "shadow"
        text.append(
            f" {verdict['action']}{' (shadow)' if shadow else ''} {verdict['rule']} @{verdict['position']} ",
            style=f"dim {style}" if shadow else style,
        )
        text.append(" ")
    if len(ranked) > VERDICTS:
        text.append(f"+{len(ranked) - VERDICTS}", style="dim")
    return text


def save_svg(picture: Group, path: Path) -> None:
    recorder = Console(record=True, width=160, file=io.StringIO(), force_terminal=True)
    recorder.print(picture)
    recorder.save_svg(str(path), title="barograph watch")
