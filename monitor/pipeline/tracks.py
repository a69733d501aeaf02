"""What is kept in memory of judged streams, for people who look on: scores of what runs and of what ended last, and the verdicts. Numbers, no content."""

from __future__ import annotations

import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from monitor.pipeline.pipeline import Batch, Pipeline
from monitor.pipeline.streams import HISTORY, Key, Stream, StreamTable
from rules.ruleset import Compiled
from rules.verdict import Verdict

CHUNK = HISTORY // 2  # as in scores.py: so often a stream's scores are taken from the table's ring
MAX_RUNNING = 512  # streams that run and are followed
MAX_OVER = 128  # that ended: so many that a rule spoke about, and as many others
MAX_TOKENS = 2048  # of one stream, the newest
MAX_BYTES = 64 << 20  # of all scores: a bank of many probes keeps fewer tokens
MAX_FIRED = 512
MAX_SPANS = 64  # verdicts that one stream is shown with
DAY_S = 86_400

Halves: TypeAlias = NDArray[np.float16]


@dataclass(eq=False)
class Track:
    """One stream. `pieces`: its scores from position `first` on, as far as they were taken from the ring; `gap`: scores were lost, and none are kept from there on."""

    number: int
    key: Key
    shown: str
    started: float
    model: str
    tenant: str
    conversation: str
    grade: str
    stream: Stream | None  # None when it is over
    pieces: deque[Halves] = field(default_factory=deque)
    first: int = 0
    end: int = 0
    tokens: int = 0
    ended: float = 0.0
    gap: bool = False
    spans: list[list[int | str]] = field(
        default_factory=list
    )  # rule, mode, action, position of its verdict, and where it stopped firing or -1


@dataclass(frozen=True)
class Fired:
    """A rule began to fire. `rule` is how it was compiled then."""

    number: int
    time: float
    track: Track
    verdict: Verdict
    rule: Compiled | None


