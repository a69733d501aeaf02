"""The projection as an operator that torch.compile and CUDA graphs keep: from the residual stream into a buffer that stays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

# Why projections failed in this process. An exception inside a compiled graph would end the engine, so it lands here.
failures: list[str] = []
KEPT = 64  # rows of a step whose states are kept while the tap proves itself


class Keeping:
    """Whether the operator keeps states. Asked when it runs: afterwards only what a CUDA graph has captured, one small copy, goes on."""

    on = False


@torch.library.custom_op("barograph::project", mutates_args=("scores", "states"))
def project(
    hidden: torch.Tensor, residual: torch.Tensor | None, weight: torch.Tensor, bias: torch.Tensor, scores: torch.Tensor, states: torch.Tensor
) -> None:  # fmt: skip
    """Write `(hidden + residual) @ weight + bias` into the first rows of `scores`, in float32; `states` gets the first sums themselves.

    hidden and residual [n, width], or [1, n, width], in the model's dtype, weight [width, k], bias [k] and scores [rows, k] in float32, n ≤ rows.
    vLLM's fused layers hand on a pair, and only its sum is the residual stream.
    """
    try:
        state = hidden.float() if residual is None else hidden.float() + residual.float()
        state = state.reshape(-1, state.shape[-1])
        if len(state) > len(scores):  # torch would write them elsewhere, and say nothing
            raise ValueError(f"a step of {len(state)} tokens; expected at most {len(scores)}")
        torch.addmm(bias, state, weight, out=scores[: len(state)])
        if Keeping.on:
            few = min(len(state), len(states))
            states[:few].copy_(state[:few])
    except Exception as error:
        failures.append(f"{type(error).__name__}: {error}")


@project.register_fake
def _(
    hidden: torch.Tensor, residual: torch.Tensor | None, weight: torch.Tensor, bias: torch.Tensor, scores: torch.Tensor, states: torch.Tensor
) -> None:  # fmt: skip
    return None


class Reader(torch.nn.Module):
    """What one tapped layer carries: its probes' weights, and where their scores land. Called by a forward hook."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor, rows: int) -> None:
        super().__init__()
        self.weight: torch.Tensor
        self.bias: torch.Tensor
        self.scores: torch.Tensor
        self.states: torch.Tensor
        self.register_buffer("weight", weight, persistent=False)
        self.register_buffer("bias", bias, persistent=False)
        self.register_buffer("scores", torch.zeros(rows, weight.shape[1], device=weight.device), persistent=False)
        self.register_buffer("states", torch.zeros(KEPT, weight.shape[0], device=weight.device), persistent=False)

    def forward(self, output: torch.Tensor | tuple[torch.Tensor, ...]) -> None:
        if isinstance(output, torch.Tensor):
            project(output, None, self.weight, self.bias, self.scores, self.states)
        else:
            project(output[0], output[1] if len(output) > 1 else None, self.weight, self.bias, self.scores, self.states)


def collect(readers: Sequence[Reader], rows: NDArray[np.int64]) -> tuple[torch.Tensor, Any]:
    """Scores [m, k] of rows [m] of the last step, all readers' columns side by side, on their way to the host.

    On a device nothing is waited for: the second value is the event after which they are there. On a CPU it is None.
    """
    device = readers[0].scores.device
    index = torch.from_numpy(rows)
    if device.type != "cpu":
        index = index.pin_memory().to(device, non_blocking=True)
    picked = torch.cat([reader.scores.index_select(0, index) for reader in readers], dim=1)
    if device.type == "cpu":
        return picked, None
    host = torch.empty(picked.shape, dtype=picked.dtype, pin_memory=True)
    host.copy_(picked, non_blocking=True)
    event = torch.cuda.Event()  # type: ignore[no-untyped-call]
    event.record()
    return host, event
