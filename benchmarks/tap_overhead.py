"""What the tap costs: tokens a second with it and without it, in interleaved pairs of one run.

While streams are being generated, the tap is put on and taken off every few steps, in the order on-off-off-on, and the time
of the steps in neighbouring blocks is compared. So both sides see the same requests, the same cache and the same moment
of a noisy machine. The sidecar at the other end of the socket is real and takes its share of the processor.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import emit
from monitor.config import Config
from monitor.engine.batcher import Batcher
from monitor.engine.loading import load
from monitor.engine.sampler import Sampling
from monitor.tap.tap import Tap
from probes.bank import Bank
from tests.stack import Stack

PROMPT = "Write a long story about a lighthouse keeper and the sea."
BLOCK = 8  # steps; the first of each is not counted
ORDER = (True, False, False, True)
TOKENS = 16 * BLOCK  # a generation, so that the cache stays short and full of change


class StepClock:
    """Times the model's steps and switches the tap between blocks of them."""

    def __init__(self, tap: Tap, module: Any) -> None:
        self.tap = tap
        self.blocks: list[tuple[bool, float]] = []  # whether the tap was on, seconds a step
        self._times: list[float] = []
        # The head runs after the layers and before the model's own hooks: none of the tap's is being called just then.
        self._handle = module.get_output_embeddings().register_forward_pre_hook(self._step)

    def restart(self) -> None:
        self._times = []

    def close(self) -> None:
        self._handle.remove()

    def _step(self, module: Any, args: Any) -> None:
        # From head to head lies one of everything: sampling, bookkeeping, forward, tap, send.
        self._times.append(time.perf_counter())
        if len(self._times) == BLOCK + 1:
            on = ORDER[len(self.blocks) % len(ORDER)]
            self.blocks.append((on, statistics.median(np.diff(self._times)[1:])))
            self._times = [self._times[-1]]
        if len(self._times) == 1:
            self.tap.attach() if ORDER[len(self.blocks) % len(ORDER)] else self.tap.detach()


def ratios(blocks: list[tuple[bool, float]]) -> np.ndarray:
    """Speed with the tap over speed without it, one for each neighbouring pair of blocks."""
    pairs = [(blocks[i], blocks[i + 1]) for i in range(0, len(blocks) - 1, 2)]
    return np.array([(b if a_on else a) / (a if a_on else b) for (a_on, a), (_, b) in pairs])


def interval(values: np.ndarray) -> list[float]:
    """95 % bootstrap interval of the median."""
    draws = np.random.default_rng(0).choice(values, (2000, len(values)))
    return [round(float(x), 4) for x in np.quantile(np.median(draws, axis=1), [0.025, 0.975])]


async def measure(pairs: int, stack: Stack) -> dict[str, object]:
    model = load("smollm2")
    batcher = Batcher(model.module, set(), 32, 16384)  # no end-of-text: every stream runs to its limit
    bank = Bank.load(Config().bank_folder())
    tap = Tap(model.wrapper, bank, batcher.rows, stack.runtime / "tap.sock", model.name)
    batcher.start()
    prompt = model.tokenizer(PROMPT)["input_ids"]

    async def one(turn: int, i: int) -> None:
        tap.begin(f"{turn}-{i}#0", f"{turn}-{i}", 0)
        async for _ in batcher.generate(f"{turn}-{i}#0", prompt, TOKENS, Sampling(0.0)):
            pass
        tap.end(f"{turn}-{i}#0", TOKENS)

    found: dict[str, object] = {}
    for streams in (1, 8):
        await asyncio.gather(*(one(-streams, i) for i in range(streams)))
        clock, turn = StepClock(tap, model.module), 0
        while len(clock.blocks) < 2 * pairs:
            turn += 1
            clock.restart()
            await asyncio.gather(*(one(1000 * streams + turn, i) for i in range(streams)))
        clock.close()
        tap.attach()
        values = ratios(clock.blocks)
        step = {on: statistics.median(seconds for tapped, seconds in clock.blocks if tapped is on) for on in (True, False)}
        found[f"streams_{streams}"] = {
            "ratio": round(float(np.median(values)), 4),
            "ratio_ci95": interval(values),
            "pairs": len(values),
            "tokens_per_s_with": round(streams / step[True], 1),
            "tokens_per_s_without": round(streams / step[False], 1),
        }
    found["frames_dropped"] = tap.sender.dropped
    batcher.stop()
    tap.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=100)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, Stack(Path(folder), engine=False) as stack:
        found = asyncio.run(measure(options.pairs, stack))
    emit("tap_overhead", engine="transformers", model="SmolLM2-135M-Instruct", dtype="bfloat16", probes=4, layers=1, **found)


if __name__ == "__main__":
    main()
