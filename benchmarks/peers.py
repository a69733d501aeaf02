"""What others' ways to read a model cost beside ours, on the same work in one run, and the table of docs/benchmarks.md.

The work: three random probes at layer 14 of SmolLM2, a score for every generated token, one stream and, on vLLM, eight. Each way is
compared with its own engine without it, in rounds of the order on-off-off-on, so a row says what the way costs and not
what its engine does. Needs the environment of `make test-vllm`, and undercurrent there.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.metadata
import importlib.util
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import report
from benchmarks.drain import Drain
from benchmarks.pairs import interval, ratios
from benchmarks.peer_nnsight import SWITCH
from benchmarks.tables import DOCS, put
from benchmarks.tap_overhead_vllm import PROMPT, compare, server
from monitor.engine.batcher import Batcher
from monitor.engine.loading import load
from monitor.engine.sampler import Sampling
from monitor.engine.vllm_plugin import version
from monitor.tap.tap import Tap
from probes.bank import Bank
from tests.banks import random_bank

LAYER, PROBES, TOKENS = 14, 3, 32
ORDER = (True, False, False, True)
STREAMS = (1, 8)
UNDERCURRENT = f"""
version: "1"
extraction_points:
  - {{name: tap, layers: {LAYER}, tensor_type: residual_stream, position: "generated[*]", probe_type: scores, probe_kind: single_shot, execution_mode: inline}}
"""


def alternate(pairs: int, on: Callable[[], object], off: Callable[[], object]) -> list[tuple[bool, float]]:
    """Seconds of whole generations, with and without."""
    timed = []
    for turn in range(-2, 2 * pairs):
        tapped = ORDER[turn % 4]
        start = time.perf_counter()
        (on if tapped else off)()
        if turn >= 0:
            timed.append((tapped, time.perf_counter() - start))
    return timed


def summary(timed: list[tuple[bool, float]]) -> dict[str, Any]:
    values = ratios(timed)
    return {"ratio": round(float(np.median(values)), 4), "ratio_ci95": interval(values), "pairs": len(values)}


def on_transformers(pairs: int, bank: Bank, socket: Path) -> dict[str, Any]:
    """Ours on the embedded engine; a bare hook and undercurrent around `generate`."""
    model = load("smollm2")
    weight, bias = (torch.from_numpy(np.ascontiguousarray(each)) for each in bank.affine())
    kept: list[Any] = []

    def score(hidden: torch.Tensor) -> list[float]:
        scores: list[float] = (hidden.float() @ weight + bias).tolist()
        return scores

    inputs = model.tokenizer(PROMPT, return_tensors="pt")
    found: dict[str, Any] = {}

    def generate() -> None:
        with torch.inference_mode():
            model.module.generate(**inputs, max_new_tokens=TOKENS, min_new_tokens=TOKENS, do_sample=False)

    def hooked() -> None:
        kept.clear()
        layer = model.module.model.layers[LAYER]
        handle = layer.register_forward_hook(
            lambda module, args, output: kept.append(score((output if torch.is_tensor(output) else output[0])[0, -1]))
        )
        generate()
        handle.remove()
        assert len(kept) == TOKENS

    found["bare hook, transformers generate"] = {"streams_1": summary(alternate(pairs, hooked, generate))}
    found["undercurrent, transformers generate"] = {"streams_1": undercurrent(pairs, model, score, generate)}
    found["barograph, embedded engine"] = {"streams_1": summary(embedded(pairs, model, bank, socket))}
    return found


def undercurrent(pairs: int, model: Any, score: Callable[[torch.Tensor], list[float]], generate: Callable[[], None]) -> dict[str, Any]:
    if importlib.util.find_spec("undercurrent") is None:
        return {"not_measured": "not installed here: pip install undercurrent==0.1.0"}
    from undercurrent.core import probe
    from undercurrent.model import ProbedModel

    seen = []

    @probe("scores")
    def scores(record: Any) -> None:
        seen.append(score(record.tensor.reshape(-1)))

    with ProbedModel(model.module, tokenizer=model.tokenizer, spec=UNDERCURRENT, probes={"scores": scores}) as probed:

        def watched() -> None:
            seen.clear()
            probed.generate(PROMPT, max_new_tokens=TOKENS, min_new_tokens=TOKENS, temperature=0)
            assert len(seen) >= TOKENS - 1, len(seen)

        # Its hooks stay on the model while it is open, so the plain side is measured on a model of its own.
        plain = load("smollm2")
        inputs = plain.tokenizer(PROMPT, return_tensors="pt")

        def bare() -> None:
            with torch.inference_mode():
                plain.module.generate(**inputs, max_new_tokens=TOKENS, min_new_tokens=TOKENS, do_sample=False)

        return {**summary(alternate(pairs, watched, bare)), "version": importlib.metadata.version("undercurrent")}


def embedded(pairs: int, model: Any, bank: Bank, socket: Path) -> list[tuple[bool, float]]:
    batcher = Batcher(model.module, set(), 8, 4096)
    tap = Tap(model.wrapper, bank, batcher.rows, socket, model.name)
    prompt = model.tokenizer(PROMPT)["input_ids"]
    turns = itertools.count()
    batcher.start()

    async def one() -> None:
        key = f"{next(turns)}#0"
        tap.begin(key, key, 0)
        async for _ in batcher.generate(key, prompt, TOKENS, Sampling(0.0)):
            pass
        tap.end(key, TOKENS)

    with asyncio.Runner() as runner:

        def tapped() -> None:
            tap.attach()
            runner.run(one())

        def plain() -> None:
            tap.detach()
            runner.run(one())

        timed = alternate(pairs, tapped, plain)
        tap.close()
        batcher.stop()
    return timed


def on_vllm(pairs: int, bank: Path, folder: Path) -> dict[str, Any]:
    """Ours in both modes, and NNsight's own edit, each beside a server like it without."""
    (folder / "sitecustomize.py").write_text("from benchmarks import peer_nnsight\n\npeer_nnsight.install()\n")
    peer = {SWITCH: "1", "PYTHONPATH": f"{folder}:{Path(__file__).parents[1]}"}
    found: dict[str, Any] = {}
    with ExitStack() as stack:
        plain = stack.enter_context(server(folder, None, "compiled"))
        with server(folder, bank, "compiled") as tapped:
            found["barograph compiled, vLLM"] = both(plain, tapped, pairs)
    with ExitStack() as stack:
        plain = stack.enter_context(server(folder, None, "traced"))
        with server(folder, bank, "traced") as tapped:
            found["barograph traced, vLLM eager"] = both(plain, tapped, pairs)
        with server(folder, bank, "traced", peer) as tapped:
            found["NNsight's edit per request, vLLM eager"] = both(plain, tapped, pairs)
    return found


