"""A tap for an engine without a model: the real sender, or one that delays, drops, repeats and reorders what it sends."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from monitor import wire
from monitor.config import Config
from monitor.tap.sender import Sender

PROVED = wire.Check(True, 8, 0.0)


def hello(source: str) -> wire.Hello:
    """What the real tap of the shipped model says."""
    bank = Config().load_bank()
    return wire.Hello(
        wire.VERSION, source, os.getpid(), "synthetic", "SmolLM2-135M-Instruct", "bfloat16", bank.digest, list(bank.names), list(bank.layers),
        bank.card.passport.model_dump(mode="json"), os.environ.get(wire.TAP_KEY, ""),
    )  # fmt: skip


class Tap(Protocol):
    def step(
        self, begins: Sequence[wire.Begin], streams: NDArray[np.uint32], positions: NDArray[np.uint32], scores: NDArray[np.float32]
    ) -> None:
        """Streams that start, then the rows of one step."""

    def end(self, end: wire.End) -> None: ...

    def close(self) -> None: ...


class GoodTap:
    """The sender of the real taps."""

    def __init__(self, path: Path, source: str = "synthetic") -> None:
        self._sender = Sender(path, hello(source))
        self._sender.prove(PROVED)
        self._sender.start()

    @property
    def connected(self) -> bool:
        return self._sender.connected

    def step(
        self, begins: Sequence[wire.Begin], streams: NDArray[np.uint32], positions: NDArray[np.uint32], scores: NDArray[np.float32]
    ) -> None:
        for begin in begins:
            self._sender.begin(begin)
        if len(streams):
            self._sender.scores(streams, positions, scores)

    def end(self, end: wire.End) -> None:
        self._sender.end(end)

    def close(self) -> None:
        self._sender.close()


@dataclass(frozen=True)
class Faults:
    """Chances of one packet to be lost, sent twice, or held back for up to `delay_s` so that later ones overtake it.

    `late_s`: every packet leaves so much later, in its order.
    """

    drop: float = 0.001
    repeat: float = 0.02
    delay: float = 0.01
    delay_s: float = 0.05
    late_s: float = 0.0
    seed: int = 0


class BadTap:
    """Sends what a good tap would send, with faults. `told`: what has left, as (stream, position)."""

    def __init__(self, path: Path, faults: Faults) -> None:
        self.told: set[tuple[int, int]] = set()
        self.counts = {"packets": 0, "dropped": 0, "repeated": 0, "delayed": 0}
        self._faults = faults
        self._chance = random.Random(faults.seed)
        self._socket = wire.open_socket()
        self._socket.connect(str(path))
        self._socket.setblocking(True)
        self._socket.settimeout(5)
        self._socket.send(wire.encode(hello("bad")))
        self._socket.send(wire.encode(PROVED))
        self._seq = 0

    def step(
        self, begins: Sequence[wire.Begin], streams: NDArray[np.uint32], positions: NDArray[np.uint32], scores: NDArray[np.float32]
    ) -> None:
        rows = list(zip(streams.tolist(), positions.tolist(), strict=True))
        self._frame(rows, streams=streams.tobytes(), positions=positions.tobytes(), scores=scores.tobytes(), begins=list(begins))

    def end(self, end: wire.End) -> None:
        self._frame([], ends=[end])

    def close(self) -> None:
        self._socket.close()

    def _frame(self, rows: list[tuple[int, int]], **parts: object) -> None:
        self._seq += 1
        packet = wire.encode(wire.Frame(self._seq, 0, time.monotonic_ns(), **parts))  # type: ignore[arg-type]
        faults, chance = self._faults, self._chance
        self.counts["packets"] += 1
        if chance.random() < faults.drop:
            self.counts["dropped"] += 1
            return
        times = 2 if chance.random() < faults.repeat else 1
        self.counts["repeated"] += times - 1
        for _ in range(times):
            if chance.random() < faults.delay:
                self.counts["delayed"] += 1
                asyncio.get_running_loop().call_later(chance.random() * faults.delay_s, self._send, packet, rows)
            elif faults.late_s:
                asyncio.get_running_loop().call_later(faults.late_s, self._send, packet, rows)
            else:
                self._send(packet, rows)

    def _send(self, packet: bytes, rows: list[tuple[int, int]]) -> None:
        if self._socket.fileno() < 0:
            return
        self.told.update(rows)  # before the packet, so that nobody can know of a score earlier
        self._socket.send(packet)
