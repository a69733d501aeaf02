"""ASGI responses that stop their work when the client is gone or reads nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send


async def gone(receive: Receive) -> None:
    """Returns when the client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def cancelled(*tasks: asyncio.Task[None]) -> None:
    """Cancel tasks and wait until they are over."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class EventStream(Response):
    """Server-sent events from a generator, which is closed as soon as the client goes or stalls."""

    media_type = "text/event-stream"

    def __init__(
        self,
        events: AsyncGenerator[bytes],
        headers: dict[str, str] | None = None,
        stall_s: float = 60.0,
        on_stall: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(headers={"cache-control": "no-cache"} | (headers or {}))
        del self.headers["content-length"]
        self._events = events
        self._stall_s = stall_s
        self._on_stall = on_stall

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._events):
            left, body = asyncio.create_task(gone(receive)), asyncio.create_task(self._send(send))
            try:
                await asyncio.wait({left, body}, return_when=asyncio.FIRST_COMPLETED)
                if body.done():
                    body.result()
            finally:
                await cancelled(left, body)

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        try:
            async for event in self._events:
                # No wait_for: in Python 3.11 it swallows a cancellation that comes just as the event has left, and the work would go on.
                async with asyncio.timeout(self._stall_s):
                    await send({"type": "http.response.body", "body": event, "more_body": True})
            async with asyncio.timeout(self._stall_s):
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        except TimeoutError:
            self._on_stall()
        except OSError:  # the client went between two events
            pass


async def unless_gone(request: Request, work: Awaitable[Response]) -> Response:
    """The response that `work` makes, or an unseen 499 when the client leaves first; `work` is then cancelled."""
    task = asyncio.ensure_future(work)
    left = asyncio.create_task(gone(request.receive))
    try:
        await asyncio.wait({task, left}, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else Response(status_code=499)
    finally:
        for pending in (task, left):
            pending.cancel()
        await asyncio.gather(task, left, return_exceptions=True)