def both(plain: Any, tapped: Any, pairs: int) -> dict[str, Any]:
    return {f"streams_{streams}": asyncio.run(compare(plain, tapped, streams, pairs)) for streams in STREAMS}


def lens() -> dict[str, Any]:
    """vllm-lens asks for a Python and a vLLM of its own; it is not forced into another."""
    return {
        "not_measured": f"1.3.0 needs Python ≥ 3.12 and vLLM 0.30.0; here are Python {sys.version_info[0]}.{sys.version_info[1]} and vLLM {version()}"
    }


def table(line: dict[str, Any]) -> str:
    """Rows of markdown: what a way costs at one stream and at eight, as speed with it over speed without it."""
    rows = ["| way of reading | 1 stream | 8 streams |", "| --- | --- | --- |"]
    for way, found in line["ways"].items():
        if "not_measured" in found:
            rows.append(f"| {way} | not measured: {found['not_measured']} | |")
            continue
        cells = []
        for streams in STREAMS:
            each = found.get(f"streams_{streams}")
            if each is None:
                cells.append("–")
            elif "not_measured" in each:
                cells.append(each["not_measured"])
            else:
                cells.append(f"{each['ratio']:.3f} [{each['ratio_ci95'][0]:.3f}, {each['ratio_ci95'][1]:.3f}]")
        rows.append(f"| {way} | {cells[0]} | {cells[1]} |")
    return "\n".join([*rows, "", f"{line['machine']}; SmolLM2-135M-Instruct in bfloat16; vLLM {line['vllm']}."])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--table", action="store_true", help="only write the table anew, from the last figures")
    options = parser.parse_args()
    kept = report.RESULTS / "peers.json"
    if not options.table:
        with tempfile.TemporaryDirectory(prefix="barograph-") as name, Drain(Path(name) / "tap.sock") as drain:
            folder = Path(name)
            bank = random_bank(folder / "bank", [LAYER], PROBES)
            torch.set_num_threads(2)
            ways = on_transformers(options.pairs, Bank.load(bank), drain.path) | on_vllm(options.pairs, bank, folder)
        ways["vllm-lens"] = lens()
        report.emit("peers", vllm=version(), probes=PROBES, layer=LAYER, tokens=TOKENS, ways=ways)
    put(DOCS / "benchmarks.md", "peers", table(json.loads(kept.read_text())))


if __name__ == "__main__":
    main()
