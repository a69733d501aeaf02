"""What the gateway adds to a chunk: from the engine's side of the loopback to the client's, scores judged in between.

The same streamed chats go to the engine itself and through the gateway, in interleaved pairs of one run, at 1 and 8
streams. The figure is the difference in the time between two chunks and in the time to the first one. The hold itself
(how long a chunk waited for its scores) is read from the sidecar's own histogram.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from pathlib import Path

import aiohttp
import numpy as np

from benchmarks.report import emit
from tests.stack import MODEL, Stack

PROMPT = "Write a long story about a lighthouse keeper and the sea."


async def chat(session: aiohttp.ClientSession, base: str, tokens: int) -> list[float]:
    """Seconds to each chunk, from the start of the request."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": PROMPT}], "max_tokens": tokens, "temperature": 0, "stream": True}
    started, times = time.perf_counter(), []
    async with session.post(f"{base}/v1/chat/completions", json=body) as response:
        assert response.status == 200, await response.text()
        async for line in response.content:
            if line.startswith(b"data: {"):
                times.append(time.perf_counter() - started)
    return times


async def measure(stack: Stack, pairs: int, tokens: int) -> dict[str, object]:
    found: dict[str, object] = {}
    async with aiohttp.ClientSession() as session:
        for streams in (1, 8):
            at: dict[str, list[list[float]]] = {stack.engine(""): [], stack.gateway(): []}
            for pair in range(-1, pairs):
                for base in sorted(at, reverse=bool(pair % 2)):
                    runs = await asyncio.gather(*(chat(session, base, tokens) for _ in range(streams)))
                    if pair >= 0:
                        at[base] += runs
            direct, through = at[stack.engine("")], at[stack.gateway()]
            gaps = [np.concatenate([np.diff(run) for run in side]) * 1e3 for side in (direct, through)]
            firsts = [statistics.median(run[0] for run in side) * 1e3 for side in (direct, through)]
            found[f"streams_{streams}"] = {
                "added_ms_per_chunk_p50": round(float(np.quantile(gaps[1], 0.5) - np.quantile(gaps[0], 0.5)), 3),
                "added_ms_per_chunk_p99": round(float(np.quantile(gaps[1], 0.99) - np.quantile(gaps[0], 0.99)), 3),
                "direct_ms_p50": round(float(np.quantile(gaps[0], 0.5)), 2),
                "direct_ms_p99": round(float(np.quantile(gaps[0], 0.99)), 2),
                "added_ms_first_chunk": round(firsts[1] - firsts[0], 2),
                "rate_ratio": round(float(np.mean(gaps[0]) / np.mean(gaps[1])), 4),
                "chunks": len(gaps[1]),
            }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=12)
    parser.add_argument("--tokens", type=int, default=64)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, Stack(Path(folder)) as stack:
        found = asyncio.run(measure(stack, options.pairs, options.tokens))
        held, count = stack.metric("barograph_gateway_hold_seconds_sum"), stack.metric("barograph_gateway_hold_seconds_count")
        found["hold_ms_mean"] = round(1e3 * held / count, 4)
        found["frames_lost"] = stack.metric("barograph_frames_lost_total")
    emit("gateway_latency", model=MODEL, **found)


if __name__ == "__main__":
    main()
