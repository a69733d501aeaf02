"""Streams that go on: a synthetic engine and its clients, in a thread of their own, through the gateway of a stack that runs."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from benchmarks.synthetic.engine import MODEL, SyntheticEngine
from benchmarks.synthetic.tap import GoodTap
from tests.stack import Stack, eventually

TENANT, CONVERSATION = "x-tenant", "x-conversation"
SETTINGS = {"gateway": {"tenant_header": TENANT, "conversation_header": CONVERSATION, "tenants": ["acme"], "max_requests": 1024}}


@contextmanager
def talk(stack: Stack, streams: int, rate: float = 12, tokens: tuple[int, ...] = (60, 97, 134, 171, 208)) -> Iterator[None]:
    """So many replies run at any time, of `tokens` tokens each in turn, `rate` tokens a second. Ends with the block."""
    loop = asyncio.new_event_loop()
    ended = asyncio.Event()

    async def one(client: httpx.AsyncClient, number: int) -> None:
        body = {
            "model": MODEL, "messages": [{"role": "user", "content": "x"}], "max_tokens": tokens[number % len(tokens)], "stream": True, "seed": number,
        }  # fmt: skip
        headers = {TENANT: ("acme", "blue", "")[number % 3], CONVERSATION: f"c{number % 5}"}
        async with client.stream("POST", stack.gateway("/v1/chat/completions"), json=body, headers=headers) as response:
            async for _ in response.aiter_bytes():
                pass

    async def one_after_the_other(client: httpx.AsyncClient, number: int) -> None:
        while not ended.is_set():
            with contextlib.suppress(httpx.HTTPError):
                await one(client, number)
            number += streams

    async def run() -> None:
        limits = httpx.Limits(max_connections=None)
        async with (
            SyntheticEngine(GoodTap(stack.runtime / "tap.sock"), 1 / rate, spread=True) as engine,
            httpx.AsyncClient(timeout=60, limits=limits) as client,
        ):
            await engine.listen(stack.ports["engine"])
            while (await client.get(stack.admin("/health"))).status_code != 200:
                await asyncio.sleep(0.1)
            talking = [asyncio.create_task(one_after_the_other(client, number)) for number in range(streams)]
            await ended.wait()
            for task in talking:
                task.cancel()
            await asyncio.gather(*talking, return_exceptions=True)

    thread = threading.Thread(target=lambda: loop.run_until_complete(run()), daemon=True)
    thread.start()
    try:
        eventually(lambda: stack.metric("barograph_streams_running") >= min(streams, 1), "streams run", 60)
        yield
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join(30)
        loop.close()
