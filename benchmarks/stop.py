"""How long from a stop to the last token of each of 128 running streams, and to the engine's own end of them.

    python -m benchmarks.stop

The engine is synthetic (benchmarks/synthetic), as in gateway_load: 128 streams of 20 chunks a second. Each round gives `stop` for all over
the admin API and resumes. `token`: from sending the command to the last token that a client got of any stream, and `reply` to
when its reply ended; `engine`: to when the engine itself had dropped the last generation.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from benchmarks.gateway_load import RATE, Client
from benchmarks.report import emit
from benchmarks.synthetic.engine import MODEL, SyntheticEngine
from benchmarks.synthetic.tap import GoodTap
from tests.stack import ADMIN_TOKEN, Stack

HEADERS = {"authorization": f"Bearer {ADMIN_TOKEN}"}


class Stopped(Client):
    """A stream that notes when its reply ended."""

    ended = 0.0

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if data.endswith(b"0\r\n\r\n") and not self.done.done():
            self.ended = time.perf_counter()
            self._transport.close()
            self.done.set_result(None)


async def one(stack: Stack, engine: SyntheticEngine, client: httpx.AsyncClient, number: int) -> dict[str, list[float]]:
    """One round, in milliseconds from the command."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": "x"}], "max_tokens": 100_000, "stream": True, "seed": 0}
    streams = [Stopped(stack.ports["gateway"], body) for _ in range(number)]
    running = [asyncio.create_task(stream.run()) for stream in streams]
    while len(engine.running) < number or not all(len(stream.times) > 5 for stream in streams):
        await asyncio.sleep(0.05)
    emptied = 0.0

    async def watch() -> None:
        nonlocal emptied
        while engine.running:
            await asyncio.sleep(0.0005)
        emptied = time.perf_counter()

    watching = asyncio.create_task(watch())
    started = time.perf_counter()
    answer = await client.post(stack.admin("/commands"), json={"verb": "stop", "all": True, "reason": "benchmark"}, headers=HEADERS)
    assert answer.json()["still_running"] == 0, answer.text
    await asyncio.gather(watching, *running)
    resumed = await client.post(stack.admin("/commands"), json={"verb": "resume", "all": True, "reason": "benchmark"}, headers=HEADERS)
    assert resumed.status_code == 200, resumed.text
    return {
        "token": [1e3 * max(0.0, stream.times[-1] - started) for stream in streams],
        "reply": [1e3 * (stream.ended - started) for stream in streams],
        "engine": [1e3 * (emptied - started)],
    }


async def measure(stack: Stack, number: int, rounds: int) -> dict[str, Any]:
    found: dict[str, list[float]] = {}
    async with (
        SyntheticEngine(GoodTap(stack.runtime / "tap.sock"), 1 / RATE, spread=True) as engine,
        httpx.AsyncClient(timeout=60) as client,
    ):
        await engine.listen(stack.ports["engine"])
        while stack.metric("barograph_taps_connected") == 0 or (await client.get(stack.admin("/health"))).status_code != 200:
            await asyncio.sleep(0.1)
        for _ in range(rounds):
            for name, times in (await one(stack, engine, client, number)).items():
                found.setdefault(name, []).extend(times)
    return {
        name: dict(zip(("p50_ms", "p99_ms", "most_ms"), np.quantile(times, [0.5, 0.99, 1]).round(1).tolist(), strict=True))
        for name, times in found.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, Stack(Path(folder), engine=False) as stack:
        found = asyncio.run(measure(stack, options.streams, options.rounds))
    emit("stop", streams=options.streams, rounds=options.rounds, rate=RATE, after=found)


if __name__ == "__main__":
    main()
