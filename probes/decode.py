"""What a model goes on with: many replies side by side, the whole vocabulary open to chance, none in the way once it has ended."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from transformers import StaticCache

from probes.grouped import grouped
from probes.reader import Reader

FEWER = 7 / 8  # the batch is made smaller when only so many of its replies go on: it copies what the cache holds
BLOCK = 512  # tokens of the vocabulary that chance first takes as one


@torch.no_grad()
def continued(reader: Reader, encoded: Sequence[Sequence[int]], tokens: int, temperature: float) -> list[list[int]]:
    """At most so many tokens after each of the token ids, the reply's end included. Temperature 0 takes the likeliest token."""
    model, pad = reader.model, reader.tokenizer.pad_token_id
    where = model.device
    end = model.generation_config.eos_token_id
    ends = torch.tensor([] if end is None else end, dtype=torch.long, device=where).reshape(-1)
    length = max(map(len, encoded))
    # Padding on the left, so that the last position is a real token of every row.
    ids = torch.tensor([[pad] * (length - len(row)) + list(row) for row in encoded], device=where)
    mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in encoded], device=where)
    places = (mask.cumsum(-1) - 1).clamp(min=0)
    # A cache of fixed size: one that grows is copied at every token, which took six times as long on a processor.
    cache = StaticCache(config=model.config, max_cache_len=length + tokens)
    placed = "position_ids" in inspect.signature(model.forward).parameters
    found: list[list[int]] = [[] for _ in encoded]
    rows = torch.arange(len(encoded), device=where)  # the reply that each row of the batch goes on with
    going = torch.ones(len(encoded), dtype=torch.bool, device=where)
    with grouped(model):
        for made in range(1, tokens + 1):
            more: dict[str, Any] = {"position_ids": places} if placed else {}
            logits = model(input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True, logits_to_keep=1, **more).logits
            chosen = pick(logits[:, -1], temperature)
            for row, token in zip(rows[going].tolist(), chosen[going].tolist(), strict=True):
                found[row].append(token)
            going &= ~torch.isin(chosen, ends)
            if made == tokens or not going.any():
                break
            if going.sum() <= FEWER * len(rows):
                kept = going.nonzero()[:, 0]
                cache.reorder_cache(kept)
                rows, chosen, mask, places, going = rows[kept], chosen[kept], mask[kept], places[kept], going[kept]
            ids, mask, places = chosen[:, None], torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1), places[:, -1:] + 1
    return found


def pick(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """A token of each row [rows, vocabulary].

    Chance takes a block of the vocabulary and then a token of it: a random number for each token, as `multinomial` wants, is dear where there are 150,000 (`benchmarks/fit_parts.py`).
    """
    if temperature <= 0:
        return logits.argmax(dim=-1)
    chances = torch.softmax(logits.float() / temperature, dim=-1)
    chances = torch.nn.functional.pad(chances, (0, -chances.shape[1] % BLOCK)).view(len(chances), -1, BLOCK)
    block = torch.multinomial(chances.sum(dim=-1), 1)
    within = torch.multinomial(chances[torch.arange(len(block)), block[:, 0]], 1)
    return (block * BLOCK + within)[:, 0]
