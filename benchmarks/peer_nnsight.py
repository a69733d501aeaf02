"""NNsight on vLLM as its own documentation has it: an edit that every request gets a copy of. Loaded into a server of `benchmarks.peers`."""

from __future__ import annotations

import os
from collections import deque
from typing import Any

import numpy as np
import torch

from monitor.config import Config
from monitor.engine import vllm_plugin
from probes import layers
from probes.nn import Envoy

SWITCH = "BAROGRAPH_BENCHMARK_PEER"


def install() -> None:
    """In the place of our tap, the edit. Runs in each of vLLM's processes; does nothing without the switch."""
    if SWITCH in os.environ:
        vllm_plugin.tap = edit


def edit(worker: Any, config: Config) -> None:
    """Each request projects its own last row of each tapped layer, and keeps the scores."""
    model, bank = worker.model_runner.nnsight_model, config.load_bank()
    weight, bias = (torch.from_numpy(np.ascontiguousarray(each)) for each in bank.affine())
    decoder = layers.envoys(model)
    tapped = [(decoder[i], torch.from_numpy(np.flatnonzero(np.array(bank.layers) == i))) for i in sorted(set(bank.layers))]
    kept: deque[Any] = deque(maxlen=256)

    def score(output: Any, columns: torch.Tensor) -> None:
        hidden = output if isinstance(output, torch.Tensor) else output[0] + output[1]
        kept.append((hidden[-1].float() @ weight[:, columns] + bias[columns]).numpy())

    with Envoy.edit(model, inplace=True) as tracer:
        for _ in tracer.iter[:]:
            for layer, columns in tapped:
                score(layer.output, columns)
