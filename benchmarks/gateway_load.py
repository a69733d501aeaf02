"""What the gateway adds under load, beside the engine asked directly, in one run.

The engine is synthetic (benchmarks/synthetic): it replays recorded tokens and scores at a set speed and says when each token left it. It
and the clients share one process on one core; the sidecar has the other core to itself. Every figure of the gateway stands beside the same
one of the engine without it.

- paced: 128 streams of 20 chunks a second, strict hold. `spread` engines write the events of a step one after the other, `burst` ones all
  at once; 128 events that come together wait for each other in any gateway.
- knee: streams of 20 chunks a second are added until less leaves than comes, or a chunk's p99 passes 100 ms.
- whole: an unstreamed reply of 16 tokens, 5 ms a step, on one connection at a time; with 1,000 idle connections beside it, too.
- soak (--minutes): the paced load for so long, with the sidecar's memory at each quarter.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import psutil

from benchmarks.report import emit
from benchmarks.synthetic.engine import MODEL, SyntheticEngine
from benchmarks.synthetic.tap import GoodTap
from tests.stack import Stack, eventually

RATE = 20  # chunks a second and stream
MARK = b'data: {"id"'


class Client(asyncio.Protocol):
    """One request on a connection of its own. `times`: when each event came; `name`: the reply's id."""

    def __init__(self, port: int, body: dict[str, Any]) -> None:
        raw = msgspec.json.encode(body)
        self._request = b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:%d\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (
            port, len(raw), raw,
        )  # fmt: skip
        self.port = port
        self.times: list[float] = []
        self.name = ""
        self.head = self.last = b""
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def run(self) -> None:
        await asyncio.get_running_loop().create_connection(lambda: self, "127.0.0.1", self.port)
        await self.done

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        if not self.name:
            self.head += data
            if b'"id":"chatcmpl-' in self.head:
                self.name = self.head.split(b'"id":"chatcmpl-', 1)[1].split(b'"', 1)[0].decode()
        self.times += [now] * data.count(MARK)
        self.last = data
        if b"[DONE]" in data:
            self._transport.close()
            if not self.done.done():
                self.done.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(ConnectionError(f"the reply broke off: {self.last[-500:]!r}"))


async def streams(engine: SyntheticEngine, port: int, number: int, seconds: float) -> tuple[list[float], float]:
    """`number` streams, started over one step: milliseconds that each chunk took from the engine to here, and chunks a second."""
    tokens = int(seconds * RATE)
    engine.made.clear()
    clients = [
        Client(port, {"model": MODEL, "messages": [{"role": "user", "content": "x"}], "max_tokens": tokens, "stream": True, "seed": 0})
        for _ in range(number)
    ]
    started = time.perf_counter()
    running = []
    for client in clients:
        running.append(asyncio.create_task(client.run()))
        await asyncio.sleep(1 / RATE / number)
    await asyncio.gather(*running)
    took = time.perf_counter() - started
    known = {generation.request: generation for generation in engine.made.values()}
    late = []
    for client in clients:
        generation = known[client.name]
        late += [1e3 * (came - left) for came, left in zip(client.times[5:], generation.left[5:], strict=False)]
    return late, number * tokens / took


