"""What the tap costs: tokens a second with it and without it, in interleaved pairs of one run.

While streams are being generated, the tap is put on and taken off every few steps, in the order on-off-off-on, and the time
of the steps in neighbouring blocks is compared. So both sides see the same requests, the same cache and the same moment
of a noisy machine. The sidecar at the other end of the socket is real and takes its share of the processor.

The same way the cost of all probes (171 emotions beside the alarms) is compared with that of three; there both taps
send to a reader that throws everything away, since a sidecar judges with one choice of probes only.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.drain import Drain
from benchmarks.pairs import interval, ratios
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
    """Times the model's steps and switches between two sides, such as with and without a tap, between blocks of them."""

    def __init__(self, module: Any, first: Callable[[], None], second: Callable[[], None]) -> None:
        self._sides = {True: first, False: second}
        self.blocks: list[tuple[bool, float]] = []  # whether the tap was on, seconds a step
        self._times: list[float] = []
        # The head runs after the layers and before the model's own hooks: none of the tap's is being called just then.
        self._handle = module.get_output_embeddings().register_forward_pre_hook(self._step)

    def restart(self) -> None:
        self._times = []

    def close(self) -> None:
        self._handle.remove()

    async def timed(self, pairs: int, rounds: Callable[[], Awaitable[Any]]) -> list[tuple[bool, float]]:
        """So many pairs of blocks, over as many rounds of generations as that takes."""
        while len(self.blocks) < 2 * pairs:
            self.restart()
            await rounds()
        self.close()
        return self.blocks

    def _step(self, module: Any, args: Any) -> None:
        # From head to head lies one of everything: sampling, bookkeeping, forward, tap, send.
        self._times.append(time.perf_counter())
        if len(self._times) == BLOCK + 1:
            on = ORDER[len(self.blocks) % len(ORDER)]
            self.blocks.append((on, statistics.median(np.diff(self._times)[1:])))
            self._times = [self._times[-1]]
        if len(self._times) == 1:
            self._sides[ORDER[len(self.blocks) % len(ORDER)]]()


async def measure(pairs: int, stack: Stack) -> dict[str, object]:
    model = load("smollm2")
    batcher = Batcher(model.module, set(), 32, 16384)  # no end-of-text: every stream runs to its limit
    tap = Tap(model.wrapper, Config().load_bank(), batcher.rows, stack.runtime / "tap.sock", model.name)
    taps = [tap]
    batcher.start()
    prompt = model.tokenizer(PROMPT)["input_ids"]

    async def one(turn: int, i: int) -> None:
        key = f"{turn}-{i}#0"
        for each in taps:
            each.begin(key, f"{turn}-{i}", 0)
        async for _ in batcher.generate(key, prompt, TOKENS, Sampling(0.0)):
            pass
        for each in taps:
            each.end(key, TOKENS)

    async def together(streams: int) -> None:
        turn = next(turns)
        await asyncio.gather(*(one(turn, i) for i in range(streams)))

    async def blocks(streams: int, first: Callable[[], None], second: Callable[[], None]) -> list[tuple[bool, float]]:
        await together(streams)
        return await StepClock(model.module, first, second).timed(pairs, lambda: together(streams))

    turns = itertools.count()
    found: dict[str, object] = {}
    for streams in (1, 8):
        timed = await blocks(streams, tap.attach, tap.detach)
        tap.attach()
        values = ratios(timed)
        step = {on: statistics.median(seconds for tapped, seconds in timed if tapped is on) for on in (True, False)}
        found[f"streams_{streams}"] = {
            "ratio": round(float(np.median(values)), 4),
            "ratio_ci95": interval(values),
            "pairs": len(values),
            "tokens_per_s_with": round(streams / step[True], 1),
            "tokens_per_s_without": round(streams / step[False], 1),
        }
    found["frames_dropped"] = tap.sender.dropped
    tap.close()
    with Drain(stack.runtime / "drain.sock") as drain:
        few, all_probes = (
            Tap(model.wrapper, Bank.load(Config().bank_folder()).select(choice), batcher.rows, drain.path, model.name)
            for choice in (["desperation", "panic", "hostility"], "all")
        )
        taps[:] = [few, all_probes]

        def turn_to(wanted: Tap, other: Tap) -> Callable[[], None]:
            return lambda: (other.detach(), wanted.attach())  # type: ignore[func-returns-value, return-value]

        for streams in (1, 8):
            all_probes.detach()
            timed = await blocks(streams, turn_to(all_probes, few), turn_to(few, all_probes))
            values = 1 / ratios(timed)  # time with all over time with three
            found[f"all_over_three_{streams}"] = {
                "time_ratio": round(float(np.median(values)), 4),
                "time_ratio_ci95": interval(values),
                "probes": [len(all_probes.bank.names), 3],
            }
        few.close()
        all_probes.close()
    batcher.stop()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int)
    parser.add_argument("--engine", choices=("transformers", "vllm"), default="transformers")
    parser.add_argument("--mode", choices=("compiled", "traced"), default="compiled", help="of the tap on vLLM")
    parser.add_argument("--control", action="store_true", help="on vLLM: compare two servers without a tap")
    options = parser.parse_args()
    if options.engine == "vllm":
        from benchmarks import tap_overhead_vllm

        if options.control:
            tap_overhead_vllm.control(options.pairs or 40)
        else:
            tap_overhead_vllm.run(options.pairs or 40, options.mode)
        return
    with tempfile.TemporaryDirectory() as folder, Stack(Path(folder), engine=False) as stack:
        found = asyncio.run(measure(options.pairs or 100, stack))
    emit(
        "tap_overhead",
        engine="transformers",
        model="SmolLM2-135M-Instruct",
        dtype="bfloat16",
        probes=len(Config().load_bank().names),
        **found,
    )


if __name__ == "__main__":
    main()
