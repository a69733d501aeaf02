"""Which dtype the embedded engine computes in on a processor, when the configuration leaves it open.

A processor with instructions for the checkpoint's dtype keeps it, since the shipped banks were calibrated so. On another one products of
bfloat16 are quick for single rows, where reading the weights is all the work, and slow for prompts. So both dtypes are tried for some
milliseconds on matrices that no cache holds, and the one that is done first with this is taken: one chat alone and eight at once, each with
128 tokens of prompt and 64 of reply. Nothing is tried on a GPU.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch

from probes import processor

PROMPT, REPLY, CHATS = 128, 64, 8
_WIDTH, _MATRICES, _FEW, _ROUNDS = 1024, 16, 2, 3  # 32 MB in two bytes a weight

Seconds = dict[int, float]  # of one pass through a matrix, by rows


def choose(checkpoint: torch.dtype, weights: int, timed: Callable[[torch.dtype], Seconds] | None = None) -> tuple[torch.dtype, str]:
    """The dtype, and why. `weights` is how many bytes the model's take in its own."""
    name = str(checkpoint).removeprefix("torch.")
    if checkpoint not in (torch.bfloat16, torch.float16):
        return checkpoint, f"{name}, as the checkpoint"
    if checkpoint == torch.bfloat16 and processor.bfloat16():
        return checkpoint, "bfloat16, which this processor has instructions for"
    free = available()
    if weights > free / 2:
        return checkpoint, f"{name}: float32 would take {weights / 1e9:.1f} GB more, and {free / 1e9:.1f} GB are free"
    own, full = (exchange((timed or trial)(each)) for each in (checkpoint, torch.float32))
    chosen = torch.float32 if full < own else checkpoint
    return (
        chosen,
        f"{str(chosen).removeprefix('torch.')}: on this processor an exchange takes {full / own:.2f} times as long in float32 as in {name}",
    )


def exchange(seconds: Seconds) -> float:
    """Time for a chat alone and for eight at once."""
    return (1 + CHATS) * seconds[PROMPT] + REPLY * (seconds[1] + seconds[CHATS])


def trial(dtype: torch.dtype) -> Seconds:
    """The best of some rounds, for one row, for a row of each chat, and for a prompt."""
    matrices = [torch.full((_WIDTH, _WIDTH), 0.01, dtype=dtype) for _ in range(_MATRICES)]
    found: Seconds = {}
    for rows in (1, CHATS, PROMPT):
        state = torch.full((rows, _WIDTH), 0.01, dtype=dtype)
        used = matrices if rows < PROMPT else matrices[:_FEW]
        best = float("inf")
        for _ in range(_ROUNDS):
            start = time.perf_counter()
            for matrix in used:
                torch.nn.functional.linear(state, matrix)
            best = min(best, time.perf_counter() - start)
        found[rows] = best / len(used)
    return found


def available() -> int:
    """Bytes of memory that are free or can be made so."""
    fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    return int(fields["MemAvailable"].split()[0]) * 1024
