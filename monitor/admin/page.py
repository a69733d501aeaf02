"""What the page on the admin address asks for: its files, the live feed, one stream, one verdict, the probes, the state, and a chat."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterable
from typing import Any

from prometheus_client.metrics import MetricWrapperBase
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from monitor import __version__
from monitor.admin.access import Role
from monitor.admin.feed import Feed, about, finite, told, whole
from monitor.admin.files import Files
from monitor.admin.live import MAX_VIEWS, Views
from monitor.admin.playground import Playground
from monitor.config import PageConfig
from monitor.gateway.gateway import Gateway
from monitor.http.responses import EventStream
from monitor.pipeline.tracks import Fired, Halves, Track, Tracks
from probes.bank import ProbeCard
from rules.ruleset import Compiled
from rules.signal import Signal
from rules.trace import trace

HEADERS = {"cache-control": "no-store", "x-content-type-options": "nosniff"}
MAX_WAITING = 32  # that wait for their turn
MAX_DRAWN = 2  # pictures of streams that are made at one time: each takes time from the gateway
# A comparison with a plain number, as far as it stands in a rule's own text.
COMPARED = re.compile(r"\b([a-z_]\w*\.[a-z_]+(?:\([^()]*\))?)\s*([<>]=?)\s*(-?\d+(?:\.\d+)?)\b")


class Page:
    """The page's routes. Who may ask is the guard's business (guard.py); who may read texts is said here."""

    def __init__(self, gateway: Gateway, tracks: Tracks, views: Views, config: PageConfig) -> None:
        self._gateway = gateway
        self._pipeline = gateway.pipeline
        self._tracks = tracks
        self._views = views
        self._config = config
        self._files = Files()
        self._playground = Playground(gateway)
        self._drawing = asyncio.Semaphore(MAX_DRAWN)
        self._waiting = 0

    def routes(self) -> list[Route]:
        return [
            *self._files.routes(),
            Route("/page/about", self.about),
            Route("/page/state", self.state),
            Route("/page/live", self.live),
            Route("/page/streams/{name}", self.stream),
            Route("/page/verdicts/{number}", self.verdict),
            Route("/page/chat", self._playground.chat, methods=["POST"]),
        ]

    async def about(self, request: Request) -> Response:
        """What does not change while the sidecar runs, and who asks."""
        card, person = self._pipeline.bank.card, request.state.person
        probes = [_card(each) for each in card.probes if each.name in self._pipeline.bank.names]
        return _json({
            "version": __version__, "model": card.model.name, "bank": self._pipeline.bank.digest[:12], "passport": card.passport.model_dump(mode="json"),
            "limits": card.limits, "probes": probes, "person": person.name, "role": person.role.value, "commands": person.role.commands,
            "texts": self._config.texts if self._reads(request) else 0, "texts_kept": self._config.texts, "tokens": self._tracks.tokens,
            "scores": self._gateway.config.expose_scores, "hold": str(self._gateway.config.hold),
        })  # fmt: skip

    async def state(self, request: Request) -> Response:
        """Figures that a person looks at: what was judged, what was not, and how often each rule spoke today."""
        pipeline, metrics = self._pipeline, self._pipeline.metrics
        return _json({
            "now": time.time(), "today": self._tracks.today(), "running": len(self._tracks.running), "kept": len(self._tracks),
            "tokens": _sum(metrics.tokens), "not_finite": _sum(metrics.nan), "frames": _sum(metrics.frames), "frames_lost": _sum(metrics.lost),
            "decisions": [each for each in _by(metrics.decisions) if each[-1]], "replies": _by(metrics.judged), "follow_errors": _sum(metrics.follow_errors),
            "hold": _mean(metrics.hold), "lag": _mean(metrics.tap_lag),
            "ledger": {"waiting": pipeline.ledger.waiting, "sealed": pipeline.ledger.checkpoint.size, "failed": pipeline.ledger.failed},
        })  # fmt: skip

    async def live(self, request: Request) -> Response:
        probe = request.query_params.get("probe") or self._pipeline.bank.names[0]
        if probe not in self._pipeline.bank.names:
            return _json({"error": f"no probe '{probe[:64]}'; there are: {', '.join(self._pipeline.bank.names[:50])}"}, 404)
        if self._views.full:
            return _json({"error": f"too many look on already; expected at most {MAX_VIEWS}"}, 503)
        feed = Feed(self._tracks, self._pipeline.bank.names.index(probe))
        return EventStream(self._views.counted(feed.events()), HEADERS)

    async def stream(self, request: Request) -> Response:
        """All scores of one stream from a position on, and every signal of the rules in force."""
        track = self._tracks.find(request.path_params["name"])
        if track is None:
            return _json({"error": "no such stream is kept any more; the ledger has what was recorded of it"}, 404)
        return await self._drawn(request, track, self._pipeline.rules.compiled, {}, _number(request, "from"))

    async def verdict(self, request: Request) -> Response:
        """One verdict, with its stream as the rule saw it."""
        fired = next((each for each in self._tracks.fired if str(each.number) == request.path_params["number"]), None)
        if fired is None:
            return _json({"error": "this verdict is no longer kept here; barograph rules explain finds it in the ledger"}, 404)
        return await self._drawn(request, fired.track, () if fired.rule is None else (fired.rule,), _verdict(fired))

    async def _drawn(self, request: Request, track: Track, rules: Iterable[Compiled], verdict: dict[str, Any], first: int = 0) -> Response:
        """The picture of a stream, within a verdict where there is one. Few are drawn at a time, and few wait for it."""
        if self._waiting >= MAX_WAITING:
            return _json({"error": "too many ask for streams at once; ask again"}, 503)
        self._waiting += 1
        try:
            async with self._drawing:
                picture = await self._picture(request, track, tuple(rules), first)
        finally:
            self._waiting -= 1
        return _json(verdict | {"picture": picture} if verdict else picture)

    async def _picture(self, request: Request, track: Track, rules: tuple[Compiled, ...], first: int) -> dict[str, Any]:
        names = self._pipeline.bank.names
        start, scores = self._tracks.scores(track)
        first = max(first, start)
        parts = [part for rule in rules for part in (rule.when, rule.until) if part is not None]
        signals = tuple(dict.fromkeys(signal for part in parts for signal in part.signals))
        values = await asyncio.to_thread(_traced, signals, names, scores)
        kept = scores[first - start :]
        return about(track) | {
            "tokens": self._tracks.judged(track), "first": first, "n": len(kept), "since": start,
            "scores": {name: whole(kept[:, i]) for i, name in enumerate(names)},
            "signals": {name: whole(value[first - start :]) for name, value in values.items()},
            "lines": [line for rule in rules for line in lines(rule)],
            **({"text": self._text(track, _number(request, "said"))} if self._reads(request) else {}),
        }  # fmt: skip

    def _reads(self, request: Request) -> bool:
        """Whether texts are kept, and this person may read them: who commands or audits, and whoever is near where the operator said so."""
        role = request.state.person.role
        near = request.state.near and self._config.near
        return self._gateway.texts is not None and (near or role in (Role.AUDITOR, Role.OPERATOR, Role.ADMIN))

    def _text(self, track: Track, said: int) -> list[tuple[int, int, str]]:
        """The pieces behind the first `said`: text leaves after its scores are there, so that a position would miss some."""
        texts = self._gateway.texts
        return texts.of(track.key)[said:] if texts is not None else []


def _number(request: Request, name: str) -> int:
    given = request.query_params.get(name, "")
    return int(given) if given.isascii() and given.isdigit() and len(given) < 12 else 0


def lines(rule: Compiled) -> list[dict[str, Any]]:
    """What a rule's signals are compared with: thresholds of the card, and numbers of its own text. `ends`: they end the firing."""
    found = []
    for part, text, ends in ((rule.when, rule.rule.when, False), (rule.until, rule.rule.until, True)):
        for name, value in part.thresholds.items() if part is not None else ():
            signal, _, label = name.rpartition(" ")
            found.append({"signal": signal, "label": label, "value": value, "ends": ends})
        for signal, sign, number in COMPARED.findall(text or ""):
            found.append({"signal": signal, "label": f"{sign} {number}", "value": float(number), "ends": ends})
    return [{"rule": rule.rule.rule, **line} for line in found]


