"""Responses that end their work when the client goes, in whichever moment."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from monitor.http.responses import EventStream
from tests.stack import PATIENCE_S


@pytest.mark.parametrize("steps", range(6))
def test_a_client_that_goes_just_as_an_event_has_left_ends_the_work(steps: int) -> None:
    """The event's sending ends and the client goes within so many turns of the loop."""
    closed: list[bool] = []

    async def run() -> None:
        sending: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        left = asyncio.Event()

        async def events() -> AsyncGenerator[bytes]:
            try:
                while True:
                    yield b"data: x\n\n"
                    await asyncio.sleep(0.001)
            finally:
                closed.append(True)

        async def send(message: Any) -> None:
            if message["type"] == "http.response.body" and not sending.done():
                await asyncio.shield(sending)

        async def receive() -> Any:
            await left.wait()
            return {"type": "http.disconnect"}

        answering = asyncio.create_task(EventStream(events())({"type": "http"}, receive, send))
        await asyncio.sleep(0.01)
        left.set()
        for _ in range(steps):
            await asyncio.sleep(0)
        sending.set_result(None)
        async with asyncio.timeout(PATIENCE_S):
            await answering

    asyncio.run(run())
    assert closed == [True]
