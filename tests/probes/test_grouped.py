"""Attention of one token by groups of heads gives what transformers' own gives."""

from __future__ import annotations

import pytest
import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from probes.decode import continued
from probes.grouped import NAME, attention, grouped
from probes.reader import Reader


class Layer(torch.nn.Module):
    def __init__(self, groups: int) -> None:
        super().__init__()
        self.num_key_value_groups = groups
        self.is_causal = True


@pytest.mark.parametrize(("heads", "shared", "positions"), [(6, 2, 1), (4, 4, 1), (8, 1, 1), (6, 2, 3)])
def test_it_is_exact(heads: int, shared: int, positions: int) -> None:
    torch.manual_seed(0)
    query = torch.randn(3, heads, positions, 16)
    key, value = torch.randn(3, shared, 9, 16), torch.randn(3, shared, 9, 16)
    mask = torch.rand(3, 1, positions, 9) > 0.3
    mask[..., 0] = True
    layer = Layer(heads // shared)
    expected, _ = sdpa_attention_forward(layer, query, key, value, mask, scaling=0.2)
    found, _ = attention(layer, query, key, value, mask, scaling=0.2)
    assert found.shape == expected.shape
    assert torch.allclose(found, expected, atol=1e-5)


def test_replies_are_the_same_and_the_model_is_left_as_it_was(tiny: str) -> None:
    reader = Reader(tiny, "tiny", "cpu", "float32")
    assert reader.model.config._attn_implementation == "sdpa"
    prompts = [reader.prompt("Say hello to the sea, please."), reader.prompt("Why?")]
    mine = continued(reader, prompts, 12, 0.0)
    assert reader.model.config._attn_implementation == "sdpa"
    reader.model.config._attn_implementation = "eager"  # which nobody groups
    assert continued(reader, prompts, 12, 0.0) == mine
    reader.model.config._attn_implementation = "sdpa"
    with grouped(reader.model):
        assert reader.model.config._attn_implementation == NAME
