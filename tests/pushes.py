"""Pushes by hand: what transformers itself says of a text some of whose states are pushed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from probes.bank import Bank
from probes.layers import decoder_layers
from probes.nn import NNsight


@contextmanager
def pushed(model: NNsight, bank: Bank, probe: str, prompt: int, first: int, tokens: int, dose: float) -> Iterator[None]:
    """While it lasts, the states that produce the tokens first to first + tokens - 1 of a reply are pushed on their way into the next layer."""
    rows = torch.arange(prompt - 1 + first, prompt - 1 + first + tokens)
    pattern = torch.from_numpy(bank.patterns[bank.names.index(probe)])

    def push(module: Any, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        state = args[0].clone()
        state[0, rows] += dose * state[0, rows].norm(dim=-1, keepdim=True) * pattern
        return state, *args[1:]

    handle = decoder_layers(model)[bank[probe].layer + 1].register_forward_pre_hook(push)
    try:
        yield
    finally:
        handle.remove()
