"""The traced tap on a real server, and what a tap does when it breaks in the middle of work."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from monitor.engine.vllm_process import Reply, VllmProcess
from monitor.tap.recorder import Key, Recorder
from tests.stack import eventually
from tests.vllm.conftest import configured, fifty
from tests.vllm.judge import Judge

pytestmark = pytest.mark.timeout(600)

# Loaded by every Python of the server: the tap's bookkeeping raises as soon as a file says so.
SABOTAGE = """
import os
from pathlib import Path

if "BAROGRAPH_SABOTAGE" in os.environ:
    from monitor.tap.requests import Requests

    step = Requests.step

    def broken(self, *args):
        if Path(os.environ["BAROGRAPH_SABOTAGE"]).exists():
            raise RuntimeError("sabotage")
        return step(self, *args)

    Requests.step = broken
"""


@pytest.fixture(scope="module")
def recorder(runtime: Path) -> Iterator[Recorder]:
    listening = Recorder(runtime / "traced.sock")
    yield listening
    listening.close()


@pytest.fixture(scope="module")
def traced(
    tmp_path_factory: pytest.TempPathFactory, runtime: Path, environment: dict[str, str], recorder: Recorder
) -> Iterator[VllmProcess]:
    folder = tmp_path_factory.mktemp("traced")
    (folder / "sitecustomize.py").write_text(SABOTAGE)
    environment = {
        **environment,
        "PYTHONPATH": str(folder) + os.pathsep + os.environ.get("PYTHONPATH", ""),
        "BAROGRAPH_SABOTAGE": str(folder / "now"),
    }
    with configured(folder, runtime / "traced.sock", environment, mode="traced") as server:
        yield server


def test_scores_are_those_of_a_reference(traced: VllmProcess, recorder: Recorder) -> None:
    judge = Judge()
    replies = judge.heard(recorder, lambda suffix: fifty(traced, suffix))
    assert judge.worst(recorder, replies, sample=2) < 1e-3
    assert "traced; eager" in recorder.hellos[0].engine


def test_a_broken_tap_disarms_and_the_generation_goes_on(traced: VllmProcess, recorder: Recorder) -> None:
    (traced.config.parent / "now").touch()
    replies: dict[Key, Reply] = fifty(traced)
    assert all(len(reply.tokens) == 64 for reply in replies.values())
    eventually(lambda: recorder.failed, "the tap says that it gave up")
    assert recorder.failed == ["RuntimeError: sabotage"]
    assert "tap disarmed, generation goes on unscored" in traced.log.read_text(errors="replace")
