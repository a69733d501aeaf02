"""What tap and pushes cost a real vLLM on a GPU, with torch.compile and CUDA graphs as vLLM has them: three servers side by side, asked in turns.

An 8B-shaped Llama with dummy weights: one server without a tap, one with it, and one whose every row is pushed by a dose of its own from its second
token on. A round is one request with as many choices as there are streams, and is timed whole; neighbouring rounds of two servers are compared.
Frames go to a reader in this process that looks at what begins and throws the rest away. Needs a GPU with about 70 GB.
"""

from __future__ import annotations

import argparse
import contextlib
import select
import socket
import statistics
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch
import yaml
from transformers import AutoTokenizer, LlamaConfig

from benchmarks.pairs import interval, ratios
from benchmarks.report import keep
from benchmarks.tap_gpu import EIGHT_B
from monitor import models, wire
from monitor.engine.vllm_plugin import version
from monitor.engine.vllm_process import VllmProcess
from tests.banks import random_bank
from tests.stack import free_port

STREAMS = (1, 8, 32, 128, 256)
TOKENS = 64
ORDER = (True, False, False, True)
PUSHED = "random_0"
LAYERS, PROBES = (8, 16), 171  # tapped layers, and probes at each of them
SERVER = (
    "--load-format", "dummy", "--max-model-len", "512", "--max-num-seqs", "256", "--no-enable-prefix-caching", "--gpu-memory-utilization", "0.2",
    "--kv-cache-memory-bytes", str(4 << 30), "--compilation-config", '{"cudagraph_capture_sizes": [1, 2, 4, 8, 16, 32, 64, 128, 256]}',
)  # fmt: skip


class Listener(threading.Thread):
    """The other end of one tap's socket. With `push`, every stream that begins is pushed, each by a dose of its own."""

    def __init__(self, path: Path, push: bool) -> None:
        super().__init__(daemon=True)
        self.path, self.push = path, push
        self.checks: list[wire.Check] = []
        self.failed: list[str] = []
        self.rows = self.began = self.refused = self.dropped = 0
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(str(path))
        self._listener.listen()

    def about(self) -> dict[str, Any]:
        """How the tap proved itself, and what came of it and of its pushes."""
        assert not self.failed, self.failed
        check = self.checks[-1] if self.checks else None
        return {
            "check_ok": bool(check and check.ok), "check_worst": round(check.worst, 5) if check else None, "rows": self.rows,
            "frames_dropped": self.dropped, "pushes_began": self.began, "pushes_refused": self.refused,
        }  # fmt: skip

    def run(self) -> None:
        connection, _ = self._listener.accept()
        connection.setblocking(False)
        while True:
            select.select([connection], [], [])
            with contextlib.suppress(BlockingIOError):
                while packet := connection.recv(wire.MAX_PACKET):
                    self._take(connection, packet)
                return

    def _take(self, connection: socket.socket, packet: bytes) -> None:
        message = wire.decode(packet)
        if isinstance(message, wire.Check):
            self.checks.append(message)
        if isinstance(message, wire.Frame):
            self.rows += len(message.streams) // 4
            self.dropped = message.dropped
            self.failed += [message.failed] if message.failed else []
            self.refused += sum(bool(each.why) for each in message.steered)
            self.began += sum(not each.why and not each.tokens for each in message.steered)
            if self.push:
                for begin in message.begins:
                    dose = -0.01 - 0.09 * (begin.stream % 256) / 256
                    with contextlib.suppress(OSError):
                        connection.send(wire.encode(wire.Steer(begin.stream, begin.stream, PUSHED, dose, 4096)))


def server(folder: Path, name: str, tap: dict[str, Any], tapped: bool) -> VllmProcess:
    port = free_port()
    path = folder / f"{name}.yaml"
    engine = {"listen": f"127.0.0.1:{port}", "model": str(folder / "model")}
    path.write_text(
        yaml.safe_dump({"socket": str(folder / f"{name}.sock"), "engine": engine, "tap": tap if tapped else {"enabled": False}})
    )
    environment = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_CACHE_ROOT": str(folder / f"cache-{name}")}
    return VllmProcess(path, port, folder / f"{name}.log", [str(folder / "model"), *SERVER], environment, start_s=400)


