"""What runs in the background: a task that dies is logged, counted, named by health, and started again. Never silent."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from monitor.sinks.prometheus import Metrics

log = logging.getLogger("barograph.tasks")

AGAIN_S = 1.0  # until a dead task is started again
WELL_S = 30.0  # how long it must then live before health forgets


class Tasks:
    """Runs coroutine functions for as long as the sidecar runs."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._tasks: set[asyncio.Task[None]] = set()
        self._died: dict[str, tuple[float, str]] = {}  # name → when it died last, and of what

    @property
    def failed(self) -> str:
        """Tasks that died a moment ago; empty when there are none."""
        now = time.monotonic()
        return "; ".join(why for when, why in self._died.values() if now - when < WELL_S)

    def keep(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        """Run `work`, which should never end, and start it again whenever it does."""
        self._start(self._keep(name, work))

    def once(self, name: str, work: Callable[[], Awaitable[object]]) -> None:
        """Run `work` to its end, beside whoever asked for it."""
        self._start(self._once(name, work))

    def close(self) -> None:
        for task in self._tasks:
            task.cancel()

    def _start(self, coroutine: Awaitable[None]) -> None:
        task = asyncio.ensure_future(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _keep(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            await self._once(name, work, ends=False)
            await asyncio.sleep(AGAIN_S)

    async def _once(self, name: str, work: Callable[[], Awaitable[object]], ends: bool = True) -> None:
        try:
            await work()
            if ends:
                return
            why = "it ended"
        except Exception as error:
            log.exception("the task '%s' died", name)
            why = f"{type(error).__name__}: {error}"[:200]
        self._died[name] = (time.monotonic(), f"{name}: {why}")
        self._metrics.task_failures.labels(name).inc()
