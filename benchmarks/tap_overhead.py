"""What the tap costs: tokens a second with it and without it, in interleaved pairs of one run.

Both sides run the same requests on the same model in the same process; the tap's hooks are put on and taken off between
them, and each pair starts with the other side than the one before. The sidecar at the other end of the socket is real.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from pathlib import Path

from benchmarks.report import emit, spread
from monitor.config import Config
from monitor.engine.batcher import Batcher
from monitor.engine.loading import load
from monitor.engine.sampler import Sampling
from monitor.tap.tap import Tap
from probes.bank import Bank
from tests.stack import Stack

PROMPT = "Write a long story about a lighthouse keeper and the sea."


async def tokens_a_second(batcher: Batcher, tap: Tap | None, prompt: list[int], streams: int, tokens: int, turn: str) -> float:
    async def one(i: int) -> int:
        key, produced = f"{turn}-{i}#0", 0
        if tap is not None:
            tap.begin(key, f"{turn}-{i}", 0)
        async for _ in batcher.generate(key, prompt, tokens, Sampling(0.0)):
            produced += 1
        if tap is not None:
            tap.end(key, produced)
        return produced

    started = time.perf_counter()
    done = sum(await asyncio.gather(*(one(i) for i in range(streams))))
    return done / (time.perf_counter() - started)


async def measure(pairs: int, tokens: int, stack: Stack) -> dict[str, object]:
    model = load("smollm2")
    batcher = Batcher(model.module, set(), 32, 16384)  # no end-of-text: every run has the same length
    bank = Bank.load(Config().bank_folder())
    tap = Tap(model.wrapper, bank, batcher.rows, stack.runtime / "tap.sock", model.name)
    batcher.start()
    prompt = model.tokenizer(PROMPT)["input_ids"]
    found: dict[str, object] = {}
    for streams in (1, 8):
        rates: dict[bool, list[float]] = {True: [], False: []}
        for pair in range(-1, pairs):  # the first pair warms up
            for tapped in (True, False) if pair % 2 else (False, True):
                tap.attach() if tapped else tap.detach()
                rate = await tokens_a_second(batcher, tap if tapped else None, prompt, streams, tokens, f"{streams}-{pair}-{tapped}")
                if pair >= 0:
                    rates[tapped].append(rate)
        ratios = [a / b for a, b in zip(rates[True], rates[False], strict=True)]
        found[f"streams_{streams}"] = {
            "ratio": spread(ratios),
            "tokens_per_s_with": round(statistics.median(rates[True]), 1),
            "tokens_per_s_without": round(statistics.median(rates[False]), 1),
        }
    found["frames_dropped"] = tap.sender.dropped
    batcher.stop()
    tap.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=24)
    parser.add_argument("--tokens", type=int, default=64)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, Stack(Path(folder), engine=False) as stack:
        found = asyncio.run(measure(options.pairs, options.tokens, stack))
    emit("tap_overhead", engine="transformers", model="SmolLM2-135M-Instruct", dtype="bfloat16", probes=4, layers=1, **found)


if __name__ == "__main__":
    main()
