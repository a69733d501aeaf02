"""HTTP listeners of one process: bound before anything starts, stopped together on a signal or when the parent goes."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn

from monitor.errors import BarographError
from monitor.http.protocol import HEADERS_S, BoundedProtocol

LIFELINE = "BAROGRAPH_LIFELINE_FD"  # a pipe whose other end our parent holds: it closes when the parent dies

KEEP_ALIVE_S = 75  # longer than clients keep a connection that they may use again, so that none is closed under a request

# What the kernel may hold for a client that reads nothing: the default grows to megabytes, and a stall shows late.
SEND_BUFFER = 128 * 1024


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are handled once, for all servers of the process."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's, but a handshake has the time that headers have: a client that says nothing would keep a connection for a minute."""
        await super().startup([])
        self.started = False
        tls = self.config.ssl
        for each in sockets or ():
            self.servers.append(
                await asyncio.get_running_loop().create_server(
                    self._connection, sock=each, backlog=self.config.backlog, ssl=tls, ssl_handshake_timeout=HEADERS_S if tls else None
                )
            )
        self.started = True

    def _connection(self) -> asyncio.Protocol:
        return BoundedProtocol(self.config, self.server_state, self.lifespan.state)


class Servers:
    """Serves several ASGI applications until SIGINT, SIGTERM or the end of the parent."""

    def __init__(self) -> None:
        self._servers: list[tuple[_Server, socket.socket, Callable[[], Awaitable[None]] | None]] = []
        self._stopping: asyncio.Future[list[None]] | None = None

    def bind(self, name: str, address: tuple[str, int] | Path) -> socket.socket:
        """Take the address now, so that one in use is an error of the start. Raises BarographError."""
        if isinstance(address, Path):
            return _bind_unix(name, address)
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        # Inherited by every connection. Without it the first chunk waits 40 ms for the client's delayed acknowledgement.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        try:
            listener.bind(address)
        except OSError as error:
            listener.close()
            reason = error.strerror or str(error)
            raise BarographError(
                f"{name}: cannot listen on {address[0]}:{address[1]} ({reason}); choose another address in the configuration"
            ) from None
        return listener

    def serve(
        self, app: Any, listener: socket.socket, drain: Callable[[], Awaitable[None]] | None = None, tls: ssl.SSLContext | None = None
    ) -> None:
        """Serve `app` on a bound socket once `run` is called. `drain` is awaited before the server stops taking connections."""
        config = uvicorn.Config(
            app, http=BoundedProtocol, ws="none", log_level="warning", access_log=False, timeout_graceful_shutdown=3, lifespan="auto",
            server_header=False, proxy_headers=False, backlog=1024, timeout_keep_alive=KEEP_ALIVE_S,
            ssl_context_factory=None if tls is None else lambda *_: tls,
        )  # fmt: skip
        self._servers.append((_Server(config), listener, drain))

    @property
    def started(self) -> bool:
        return all(server.started for server, _, _ in self._servers)

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.stop)
        lifeline = os.environ.get(LIFELINE)
        if lifeline:
            loop.add_reader(int(lifeline), self.stop)
        await asyncio.gather(*(server.serve([listener]) for server, listener, _ in self._servers))

    def stop(self) -> None:
        """Let every server end what it has begun; a second call ends them at once."""
        if lifeline := os.environ.get(LIFELINE):
            asyncio.get_running_loop().remove_reader(int(lifeline))
        drains = [drain for _, _, drain in self._servers if drain is not None]
        if self._stopping is not None or not drains:
            self._exit()
            return
        self._stopping = asyncio.gather(*(drain() for drain in drains))
        self._stopping.add_done_callback(lambda _: self._exit())

    def _exit(self) -> None:
        for server, _, _ in self._servers:
            server.should_exit = True


def _bind_unix(name: str, path: Path) -> socket.socket:
    """A Unix socket of mode 0600; one that nobody listens on any more is replaced."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path.is_socket():
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                try:
                    probe.connect(str(path))
                except OSError:
                    path.unlink()
        listener.bind(str(path))
        path.chmod(0o600)
    except OSError as error:
        listener.close()
        raise BarographError(
            f"{name}: cannot listen on {path} ({error.strerror or error}); choose another address in the configuration"
        ) from None
    return listener
