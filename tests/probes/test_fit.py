"""The fit, on the real corpus with a small random model: what it must do whatever the model, without its cost."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from probes.bank import Bank
from probes.corpus import CONCEPTS, Corpus, CorpusError
from probes.fit import SKIP, FitError, _encode, _load, _read, fit


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory, model_folder: str) -> str:
    folder = tmp_path_factory.mktemp("tiny")
    transformers.AutoTokenizer.from_pretrained(model_folder).save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=49152, hidden_size=32, intermediate_size=64, num_hidden_layers=4, num_attention_heads=2, num_key_value_heads=1
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return str(folder)


def test_no_text_names_its_concept_and_no_text_stands_twice() -> None:
    corpus = Corpus.read()
    stem = {"desperation": r"despera|despair", "panic": r"panic", "hostility": r"hostil", "calm": r"\bcalm"}
    for text in corpus.texts:
        if text.concept:
            assert not re.search(stem[text.concept], text.reply, re.IGNORECASE), text.reply
    assert len({text.reply for text in corpus.texts}) == len(corpus.texts)


def test_topics_are_shared_and_splits_apart() -> None:
    corpus = Corpus.read()
    for split in ("train", "validation", "test"):
        topics = [{text.topic for text in corpus.texts if text.concept == concept and text.split == split} for concept in CONCEPTS]
        assert topics[0]
        assert all(found == topics[0] for found in topics)
    where: dict[str, set[str]] = {}
    for text in corpus.texts:
        if text.concept:
            where.setdefault(text.topic, set()).add(text.split)
    assert all(len(splits) == 1 for splits in where.values())


def test_a_broken_corpus_is_refused(tmp_path: Path) -> None:
    for concept in CONCEPTS:
        (tmp_path / f"{concept}.txt").write_text(f"{'sea' if concept != 'panic' else 'land'}\nA story.\n")
    with pytest.raises(CorpusError, match="topics differ"):
        Corpus.read(tmp_path)


def test_the_read_out_is_the_state_that_produces_each_token(tiny: str) -> None:
    model, tokenizer = _load(tiny, "cpu")
    texts = Corpus.read().texts[:3]
    for text, states in zip(texts, _read(model, tokenizer, texts), strict=True):
        ids, prompt = _encode(tokenizer, text)
        with torch.no_grad():
            hidden = model(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states
        expected = torch.stack(hidden[1:], dim=2)[0, prompt - 1 + SKIP : -1].to(torch.float16).numpy()
        assert np.allclose(states, expected, atol=2e-3)


def test_a_fit_gives_a_bank_that_loads(tiny: str, tmp_path: Path) -> None:
    said: list[str] = []
    fit(tiny, "tiny", None, "cpu", said.append).save(tmp_path)
    bank = Bank.load(tmp_path)
    assert bank.names == CONCEPTS
    assert bank.card.model.name == "tiny"
    assert all(probe.layer in (1, 2) for probe in bank.card.probes)
    assert any("test AUROC" in line for line in said)


def test_a_layer_that_is_not_there_is_refused(tiny: str) -> None:
    with pytest.raises(FitError, match="layer 9 cannot be read"):
        fit(tiny, "tiny", 9, "cpu", lambda text: None)


def test_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FitError, match="cannot load model"):
        fit(str(tmp_path), "none", None, "cpu", lambda text: None)
