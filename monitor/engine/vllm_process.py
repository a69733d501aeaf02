"""A vLLM server as a child process: started, waited for, asked and stopped. For checks and benchmarks."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from monitor.errors import BarographError
from monitor.http.serving import LIFELINE
from monitor.tap.recorder import Key

START_S = 900  # a large model is read, compiled and captured in this time


@dataclass(frozen=True)
class Reply:
    """One choice as its client saw it. `times`: when each event with tokens came, in seconds after the request was sent."""

    prompt: list[int]
    tokens: list[int]
    whole: bool
    times: list[float]


class VllmProcess:
    """`barograph engine vllm` with a configuration file and the arguments of `vllm serve`, the model first. It ends when we are killed."""

    def __init__(
        self, config: Path, port: int, log: Path, arguments: Sequence[str], environment: Mapping[str, str] | None = None, start_s: float = START_S
    ) -> None:  # fmt: skip
        self.config, self.port, self.log, self.arguments, self.start_s = config, port, log, list(arguments), start_s
        self.environment = {**os.environ, **(environment or {})}

    def __enter__(self) -> VllmProcess:
        """Raises BarographError with the last line that vLLM wrote when it does not come up."""
        read_end, write_end = os.pipe()
        self._lifeline = os.fdopen(write_end, "wb")
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "monitor", "engine", "--config", str(self.config), "vllm", "--", *self.arguments],
                stdout=log, stderr=log, env=self.environment | {LIFELINE: str(read_end)}, pass_fds=[read_end], start_new_session=True,
            )  # fmt: skip
        os.close(read_end)
        try:
            self._wait()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                pass
        try:
            os.killpg(self._process.pid, signal.SIGKILL)  # its workers too, if one is left
        except ProcessLookupError:
            pass
        self._process.wait()
        self._lifeline.close()

    def _wait(self) -> None:
        deadline = time.monotonic() + self.start_s
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise BarographError(f"vLLM ended while starting: {self._why()} (all of it: {self.log})")
            try:
                if httpx.get(self.url("/health")).status_code == 200:
                    return
            except httpx.HTTPError:
                pass
            time.sleep(0.1)
        raise BarographError(f"vLLM did not answer within {self.start_s:.0f} s (its log: {self.log})")

    def _why(self) -> str:
        """The line that says most: ours, else the last error."""
        lines = self.log.read_text(errors="replace").splitlines()
        errors = [line for line in lines if ("Error: " in line and "WARNING" not in line) or line.startswith("barograph: ")]
        return (errors or lines or [""])[0 if errors else -1].split(") ", 1)[-1][-400:].strip()

    def client(self) -> httpx.AsyncClient:
        """One connection a request: one that is kept may be closed by a busy server just as the next request leaves on it."""
        return httpx.AsyncClient(timeout=600, limits=httpx.Limits(max_connections=None, max_keepalive_connections=0))

    async def ask(
        self, client: httpx.AsyncClient, name: str, body: Mapping[str, Any], path: str = "/v1/chat/completions", cut: int | None = None
    ) -> dict[Key, Reply]:  # fmt: skip
        """Stream one request and return its choices; with `cut`, hang up after so many events."""
        asked = {"stream": True, "return_token_ids": True, "temperature": 0, "ignore_eos": True, **body}
        prompt: list[int] = []
        tokens: dict[int, list[int]] = {}
        times: dict[int, list[float]] = {}
        events = 0
        start = time.perf_counter()
        async with client.stream("POST", self.url(path), json=asked, headers={"X-Request-Id": name}) as response:
            if response.status_code != 200:
                raise BarographError(f"vLLM answered {response.status_code}: {(await response.aread()).decode(errors='replace')[:300]}")
            async for line in response.aiter_lines():
                if not line.startswith("data: {"):
                    continue
                chunk = json.loads(line[6:])
                if "error" in chunk:
                    raise BarographError(f"vLLM ended a stream: {str(chunk['error'])[:300]}")
                prompt = chunk.get("prompt_token_ids") or prompt
                for choice in chunk["choices"]:
                    prompt = choice.get("prompt_token_ids") or prompt
                    new = choice.get("token_ids") or []
                    tokens.setdefault(choice["index"], []).extend(new)
                    if new:
                        times.setdefault(choice["index"], []).append(time.perf_counter() - start)
                events += 1
                if cut is not None and events > cut:
                    break
        return {(name, index): Reply(prompt, ids, cut is None, times.get(index, [])) for index, ids in tokens.items()}

    async def chats(self, texts: Sequence[str], tokens: int, name: Callable[[int], str]) -> dict[Key, Reply]:
        """All texts at once, each a chat of one message, greedy, `tokens` long."""
        async with self.client() as client:
            answers = await asyncio.gather(*(
                self.ask(client, name(i), {"messages": [{"role": "user", "content": text}], "max_tokens": tokens}) for i, text in enumerate(texts)
            ))  # fmt: skip
        return {key: reply for answer in answers for key, reply in answer.items()}
