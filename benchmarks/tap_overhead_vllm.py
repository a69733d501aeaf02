"""What the tap costs on vLLM, as a client sees it: two servers side by side, with the tap and without, asked in turns.

Both are up all the time and serve the same requests, in rounds of the order on-off-off-on, and neighbouring rounds are
compared; so both sides see the same moment of a noisy machine. Frames go to a reader that throws them away, since what a
sidecar does with them is another figure.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks.drain import Drain
from benchmarks.pairs import interval, ratios
from benchmarks.report import emit
from monitor.engine.vllm_plugin import version
from monitor.engine.vllm_process import Reply, VllmProcess
from tests.banks import random_bank
from tests.stack import free_port

PROMPT = "Write a long story about a lighthouse keeper and the sea."
TOKENS = 32
STREAMS = (1, 8, 32)
LAYERS = {1: [14], 4: [7, 14, 21, 28]}
PROBES = (3, 171)  # at each layer
SERVER = ("--max-model-len", "512", "--max-num-seqs", "32")
ORDER = (True, False, False, True)


def server(folder: Path, bank: Path | None, mode: str, more: Mapping[str, str] | None = None) -> VllmProcess:
    """vLLM with a bank's tap, or without one; `more` goes into its environment."""
    port = free_port()
    tap = {"enabled": False} if bank is None else {"bank": str(bank), "probes": "all", "mode": mode}
    path = folder / f"{port}.yaml"
    path.write_text(yaml.safe_dump({"socket": str(folder / "tap.sock"), "engine": {"listen": f"127.0.0.1:{port}"}, "tap": tap}))
    environment = {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CACHE_ROOT": str(folder / "cache"),
        **(more or {}),
    }
    eager = ["--enforce-eager"] if mode == "traced" else []
    return VllmProcess(path, port, folder / f"{port}.log", ["smollm2", *SERVER, *eager], environment)


def step_s(replies: list[Reply]) -> float:
    """Seconds an output token after the first, over all streams of a round."""
    return statistics.median((reply.times[-1] - reply.times[0]) / (len(reply.tokens) - 1) for reply in replies)


async def compare(plain: VllmProcess, tapped: VllmProcess, streams: int, pairs: int) -> dict[str, Any]:
    """Speed with the tap over without, in neighbouring rounds, and what a client waits for on both sides."""
    timed: list[tuple[bool, float]] = []
    seen: dict[bool, list[Reply]] = {True: [], False: []}
    for turn in range(-2, 2 * pairs):
        on = ORDER[turn % 4]
        replies = list((await (tapped if on else plain).chats([PROMPT] * streams, TOKENS, lambda i, turn=turn: f"{turn}-{i}")).values())  # type: ignore[misc]
        if turn >= 0:  # the first two are for warming up
            timed.append((on, step_s(replies)))
            seen[on] += replies
    values = ratios(timed)
    found: dict[str, Any] = {"ratio": round(float(np.median(values)), 4), "ratio_ci95": interval(values), "pairs": len(values)}
    for on, name in ((True, "with"), (False, "without")):
        gaps = np.concatenate([np.diff(reply.times) for reply in seen[on]]) * 1000
        first = np.array([reply.times[0] for reply in seen[on]]) * 1000
        found[name] = {
            "token_ms_p50": round(float(np.median(gaps)), 2),
            "token_ms_p99": round(float(np.quantile(gaps, 0.99)), 2),
            "first_token_ms_p50": round(float(np.median(first)), 2),
            "first_token_ms_p99": round(float(np.quantile(first, 0.99)), 2),
        }
    return found


def control(pairs: int) -> None:
    """Two servers alike, neither with a tap: what the method finds where there is nothing to find."""
    with tempfile.TemporaryDirectory(prefix="barograph-") as name:
        folder = Path(name)
        with server(folder, None, "compiled") as plain, server(folder, None, "compiled") as other:
            found = {f"streams_{streams}": asyncio.run(compare(plain, other, streams, pairs)) for streams in STREAMS}
    emit(
        "tap_overhead_vllm_control",
        engine=f"vllm {version()}",
        mode="no tap on either side",
        model="SmolLM2-135M-Instruct",
        dtype="bfloat16",
        **found,
    )


def run(pairs: int, mode: str) -> None:
    with tempfile.TemporaryDirectory(prefix="barograph-") as name:
        folder = Path(name)
        found: dict[str, Any] = {}
        with Drain(folder / "tap.sock"), server(folder, None, mode) as plain:
            for layers, chosen in LAYERS.items():
                for probes in PROBES:
                    bank = random_bank(folder / f"bank-{probes}-{layers}", chosen, probes)
                    with server(folder, bank, mode) as tapped:
                        found[f"probes_{probes}_layers_{layers}"] = {
                            f"streams_{streams}": asyncio.run(compare(plain, tapped, streams, pairs)) for streams in STREAMS
                        }
                    print(found, flush=True)
    emit(
        "tap_overhead_vllm" if mode == "compiled" else "tap_overhead_vllm_traced",
        engine=f"vllm {version()}", mode=mode, model="SmolLM2-135M-Instruct", dtype="bfloat16", **found,
    )  # fmt: skip
