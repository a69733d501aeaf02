"""`barograph verify-tap` on a real vLLM: what it says of a good tap, of a bad one, and what its proof is worth."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from monitor.engine.vllm_process import VllmProcess
from tests.stack import Stack, eventually
from tests.vllm.conftest import ROOM

pytestmark = pytest.mark.timeout(900)

# The tap reads the first of the pair that vLLM's layers hand on, as if it were the residual stream.
NAIVE = """
import os

if "BAROGRAPH_NAIVE" in os.environ:
    from monitor.tap.project import Reader

    whole = Reader.forward
    Reader.forward = lambda self, output: whole(self, output[0])
"""


def verify(folder: Path, environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    (folder / "barograph.yaml").write_text("{}")
    command = [
        sys.executable,
        "-m",
        "monitor",
        "verify-tap",
        "--config",
        str(folder / "barograph.yaml"),
        "--out",
        str(folder / "proof.json"),
        "--rounds",
        "3",
    ]
    return subprocess.run(
        [*command, "--", "smollm2", *ROOM, *arguments], capture_output=True, text=True, env={**os.environ, **environment}, timeout=800
    )


def test_a_good_tap_gets_a_proof_that_a_sidecar_believes(
    tmp_path: Path, environment: dict[str, str], tapped: VllmProcess, runtime: Path
) -> None:
    done = verify(tmp_path, environment)
    found = {each["what"]: each for each in json.loads((tmp_path / "proof.json").read_text())["findings"]}
    slow = not found.pop("cost")["ok"]  # a noisy machine's business
    assert all(each["ok"] for each in found.values()), done.stdout
    assert len(found) == 8
    assert done.returncode == int(slow), done.stderr
    assert "8 of 8 greedy replies are the same without it" in done.stdout
    if slow:
        pytest.skip("the cost was not within bounds on this machine, so there is no proof to believe")
    settings = {"socket": str(runtime / "tap.sock"), "tap": {"verified": str(tmp_path / "proof.json")}}
    with Stack(tmp_path, settings, engine=False) as running:
        eventually(lambda: httpx.get(running.admin("/health")).status_code == 200 or running.metric("barograph_taps"), "the tap has come")
        assert running.metric("barograph_taps_stale") == 0


def test_a_read_of_the_wrong_tensor_is_caught(tmp_path: Path, environment: dict[str, str]) -> None:
    (tmp_path / "sitecustomize.py").write_text(NAIVE)
    path = str(tmp_path) + os.pathsep + os.environ.get("PYTHONPATH", "")
    done = verify(tmp_path, {**environment, "PYTHONPATH": path, "BAROGRAPH_NAIVE": "1"}, "--enforce-eager")
    assert done.returncode == 1, done.stderr
    failed = {line.split(": ")[0] for line in done.stdout.splitlines() if line.startswith("FAIL")}
    assert {"FAIL  scores of one reply at a time equal the reference", "FAIL  scores in a batch equal the reference"} <= failed
    assert "FAIL  graphs stay on: eager" in done.stdout
    assert "verdict: do not trust this tap" in done.stdout
