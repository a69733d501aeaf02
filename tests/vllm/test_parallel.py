"""Two engines behind one server, as `--data-parallel-size` starts them: each is a source of its own, and no reply is lost between them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from monitor.tap.recorder import Recorder
from tests.vllm.conftest import configured, prompts
from tests.vllm.judge import Judge

pytestmark = pytest.mark.timeout(600)


def test_each_data_parallel_engine_is_a_source(tmp_path: Path, runtime: Path, environment: dict[str, str]) -> None:
    recorder = Recorder(runtime / "parallel.sock")
    # One node's cores are shared; vLLM would look for a node for each engine.
    environment = {**environment, "VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1"}
    try:
        with configured(tmp_path, recorder.path, environment, "--data-parallel-size", "2", "--enforce-eager") as server:
            judge = Judge()
            texts = prompts(20, 30, seed=5)
            replies = judge.heard(recorder, lambda suffix: asyncio.run(server.chats(texts, 16, lambda i: f"p{i}{suffix}")))
            assert len({hello.source for hello in recorder.hellos}) == 2
            assert judge.worst(recorder, replies) < 1e-3
    finally:
        recorder.close()