async def whole(port: int, rounds: int, body: dict[str, Any]) -> list[float]:
    """Milliseconds of unstreamed requests, one after the other on one connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    client = Client(port, body)
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        writer.write(client._request)
        head = await reader.readuntil(b"\r\n\r\n")
        if b"content-length" in head.lower():
            await reader.readexactly(int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]))
        else:
            await reader.readuntil(b"0\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head
        times.append(1e3 * (time.perf_counter() - started))
    writer.close()
    return times


def quantiles(values: list[float]) -> dict[str, float]:
    p50, p99 = np.quantile(values, [0.5, 0.99])
    return {"p50_ms": round(float(p50), 3), "p99_ms": round(float(p99), 3), "n": len(values)}


def added(direct: list[float], through: list[float]) -> dict[str, Any]:
    """The same quantiles of both sides, and what the gateway adds to each."""
    one, two = quantiles(direct), quantiles(through)
    return {
        "direct": one,
        "gateway": two,
        "added_p50_ms": round(two["p50_ms"] - one["p50_ms"], 3),
        "added_p99_ms": round(two["p99_ms"] - one["p99_ms"], 3),
    }


class Load:
    """The parts of the run, on one stack."""

    def __init__(self, stack: Stack, engine: SyntheticEngine) -> None:
        self.stack, self.engine = stack, engine
        self.direct, self.gateway = stack.ports["engine"], stack.ports["gateway"]
        self.sidecar = psutil.Process(stack.processes["sidecar"].pid)

    async def paced(self, number: int, seconds: float) -> dict[str, Any]:
        found = {}
        for name, spread in (("spread", True), ("burst", False)):
            self.engine.step_s, self.engine.spread = 1 / RATE, spread
            direct, _ = await streams(self.engine, self.direct, number, seconds)
            before = sum(self.sidecar.cpu_times()[:2])
            through, rate = await streams(self.engine, self.gateway, number, seconds)
            busy = sum(self.sidecar.cpu_times()[:2]) - before
            found[name] = {**added(direct, through), "chunks_per_s": round(rate), "cpu_us_per_chunk": round(1e6 * busy / len(through), 1)}
        return found

    async def knee(self, seconds: float) -> dict[str, Any]:
        self.engine.step_s, self.engine.spread = 1 / RATE, True
        steps = []
        for number in (128, 192, 256, 320, 384, 448, 512, 640, 768):
            before = sum(self.sidecar.cpu_times()[:2])
            late, rate = await streams(self.engine, self.gateway, number, seconds)
            busy = (sum(self.sidecar.cpu_times()[:2]) - before) / (len(late) / RATE / number)
            steps.append(
                {
                    "streams": number,
                    "asked_per_s": number * RATE,
                    "released_per_s": round(rate),
                    **quantiles(late),
                    "core_busy": round(busy, 2),
                }
            )
            if steps[-1]["p99_ms"] > 100 or rate < 0.9 * number * RATE:
                break
        good = [step for step in steps if step["p99_ms"] <= 100 and step["released_per_s"] >= 0.9 * step["asked_per_s"]]
        return {"released_per_s": good[-1]["released_per_s"] if good else 0, "steps": steps}

    async def whole(self, rounds: int) -> dict[str, Any]:
        self.engine.step_s, self.engine.spread = 0.005, False
        body = {"model": MODEL, "messages": [{"role": "user", "content": "x"}], "max_tokens": 16}
        await whole(self.gateway, 20, body)
        sides: dict[int, list[float]] = {self.direct: [], self.gateway: []}
        for _ in range(rounds):  # side by side, so that a slow moment of the machine meets both
            for port, times in sides.items():
                times += await whole(port, 10, body)
        pairs = [two - one for one, two in zip(sides[self.direct], sides[self.gateway], strict=True)]
        return {**added(sides[self.direct], sides[self.gateway]), "paired_median_ms": round(statistics.median(pairs), 3)}

    async def idle(self, connections: int, rounds: int) -> dict[str, Any]:
        before = self.sidecar.memory_info().rss
        kept = []
        request = b"GET /v1/models HTTP/1.1\r\nhost: x\r\n\r\n"
        for _ in range(connections):  # each has asked once, and stays
            reader, writer = await asyncio.open_connection("127.0.0.1", self.gateway)
            writer.write(request)
            await reader.readuntil(b"\r\n\r\n")
            kept.append(writer)
        found = await self.whole(rounds)
        grown = self.sidecar.memory_info().rss - before
        alive = sum(not writer.is_closing() for writer in kept)
        for writer in kept:
            writer.close()
        return {"connections": connections, "still_open": alive, "kib_each": round(grown / connections / 1024, 1), **found}

    async def soak(self, number: int, minutes: float) -> dict[str, Any]:
        self.engine.step_s, self.engine.spread = 1 / RATE, True
        await streams(self.engine, self.gateway, number, 5)
        end = time.monotonic() + 60 * minutes
        memory, chunks = [], 0
        while time.monotonic() < end:
            late, _ = await streams(self.engine, self.gateway, number, 5)
            chunks += len(late)
            memory.append(self.sidecar.memory_info().rss / 2**20)
        quarters = np.array_split(np.array(memory), 4)
        return {"minutes": minutes, "chunks": chunks, "rss_mib_by_quarter": [round(float(np.median(each)), 1) for each in quarters]}


async def measure(stack: Stack, options: argparse.Namespace) -> dict[str, Any]:
    tap = GoodTap(stack.runtime / "tap.sock")
    found: dict[str, Any] = {}
    async with SyntheticEngine(tap, 1 / RATE) as engine:
        await engine.listen(stack.ports["engine"])
        while not tap.connected or stack.metric("barograph_taps_connected") == 0:
            await asyncio.sleep(0.1)
        await asyncio.sleep(2)  # the sidecar's trial
        load = Load(stack, engine)
        if options.minutes:
            return {"soak": await load.soak(options.streams, options.minutes)}
        found["whole"] = await load.whole(options.rounds)
        found["idle"] = await load.idle(1000, options.rounds)
        found["paced"] = await load.paced(options.streams, options.seconds)
        found["knee"] = await load.knee(options.seconds)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=128)
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--minutes", type=float, default=0, help="only the soak, for so long")
    options = parser.parse_args()
    settings = {"gateway": {"max_requests": 2048}}
    cores = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder, Stack(Path(folder), settings, engine=False) as stack:
        if len(cores) > 1:
            psutil.Process(stack.processes["sidecar"].pid).cpu_affinity([cores[1]])
            os.sched_setaffinity(0, {cores[0]})
        found = asyncio.run(measure(stack, options))
        eventually(lambda: stack.metric("barograph_streams_running") == 0, "all streams are over")
        found["frames_lost"] = stack.metric("barograph_frames_lost_total")
        found["unjudged"] = stack.metric("barograph_failure_decisions_total")
    emit("gateway_soak" if options.minutes else "gateway_load", hold="strict", rules="default pack", cores_of_sidecar=1, **found)


if __name__ == "__main__":
    main()
