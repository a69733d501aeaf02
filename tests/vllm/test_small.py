"""Every family of models and every way of scheduling that runs here, on small random models: scores are those of transformers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from probes.bank import Bank
from probes.nn import NNsight
from probes.reference import reply_scores
from tests.vllm.small import CASES

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("small")
    found = []
    # vLLM's LoRA kernels find nothing in a process that has served another model before.
    for names in ([name for name, case in CASES.items() if not case.lora], [name for name, case in CASES.items() if case.lora]):
        with (folder / "log").open("w") as log:
            command = [sys.executable, "-m", "tests.vllm.small", str(folder), *names]
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=log, text=True)
        found += [json.loads(line.removeprefix("RESULT ")) for line in done.stdout.splitlines() if line.startswith("RESULT ")]
        assert done.returncode == 0, (folder / "log").read_text()[-3000:]
    return folder, {each["case"]: each for each in found}


@pytest.mark.parametrize("name", CASES)
def test_scores_are_those_of_transformers(name: str, results: tuple[Path, dict[str, dict[str, Any]]]) -> None:
    from transformers import AutoModelForCausalLM

    folder, found = results
    result = found[name]
    assert "error" not in result, result
    assert result["failed"] == []
    assert result["ordered"]
    assert CASES[name].mode in result["engine"]
    bank = Bank.load(folder / name / "bank")
    models = {
        which: NNsight(AutoModelForCausalLM.from_pretrained(folder / name / which, dtype="float32").eval())
        for which in {which for which, *_ in result["produced"]}
    }
    streams = dict(np.load(folder / name / "streams.npz"))
    spread = float(np.concatenate(list(streams.values())).std())
    assert len(streams) == len(result["produced"])
    for which, prompt, produced in result["produced"]:
        reference = reply_scores(models[which], bank, prompt + produced, len(prompt))
        gaps = {key: float(np.abs(scores - reference).max()) for key, scores in streams.items() if scores.shape == reference.shape}
        nearest = min(gaps, key=gaps.__getitem__)
        assert gaps[nearest] < 1e-4 * max(1.0, spread)
        del streams[nearest]  # each stream belongs to one reply only
