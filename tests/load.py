"""A sidecar under load without a model: the engine of benchmarks/synthetic, its tap, and clients of several tenants, in a thread."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from types import TracebackType

import httpx

from benchmarks.synthetic.engine import MODEL, SyntheticEngine
from benchmarks.synthetic.tap import GoodTap
from tests.stack import Stack, eventually

TENANTS = ("acme", "globex", "initech")
CLIENTS, TOKENS, STEP_S = 12, 60, 0.04


class Load:
    """Runs while it is entered. Of the recordings some rise and some do not; `seed` picks them."""

    def __init__(self, stack: Stack, clients: int = CLIENTS) -> None:
        self._stack = stack
        self._clients = clients
        self._stop = threading.Event()
        self._failed: BaseException | None = None
        self._thread = threading.Thread(target=self._main, daemon=True)

    def __enter__(self) -> Load:
        self._thread.start()
        eventually(self._judged, "tokens are judged")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join(60)
        if self._failed is not None and error is None:
            raise self._failed

    def _judged(self) -> bool:
        if self._failed is not None:
            raise self._failed
        return self._stack.metric("barograph_tokens_judged_total") > 100

    def _main(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            self._failed = error

    async def _serve(self) -> None:
        tap = GoodTap(self._stack.runtime / "tap.sock")
        async with SyntheticEngine(tap, STEP_S) as engine:
            await engine.listen(self._stack.ports["engine"])
            async with httpx.AsyncClient(timeout=60) as client:
                await asyncio.gather(*(self._ask(client, engine, number) for number in range(self._clients)))

    async def _ask(self, client: httpx.AsyncClient, engine: SyntheticEngine, number: int) -> None:
        turn = number
        while not self._stop.is_set():
            body = {"model": MODEL, "messages": [{"role": "user", "content": "x"}], "max_tokens": TOKENS, "stream": True, "seed": turn}
            with contextlib.suppress(httpx.HTTPError):  # until the engine has had its trial
                answer = await client.post(
                    self._stack.gateway("/v1/chat/completions"), json=body, headers={"x-tenant": TENANTS[turn % len(TENANTS)]}
                )
                await asyncio.sleep(0.5 if answer.status_code != 200 else 0)
            engine.made.clear()
            turn += self._clients
