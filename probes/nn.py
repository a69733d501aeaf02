"""NNsight, imported with our settings. Import it from here and nowhere else."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import MethodType
from typing import Any

os.environ.setdefault("NNSIGHT_CONFIG", str(Path(__file__).with_name("nnsight.yaml")))

import nnsight  # the setting above is read at import
from nnsight import NNsight, TransformersModel, save
from nnsight.intervention.envoy import Envoy
from nnsight.intervention.source import STATE

VERSION: str = nnsight.__version__

__all__ = ["VERSION", "Envoy", "NNsight", "TransformersModel", "release", "save", "tree", "vllm_runner"]


@contextmanager
def tree(module: Any) -> Iterator[Any]:
    """NNsight's module tree over a model of any engine, to find modules by. Gone afterwards: what it put on modules is taken off,
    so that a compiler sees the model as its engine made it.
    """
    before = {each: each.__dict__.copy() for each in module.modules()}
    try:
        yield NNsight(module)
    finally:
        for each, attributes in before.items():
            for name in set(each.__dict__) - set(attributes):
                del each.__dict__[name]
            if "forward" in attributes:
                each.__dict__["forward"] = attributes["forward"]


def release(module: Any) -> None:
    """Take a module's controller off and give it the forward back that it had: nothing of it is traced any more."""
    state = module.__dict__.pop(STATE, None)
    if state is not None:
        del module.__dict__["forward"]
        if state.original is not type(module).forward:
            module.forward = MethodType(state.original, module)


def vllm_runner() -> type:
    """NNsight's model runner for vLLM. Imports vLLM."""
    from nnsight.modeling.vllm.model_runners.GPUModelRunner import NNsightGPUModelRunner

    runner: type = NNsightGPUModelRunner
    return runner
