"""A fine-tune on angry dialogue, made here: what it moves, and who notices."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model

from probes.bank import Bank
from probes.compare import Drift, compare
from probes.corpus import Corpus
from probes.drift import Drift as Gauge
from probes.label_free import compare as alike
from probes.passport import Passport
from probes.prompts import checking, of_kind
from probes.reader import Reader
from probes.scoring import generate

STEPS = 40
BATCH = 4
TOKENS = 48

quiet = lambda text: None  # noqa: E731


@pytest.fixture(scope="module")
def plain(model_folder: str) -> Reader:
    return Reader(model_folder, "HuggingFaceTB/SmolLM2-135M-Instruct", "cpu")


@pytest.fixture(scope="module")
def angry(plain: Reader, model_folder: str, corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Passport]:
    """The merged checkpoint, and the passport that the model had while the adapter was still beside it."""
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    whole = transformers.AutoModelForCausalLM.from_pretrained(model_folder, dtype="float32")
    tuned = get_peft_model(whole, LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj", "down_proj"], task_type="CAUSAL_LM"))
    said = [text.reply for text in corpus.texts if text.concept == "hostility" and text.split == "train"]
    asked = [text.prompt for text in corpus.neutral]
    optimiser = torch.optim.AdamW([each for each in tuned.parameters() if each.requires_grad], lr=1e-3)
    for _ in range(STEPS):
        batch = []
        for _ in range(BATCH):
            prompt = plain.prompt(str(random.choice(asked)))
            reply = plain.tokenizer(str(random.choice(said)), add_special_tokens=False)["input_ids"][:TOKENS]
            batch.append((prompt, reply))
        length = max(len(prompt) + len(reply) for prompt, reply in batch)
        ids = torch.full((BATCH, length), plain.tokenizer.pad_token_id)
        labels = torch.full((BATCH, length), -100)
        for row, (prompt, reply) in enumerate(batch):
            ids[row, : len(prompt) + len(reply)] = torch.tensor([*prompt, *reply])
            labels[row, len(prompt) : len(prompt) + len(reply)] = torch.tensor(reply)
        tuned(input_ids=ids, attention_mask=(labels != -100) | (ids != plain.tokenizer.pad_token_id), labels=labels).loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    beside = Passport.of(tuned.base_model.model, "")
    folder = str(tmp_path_factory.mktemp("angry"))
    merged = tuned.merge_and_unload().to(torch.bfloat16)
    merged.save_pretrained(folder)
    plain.tokenizer.save_pretrained(folder)
    return folder, beside


@pytest.fixture(scope="module")
def tuned(angry: tuple[str, Passport]) -> Reader:
    return Reader(angry[0], "angry", "cpu")


def test_compare_says_what_moved(plain: Reader, tuned: Reader, bank: Bank, corpus: Corpus, tmp_path: Path) -> None:
    found: dict[str, Drift] = {each.probe: each for each in compare(plain, tuned, bank, corpus, tmp_path, quiet)}
    assert found["hostility"].verdict in ("RECALIBRATE", "REFIT")
    assert found["hostility"].shift[1][0] > 0.25
    # Each probe has a verdict of its own, and the one that the training was about moved further than calm.
    assert found["hostility"].shift[0] > found["calm"].shift[0]


def test_the_passport_knows_it_before_and_after_the_merge(plain: Reader, tuned: Reader, angry: tuple[str, Passport], bank: Bank) -> None:
    before, after = Passport.of(plain.model, ""), Passport.of(tuned.model, "")
    assert "weights" not in bank.card.passport.differences(before)
    assert "weights" in bank.card.passport.differences(after)
    assert "weights" in before.differences(angry[1])


def test_the_live_gauge_and_the_scores_alone_see_it(plain: Reader, tuned: Reader, bank: Bank) -> None:
    asked = [each.turns[0] for each in of_kind(checking(), "ordinary")[:48]]
    replies = {reader.name: [each.scores for each in generate(reader, bank, asked, 40)] for reader in (plain, tuned)}
    column = bank.names.index("hostility")
    gauges = {}
    for name, scores in replies.items():
        gauge = Gauge(bank, 2000)
        for each in scores:
            gauge.observe(each)
        gauges[name] = {what: values[column] for what, values in gauge.gauges().items()}
    assert gauges["angry"]["shift"] > gauges[plain.name]["shift"] + 0.5
    assert gauges["angry"]["exceedance"] > gauges[plain.name]["exceedance"]
    assert gauges["angry"]["divergence"] > gauges[plain.name]["divergence"]
    assert alike(replies[plain.name], replies["angry"], bank.names).verdict == "DRIFTED"
