"""The second shipped model on vLLM, with its own bank. Its weights are half a gigabyte, so they are asked for where they were fetched before."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from monitor import models
from monitor.packaged import QWEN
from monitor.tap.recorder import Recorder
from tests.vllm.conftest import configured, prompts
from tests.vllm.judge import Judge

TOLERANCE = 1e-3  # standard deviations; float32 on both sides
pytestmark = [
    pytest.mark.timeout(1200),
    pytest.mark.skipif(not (models.cache_dir() / "models" / QWEN.folder).is_dir(), reason=f"{QWEN.name} is not fetched here"),
]


def test_its_scores_on_vllm_are_those_of_a_reference(tmp_path: Path, runtime: Path, environment: dict[str, str]) -> None:
    recorder = Recorder(runtime / "second.sock")
    try:
        with configured(tmp_path, recorder.path, environment, model=QWEN.name) as server:
            judge = Judge(QWEN.name)
            replies = judge.heard(recorder, lambda suffix: asyncio.run(server.chats(prompts(8, 30, seed=9), 24, lambda i: f"q{i}{suffix}")))
            assert all(len(each.tokens) == 24 for each in replies.values())
            assert judge.worst(recorder, replies) < TOLERANCE
            (check,) = recorder.checks
            assert check.ok, check
    finally:
        recorder.close()
