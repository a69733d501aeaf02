"""The embedded engine beside transformers' own server (`transformers serve --continuous-batching`): tokens a second, and what each can do.

    python -m benchmarks.serving --packages FOLDER

FOLDER holds what that server needs beside our environment: pip install --target FOLDER --no-deps fastapi starlette annotated-doc. The two
run one after the other, on the same model and prompts; a feature is asked for over HTTP and counts when the answer shows it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import transformers

from benchmarks.report import emit, spread
from monitor import models
from tests.stack import free_port

TOKENS, ROUNDS = 64, 5
PROMPTS = [f"Tell a long story of a ship, number {i}." for i in range(8)]


class Server:
    def __init__(self, url: str, model: str, counts: bool) -> None:
        self.url, self.model, self.counts = url, model, counts

    def body(self, **more: Any) -> dict[str, Any]:
        return {"model": self.model, "messages": [{"role": "user", "content": PROMPTS[0]}], "max_tokens": TOKENS, **more}

    def post(self, **more: Any) -> httpx.Response:
        return httpx.post(f"{self.url}/v1/chat/completions", json=self.body(**more), timeout=300)

    async def stream(self, client: httpx.AsyncClient, prompt: str, tokens: int, hang_up: int | None = None) -> int:
        """Tokens that the server says it made; with `hang_up`, leave after so many events."""
        more: dict[str, Any] = {"stream_options": {"include_usage": True}, "temperature": 0} if self.counts else {}
        body = self.body(stream=True, max_tokens=tokens, messages=[{"role": "user", "content": prompt}], **more)
        made = events = 0
        async with client.stream("POST", f"{self.url}/v1/chat/completions", json=body) as answer:
            async for line in answer.aiter_lines():
                if line.startswith("data: {"):
                    usage = json.loads(line[6:]).get("usage")
                    made = usage["completion_tokens"] if usage else made
                    events += 1
                    if events == hang_up:
                        break
        return made

    async def speed(self, streams: int) -> float:
        async with httpx.AsyncClient(timeout=600) as client:
            start = time.perf_counter()
            made = await asyncio.gather(*(self.stream(client, prompt, TOKENS) for prompt in PROMPTS[:streams]))
            return sum(made) / (time.perf_counter() - start)

    async def after_hanging_up(self) -> float:
        """Speed of one stream just after eight long ones were left, over its speed in quiet: near 1 when those ended."""
        quiet = await self.speed(1)
        async with httpx.AsyncClient(timeout=600) as client:
            await asyncio.gather(*(self.stream(client, prompt, 600, hang_up=3) for prompt in PROMPTS))
        await asyncio.sleep(1)
        return await self.speed(1) / quiet


@contextmanager
def running(command: list[str], environment: dict[str, str], url: str, log: Path) -> Iterator[None]:
    with log.open("wb") as sink:
        process = subprocess.Popen(command, env=os.environ | environment, stdout=sink, stderr=sink)
    try:
        deadline = time.monotonic() + 300
        while True:
            try:
                if httpx.get(f"{url}/health", timeout=2).status_code == 200:
                    break
            except httpx.HTTPError:
                pass
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{command[:4]} did not start: {log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.5)
        yield
    finally:
        process.terminate()
        process.wait(timeout=30)


def features(server: Server) -> dict[str, Any]:
    """What an answer shows; a refusal is told by its status."""

    def ask(check: Callable[[dict[str, Any]], bool], **more: Any) -> bool | str:
        answer = server.post(**more)
        if answer.status_code != 200:
            return f"refused with {answer.status_code}"
        return check(answer.json())

    def said(seed: int) -> str:
        answer = server.post(temperature=1.0, seed=seed, max_tokens=24)
        return str(answer.json()["choices"][0]["message"]["content"]) if answer.status_code == 200 else "refused"

    whole = server.post(max_tokens=24, temperature=0).json()["choices"][0]["message"]["content"]
    word = whole.split()[3]
    usage = server.post(stream=True, stream_options={"include_usage": True, "continuous_usage_stats": True})
    chunks = [json.loads(line[6:]) for line in usage.text.splitlines() if line.startswith("data: {")]
    first, again, other = said(1), said(1), said(2)
    return {
        "n": ask(lambda answer: len(answer["choices"]) == 2, n=2),
        "seed": first == again != other,
        "temperature_of_each_request": len({said(seed) for seed in range(3, 6)}) > 1 and whole == server.post(max_tokens=24, temperature=0).json()["choices"][0]["message"]["content"],
        "stop": ask(lambda answer: word not in answer["choices"][0]["message"]["content"], stop=[word], max_tokens=24, temperature=0),
        "logprobs": ask(lambda answer: bool((answer["choices"][0].get("logprobs") or {}).get("content")), logprobs=True, top_logprobs=2),
        "counts_in_every_chunk": all(chunk.get("usage") for chunk in chunks) if usage.status_code == 200 else f"refused with {usage.status_code}",
        "speed_after_eight_hang_ups": round(asyncio.run(server.after_hanging_up()), 2),
    }  # fmt: skip


def measured(server: Server) -> dict[str, Any]:
    asyncio.run(server.speed(8))  # warms up
    speeds: dict[str, list[float]] = {"1": [], "8": []}
    for _ in range(ROUNDS):
        for streams, found in speeds.items():
            found.append(asyncio.run(server.speed(int(streams))))
    return {"tokens_a_second": {streams: spread(found, 1) for streams, found in speeds.items()}, "features": features(server)}


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--packages", type=Path, required=True)
    packages = arguments.parse_args().packages.resolve()
    source = models.resolve(models.BUNDLED)
    found = {}
    with tempfile.TemporaryDirectory() as name:
        folder, port = Path(name), free_port()
        url = f"http://127.0.0.1:{port}"
        (folder / "c.yaml").write_text(f"socket: {folder}/tap.sock\nengine: {{listen: '127.0.0.1:{port}'}}\ntap: {{enabled: false}}\n")
        with running([sys.executable, "-m", "monitor", "engine", "--config", str(folder / "c.yaml")], {}, url, folder / "ours"):
            found["barograph"] = measured(Server(url, models.BUNDLED_NAME, counts=True))
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        command = [
            str(Path(sys.executable).parent / "transformers"), "serve", source, "--continuous-batching", "--device", "cpu", "--port", str(port),
            "--host", "127.0.0.1", "--cb-block-size", "64", "--cb-num-blocks", "512", "--cb-max-batch-tokens", "512",
        ]  # fmt: skip
        path = os.pathsep.join((str(packages), os.environ.get("PYTHONPATH", "")))
        with running(command, {"PYTHONPATH": path}, url, folder / "theirs"):
            found["transformers_serve"] = measured(Server(url, source, counts=False))
    emit("serving", model=models.BUNDLED_NAME, transformers=transformers.__version__, tokens=TOKENS, tap="off", servers=found)


if __name__ == "__main__":
    main()
