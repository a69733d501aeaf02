"""`barograph engine vllm` as a parent: on a Unix socket, and nothing of vLLM is left whoever is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
import yaml

from monitor import wire
from monitor.engine.vllm_process import START_S
from monitor.tap.recorder import Recorder
from tests.stack import MODEL, eventually
from tests.vllm.conftest import ROOM

pytestmark = pytest.mark.timeout(2 * START_S)


def group_of(parent: int) -> tuple[int, list[int]]:
    """The server that a parent started, and all processes of its group."""
    stats = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[0] != "Z":
            stats[int(path.parent.name)] = (int(fields[1]), int(fields[2]))
    (server,) = [pid for pid, (ppid, _) in stats.items() if ppid == parent]
    return server, [pid for pid, (_, group) in stats.items() if group == server]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("killed", ["server", "parent"])
def test_nothing_of_vllm_outlives_a_kill(tmp_path: Path, runtime: Path, environment: dict[str, str], killed: str) -> None:
    uds = runtime / f"{killed}.sock"
    recorder = Recorder(runtime / f"{killed}-tap.sock")
    config = tmp_path / "barograph.yaml"
    config.write_text(yaml.safe_dump({"socket": str(recorder.path), "engine": {"listen": f"unix:{uds}"}}))
    command = [sys.executable, "-m", "monitor", "engine", "--config", str(config), "vllm", "--", "smollm2", *ROOM, "--enforce-eager"]
    with (tmp_path / "log").open("wb") as log:
        parent = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **environment, wire.TAP_KEY: "a secret"})
    try:
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(uds)), base_url="http://engine", timeout=60) as client:
            eventually(lambda: client.get("/health").status_code == 200, "vLLM answers on its socket", START_S)
            answer = client.post("/v1/completions", json={"model": MODEL, "prompt": "The sea", "max_tokens": 8, "temperature": 0})
            assert answer.json()["usage"]["completion_tokens"] == 8
        eventually(lambda: recorder.checks, "the tap proved itself")
        assert recorder.checks[0].ok
        assert recorder.hellos[0].secret == "a secret"
        server, members = group_of(parent.pid)
        assert len(members) > 1, "vLLM's engine core is a process of its own"
        os.kill(server if killed == "server" else parent.pid, signal.SIGKILL)
        assert parent.wait(timeout=30) == (137 if killed == "server" else -9)
        eventually(lambda: not any(map(alive, members)), "all are gone")
    finally:
        if parent.poll() is None:
            parent.terminate()
            parent.wait(timeout=40)
        recorder.close()
