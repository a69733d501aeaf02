"""The sidecar's end of the socket: accepts taps of our own user and hands their packets to the pipeline."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from pathlib import Path

from monitor import wire
from monitor.config import own_folder
from monitor.errors import BarographError, WireError
from monitor.pipeline.pipeline import Pipeline
from monitor.pipeline.source import Source

log = logging.getLogger("barograph.receiver")

BURST = 64  # packets taken from one tap before others get their turn


def answers(path: Path) -> bool:
    """Whether a sidecar listens on `path`."""
    with wire.open_socket() as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
        return True


class Receiver:
    """Listens on the Unix socket. Any number of engines may connect; each is a source of its own."""

    def __init__(self, path: Path, pipeline: Pipeline) -> None:
        self.path = path
        self.pipeline = pipeline
        self._connections: dict[socket.socket, Source | None] = {}
        self._listener = wire.open_socket()

    def start(self) -> None:
        """Raises BarographError when another sidecar listens there or the path cannot be used."""
        wire.check_path(self.path)
        if answers(self.path):
            raise BarographError(f"socket {self.path} is in use by another sidecar; stop it, or set 'socket' to another path")
        own_folder(self.path.parent)
        try:
            if self.path.is_socket():
                self.path.unlink()  # left behind by a sidecar that was killed
            self._listener.bind(str(self.path))
            self.path.chmod(0o600)
            self._listener.listen(16)
        except OSError as error:
            raise BarographError(f"socket {self.path}: {error.strerror}; expected a path in a folder that can be written") from None
        asyncio.get_running_loop().add_reader(self._listener, self._accept)

    def close(self) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._listener)
        self._listener.close()
        for connection in list(self._connections):
            self._drop(connection)
        self.path.unlink(missing_ok=True)

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return
        pid, uid, _ = wire.peer(connection)
        if uid not in (os.getuid(), 0):
            log.warning("refused process %d of user %d; expected user %d", pid, uid, os.getuid())
            self.pipeline.metrics.refused.labels("user").inc()
            connection.close()
            return
        connection.setblocking(False)
        self._connections[connection] = None
        asyncio.get_running_loop().add_reader(connection, self._read, connection)

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
                log.warning("refused a tap: %s", error)
                self.pipeline.metrics.refused.labels("wire").inc()
                self._drop(connection)
                return
            except Exception:
                # A fault of ours. Whatever is running was perhaps not judged: its source counts as lost, so that the
                # gateway follows `on_missing_score`; the tap connects again.
                log.exception("the pipeline failed on a packet; its tap is dropped")
                self.pipeline.metrics.refused.labels("internal").inc()
                self._drop(connection)
                return

    def _take(self, connection: socket.socket, packet: bytes) -> None:
        source = self._connections[connection]
        if source is not None:
            self.pipeline.take(source, packet)
            return
        hello = wire.decode(packet)
        if not isinstance(hello, wire.Hello):
            raise WireError("the first packet is no hello")
        self._connections[connection] = self.pipeline.connect(hello)
        log.info("tap connected: %s on %s, %d probes", hello.model, hello.engine, len(hello.probes))

    def _drop(self, connection: socket.socket) -> None:
        asyncio.get_running_loop().remove_reader(connection)
        connection.close()
        source = self._connections.pop(connection)
        if source is not None:
            self.pipeline.disconnect(source)
            log.info("tap disconnected: %s", source.hello.model)
