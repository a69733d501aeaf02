"""The streams that are running: slots in arrays that grow and are reused."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from monitor.audit.levels import Level
from rules.selector import Request
from rules.verdict import Verdict

HISTORY = 64  # last tokens whose scores are kept, for the live view and for clients that ask
TRIALS = 256  # that are over and still known as the gateway's own
_ARRAYS = ("judged", "gap", "nan", "peak", "history", "ended", "moved")

Key = tuple[str, int]


@dataclass(eq=False)
class Ticket:
    """The gateway's interest in one request: its streams by choice, and a bell that rings when one of them moved.

    `about` are the attributes that rules select by; `conversation` an opaque key. A `trial` is the gateway's own: nobody judges it, and
    `tapped` says whether a tap of ours would have.
    """

    request: str
    about: Request = field(default_factory=dict)
    conversation: str = ""
    trial: bool = False
    trace: str = ""  # the id of its trace, where there is one and it is kept
    tapped: bool = False
    streams: dict[int, Stream] = field(default_factory=dict)
    moved: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(eq=False)
class Stream:
    """One generation. `key` is (request, choice). The numbers live in the table's arrays, at `slot`."""

    key: Key
    source: str
    slot: int
    number: int
    started: float
    ticket: Ticket | None
    grade: str = "activations"
    about: Request = field(default_factory=dict)
    conversation: str = ""
    level: Level = Level.METADATA  # how much of it the ledger keeps
    verdicts: list[Verdict] = field(default_factory=list)
    acting: Verdict | None = None  # what ends the stream here: a halt or a re-route
    throttles: dict[str, Verdict] = field(default_factory=dict)  # by rule, those that fire now

    @property
    def name(self) -> str:
        return f"{self.key[0]}#{self.key[1]}"

    def wake(self) -> None:
        if self.ticket is not None:
            self.ticket.moved.set()


class StreamTable:
    """All running streams of all sources.

    judged [n]: tokens judged without a gap from the first one on. gap, nan, ended [n]: a score was lost, was not a
    number, the engine said that the stream is over. peak [n, k]: highest scores. history [n, HISTORY, k]: a ring.
    moved [n]: when a token came last, by the monotonic clock.
    """

    def __init__(self, probes: int, slots: int = 16) -> None:
        self.judged = np.zeros(slots, np.int64)
        self.gap = np.zeros(slots, bool)
        self.nan = np.zeros(slots, bool)
        self.ended = np.zeros(slots, bool)
        self.moved = np.zeros(slots)
        self.peak = np.zeros((slots, probes), np.float32)
        self.history = np.zeros((slots, HISTORY, probes), np.float32)
        self.tickets: dict[str, Ticket] = {}
        self._tried: deque[str] = deque(maxlen=TRIALS)
        self.by_slot: dict[int, Stream] = {}
        self._running: dict[Key, Stream] = {}
        self._free = list(range(slots - 1, -1, -1))

    def expect(self, request: str, about: Request | None = None, conversation: str = "", trial: bool = False) -> Ticket:
        """The gateway is about to send a request. `forget` the ticket when its answer is done."""
        ticket = self.tickets[request] = Ticket(request, about or {}, conversation, trial)
        return ticket

    def forget(self, ticket: Ticket) -> None:
        self.tickets.pop(ticket.request, None)
        if ticket.trial:
            self._tried.append(ticket.request)
        for stream in ticket.streams.values():
            stream.ticket = None
            if self.ended[stream.slot]:
                self._free_slot(stream)

    def is_trial(self, request: str) -> bool:
        """Whether a request is the gateway's own; its tap asks when it begins to score it. A tap that comes late tells of trials that are over."""
        ticket = self.tickets.get(request)
        if ticket is None or not ticket.trial:
            return request in self._tried
        ticket.tapped = True
        return True

    def claimed(self, key: Key) -> Stream | None:
        """The stream that has this request and choice: it runs, or the gateway still reads it."""
        ticket = self.tickets.get(key[0])
        return self._running.get(key) or (ticket.streams.get(key[1]) if ticket is not None else None)

    def open(self, key: Key, source: str, number: int, started: float) -> Stream:
        """A new stream. It has the ticket's interest only when it is the first of its request and choice."""
        if not self._free:
            self._grow()
        slot = self._free.pop()
        self.judged[slot] = 0
        self.gap[slot] = self.nan[slot] = self.ended[slot] = False
        self.peak[slot] = np.nan
        self.history[slot] = np.nan
        self.moved[slot] = time.monotonic()
        ticket = self.tickets.get(key[0])
        if ticket is not None and key[1] in ticket.streams:
            ticket = None
        stream = Stream(key, source, slot, number, started, ticket)
        if ticket is not None:
            stream.about, stream.conversation = ticket.about, ticket.conversation
        self.by_slot[slot] = self._running[key] = stream
        if ticket is not None:
            ticket.streams[key[1]] = stream
            ticket.moved.set()
        return stream

    def end(self, stream: Stream) -> None:
        """The engine is done with a stream. Its slot stays while the gateway still reads it."""
        self.ended[stream.slot] = True
        if self._running.get(stream.key) is stream:
            del self._running[stream.key]
        if stream.ticket is None:
            self._free_slot(stream)
        else:
            stream.wake()

    def awaited(self, slots: NDArray[np.intp]) -> list[Stream]:
        """The streams in `slots` whose request the gateway holds."""
        return [stream for slot in slots.tolist() if (stream := self.by_slot[slot]).ticket is not None]

    def take(self, slots: NDArray[np.intp], positions: NDArray[np.int64], scores: NDArray[np.float32]) -> None:
        """Note scored tokens: slots [n, distinct], positions [n], scores [n, k]. A position that jumps is a gap for good."""
        self.gap[slots] |= positions > self.judged[slots]
        self.judged[slots] = np.maximum(self.judged[slots], positions + 1)
        self.nan[slots] |= ~np.isfinite(scores).all(axis=1)
        self.peak[slots] = np.fmax(self.peak[slots], scores)
        self.history[slots, positions % HISTORY] = scores
        self.moved[slots] = time.monotonic()

    def holes(self, slots: NDArray[np.intp], positions: NDArray[np.int64]) -> int:
        """How many tokens are missing before these: slots [n, distinct], positions [n]."""
        return int(np.maximum(positions - self.judged[slots], 0).sum())

    def recent(self, slot: int, first: int, end: int) -> NDArray[np.float32]:
        """Scores of the positions first to end-1, [m, k], without those at the start that are no longer kept: HISTORY are, behind the newest."""
        first = min(end, max(first, end - HISTORY, int(self.judged[slot]) - HISTORY))
        found: NDArray[np.float32] = self.history[slot, np.arange(first, end) % HISTORY]
        return found

    def _free_slot(self, stream: Stream) -> None:
        if self.by_slot.pop(stream.slot, None) is not None:
            self._free.append(stream.slot)

    def _grow(self) -> None:
        old = len(self.judged)
        for name in _ARRAYS:
            array = getattr(self, name)
            setattr(self, name, np.concatenate([array, np.zeros_like(array)]))
        self._free = list(range(2 * old - 1, old - 1, -1))
