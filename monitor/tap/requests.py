"""Who is in which row: an engine's requests as streams, under continuous batching. Arrays only; knows no engine and no torch."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from monitor import wire

# vLLM's internal ids: the choice (only with n > 1), our request id, the prompt (only of completions), eight random digits. A reply of the
# responses API may take several generations, one after the other: their number stands for the choice.
_CHAT = re.compile(r"(?:(\d+)_)?chatcmpl-(.+)-[0-9a-f]{8}")
_TEXT = re.compile(r"(?:(\d+)_)?cmpl-(.+)-(\d+)-[0-9a-f]{8}")
_RESPONSE = re.compile(r"resp_(.+)_(\d+)-[0-9a-f]{8}")
_EACH = re.compile(r"[0-9a-f]{24}([0-9a-f]{4})")  # a request id of the gateway's: its end says how many choices each prompt has
NO_CHOICE = 0xFFFF  # matches no choice of any request: its tokens stay without scores rather than with another's


def choice_of(internal: str) -> tuple[str, int]:
    """What the gateway knows a generation by: its request id and the index of the choice."""
    if found := _CHAT.fullmatch(internal):
        return found[2], int(found[1] or 0)
    if found := _TEXT.fullmatch(internal):
        child, prompt = found[1], int(found[3])
        if child is None or prompt == 0:
            return found[2], prompt if child is None else int(child)
        each = _EACH.fullmatch(found[2])
        return found[2], prompt * int(each[1], 16) + int(child) if each else NO_CHOICE
    if found := _RESPONSE.fullmatch(internal):
        return found[1], int(found[2])
    return internal[-wire.MAX_REQUEST_ID :], 0


@dataclass(frozen=True)
class Step:
    """Candidate rows of one forward step: those whose logits are sampled, drafts of speculative decoding included.

    rows [m] in the step's token batch; owner [m], the place of each row's request in the batch; order [m], 0 for a request's
    first candidate; positions [m] among the produced tokens; streams [m], -1 for a request that is not known. `requests` is how
    many the batch holds.
    """

    rows: NDArray[np.int64]
    owner: NDArray[np.int64]
    order: NDArray[np.int64]
    positions: NDArray[np.int64]
    streams: NDArray[np.int64]
    requests: int


class Requests:
    """Gives each request a stream and remembers where its prompt ends and what ends its reply.

    Its caller may begin, end and step in one thread and settle earlier steps in another: a stream's number is never used again,
    and what comes for one that is over lands in a place that nobody reads.
    """

    def __init__(self, limit: int) -> None:
        self._slot: dict[str, int] = {}
        self._free = list(range(limit))[::-1]
        self._stream = np.full(limit + 1, -1, np.int64)  # the last place is for the unknown
        self._prompt = np.zeros(limit + 1, np.int64)
        self._made: NDArray[np.int64] = np.zeros(limit + 1, np.int64)
        self._limit = np.zeros(limit + 1, np.int64)
        self._stops = np.full((limit + 1, 4), -1, np.int64)  # tokens that end a reply
        self._slot_of_stream: dict[int, int] = {}
        self._next = 0

    def begin(self, request: str, prompt: int, limit: int, stops: Sequence[int] = ()) -> wire.Begin | None:
        """A request of `prompt` tokens enters; its reply ends after `limit` tokens, or with one of `stops`.

        None when it is known, as after a preemption, or when there is no room.
        """
        if request in self._slot or not self._free:
            return None
        slot = self._slot[request] = self._free.pop()
        if len(stops) > self._stops.shape[1]:
            wider = np.full((len(self._stops), len(stops)), -1, np.int64)
            wider[:, : self._stops.shape[1]] = self._stops
            self._stops = wider
        self._stops[slot] = -1
        self._stops[slot, : len(stops)] = stops
        self._stream[slot], self._prompt[slot], self._made[slot], self._limit[slot] = self._next, prompt, 0, limit
        self._slot_of_stream[self._next] = slot
        self._next += 1
        return wire.Begin(self._next - 1, *choice_of(request))

    def end(self, requests: Iterable[str]) -> list[wire.End]:
        """Requests are over, or aborted."""
        ends = []
        for request in requests:
            slot = self._slot.pop(request, None)
            if slot is not None:
                stream = int(self._stream[slot])
                del self._slot_of_stream[stream]
                ends.append(wire.End(stream, int(self._made[slot])))
                self._stream[slot] = -1
                self._free.append(slot)
        return ends

    def step(
        self,
        requests: Sequence[str],
        starts: NDArray[np.int64],
        computed: NDArray[np.int64],
        drafts: NDArray[np.int64] | None = None,
    ) -> Step:
        """The candidates of a step. `starts` [n + 1]: where each request's tokens begin in the batch, and their end;
        `computed` [n]: tokens of each that earlier steps have computed; `drafts` [n]: how many of its last tokens are guesses.
        """
        n = len(requests)
        slots = np.fromiter(map(self._slot.get, requests, [len(self._stream) - 1] * n), np.int64, n)
        last = starts[1:] - 1
        if drafts is None:
            owner, order, rows = np.arange(n), np.zeros(n, np.int64), last
        else:
            many = drafts + 1
            owner = np.repeat(np.arange(n), many)
            order = np.arange(len(owner)) - np.repeat(np.cumsum(many) - many, many)
            rows = (last - drafts)[owner] + order
        # The row of the token at place p (from 0, prompt included) yields the token at p + 1.
        positions = computed[owner] + rows - starts[:-1][owner] + 1 - self._prompt[slots[owner]]
        return Step(rows, owner, order, positions, self._stream[slots[owner]], n)

    def runs(self, stream: int) -> bool:
        return stream in self._slot_of_stream

    def rows(
        self, wanted: NDArray[np.int64], requests: Sequence[str], starts: NDArray[np.int64], computed: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """All rows of the wanted streams in a step, as `step` is told of it: stream, position, row and tokens made of each, all [m].

        The row yields the token at its position among the produced ones; within the prompt positions are negative.
        """
        slots = np.fromiter(map(self._slot.get, requests, [len(self._stream) - 1] * len(requests)), np.int64, len(requests))
        here = np.flatnonzero(np.isin(self._stream[slots], wanted) & (self._stream[slots] >= 0))
        many = starts[here + 1] - starts[here]
        owner = np.repeat(here, many)
        within = np.arange(len(owner)) - np.repeat(np.cumsum(many) - many, many)
        slots = slots[owner]
        return self._stream[slots], computed[owner] + within + 1 - self._prompt[slots], starts[owner] + within, self._made[slots]

    def due(self, step: Step) -> NDArray[np.intp]:
        """Which candidates of a step will become tokens, where nobody says what was sampled: the next token of each reply.

        Holds for a scheduler that neither guesses nor runs ahead of the tokens. After a preemption the same rows come again.
        """
        slots = self._slots(step.streams)
        kept = np.flatnonzero((step.streams >= 0) & (step.positions == self._made[slots]) & (step.positions < self._limit[slots]))
        self._made[slots[kept]] += 1
        return kept

    def settle(self, step: Step, sampled: Sequence[Sequence[int]]) -> NDArray[np.intp]:
        """Which candidates of a step became tokens of a reply; sampled[i] are the tokens that the request at place i got.

        A worker samples more than a reply keeps: with speculative decoding tokens after the one that ends it, with asynchronous
        scheduling a whole step. Those have no score.
        """
        counts = np.fromiter(map(len, sampled), np.int64, step.requests)
        tokens = np.fromiter(chain.from_iterable(sampled), np.int64, int(counts.sum()))
        kept = np.flatnonzero((step.order < counts[step.owner]) & (step.streams >= 0))
        owner, order = step.owner[kept], step.order[kept]
        slots = self._slots(step.streams[kept])
        chosen = tokens[(np.cumsum(counts) - counts)[owner] + order]
        ends = (chosen[:, None] == self._stops[slots]).any(axis=1)
        stop = np.full(step.requests, np.iinfo(np.int64).max)
        np.minimum.at(stop, owner[ends], order[ends])
        alive = (order <= stop[owner]) & (step.positions[kept] < self._limit[slots])
        kept, slots, ends = kept[alive], slots[alive], ends[alive]
        np.maximum.at(self._made, slots, step.positions[kept] + 1)
        self._limit[slots[ends]] = 0
        return kept

    def _slots(self, streams: NDArray[np.int64]) -> NDArray[np.int64]:
        """Places of streams; that of nobody for one that is over or unknown."""
        nobody = len(self._made) - 1
        return np.fromiter(map(self._slot_of_stream.get, streams.tolist(), [nobody] * len(streams)), np.int64, len(streams))
