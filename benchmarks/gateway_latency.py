"""What the gateway adds to a chunk: the time between a chunk's arrival at the gateway and its arrival at the client.

The gateway's upstream is a tee in this process, which passes the engine's bytes on and notes when each chunk went by. The
client is in this process as well, so both times come from one clock and every chunk is its own pair: the noise of the
model's steps is not in the figure. What is: the loopback twice, parsing, waiting for the scores, judging, writing, and this
process's own delays.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import tempfile
import time
from pathlib import Path

import aiohttp
import numpy as np

from benchmarks.report import emit
from tests.stack import MODEL, Stack, free_port

PROMPT = "Write a long story about a lighthouse keeper and the sea."
EVENT = b"data: {"


class Tee:
    """Passes connections on to the engine, and notes when each event of an answer went by."""

    def __init__(self, engine_port: int) -> None:
        self.engine_port = engine_port
        self.seen: dict[bytes, list[float]] = {}  # id of the answer → seconds, one an event

    async def connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self.engine_port)

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter, note: bool) -> None:
            with contextlib.suppress(ConnectionError, asyncio.CancelledError):  # cancelled when the loop ends
                while data := await source.read(65536):
                    if note:
                        now = time.perf_counter()
                        for event in data.split(EVENT)[1:]:
                            self.seen.setdefault(answer_id(event), []).append(now)
                    sink.write(data)
                    await sink.drain()
            sink.close()

        await asyncio.gather(pump(reader, up_writer, False), pump(up_reader, writer, True))


def answer_id(event: bytes) -> bytes:
    return event.split(b'"id":"', 1)[1].split(b'"', 1)[0]


async def chat(session: aiohttp.ClientSession, base: str, tokens: int, tee: Tee) -> list[float]:
    """Milliseconds that each chunk took from the tee to here."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": PROMPT}], "max_tokens": tokens, "temperature": 0, "stream": True}
    times, name = [], b""
    async with session.post(f"{base}/v1/chat/completions", json=body) as response:
        assert response.status == 200, await response.text()
        async for line in response.content:
            if line.startswith(EVENT):
                times.append(time.perf_counter())
                name = answer_id(line)
    # The gateway asks the engine for a last chunk with the usage, which it keeps to itself.
    return [1e3 * (out - seen) for out, seen in zip(times, tee.seen.pop(name), strict=False)]


async def measure(stack: Stack, tee_port: int, rounds: int, tokens: int) -> dict[str, object]:
    found: dict[str, object] = {}
    tee = Tee(stack.ports["engine"])
    server = await asyncio.start_server(tee.connect, "127.0.0.1", tee_port)
    await asyncio.to_thread(stack.__enter__)  # the sidecar is healthy only when it reaches the engine, through the tee
    async with aiohttp.ClientSession() as session:
        for streams in (1, 8):
            added: list[float] = []
            for number in range(rounds + 1):
                runs = await asyncio.gather(*(chat(session, stack.gateway(), tokens, tee) for _ in range(streams)))
                if number:  # the first round warms up
                    added += [each for run in runs for each in run]
            p50, p99 = np.quantile(added, [0.5, 0.99])
            found[f"streams_{streams}"] = {
                "added_ms_p50": round(float(p50), 3),
                "added_ms_p99": round(float(p99), 3),
                "chunks": len(added),
            }
    server.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--tokens", type=int, default=96)
    options = parser.parse_args()
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        stack = Stack(Path(folder), {"gateway": {"upstream": f"http://127.0.0.1:{port}"}})
        with contextlib.closing(stack):
            found = asyncio.run(measure(stack, port, options.rounds, options.tokens))
            held, count = stack.metric("barograph_gateway_hold_seconds_sum"), stack.metric("barograph_gateway_hold_seconds_count")
            found["hold_ms_mean"] = round(1e3 * held / count, 4)
            found["frames_lost"] = stack.metric("barograph_frames_lost_total")
    emit("gateway_latency", model=MODEL, **found)


if __name__ == "__main__":
    main()
