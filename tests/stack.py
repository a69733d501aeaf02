"""A whole Barograph for tests: both processes, on ports and in a folder of its own. It kills only what it started."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests import ledgers

MODEL = "SmolLM2-135M-Instruct"
ADMIN_TOKEN = "for-tests"
PATIENCE_S = 60.0  # what a busy machine may need for what takes a quiet one moments


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def eventually(check: Callable[[], Any], what: str, seconds: float = PATIENCE_S) -> Any:
    """Wait until `check` gives something true, and return it."""
    deadline = time.monotonic() + seconds
    while True:
        with contextlib.suppress(httpx.HTTPError):
            if found := check():
                return found
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.05)


class Stack:
    """`settings` is merged into the configuration; `rules` replaces the shipped rule file."""

    def __init__(
        self,
        folder: Path,
        settings: dict[str, Any] | None = None,
        rules: str | None = None,
        engine: bool = True,
        env: dict[str, str] | None = None,
    ) -> None:
        self.folder = folder
        self.env = env or {}
        self.runtime = Path(tempfile.mkdtemp(prefix="barograph-"))  # a socket's path must be short
        self.ports = {name: free_port() for name in ("gateway", "admin", "engine")}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.config_path = folder / "barograph.yaml"
        self.ledger_path = folder / "ledger"
        config: dict[str, Any] = {
            "socket": str(self.runtime / "tap.sock"),
            "engine": {"listen": f"127.0.0.1:{self.ports['engine']}", "kv_tokens": 16384},
            "gateway": {"listen": f"127.0.0.1:{self.ports['gateway']}", "upstream": f"http://127.0.0.1:{self.ports['engine']}"},
            "sidecar": {"admin": f"127.0.0.1:{self.ports['admin']}", "ledger": str(self.ledger_path)},
        }
        if rules is not None:
            (folder / "rules.yaml").write_text(rules)
            config["rules"] = str(folder / "rules.yaml")
        for room, values in (settings or {}).items():
            config[room] = {**config.get(room, {}), **values} if isinstance(values, dict) else values
        self.config_path.write_text(yaml.safe_dump(config))
        self._engine = engine

    def __enter__(self) -> Stack:
        try:
            self.start("sidecar")
            if self._engine:
                self.start("engine")
                self.wait_ready()
            else:
                eventually(lambda: self._alive() and httpx.get(self.admin("/live")).status_code == 200, "the sidecar answers")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def start(self, name: str) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", "monitor", name, "--config", str(self.config_path)], stdout=log, stderr=log,
                env=environment(BAROGRAPH_ADMIN_TOKEN=ADMIN_TOKEN, **self.env),
            )  # fmt: skip

    def wait_ready(self) -> None:
        def ready() -> bool:
            return (
                self._alive()
                and httpx.get(self.admin("/health")).status_code == 200
                and httpx.get(self.engine("/health")).status_code == 200
            )

        eventually(ready, "engine and sidecar are ready", seconds=240)

    def _alive(self) -> bool:
        for name, process in self.processes.items():
            assert process.poll() is None, f"{name} ended: {self.log(name)}"
        return True

    def stop(self, name: str, number: int = signal.SIGTERM) -> int:
        process = self.processes.pop(name)
        process.send_signal(number)
        return process.wait(timeout=PATIENCE_S)

    def close(self) -> None:
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            try:
                process.wait(timeout=PATIENCE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(self.runtime, ignore_errors=True)

    def gateway(self, path: str = "") -> str:
        return f"http://127.0.0.1:{self.ports['gateway']}{path}"

    def admin(self, path: str) -> str:
        return f"http://127.0.0.1:{self.ports['admin']}{path}"

    def engine(self, path: str) -> str:
        return f"http://127.0.0.1:{self.ports['engine']}{path}"

    def change(self, path: str, body: dict[str, Any] | None = None) -> httpx.Response:
        """A change on the admin address, by whoever has the token."""
        return httpx.post(self.admin(path), json=body or {}, headers={"authorization": f"Bearer {ADMIN_TOKEN}"}, timeout=60)

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def ledger(self, kind: str | None = None) -> list[dict[str, Any]]:
        with contextlib.suppress(httpx.HTTPError):  # who has ended writes no more
            deadline = time.monotonic() + 10
            while self.metric("barograph_ledger_waiting") and time.monotonic() < deadline:
                time.sleep(0.01)
        records = ledgers.records(self.ledger_path)
        return [record for record in records if kind in (None, record["kind"])]

    def metric(self, name: str) -> float:
        """The sum of a metric's samples; `name` may hold labels."""
        lines = httpx.get(self.admin("/metrics")).text.splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))

    def chat(self, prompt: str = "Say hello.", headers: dict[str, str] | None = None, **body: Any) -> httpx.Response:
        payload = {"model": MODEL, "messages": [{"role": "user", "content": prompt}], "max_tokens": 16, "temperature": 0, **body}
        return httpx.post(self.gateway("/v1/chat/completions"), json=payload, headers=headers, timeout=180)

    def chunks(self, prompt: str = "Say hello.", **body: Any) -> Iterator[dict[str, Any]]:
        """Chunks of a streamed chat, with scores; an error event is yielded too."""
        payload = {
            "model": MODEL,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": 16,
            "temperature": 0,
            **body,
            "stream": True,
        }
        with httpx.stream(
            "POST", self.gateway("/v1/chat/completions"), json=payload, headers={"x-barograph-scores": "1"}, timeout=180
        ) as response:
            if response.status_code != 200:
                yield json.loads(response.read())
                return
            for line in response.iter_lines():
                if line.startswith("data: {"):
                    yield json.loads(line[6:])


def environment(**extra: str) -> dict[str, str]:
    return {**os.environ, **extra}
