"""What a client gets for a generating request, from its first byte to its last, whatever happens on the way."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from monitor.gateway.dialect import error_body, error_event
from monitor.gateway.upstream import Refused
from monitor.http import jsons
from monitor.http.openai import DONE, OpenAIError
from monitor.http.responses import cancelled, gone

log = logging.getLogger("barograph.gateway")

COMMENT = b": keep-alive\n\n"


class Judged(Protocol):
    """The work behind a reply."""

    route: str
    streams: bool

    def parts(self) -> AsyncGenerator[bytes]:
        """What the client gets, piece by piece; an unstreamed reply is one piece. Raises OpenAIError or Refused."""

    def headers(self) -> dict[str, str]:
        """What the client hears of how it was judged, when the first piece leaves."""

    def end(self, reply: Reply[Any]) -> None:
        """The reply is over, however it ended."""


Work = TypeVar("Work", bound=Judged)


@dataclass
class Limits:
    """In seconds: a client may read nothing for `stall`; a waiting event stream gets a comment after `keepalive`."""

    stall: float
    keepalive: float
    on_stall: Callable[[], None] = field(default=lambda: None)


class Reply(Response, Generic[Work]):
    """Sends the work's pieces. Ends the work when the client goes or stalls, or when `stop` is called.

    The status is decided by the first piece; an error before it is a proper HTTP error, later it is an event of the stream.
    """

    def __init__(self, work: Work, headers: dict[str, str], limits: Limits) -> None:
        super().__init__(headers=headers, media_type="text/event-stream" if work.streams else "application/json")
        del self.headers["content-length"]
        if work.streams:
            self.headers.setdefault("cache-control", "no-cache")
        self.work = work
        self.outcome = "ended"
        self._limits = limits
        self._started = False
        self._sending = 0.0  # since when a piece waits for the client; 0 while none does
        self._sent = time.monotonic()
        self._stopped: OpenAIError | None = None
        self._task: asyncio.Task[None] | None = None

    def stop(self, error: OpenAIError) -> None:
        """End it now, with an error. The first one counts: a second would break off the saying of it."""
        if self._stopped is not None:
            return
        self._stopped = error
        if self._task is not None:
            self._task.cancel()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._task = work = asyncio.create_task(self._run(send))
        left = asyncio.create_task(gone(receive))
        watch = asyncio.create_task(self._watch(send))
        try:
            done, _ = await asyncio.wait({work, left, watch}, return_when=asyncio.FIRST_COMPLETED)
            if work not in done:
                self.outcome = "client_gone" if left in done else "client_stalled"
        finally:
            await cancelled(work, left, watch)
            self.work.end(self)

    async def _run(self, send: Send) -> None:
        try:
            async with aclosing(self.work.parts()) as parts:
                async for part in parts:
                    await self._send(send, part)
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except asyncio.CancelledError:
            if self._stopped is None:
                raise
            asyncio.current_task().uncancel()  # type: ignore[union-attr]  # this runs in one
            await self._fail(send, self._stopped)
        except Refused as refused:
            self.outcome, self.status_code = "refused", refused.response.status_code
            await self._answer(send, refused.response)
        except OpenAIError as error:
            await self._fail(send, error)
        except OSError:
            self.outcome = "client_gone"
        except Exception:
            log.exception("a reply failed by a fault of ours")
            await self._fail(
                send, OpenAIError(500, "the gateway failed on this reply; its log says why", kind="server_error", code="internal")
            )

    async def _send(self, send: Send, part: bytes) -> None:
        self._sending = time.monotonic()
        if not self._started:
            self._started = True
            self.headers.update(self.work.headers())
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": part, "more_body": True})
        self._sending, self._sent = 0.0, time.monotonic()

    async def _fail(self, send: Send, error: OpenAIError) -> None:
        self.outcome = str(error.body["error"].get("code") or "error")
        if error.in_stream and self.work.streams:
            await self._send(send, error_event(self.work.route, error) + DONE)
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            return
        self.status_code = self.status_code if self._started else error.status
        if not self._started:
            headers = {**error.headers, **{name: value for name, value in self.headers.items() if name == "x-request-id"}}
            await self._answer(send, Response(jsons.encode(error_body(self.work.route, error)), error.status, headers, "application/json"))
        elif self.work.streams:
            await send({"type": "http.response.body", "body": error_event(self.work.route, error), "more_body": False})
        # An unstreamed reply that has begun is complete in one piece: there is nothing left to fail.

    async def _answer(self, send: Send, response: Response) -> None:
        self._started = True
        await send({"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers})
        await send({"type": "http.response.body", "body": response.body, "more_body": False})

    async def _watch(self, send: Send) -> None:
        """Returns when the client has read nothing for too long; until then keeps a waiting stream alive."""
        limits = self._limits
        while True:
            await asyncio.sleep(min(limits.stall, limits.keepalive) / 2)
            now = time.monotonic()
            if self._sending:
                if now - self._sending > limits.stall:
                    limits.on_stall()
                    return
            elif self.work.streams and now - self._sent > limits.keepalive:
                await self._send(send, COMMENT)