class Tracks:
    """Follows judged frames. Whatever it keeps has a bound, and a frame costs it no loop over tokens."""

    def __init__(self, probes: tuple[str, ...], tenants: Collection[str] = (), shown: Callable[[str, int], str] = "{}#{}".format) -> None:
        """`tenants`: those that are named; the others are `other`. `shown`: a stream's name for people."""
        self.probes = probes
        self.tokens = min(MAX_TOKENS, MAX_BYTES // ((MAX_RUNNING + 2 * MAX_OVER) * 2 * max(1, len(probes)))) // CHUNK * CHUNK
        self.fired: deque[Fired] = deque(maxlen=MAX_FIRED)
        self.verdicts = 0  # since the start
        self.missed = 0  # streams that were not followed, because too many ran
        self._named = frozenset(tenants)
        self._shown = shown
        self._running: dict[Stream, Track] = {}
        self._over: dict[bool, OrderedDict[int, Track]] = {True: OrderedDict(), False: OrderedDict()}
        self._by_name: dict[str, Track] = {}
        self._numbers = 0
        self._pipeline: Pipeline | None = None
        self._day = 0
        self._today: Counter[tuple[str, str]] = Counter()
        self._tokens_today = 0
        self._since = time.time()

    def serve(self, pipeline: Pipeline) -> None:
        """Read scores from this pipeline's streams, and rules as they are in force there."""
        self._pipeline = pipeline

    def frame(self, batch: Batch) -> None:
        """A frame was judged. Before `serve` there is nothing to follow."""
        if self._pipeline is None:
            return
        table = self._table
        self._count(batch)
        for stream in batch.began:
            self._begin(stream, batch.source.label)
        full = batch.slots[batch.positions % CHUNK == CHUNK - 1]
        if len(full):
            self._take_all(full)
        for verdict in batch.verdicts:
            if (track := self._running.get(table.by_slot[verdict.slot])) is not None:
                self._note(track, verdict)
        for stream, tokens in batch.ended:
            if (track := self._running.get(stream)) is not None:
                self._end(track, tokens)

    def __iter__(self) -> Iterator[Track]:
        """All that are kept, those that run first."""
        self._sweep()
        yield from list(self._running.values())
        for kept in self._over.values():
            yield from list(kept.values())

    def __len__(self) -> int:
        return len(self._running) + sum(map(len, self._over.values()))

    @property
    def running(self) -> list[Track]:
        self._sweep()
        return list(self._running.values())

    def find(self, shown: str) -> Track | None:
        self._sweep()
        return self._by_name.get(shown)

    def lost(self, track: Track) -> bool:
        """Whether scores of it were lost, so that none are shown from there on."""
        return track.gap or (track.stream is not None and bool(self._table.gap[track.stream.slot]))

    def judged(self, track: Track) -> int:
        """How many tokens of it have been judged."""
        return int(self._table.judged[track.stream.slot]) if track.stream is not None else track.tokens

    def scores(self, track: Track, first: int = 0) -> tuple[int, Halves]:
        """Its scores from position `first` on, or from the first that is kept: that position, and [n, probes]."""
        self._take(track)
        first = min(max(first, track.first), track.end)
        found, at = [np.empty((0, len(self.probes)), np.float16)], track.end
        for piece in reversed(track.pieces):
            if at <= first:
                break
            at -= len(piece)
            found.append(piece[max(0, first - at) :])
        return first, np.concatenate(found[:0:-1] or found)

    def newest(self, tracks: list[Track], since: NDArray[np.int64], probe: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """One probe's scores of tracks that run, from position since[i] on: where each ends, and [n, HISTORY] of which row i has end[i] - since[i], the last HISTORY at most."""
        table = self._table
        slots = np.array([track.stream.slot for track in tracks if track.stream is not None], np.intp)
        ends = table.judged[slots].copy()
        first = np.maximum(since, ends - HISTORY)
        places = (first[:, None] + np.arange(HISTORY)) % HISTORY
        found: NDArray[np.float32] = table.history[slots[:, None], places, probe]
        return ends, found

    def today(self) -> dict[str, object]:
        """How often each rule spoke since midnight (UTC) or the start, whichever came later, and over how many tokens."""
        rules: dict[str, dict[str, int]] = {}
        for (rule, mode), number in self._today.items():
            rules.setdefault(rule, {})[mode] = number
        return {"since": max(self._since, self._day * DAY_S), "tokens": self._tokens_today, "rules": rules}

    @property
    def _table(self) -> StreamTable:
        if self._pipeline is None:
            raise RuntimeError("no pipeline is followed yet")
        return self._pipeline.streams

    def _count(self, batch: Batch) -> None:
        if (day := int(time.time() // DAY_S)) != self._day:
            self._day, self._tokens_today = day, 0
            self._today.clear()
        self._tokens_today += len(batch.slots)
        for verdict in batch.verdicts:
            if not verdict.ended:
                self._today[verdict.rule.rule, verdict.mode] += 1

    def _begin(self, stream: Stream, model: str) -> None:
        if len(self._running) >= MAX_RUNNING:
            self._sweep()
        if len(self._running) >= MAX_RUNNING:
            self.missed += 1
            return
        tenant = str(stream.about.get("tenant", ""))
        tenant = tenant if tenant in self._named else "other" if tenant else ""
        conversation = self._shown(stream.conversation, 0).split("#")[0] if stream.conversation else ""
        track = Track(
            self._numbers, stream.key, self._shown(*stream.key), stream.started, model, tenant, conversation, stream.grade, stream,
        )  # fmt: skip
        self._numbers += 1
        self._running[stream] = self._by_name[track.shown] = track

    def _take_all(self, slots: NDArray[np.intp]) -> None:
        """Take the chunks of these slots, that are full, in one look at the ring; one by one where more is missing than a chunk, or less."""
        table = self._table
        ends, gaps = table.judged[slots], table.gap[slots]
        places = (ends[:, None] - CHUNK + np.arange(CHUNK)) % HISTORY
        chunks = table.history[slots[:, None], places].astype(np.float16)
        for row, (slot, end, gap) in enumerate(zip(slots.tolist(), ends.tolist(), gaps.tolist(), strict=True)):
            track = self._running.get(table.by_slot[slot])
            if track is None:
                continue
            if gap or track.gap or end - track.end != CHUNK:
                self._take(track)
            else:
                self._add(track, chunks[row].copy(), end)  # not a view: it would keep the chunks of all others

    def _take(self, track: Track) -> None:
        """Take from the ring what was not taken yet."""
        stream, table = track.stream, self._table
        if stream is None or table.by_slot.get(stream.slot) is not stream or track.gap:
            return
        track.tokens = int(table.judged[stream.slot])
        if table.gap[stream.slot] or track.tokens - track.end > HISTORY:
            track.gap = True  # places after it would not be positions
            return
        if track.tokens > track.end:
            new = table.recent(stream.slot, track.end, track.tokens).astype(np.float16)
            if track.pieces and len(track.pieces[-1]) + len(new) <= CHUNK:  # whoever looks on makes many small ones
                new = np.concatenate([track.pieces.pop(), new])
            self._add(track, new, track.tokens)

    def _add(self, track: Track, piece: Halves, end: int) -> None:
        track.pieces.append(piece)
        track.end = track.tokens = end
        while track.end - track.first - len(track.pieces[0]) >= self.tokens:
            track.first += len(track.pieces.popleft())

    def _note(self, track: Track, verdict: Verdict) -> None:
        name = verdict.rule.rule
        if verdict.ended:
            for span in reversed(track.spans):
                if span[0] == name and span[4] == -1:
                    span[4] = verdict.position
                    break
            return
        if len(track.spans) < MAX_SPANS:
            track.spans.append([name, verdict.mode, verdict.action.name.lower(), verdict.position, -1])
        rules = self._pipeline.rules if self._pipeline is not None else None
        self.fired.append(Fired(self.verdicts, time.time(), track, verdict, rules.find(name) if rules is not None else None))
        self.verdicts += 1

    def _end(self, track: Track, tokens: int = 0) -> None:
        self._take(track)
        stream = track.stream
        if stream is None:
            return
        track.gap = track.gap or track.tokens < tokens
        track.stream, track.ended = None, time.time()
        del self._running[stream]
        kept = self._over[bool(track.spans)]
        kept[track.number] = track
        if len(kept) > MAX_OVER:
            _, gone = kept.popitem(last=False)
            gone.pieces.clear()  # its verdicts may outlive it
            gone.first = gone.end
            if self._by_name.get(gone.shown) is gone:
                del self._by_name[gone.shown]

    def _sweep(self) -> None:
        """Streams that were given up are over too, though no frame says so."""
        table = self._table
        for stream, track in list(self._running.items()):
            there = table.by_slot.get(stream.slot) is stream
            if not there or table.ended[stream.slot]:
                track.gap = track.gap or not there or bool(table.gap[stream.slot])
                self._end(track)
