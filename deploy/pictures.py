"""Draws the dashboards of deploy/grafana from a Prometheus, by their own queries: python -m deploy.pictures --prometheus http://127.0.0.1:9090 --out docs/figures

No Grafana is needed, and none of its looks is claimed: a reader of the docs sees what each panel shows.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from deploy.dashboards import FOLDER

CHOSEN = {"model": ".*", "tenant": ".*", "rule": ".*", "probe": "desperation"}  # what a reader would have chosen
UNIT, WIDTH = 0.42, 24  # inches of a row of the grid, columns
INK, QUIET, GRID = "#1f2328", "#59636e", "#d8dee4"
COLOURS = ["#0969da", "#bc4c00", "#1a7f37", "#8250df", "#cf222e", "#0e7490", "#9a6700", "#57606a", "#bf3989", "#4d7c0f"]


@dataclass(frozen=True)
class Time:
    """What is shown: up to `end`, seconds since 1970, for `seconds`."""

    end: float
    seconds: int

    @property
    def step(self) -> int:
        return max(1, self.seconds // 120)


def filled(query: str, seconds: int, rate: str = "30s") -> str:
    """A panel's query with the dashboard's variables filled in."""
    query = query.replace("$__rate_interval", rate).replace("$__range", f"{seconds}s")
    for name, value in CHOSEN.items():
        query = query.replace(f"${name}", value)
    return query


def panels(dashboard: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Those with queries."""
    return (each for each in dashboard["panels"] if each.get("targets"))


def asked(prometheus: str, target: dict[str, Any], when: Time) -> list[dict[str, Any]]:
    """The series of one query: labels and values. Raises httpx.HTTPError, and ValueError for a query that Prometheus refuses."""
    query = filled(target["expr"], when.seconds)
    if target.get("instant"):
        path, when_ = "query", {"time": when.end}
    else:
        path, when_ = "query_range", {"start": when.end - when.seconds, "end": when.end, "step": when.step}
    answer = httpx.post(f"{prometheus}/api/v1/{path}", data={"query": query, **when_}, timeout=60)
    body = answer.json()
    if body["status"] != "success":
        raise ValueError(f"{query}: {body.get('error')}")
    found: list[dict[str, Any]] = body["data"]["result"]
    return found


def draw(dashboard: dict[str, Any], prometheus: str, when: Time, out: Path) -> None:
    mpl.rcParams.update(
        {
            "font.size": 7,
            "font.family": "DejaVu Sans",
            "text.color": INK,
            "axes.labelcolor": QUIET,
            "xtick.color": QUIET,
            "ytick.color": QUIET,
        }
    )
    height = max(each["gridPos"]["y"] + each["gridPos"]["h"] for each in dashboard["panels"])
    figure = Figure(figsize=(WIDTH * 0.56, (height + 1.4) * UNIT), dpi=110, facecolor="white")
    top = height + 1.4
    figure.text(0.008, 1 - 0.55 / top, dashboard["title"], fontsize=12, weight="bold", va="center")
    figure.text(0.2, 1 - 0.55 / top, dashboard["description"], fontsize=8, va="center", color=QUIET)
    for panel in dashboard["panels"]:
        at = panel["gridPos"]
        bottom = 1 - (1.2 + at["y"] + at["h"]) / top
        if panel["type"] == "row":
            figure.text(0.008, bottom + 0.4 / top, panel["title"], fontsize=9, weight="bold", va="center")
            continue
        left, width, tall = at["x"] / WIDTH + 0.004, at["w"] / WIDTH - 0.008, at["h"] / top
        frame = figure.add_axes((left, bottom + 0.06 / top, width, tall - 0.12 / top), xticks=[], yticks=[])
        for spine in frame.spines.values():
            spine.set_color(GRID)
        frame.set_title("")
        frame.text(
            0.012,
            1 - 0.35 / at["h"],
            filled(panel["title"], when.seconds),
            transform=frame.transAxes,
            fontsize=8,
            weight="bold",
            va="center",
        )
        series = [(target, each) for target in panel["targets"] for each in asked(prometheus, target, when)]
        _DRAWN[panel["type"]](figure, frame, (left, bottom, width, tall, top), panel, series, when)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, metadata={"Software": None})


def _inner(figure: Figure, place: tuple[float, ...], below: float = 1.5) -> Axes:
    left, bottom, width, tall, top = place
    return figure.add_axes((left + 0.03 * (width > 0.2) + 0.012, bottom + below / top, width - 0.05, tall - (below + 0.9) / top))


def _values(each: dict[str, Any], when: Time) -> tuple[np.ndarray, np.ndarray]:
    values = np.array(each["values"], dtype=float)
    return values[:, 0] - (when.end - when.seconds), values[:, 1]


def _name(target: dict[str, Any], labels: dict[str, str]) -> str:
    name = target["legendFormat"] or ", ".join(labels.values()) or ""
    for label, value in labels.items():
        name = name.replace("{{" + label + "}}", value)
    return re.sub(r"{{\w+}}", "", name)