def end(one: VllmProcess) -> None:
    """Stop a server that was started, and show the end of its log."""
    print(one.log.name, *one.log.read_text(errors="replace").splitlines()[-12:], sep="\n  ", flush=True)
    one.close()


def round_s(client: httpx.Client, one: VllmProcess, streams: int) -> float:
    """Seconds a token of one round, all streams side by side."""
    body = {"prompt": "The sea", "n": streams, "max_tokens": TOKENS, "ignore_eos": True, "temperature": 1.0}
    start = time.perf_counter()
    answer = client.post(one.url("/v1/completions"), json=body, timeout=120)
    seconds = time.perf_counter() - start
    answer.raise_for_status()
    assert answer.json()["usage"]["completion_tokens"] == streams * TOKENS
    return seconds / TOKENS


def compare(client: httpx.Client, on: VllmProcess, off: VllmProcess, streams: int, pairs: int) -> dict[str, Any]:
    timed = []
    for turn in range(-4, 2 * pairs):
        side = ORDER[turn % 4]
        seconds = round_s(client, on if side else off, streams)
        if turn >= 0:
            timed.append((side, seconds))
    values = ratios(timed)
    step = {side: round(1000 * statistics.median(s for which, s in timed if which is side), 3) for side in (True, False)}
    return {
        "ratio": round(float(np.median(values)), 4), "ratio_ci95": interval(values), "pairs": len(values), "step_ms_on": step[True],
        "step_ms_off": step[False],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=16)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="barograph-") as name, contextlib.ExitStack() as running:
        folder = Path(name)
        tokenizer = AutoTokenizer.from_pretrained(models.resolve("smollm2"))
        tokenizer.save_pretrained(folder / "model")
        config = LlamaConfig(
            **{**EIGHT_B, "vocab_size": 49152}, dtype="bfloat16", bos_token_id=1, eos_token_id=2, architectures=["LlamaForCausalLM"]
        )
        config.save_pretrained(folder / "model")
        bank = random_bank(folder / "bank", LAYERS, PROBES, config)
        tap: dict[str, Any] = {"bank": str(bank), "probes": "all"}
        steer = {"steer": {"probes": [PUSHED], "max_dose": 0.1, "max_tokens": 4096}}
        plain, tapped = server(folder, "plain", {}, False), server(folder, "tapped", tap, True)
        steered = server(folder, "steered", tap | steer, True)
        ears = [Listener(folder / "tapped.sock", False), Listener(folder / "steered.sock", True)]
        for each in ears:
            each.start()
        start = time.monotonic()
        servers = (plain, tapped, steered)
        for each in servers:
            running.callback(end, each)
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(lambda one: one.__enter__(), servers))
        print(f"three servers after {time.monotonic() - start:.0f} s", flush=True)
        found: dict[str, Any] = {}

        def kept() -> str:
            about = {what: ear.about() for what, ear in zip(("tapped", "steered"), ears, strict=True)}
            return keep(
                "vllm_gpu", device=torch.cuda.get_device_name(0), engine=f"vllm {version()}", torch=torch.__version__, dtype="bfloat16",
                model="8B-shaped Llama, dummy weights", probes=PROBES * len(LAYERS), layers=list(LAYERS), tokens=TOKENS, **about, **found,
            )  # fmt: skip

        with httpx.Client() as client:
            for streams in STREAMS:
                found[f"tap_{streams}"] = compare(client, tapped, plain, streams, options.pairs)
                print(streams, "tap over none", found[f"tap_{streams}"], flush=True)
                found[f"push_{streams}"] = compare(client, steered, tapped, streams, options.pairs)
                print(streams, "all pushed over tap", found[f"push_{streams}"], flush=True)
                kept()
        about = next(line for line in (folder / "steered.log").read_text(errors="replace").splitlines() if "cudagraph" in line)
        print(about[:300], kept(), sep="\n", flush=True)


if __name__ == "__main__":
    main()
