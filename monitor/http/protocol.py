"""uvicorn's HTTP connection with bounds that uvicorn lacks: on headers, and on the time that a client may take for them."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEADERS_S = 10.0  # from a connection's or a request's first byte until its headers are complete; a connection that says nothing, too
MAX_HEADERS = 64 * 1024  # bytes of request line and headers


class BoundedProtocol(HttpToolsProtocol):
    """Closes a connection whose headers are too slow (408) or too large (431)."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._seen = 0
        self._reading = True
        self._due: asyncio.TimerHandle | None = self.loop.call_later(HEADERS_S, self._late)

    def connection_lost(self, exc: Exception | None) -> None:
        self._settle()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._reading:
            if self._due is None:
                self._due = self.loop.call_later(HEADERS_S, self._late)
            # The parser keeps what is not complete, so what it gets is counted before it gets it.
            end = data.find(b"\r\n\r\n")
            self._seen += len(data) if end < 0 else end
            if self._seen > MAX_HEADERS:
                self._refuse(b"431 Request Header Fields Too Large", f"headers of more than {MAX_HEADERS} bytes")
                return
        super().data_received(data)

    def on_headers_complete(self) -> None:
        self._reading = False
        self._seen = 0
        self._settle()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._reading = True
        super().on_message_complete()

    def _settle(self) -> None:
        if self._due is not None:
            self._due.cancel()
            self._due = None

    def _late(self) -> None:
        self._due = None
        self._refuse(b"408 Request Timeout", f"the headers were not complete after {HEADERS_S:.0f} s")

    def _refuse(self, status: bytes, why: str) -> None:
        if self.transport is None or self.transport.is_closing():
            return
        body = b'{"error":{"message":"%s","type":"invalid_request_error","param":null,"code":null}}' % why.encode()
        self.transport.write(
            b"HTTP/1.1 " + status + b"\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: "
            + str(len(body)).encode() + b"\r\n\r\n" + body
        )  # fmt: skip
        self.transport.close()
