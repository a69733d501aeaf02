"""A second engine to compare with: one stream, one token, plain Python, and none of the first one's code."""

from __future__ import annotations

import math
from typing import Any

from rules.facts import ProbeFacts

PROBES = ("desperation", "panic", "calm")


def probe_facts() -> list[ProbeFacts]:
    """desperation and panic are calibrated and causal, calm is neither."""
    thresholds = {"last": {0.01: 2.5, 0.001: 3.8}, "ewma(8)": {0.01: 1.0, 0.001: 1.5}}
    replies = {"ewma(8)": {0.01: 2.0}}
    return [
        ProbeFacts(
            name, thresholds, True, beats=lambda dose: abs(dose) <= 0.15, alarm=True, reply_thresholds=replies if name == "panic" else {}
        )
        if name != "calm"
        else ProbeFacts(name)
        for name in PROBES
    ]


class Naive:
    """condition and until: trees of tuples, as tests/rules/test_differential.py draws them. The others in tokens."""

    def __init__(self, condition: Any, until: Any, hold: int, keep: int, cool: int) -> None:
        self.condition, self.until, self.hold, self.keep, self.cool = condition, until, hold, keep, cool
        self.streams: dict[int, dict[str, Any]] = {}
        self.memory: dict[str, list[list[list[float]]]] = {}

    def begin(self, slot: int, conversation: str = "") -> None:
        past = list(self.memory.get(conversation, []))
        self.streams[slot] = {"series": [], "past": past, "held": 0, "firing": False, "lost": 0, "rest": 0, "key": conversation}

    def end(self, slot: int) -> None:
        state = self.streams[slot]
        if state["key"]:
            self.memory.setdefault(state["key"], []).append(state["series"])

    def token(self, slot: int, scores: list[float]) -> str:
        """ "fired", "ended" or nothing."""
        state = self.streams[slot]
        state["series"].append([max(-12.0, min(12.0, x)) if math.isfinite(x) else math.nan for x in scores])
        holds = _truth(self.condition, state) is True
        stays = holds if self.until is None else _truth(self.until, state) is not True
        state["held"] = state["held"] + 1 if holds else 0
        state["rest"] -= 1
        if state["firing"]:
            state["lost"] = 0 if stays else state["lost"] + 1
            if state["lost"] > self.keep:
                state.update(firing=False, lost=0, rest=self.cool + 1)
                return "ended"
        elif state["held"] >= self.hold and state["rest"] < 1:
            state["firing"] = True
            return "fired"
        return ""


def _number(term: Any, state: dict[str, Any]) -> float:
    if isinstance(term, float):
        return term
    probe, kind, size, scope, argument = term
    i = PROBES.index(probe)
    column = [row[i] for row in state["series"]]
    if kind == "last":
        return column[-1]
    if scope != "tokens":
        return _wide(kind, scope, size, argument, column, [[row[i] for row in series] for series in state["past"]])
    if kind == "ewma":
        if math.isnan(column[-1]):
            return math.nan
        value, decay = math.nan, 0.5 ** (1 / size)
        for x in column:
            value = value if math.isnan(x) else x if math.isnan(value) else value * decay + x * (1 - decay)
        return value
    window = column[-size:]
    if len(window) < size or any(map(math.isnan, window)):
        return math.nan
    return _of(kind, window, argument)


def _of(kind: str, values: list[float], argument: float) -> float:
    if kind == "slope":
        return _slope(list(range(len(values))), values)
    if kind == "quantile":
        ordered = sorted(values)
        place = argument * (len(ordered) - 1)
        low = math.floor(place)
        return ordered[low] + (ordered[min(low + 1, len(ordered) - 1)] - ordered[low]) * (place - low)
    if kind == "count_above":
        return float(sum(x > argument for x in values))
    return {"mean": sum(values) / len(values), "max": max(values), "min": min(values)}[kind]


def _slope(xs: list[float], ys: list[float], weights: list[float] | None = None) -> float:
    weights = weights or [1.0] * len(xs)
    if len(xs) < 2:
        return math.nan
    total = sum(weights)
    mx, my = (sum(w * v for w, v in zip(weights, values, strict=True)) / total for values in (xs, ys))
    return sum(w * (x - mx) * (y - my) for w, x, y in zip(weights, xs, ys, strict=True)) / sum(
        w * (x - mx) ** 2 for w, x in zip(weights, xs, strict=True)
    )


def _wide(kind: str, scope: str, size: int, argument: float, column: list[float], past: list[list[float]]) -> float:
    """Over the stream, or over the conversation: each earlier request weighs half as much after `size` more."""
    if math.isnan(column[-1]):
        return math.nan
    known = [[x for x in series if not math.isnan(x)] for series in (*past, column)]
    if scope == "stream":
        if kind != "slope":
            return _of(kind, known[-1], argument)
        at = [t for t, x in enumerate(column) if not math.isnan(x)]
        return _slope([float(t) for t in at], known[-1])
    ages = list(range(len(known) - 1, -1, -1))
    weights = [0.5 ** (age / size) for age in ages]
    if kind == "mean":
        weight = sum(w * len(series) for w, series in zip(weights, known, strict=True))
        return sum(w * sum(series) for w, series in zip(weights, known, strict=True)) / weight
    if kind == "count_above":
        return sum(w * sum(x > argument for x in series) for w, series in zip(weights, known, strict=True))
    if kind == "max":
        peaks = [max(series) * (w if max(series) > 0 else 1) for w, series in zip(weights, known, strict=True) if series]
        return max(peaks)
    kept = [(-float(age), sum(series) / len(series), w) for age, series, w in zip(ages, known, weights, strict=True) if series]
    return _slope([x for x, _, _ in kept], [y for _, y, _ in kept], [w for _, _, w in kept])


def _truth(node: Any, state: dict[str, Any]) -> bool | None:
    if node[0] in "<>":
        left, right = _number(node[1], state), _number(node[2], state)
        if math.isnan(left) or math.isnan(right):
            return None
        return left > right if node[0] == ">" else left < right
    if node[0] == "not":
        inner = _truth(node[1], state)
        return None if inner is None else not inner
    values = [_truth(node[1], state), _truth(node[2], state)]
    decisive = node[0] == "or"
    return decisive if decisive in values else None if None in values else not decisive


def text(node: Any) -> str:
    """The condition in the language."""
    if isinstance(node, float):
        return str(node)
    if node[0] in PROBES:
        probe, kind, size, scope, argument = node
        if kind == "last":
            return f"{probe}.last"
        given = [] if scope == "tokens" else [scope]
        given += [] if scope == "stream" else [str(size)]
        given += [str(argument)] if kind in ("quantile", "count_above") else []
        return f"{probe}.{kind}({', '.join(given)})"
    if node[0] == "not":
        return f"(not {text(node[1])})"
    return f"({text(node[1])} {node[0]} {text(node[2])})"
