"""Benchmarks that cannot show their figure on this machine still have to run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU: run the benchmark itself")
def test_the_gpu_benchmark_runs_its_eager_half_without_a_gpu() -> None:
    command = [sys.executable, "-m", "benchmarks.tap_gpu", "--pairs", "1", "--batches", "1"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1], timeout=250)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("'frames_dropped': 0") == 4
    assert "no CUDA here, so no figure is kept" in done.stdout