def _traced(signals: tuple[Signal, ...], names: tuple[str, ...], scores: Halves) -> dict[str, Any]:
    return {str(signal): values for signal, values in trace(signals, names, scores).items()}


def _verdict(fired: Fired) -> dict[str, Any]:
    rule = fired.verdict.rule
    return told(fired) | {
        "desc": rule.desc, "when": rule.when, "until": rule.until or "", "for": rule.hold_for.model_dump(), "runbook": rule.runbook or "",
        "tags": list(rule.tags), "thresholds": {name: finite(value) for name, value in fired.verdict.thresholds.items()},
    }  # fmt: skip


def _card(card: ProbeCard) -> dict[str, Any]:
    fields = ("name", "group", "layer", "concept", "method", "auroc", "auroc_ci", "thresholds", "causal", "worthwhile", "canaries")
    told = card.model_dump(mode="json", include=set(fields))
    figures = [
        each.model_dump(mode="json", include={"suite", "positives", "negatives", "auroc", "auroc_ci", "fpr", "tpr"})
        for each in card.evaluation
    ]
    return told | {"worthwhile": card.worthwhile, "canaries": len(card.canaries), "evaluation": figures}


def _sum(metric: MetricWrapperBase) -> float:
    return sum(sample.value for family in metric.collect() for sample in family.samples if sample.name.endswith("_total"))


def _by(metric: MetricWrapperBase) -> list[list[Any]]:
    """The values of a metric's labels, and the number."""
    samples = [sample for family in metric.collect() for sample in family.samples if sample.name.endswith("_total")]
    return [[*sample.labels.values(), sample.value] for sample in samples]


def _mean(metric: MetricWrapperBase) -> float | None:
    found = {sample.name.rpartition("_")[2]: sample.value for family in metric.collect() for sample in family.samples if not sample.labels}
    return found["sum"] / found["count"] if found.get("count") else None


def _json(body: dict[str, Any], status: int = 200) -> Response:
    return JSONResponse(body, status, HEADERS)
