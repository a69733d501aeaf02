"""The plain other end of a tap's socket: keeps everything, judges nothing, pushes whom it is told to. For checks and benchmarks."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from monitor import wire

Key = tuple[str, int]  # request id and choice


class Recorder:
    """Takes what taps send: the scores of every generation by position, in the order in which they came."""

    def __init__(self, path: Path) -> None:
        self.hellos: list[wire.Hello] = []
        self.checks: list[wire.Check] = []
        self.scores: dict[Key, list[tuple[int, NDArray[np.float32]]]] = defaultdict(list)
        self.ends: dict[Key, int] = {}
        self.failed: list[str] = []
        self.steered: list[wire.Steered] = []
        self.dropped = 0
        self.unknown = 0  # rows of a stream that was never announced
        self.path = path
        self._connections: list[socket.socket] = []
        self._words: dict[Key, list[tuple[int, Callable[[int], bytes]]]] = {}  # what to say once a generation has so many tokens
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(str(path))
        self._listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Hang up on all taps and leave the path to another."""
        for each in (self._listener, *self._connections):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)  # wakes its thread, which a close alone does not
            each.close()
        self.path.unlink(missing_ok=True)

    def positions(self, key: Key) -> list[int]:
        return [position for position, _ in self.scores[key]]

    def array(self, key: Key) -> NDArray[np.float32]:
        """Scores [tokens, probes] of a generation."""
        return np.stack([scores for _, scores in self.scores[key]])

    def steer(self, key: Key, after: int, push: int, probe: str, dose: float, tokens: int) -> None:
        """Ask a generation's tap for a push as soon as its token `after` has been seen."""
        self.say(key, after, lambda stream: wire.encode(wire.Steer(push, stream, probe, dose, tokens)))

    def say(self, key: Key, after: int, packet: Callable[[int], bytes]) -> None:
        """Send a packet, made of a stream's number, as soon as `after` tokens of a generation have been seen; to be said before it begins.

        Whoever reads the scores says it: a thread that looks now and then may come when a short reply is over.
        """
        self._words.setdefault(key, []).append((after, packet))

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._connections.append(connection)
            threading.Thread(target=self._read, args=[connection], daemon=True).start()

    def _read(self, connection: socket.socket) -> None:
        keys: dict[int, Key] = {}
        hello: wire.Hello | None = None
        while packet := _packet(connection):
            message = wire.decode(packet)
            if isinstance(message, wire.Hello):
                hello = message
                self.hellos.append(message)
                continue
            if isinstance(message, wire.Check):
                self.checks.append(message)
                continue
            for begin in message.begins:
                keys[begin.stream] = (begin.request, begin.index)
            if isinstance(message, wire.Live):
                continue
            assert hello is not None
            self.dropped = message.dropped
            self.steered += message.steered
            if message.failed:
                self.failed.append(message.failed)
            streams, positions, rows = message.arrays(len(hello.probes))
            for stream, position, scores in zip(streams, positions, rows, strict=True):
                if int(stream) in keys:
                    self.scores[keys[int(stream)]].append((int(position), scores))
                else:
                    self.unknown += 1
            if self._words:
                self._speak(connection, {keys[each]: each for each in streams.tolist() if each in keys})
            for end in message.ends:
                if end.stream in keys:
                    self.ends[keys[end.stream]] = end.tokens

    def _speak(self, connection: socket.socket, streams: dict[Key, int]) -> None:
        """Say what was to be said to these generations by now."""
        for key, stream in streams.items():
            waiting = self._words.get(key, [])
            for word in [each for each in waiting if each[0] <= len(self.scores[key])]:
                waiting.remove(word)
                connection.send(word[1](stream))


def _packet(connection: socket.socket) -> bytes:
    try:
        return connection.recv(wire.MAX_PACKET)
    except OSError:
        return b""
