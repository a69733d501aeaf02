"""A server that starts another process, as vLLM does, under `Group`: nothing of it outlives anybody."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.stack import PATIENCE_S, eventually

# A server and its worker, which hears no polite signal. `stubborn`: the server neither.
SERVER = """
import os, signal, subprocess, sys, time
folder, how = sys.argv[1:]
worker = subprocess.Popen([sys.executable, "-c", "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(600)"], stdout=subprocess.PIPE)
worker.stdout.readline()
def leave(*_):
    worker.kill()
    sys.exit(7)
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, signal.SIG_IGN if how == "stubborn" else leave)
with open(folder + "/pids.part", "w") as file:
    file.write(f"{os.getpid()} {worker.pid}")
os.rename(folder + "/pids.part", folder + "/pids")
while how != "short":
    time.sleep(600)
sys.exit(5)
"""
RUN = (
    "import os, sys; from monitor.engine.group import Group; sys.exit(Group([sys.executable, '-c', *sys.argv[1:]], os.environ, 1.0).run())"
)


def alive(pid: int) -> bool:
    """Not gone, and no zombie that nobody asked for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def start(folder: Path, how: str = "polite") -> tuple[subprocess.Popen[bytes], list[int]]:
    parent = subprocess.Popen([sys.executable, "-c", RUN, SERVER, str(folder), how])
    eventually((folder / "pids").exists, "the server runs")
    return parent, [int(each) for each in (folder / "pids").read_text().split()]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, 137), (signal.SIGSEGV, 139)])
def test_a_server_that_is_killed_leaves_no_worker(tmp_path: Path, number: int, code: int) -> None:
    parent, pids = start(tmp_path)
    assert all(map(alive, pids))
    os.kill(pids[0], number)
    assert parent.wait(timeout=PATIENCE_S) == code
    eventually(lambda: not any(map(alive, pids)), "all are gone")


def test_a_server_that_ends_by_itself_leaves_no_worker(tmp_path: Path) -> None:
    parent, pids = start(tmp_path, "short")
    assert parent.wait(timeout=PATIENCE_S) == 5
    eventually(lambda: not any(map(alive, pids)), "all are gone")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_reach_the_server_which_ends_as_it_likes(tmp_path: Path, number: int) -> None:
    parent, pids = start(tmp_path)
    parent.send_signal(number)
    assert parent.wait(timeout=PATIENCE_S) == 7
    eventually(lambda: not any(map(alive, pids)), "all are gone")


def test_a_server_that_hears_nothing_is_ended(tmp_path: Path) -> None:
    parent, pids = start(tmp_path, "stubborn")
    parent.terminate()
    assert parent.wait(timeout=PATIENCE_S) == 137
    eventually(lambda: not any(map(alive, pids)), "all are gone")


def test_when_we_are_killed_the_server_is_told(tmp_path: Path) -> None:
    parent, pids = start(tmp_path)
    parent.kill()
    parent.wait()
    eventually(lambda: not any(map(alive, pids)), "all are gone")


# A program that starts vLLM, as `verify-tap` does, and waits for it.
STARTER = """
import sys
from pathlib import Path
from monitor.engine.vllm_process import VllmProcess
folder = Path(sys.argv[1])
sys.executable = str(folder / "python")
VllmProcess(folder / "barograph.yaml", 1, folder / "log", []).__enter__()
"""


@pytest.mark.parametrize("how", ["polite", "stubborn"])
def test_when_the_one_who_started_us_is_killed_nothing_is_left(tmp_path: Path, how: str) -> None:
    # In the place of `barograph engine vllm`: the group it makes, with our server.
    (tmp_path / "python").write_text(f"#!/bin/sh\nexec {shlex.join([sys.executable, '-c', RUN, SERVER, str(tmp_path), how])}\n")
    (tmp_path / "python").chmod(0o755)
    starter = subprocess.Popen([sys.executable, "-c", STARTER, str(tmp_path)])
    eventually((tmp_path / "pids").exists, "the server runs")
    pids = [int(each) for each in (tmp_path / "pids").read_text().split()]
    assert all(map(alive, pids))
    starter.kill()
    starter.wait()
    eventually(lambda: not any(map(alive, pids)), "all are gone")
