"""The tap's portable way into vLLM: NNsight's own model runner and tracing, and the reference that `compiled` is tested against.

The model runs eager, or on a GPU under vLLM's breakable CUDA graphs, where NNsight serves the tapped layers as its "taps".
"""

from __future__ import annotations

import os
from typing import Any

import torch

from monitor.tap.project import Reader, failures
from probes import layers
from probes.bank import BankError
from probes.nn import Envoy, release, vllm_runner

GRAPHS = "VLLM_USE_BREAKABLE_CUDAGRAPH"


def prepare(runner: Any) -> None:
    """Turn a worker's runner, before it loads its model, into one of NNsight's that runs our block in every step."""
    config, base = runner.vllm_config, type(runner)
    if base.__module__.startswith("vllm.v1.worker.gpu."):
        raise BankError("tap.mode traced needs vLLM's V1 model runner: export VLLM_USE_V2_MODEL_RUNNER=0, or use tap.mode compiled")
    if not config.model_config.enforce_eager and os.environ.get(GRAPHS, "0") != "1":
        raise BankError(f"tap.mode traced needs --enforce-eager, or {GRAPHS}=1 on a GPU; with graphs as they are, use tap.mode compiled")
    if config.speculative_config is not None:
        raise BankError("tap.mode traced does not follow speculative decoding; supported by tap.mode compiled")
    if config.parallel_config.pipeline_parallel_size > 1:
        raise BankError("tap.mode traced does not follow pipeline parallelism; supported by tap.mode compiled")
    runner.__class__ = type("TracedRunner", (_Tapped, vllm_runner(), base), {})


def is_traced(runner: Any) -> bool:
    return isinstance(runner, _Tapped)


def decoder_layers(runner: Any) -> list[torch.nn.Module]:
    """The decoder layers of a loaded model."""
    return layers.decoder_layers(runner.nnsight_model)


def install(runner: Any, readers: dict[int, Reader]) -> None:
    """One block for the whole batch, which lives as long as the engine; modules that it does not read get their own forward back."""
    model = runner.nnsight_model
    decoder = layers.envoys(model)
    tapped = [(decoder[layer], reader) for layer, reader in readers.items()]
    with Envoy.edit(model, inplace=True) as tracer:
        for _ in tracer.iter[:]:
            for layer, reader in tapped:
                reader(layer.output)
    runner.barograph = model._edits.pop()
    kept = {layer._module for layer, _ in tapped}
    for module in model._module.modules():
        if module not in kept:
            release(module)
    if not runner.vllm_config.model_config.enforce_eager:
        model.interleaver.taps = frozenset(f"{layer.path}.output" for layer, _ in tapped)


class _Tapped:
    """Mixed in before NNsight's runner."""

    barograph: Any = None  # our block, a mediator of NNsight's

    def _update_states(self, scheduled: Any) -> None:
        """The step's requests are settled and NNsight has set out its workers: ours goes first, with all rows as its group."""
        super()._update_states(scheduled)  # type: ignore[misc]
        block = self.barograph
        if block is None:
            return
        interleaver = self.nnsight_model.interleaver  # type: ignore[attr-defined]
        try:
            block.batch_group, block.row = None, 0
            if block.worker is None:
                block.start(interleaver)
            interleaver.mediators.insert(0, block)
            interleaver.reindex()
        except Exception as error:
            self._give_up(error)

    def execute_model(self, *args: Any, **kwargs: Any) -> Any:
        result = super().execute_model(*args, **kwargs)  # type: ignore[misc]
        if self.barograph is not None and self.barograph.exception is not None:
            self._give_up(self.barograph.exception)
        return result

    def _give_up(self, error: BaseException) -> None:
        self.barograph = None
        failures.append(f"{type(error).__name__}: {error}")
