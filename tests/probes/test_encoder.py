"""A sentence encoder as a rival: a small random one, as its weights are not ours to ship."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from probes.encoder import Encoder
from probes.reader import ReadError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("encoder")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "sea", "is", "calm", "angry"]
    (place / "vocab.txt").write_text("\n".join(words))
    transformers.BertTokenizer(vocab={word: number for number, word in enumerate(words)}).save_pretrained(place)
    torch.manual_seed(0)
    shape = transformers.BertConfig(vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    transformers.BertModel(shape).save_pretrained(place)
    return place


def test_a_text_has_one_unit_vector_whatever_stands_beside_it(folder: Path) -> None:
    encoder = Encoder(folder)
    alone = encoder(["the sea is calm"])[0]
    beside = Encoder(folder)(["the sea", "the sea is calm", "angry angry angry angry angry sea", "the sea is calm"])
    assert np.allclose(np.linalg.norm(beside, axis=1), 1, atol=1e-5)
    assert np.allclose(beside[1], alone, atol=1e-5)
    assert np.array_equal(beside[1], beside[3])
    assert not np.allclose(beside[0], beside[2], atol=1e-2)


def test_what_is_no_encoder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ReadError, match="cannot load encoder"):
        Encoder(tmp_path)
