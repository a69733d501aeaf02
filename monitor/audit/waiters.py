"""Those who wait, on an event loop, for a number that a thread counts up to."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable


class Waiters:
    """The caller holds one lock around `wait` and `wake`; a future is resolved on its own loop."""

    def __init__(self) -> None:
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []

    def wait(self, number: int) -> asyncio.Future[None]:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((number, future))
        return future

    def wake(self, ready: Callable[[int], bool]) -> None:
        waking = [future for number, future in self._waiting if ready(number)]
        self._waiting = [(number, future) for number, future in self._waiting if not ready(number)]
        for future in waking:
            with contextlib.suppress(RuntimeError):  # its loop has ended
                future.get_loop().call_soon_threadsafe(_resolve, future)


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():  # who waited may have gone
        future.set_result(None)
