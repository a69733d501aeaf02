"""The sidecar's end of the socket: accepts taps of our own user and hands their packets to the pipeline."""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path

from monitor import wire
from monitor.config import own_folder
from monitor.errors import BarographError, WireError
from monitor.pipeline.bounds import HELLO_S, MAX_CONNECTIONS, MAX_SILENT, Refused
from monitor.pipeline.pipeline import Pipeline
from monitor.pipeline.source import Source

log = logging.getLogger("barograph.receiver")

BURST = 64  # packets taken from one tap before others get their turn
LOOK_S = 1.0  # how often the socket's file and silent connections are looked at
QUIET_S = 5.0  # a refusal of one kind is logged at most so often; all are counted


def answers(path: Path) -> bool:
    """Whether a sidecar listens on `path`."""
    with wire.open_socket() as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
        return True


@dataclass
class _Peer:
    """One connection: when it came, and what it is since it said hello."""

    since: float
    source: Source | None = None


class Receiver:
    """Listens on the Unix socket. Any number of engines may connect, within bounds; each is a source of its own."""

    def __init__(self, path: Path, pipeline: Pipeline) -> None:
        self.path = path
        self.pipeline = pipeline
        self.failed = ""  # why no tap can connect
        self._peers: dict[socket.socket, _Peer] = {}  # in the order in which they came
        self._listener: socket.socket | None = None
        self._place = (0, 0)  # device and inode of the socket's file
        self._said: dict[str, float] = {}

    def start(self) -> None:
        """Raises BarographError when another sidecar listens there or the path cannot be used."""
        wire.check_path(self.path)
        if answers(self.path):
            raise BarographError(f"socket {self.path} is in use by another sidecar; stop it, or set 'socket' to another path")
        self._bind()

    async def watch(self) -> None:
        """Every second: make the socket again when its file is gone, and drop who says no hello."""
        while True:
            await asyncio.sleep(LOOK_S)
            self._look_at_file()
            now = time.monotonic()
            for connection in [each for each, peer in self._peers.items() if peer.source is None and now - peer.since > HELLO_S]:
                self._refuse(connection, "silent", f"a connection said no hello within {HELLO_S:g} s")
            self.pipeline.sweep(now)

    def close(self) -> None:
        if self._listener is not None:
            self._close_listener(self._listener)
        for connection in list(self._peers):
            self._drop(connection)
        if self._file() == self._place:
            self.path.unlink(missing_ok=True)

    def _bind(self) -> None:
        """Listen on the path, in the place of a file that nobody listens on. Connections that are there stay."""
        own_folder(self.path.parent)
        listener = wire.open_socket()
        try:
            if self.path.is_socket():
                self.path.unlink()  # left behind by a sidecar that was killed
            listener.bind(str(self.path))
            self.path.chmod(0o600)
            listener.listen(16)
        except OSError as error:
            listener.close()
            raise BarographError(f"socket {self.path}: {error.strerror}; expected a path in a folder that can be written") from None
        if self._listener is not None:
            self._close_listener(self._listener)
        self._listener, self._place = listener, self._file()
        asyncio.get_running_loop().add_reader(listener, self._accept)

    def _look_at_file(self) -> None:
        if self._file() == self._place:
            self.failed = ""
            return
        try:
            if answers(self.path):
                raise BarographError(f"socket {self.path} was taken by another process; end it, or set 'socket' to another path")
            self._bind()
        except BarographError as error:
            if not self.failed:
                log.error("no tap can connect: %s", error)
            self.failed = str(error)
            return
        self.failed = ""
        log.warning("socket %s was gone and is made anew", self.path)

    def _file(self) -> tuple[int, int]:
        try:
            about = self.path.stat(follow_symlinks=False)
        except OSError:
            return 0, 0
        return about.st_dev, about.st_ino

    def _close_listener(self, listener: socket.socket) -> None:
        asyncio.get_running_loop().remove_reader(listener)
        listener.close()

    def _accept(self) -> None:
        listener, loop = self._listener, asyncio.get_running_loop()
        assert listener is not None
        try:
            connection, _ = listener.accept()
        except BlockingIOError:
            return
        except OSError as error:
            # No descriptor is left, say: the connection waits in the kernel, and so do we, or the loop would spin.
            self._complain("accept", f"cannot accept a tap ({error.strerror})")
            loop.remove_reader(listener)
            loop.call_later(LOOK_S, lambda: loop.add_reader(listener, self._accept) if listener is self._listener else None)
            return
        self._peers[connection] = _Peer(time.monotonic())
        pid, uid, _ = wire.peer(connection)
        if uid not in (os.getuid(), 0):
            self._refuse(connection, "user", f"process {pid} of user {uid}; expected user {os.getuid()}")
            return
        if len(self._peers) > MAX_CONNECTIONS:
            self._refuse(connection, "connections", f"more than {MAX_CONNECTIONS} connections")
            return
        silent = [each for each, peer in self._peers.items() if peer.source is None]
        if len(silent) > MAX_SILENT:  # a tap says hello at once, so that the oldest of them is none
            self._refuse(silent[0], "silent", f"more than {MAX_SILENT} connections said no hello")
        connection.setblocking(False)
        loop.add_reader(connection, self._read, connection)

    def _read(self, connection: socket.socket) -> None:
        for _ in range(BURST):
            try:
                packet = connection.recv(wire.MAX_PACKET + 1)
            except BlockingIOError:
                return
            except OSError:
                packet = b""
            if not packet:
                self._drop(connection)
                return
            try:
                self._take(connection, packet)
            except WireError as error:
                self._refuse(connection, error.reason if isinstance(error, Refused) else "wire", str(error))
                return
            except Exception:
                # A fault of ours. Whatever is running was perhaps not judged: its source counts as lost, so that the
                # gateway follows `on_missing_score`; the tap connects again.
                log.exception("the pipeline failed on a packet; its tap is dropped")
                self.pipeline.metrics.refused.labels("internal").inc()
                self._drop(connection)
                return

    def _take(self, connection: socket.socket, packet: bytes) -> None:
        peer = self._peers[connection]
        if peer.source is not None:
            self.pipeline.take(peer.source, packet)
            return
        hello = wire.decode(packet)
        if not isinstance(hello, wire.Hello):
            raise WireError("the first packet is no hello")
        peer.source = self.pipeline.connect(hello)
        peer.source.send = functools.partial(_send, connection)
        log.info("tap connected: %s on %s, %d probes", hello.model, hello.engine, len(hello.probes))

    def _refuse(self, connection: socket.socket, reason: str, text: str) -> None:
        self._complain(reason, f"refused a tap: {text[:300]}")
        self.pipeline.metrics.refused.labels(reason).inc()
        self._drop(connection)

    def _complain(self, kind: str, text: str) -> None:
        now = time.monotonic()
        if now - self._said.get(kind, -QUIET_S) >= QUIET_S:
            self._said[kind] = now
            log.warning("%s", text)

    def _drop(self, connection: socket.socket) -> None:
        asyncio.get_running_loop().remove_reader(connection)
        connection.close()
        source = self._peers.pop(connection).source
        if source is not None:
            self.pipeline.disconnect(source)
            log.info("tap disconnected: %s", source.hello.model)


def _send(connection: socket.socket, packet: bytes) -> bool:
    """To a tap, if it takes it at once."""
    try:
        return connection.send(packet) == len(packet)
    except OSError:
        return False
