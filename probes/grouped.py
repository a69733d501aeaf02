"""Attention of one new token, fast on a processor: query heads that share a key are taken as so many positions of one head.

Exact, and without a copy of keys and values for each query head, which is what costs (`benchmarks/grouped.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "barograph_grouped"


def attention(
    module: torch.nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, dropout: float = 0.0,
    scaling: float | None = None, **more: Any,
) -> tuple[torch.Tensor, None]:  # fmt: skip
    """Of queries [rows, heads, positions, width]; several positions go transformers' way. Returns [rows, positions, heads, width]."""
    rows, heads, positions, width = query.shape
    if positions != 1 or mask is None:
        found: tuple[torch.Tensor, None] = sdpa_attention_forward(module, query, key, value, mask, dropout=dropout, scaling=scaling, **more)
        return found
    shared = key.shape[1]
    group = heads // shared
    filled = int(mask.flatten(0, 2).any(dim=0).nonzero()[-1]) + 1  # a cache of fixed size is empty behind that
    output = torch.nn.functional.scaled_dot_product_attention(
        query.reshape(rows, shared, group, width), key[:, :, :filled], value[:, :, :filled],
        attn_mask=mask[..., :filled].expand(rows, 1, group, -1), scale=scaling,
    )  # fmt: skip
    return output.reshape(rows, 1, heads, -1), None


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, sdpa_mask)


@contextmanager
def grouped(model: Any) -> Iterator[None]:
    """Inside, a model that would use PyTorch's attention on a processor uses this one."""
    before = model.config._attn_implementation
    if before != "sdpa" or model.device.type != "cpu":
        yield
        return
    model.set_attn_implementation(NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(before)
