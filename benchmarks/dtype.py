"""float32 or bfloat16 on a processor: what each costs, what the engine's trial says, and whether the shipped bank holds in float32.

    python -m benchmarks.dtype [--proof]

The speeds are measured side by side in one process, alternating, with all that this processor has and, in a second process, with AVX2 only
(oneDNN and ATen are told so), which stands for a processor without bfloat16 instructions. `--proof` also writes what the comparison found
beside the bank, as `proof-float32.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import transformers

from benchmarks.report import emit, machine, spread
from monitor import models
from monitor.config import BANKS
from monitor.engine import dtype
from monitor.pipeline.proof import Finding, Proof
from probes.bank import Bank
from probes.compare import compare, worst
from probes.corpus import Corpus
from probes.passport import Passport
from probes.reader import Reader

ROUNDS = 7
AVX2 = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


def speeds() -> dict[str, Any]:
    """Milliseconds of a step, by dtype: a prompt of 128 tokens, one token of one stream, one of each of eight."""
    source = models.resolve(models.BUNDLED)
    loaded: dict[str, Any] = {
        name: transformers.AutoModelForCausalLM.from_pretrained(source, dtype=each).eval() for name, each in DTYPES.items()
    }
    times: dict[str, dict[str, list[float]]] = {what: {name: [] for name in DTYPES} for what in ("prompt_128", "token_1", "token_8")}
    with torch.no_grad():
        for turn in range(ROUNDS + 1):
            for name, model in loaded.items():
                for rows, what in ((1, "token_1"), (8, "token_8")):
                    prompt = torch.randint(3, 1000, (rows, dtype.PROMPT))
                    start = time.perf_counter()
                    cache = model(input_ids=prompt, use_cache=True, logits_to_keep=1).past_key_values
                    read = time.perf_counter() - start
                    start = time.perf_counter()
                    for _ in range(4):
                        cache = model(input_ids=prompt[:, :1], past_key_values=cache, use_cache=True).past_key_values
                    if turn:  # the first one warms up
                        times[what][name].append((time.perf_counter() - start) / 4 * 1e3)
                        if rows == 1:
                            times["prompt_128"][name].append(read * 1e3)
    trials = {name: dtype.trial(each) for name, each in DTYPES.items()}
    return {
        "milliseconds": {what: {name: spread(found, 1) for name, found in each.items()} for what, each in times.items()},
        "exchange_float32_over_bfloat16": {
            "measured": round(_exchange(times, "float32") / _exchange(times, "bfloat16"), 3),
            "trial": round(dtype.exchange(trials["float32"]) / dtype.exchange(trials["bfloat16"]), 3),
        },
    }


def _exchange(times: dict[str, dict[str, list[float]]], name: str) -> float:
    best = {what: min(found[name]) for what, found in times.items()}
    return dtype.exchange({1: best["token_1"], dtype.CHATS: best["token_8"], dtype.PROMPT: best["prompt_128"]})


def holds(proof: bool) -> dict[str, Any]:
    """The shipped bank, calibrated in bfloat16, on states read in float32."""
    folder = BANKS / models.BUNDLED_NAME.lower()
    bank, source = Bank.load(folder), models.resolve(models.BUNDLED)
    with tempfile.TemporaryDirectory() as work:
        first, second = (Reader(source, models.BUNDLED_NAME, "cpu", name) for name in DTYPES)
        drifts = compare(first, second, bank, Corpus.read(), Path(work), lambda _: None)
    if proof:
        findings = [
            Finding(
                what=f"{each.probe} holds in float32", ok=each.verdict == "PASS",
                text=f"neutral mean moves by {each.shift[0]:+.4f} [{each.shift[1][0]:+.4f}, {each.shift[1][1]:+.4f}]; {each.fpr[0]:.4f} of neutral texts "
                f"above the old 5 % threshold [{each.fpr[1][0]:.4f}, {each.fpr[1][1]:.4f}]",
            )
            for each in drifts
        ]  # fmt: skip
        Proof(
            bank=bank.digest, passport=Passport.of(second.model, f"transformers {transformers.__version__}"), engine="transformers, float32",
            machine=machine(), time=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), findings=tuple(findings),
        ).save(folder / "proof-float32.json")  # fmt: skip
    return {"verdict": worst(drifts), "probes": [each.__dict__ for each in drifts]}


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--proof", action="store_true")
    arguments.add_argument("--speeds", action="store_true", help=argparse.SUPPRESS)
    chosen = arguments.parse_args()
    if chosen.speeds:
        print(json.dumps(speeds()))
        return
    command = [sys.executable, "-m", "benchmarks.dtype", "--speeds"]
    found = [
        json.loads(subprocess.run(command, env=os.environ | more, check=True, stdout=subprocess.PIPE).stdout.splitlines()[-1])
        for more in ({}, AVX2)
    ]
    emit("dtype", model=models.BUNDLED_NAME, as_it_is=found[0], avx2_only=found[1], bank_in_float32=holds(chosen.proof))


if __name__ == "__main__":
    main()
