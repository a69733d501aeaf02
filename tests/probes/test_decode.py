"""Replies made side by side are those that each prompt gets alone, and chance takes tokens as often as the model says."""

from __future__ import annotations

import pytest
import torch

from probes.decode import BLOCK, continued, pick
from probes.reader import Reader

PROMPTS = ("Say hello to the sea, please.", "Why?", "A story.", "Name a bird and say where it lives.", "Go.")


def own(reader: Reader, ids: list[int], tokens: int) -> list[int]:
    asked = torch.tensor([ids])
    pad = reader.tokenizer.pad_token_id
    made = reader.model.generate(asked, attention_mask=torch.ones_like(asked), max_new_tokens=tokens, do_sample=False, pad_token_id=pad)
    return made[0, len(ids) :].tolist()


@pytest.mark.parametrize("ends", ["none", "some early"])
def test_replies_are_those_of_transformers(tiny: str, ends: str) -> None:
    reader = Reader(tiny, "tiny", "cpu", "float32")
    encoded = [reader.prompt(prompt) for prompt in PROMPTS]
    reader.model.generation_config.eos_token_id = None
    if ends == "some early":  # the second and the fifth token of two replies end them, and others where they occur
        reader.model.generation_config.eos_token_id = [own(reader, encoded[0], 8)[1], own(reader, encoded[3], 8)[4]]
    expected = [own(reader, ids, 24) for ids in encoded]
    found = continued(reader, encoded, 24, 0.0)
    assert found == expected
    assert (len({len(each) for each in found}) > 1) == (ends == "some early")


def test_chance_takes_tokens_as_often_as_the_model_says() -> None:
    torch.manual_seed(0)
    wide = BLOCK * 3 + 7
    logits = torch.full((2, wide), -30.0)
    for row, tokens in enumerate([(0, 5, BLOCK, wide - 1), (BLOCK - 1, BLOCK + 1, 2 * BLOCK, 2 * BLOCK + 3)]):
        logits[row, list(tokens)] = torch.log(torch.tensor([0.5, 0.25, 0.15, 0.1])) * 0.7
    drawn = torch.stack([pick(logits, 0.7) for _ in range(4000)])
    for row, tokens in enumerate([(0, 5, BLOCK, wide - 1), (BLOCK - 1, BLOCK + 1, 2 * BLOCK, 2 * BLOCK + 3)]):
        shares = [float((drawn[:, row] == token).float().mean()) for token in tokens]
        assert shares == pytest.approx([0.5, 0.25, 0.15, 0.1], abs=0.03)  # four standard errors
    assert pick(logits, 0.0).tolist() == [0, BLOCK - 1]
