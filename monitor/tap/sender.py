"""The engine's end of the socket. Nothing here ever waits on the sidecar from the engine's thread."""

from __future__ import annotations

import select
import threading
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from monitor import wire

QUEUE = 256  # packets kept while the sidecar is slow: about ten seconds of one engine's steps
RETRY_S = 0.2
WHY = 200  # characters of a reason
HEARD = 64  # packets of the sidecar that are read before one step


class Sender:
    """Sends frames without blocking; keeps the newest `QUEUE` when the sidecar is slow, and counts what it drops.

    `submit` tries the socket at once from the calling thread: one encode and one system call. A helper thread
    sleeps until there is a connection to make or a backlog to clear.
    """

    def __init__(self, path: Path, hello: wire.Hello, connect: bool = True) -> None:
        wire.check_path(path)
        self.path = path
        self.hello = hello
        self.dropped = 0
        self._seq = 0
        self._live: dict[int, wire.Begin] = {}
        self._backlog: deque[wire.Frame] = deque()
        self._socket = wire.open_socket()
        self._connected = False
        self._resync = False
        self._check: wire.Check | None = None
        self._unproved = False  # there is a check that the sidecar has not got
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="barograph-tap", daemon=True)
        if connect:
            self.start()

    def start(self) -> None:
        """Look for the sidecar from now on. What is sent before waits like what is sent while it is away."""
        if self._thread.ident is None:
            self._thread.start()

    @property
    def connected(self) -> bool:
        return self._connected

    def begin(self, begin: wire.Begin) -> None:
        with self._lock:
            self._live[begin.stream] = begin
            self._put(begins=[begin])

    def end(self, end: wire.End) -> None:
        with self._lock:
            if self._live.pop(end.stream, None) is not None:
                self._put(ends=[end])

    def scores(self, streams: NDArray[np.uint32], positions: NDArray[np.uint32], scores: NDArray[np.float32]) -> None:
        """Send one step: streams [n], positions [n], scores [n, k]."""
        step = wire.rows_per_packet(len(self.hello.probes))
        with self._lock:
            for start in range(0, len(streams), step):
                rows = slice(start, start + step)
                self._put(streams=streams[rows].tobytes(), positions=positions[rows].tobytes(), scores=scores[rows].tobytes())

    def steered(self, steered: Sequence[wire.Steered]) -> None:
        """Tell the sidecar what became of its pushes."""
        with self._lock:
            for start in range(0, len(steered), wire.MAX_STREAMS):
                self._put(steered=steered[start : start + wire.MAX_STREAMS])

    def hear(self) -> list[bytes]:
        """Packets that the sidecar has sent; waits for nothing."""
        heard: list[bytes] = []
        with self._lock:
            try:
                while self._connected and len(heard) < HEARD and (packet := self._socket.recv(wire.MAX_STEER)):
                    heard.append(packet)  # an empty one is an end, or nothing
            except OSError:  # nothing there, or nobody: whoever sends next will see
                pass
        return heard

    def prove(self, check: wire.Check) -> None:
        """Tell the sidecar how the tap proved itself, now and whenever a sidecar comes back."""
        with self._lock:
            self._check, self._unproved = check, True
            self._flush()

    def fail(self, why: str) -> None:
        """Tell the sidecar that scoring has stopped, so that it can apply its failure mode; also the next sidecar."""
        with self._lock:
            self._check, self._unproved = wire.Check(False, 0, 0.0, why[:WHY]), True
            self._put(failed=why[:WHY])

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._flush()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(timeout=2)
        self._socket.close()

    def _put(
        self, *, streams: bytes = b"", positions: bytes = b"", scores: bytes = b"",
        begins: Sequence[wire.Begin] = (), ends: Sequence[wire.End] = (), failed: str = "", steered: Sequence[wire.Steered] = (),
    ) -> None:  # fmt: skip
        self._seq += 1
        self._backlog.append(wire.Frame(
            self._seq, self.dropped, time.monotonic_ns(), streams, positions, scores, list(begins), list(ends), failed, list(steered),
        ))  # fmt: skip
        if len(self._backlog) > QUEUE:
            self._backlog.popleft()
            self.dropped += 1
            self._resync = True
        self._flush()

    def _flush(self) -> None:
        """Send the backlog as far as the kernel takes it. The lock is held."""
        if not self._connected:
            return
        try:
            if self._resync:
                self._socket.send(wire.encode(wire.Live(list(self._live.values()))))
                self._resync = False
            if self._unproved and self._check is not None:
                self._socket.send(wire.encode(self._check))
                self._unproved = False
            while self._backlog:
                self._socket.send(wire.encode(self._backlog[0]))
                self._backlog.popleft()
        except BlockingIOError:
            self._wake.set()
        except OSError:
            self._connected = False
            self._wake.set()

    def _notice_end(self) -> None:
        """See that the sidecar is gone also while nothing is sent: without a tap it would let no request through."""
        if self._connected:
            # Not by reading: what the sidecar has said may wait for the next step, and an end behind it would not be seen.
            looks = select.poll()
            looks.register(self._socket, select.POLLRDHUP)
            self._connected = not looks.poll(0)

    def _run(self) -> None:
        while not self._closed:
            if not self._connected:
                self._connect()
            with self._lock:
                self._notice_end()
                self._flush()
                idle = self._connected and not self._backlog
            if idle:
                self._wake.wait(timeout=RETRY_S)
                self._wake.clear()
            else:
                time.sleep(0.002 if self._connected else RETRY_S)

    def _connect(self) -> None:
        fresh = wire.open_socket()
        try:
            fresh.connect(str(self.path))
            fresh.send(wire.encode(self.hello))
        except OSError:
            fresh.close()
            return
        with self._lock:
            self._socket.close()
            self._socket, self._connected, self._resync, self._unproved = fresh, True, True, True