def _stat(figure: Figure, frame: Axes, place: tuple[float, ...], panel: dict[str, Any], series: list[Any], when: Time) -> None:
    each = series[0][1]
    value = float(each["value"][1] if "value" in each else each["values"][-1][1])
    unit = panel["fieldConfig"]["defaults"].get("unit", "short")
    text = f"{100 * value:.2f} %" if unit == "percentunit" else f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:.2f}"
    colour = next(
        (
            step["color"]
            for step in reversed(panel["fieldConfig"]["defaults"]["thresholds"]["steps"])
            if step["value"] is None or value >= step["value"]
        ),
        INK,
    )
    shown = {"green": "#1a7f37", "#EAB839": "#9a6700", "red": "#cf222e", "blue": "#0969da"}.get(colour, INK)
    frame.text(0.5, 0.4, text, transform=frame.transAxes, fontsize=17, ha="center", va="center", color=shown)


def _lines(figure: Figure, frame: Axes, place: tuple[float, ...], panel: dict[str, Any], series: list[Any], when: Time) -> None:
    axes = _inner(figure, place)
    stacked = panel["fieldConfig"]["defaults"].get("custom", {}).get("stacking", {}).get("mode") == "normal"
    base: np.ndarray | None = None
    factor = 100 if panel["fieldConfig"]["defaults"].get("unit") == "percentunit" else 1
    for number, (target, each) in enumerate(series[:12]):
        times, values = _values(each, when)
        colour, name = COLOURS[number % len(COLOURS)], _name(target, each["metric"])
        if stacked and (base is None or len(base) == len(values)):
            upper = values * factor + (base if base is not None else 0)
            axes.fill_between(times / 60, base if base is not None else 0, upper, color=colour, alpha=0.35, linewidth=0)
            axes.plot(times / 60, upper, color=colour, linewidth=1, label=name)
            base = upper
        else:
            axes.plot(times / 60, values * factor, color=colour, linewidth=1.2, label=name)
    for step in panel["fieldConfig"]["defaults"].get("thresholds", {}).get("steps", [])[1:]:
        axes.axhline(step["value"], color="#9a6700", linestyle="--", linewidth=0.8)
    axes.grid(color=GRID, linewidth=0.5)
    axes.set_xlim(0, when.seconds / 60)
    axes.margins(y=0.1)
    if axes.get_ylim()[1] - axes.get_ylim()[0] < 1e-9 or not series:
        axes.set_ylim(-0.1, 1)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.tick_params(length=0)
    axes.set_ylabel({"percentunit": "%", "s": "seconds"}.get(panel["fieldConfig"]["defaults"].get("unit", ""), ""), fontsize=6)
    if any(_name(target, each["metric"]) for target, each in series):
        axes.legend(loc="upper left", bbox_to_anchor=(0, -0.09), ncol=6, fontsize=6, frameon=False, handlelength=1, columnspacing=1)


def _heat(figure: Figure, frame: Axes, place: tuple[float, ...], panel: dict[str, Any], series: list[Any], when: Time) -> None:
    axes = _inner(figure, place, 1.0)
    edges = sorted(
        ((float(each["metric"]["le"].replace("+Inf", "inf")), _values(each, when)[1]) for _, each in series), key=lambda pair: pair[0]
    )
    counts = np.diff(np.array([values for _, values in edges]), axis=0, prepend=0)
    axes.imshow(np.sqrt(np.maximum(counts, 0)), aspect="auto", origin="lower", cmap="cividis", extent=(0, when.seconds / 60, 0, len(edges)))
    axes.set_yticks(np.arange(len(edges)) + 1, [f"{edge:g}" for edge, _ in edges])
    axes.tick_params(length=0)


def _table(figure: Figure, frame: Axes, place: tuple[float, ...], panel: dict[str, Any], series: list[Any], when: Time) -> None:
    columns = sorted({name for _, each in series for name in each["metric"]})
    rows = [[*(each["metric"].get(name, "") for name in columns), f"{float(each['value'][1]):.0f}"] for _, each in series][:11]
    left = 0.02
    for number, name in enumerate([*columns, "times"]):
        frame.text(left, 0.85, name, transform=frame.transAxes, fontsize=6, color=QUIET, va="center")
        for line, row in enumerate(rows):
            frame.text(left, 0.78 - 0.066 * line, row[number][:26], transform=frame.transAxes, fontsize=6.5, va="center")
        left += 0.36 if name == "rule" else 0.16


_DRAWN = {"stat": _stat, "timeseries": _lines, "heatmap": _heat, "table": _table}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prometheus", default="http://127.0.0.1:9090")
    parser.add_argument("--seconds", type=int, default=3600)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    for file in sorted(FOLDER.glob("*.json")):
        draw(json.loads(file.read_text()), options.prometheus, Time(time.time(), options.seconds), options.out / f"grafana-{file.stem}.png")


if __name__ == "__main__":
    main()
