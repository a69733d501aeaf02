"""The tap inside the real model, against transformers' own hidden states."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from monitor import wire
from monitor.engine.batcher import Batcher
from monitor.engine.loading import LoadedModel, load
from monitor.engine.sampler import Sampling
from monitor.tap.tap import Tap
from probes.bank import Bank, BankError
from probes.layers import LayersError, decoder_layers
from probes.nn import TransformersModel

PROMPTS = ["The water rose and he", "def reverse(text):", "Once upon a time there was a small town where nothing ever", "Please, I beg you"]


class Collected:
    """Stands at the end of the wire and keeps what the tap sends."""

    def __init__(self, tap: Tap) -> None:
        self.begun: dict[int, str] = {}
        self.scores: dict[str, dict[int, np.ndarray]] = {}
        self.ended: dict[str, int] = {}
        self.failed: list[str] = []
        tap.sender.scores = self._scores  # type: ignore[method-assign]
        tap.sender.begin = lambda begin: self.begun.__setitem__(begin.stream, f"{begin.request}#{begin.index}")  # type: ignore[method-assign]
        tap.sender.end = lambda end: self.ended.__setitem__(self.begun[end.stream], end.tokens)  # type: ignore[method-assign]
        tap.sender.fail = self.failed.append  # type: ignore[method-assign]

    def _scores(self, streams: Any, positions: Any, scores: Any) -> None:
        for stream, position, row in zip(streams, positions, scores, strict=True):
            rows = self.scores.setdefault(self.begun[int(stream)], {})
            assert int(position) not in rows, "a token was scored twice"
            rows[int(position)] = row.copy()


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return load("smollm2", "float32")


@pytest.fixture
def rig(model: LoadedModel, bank: Bank) -> Iterator[tuple[LoadedModel, Batcher, Tap, Collected]]:
    folder = Path(tempfile.mkdtemp(prefix="barograph-"))
    batcher = Batcher(model.module, set(model.eos), 16, 8192)
    tap = Tap(model.wrapper, bank, batcher.rows, folder / "none.sock", model.name)
    collected = Collected(tap)
    batcher.start()
    yield model, batcher, tap, collected
    batcher.stop()
    tap.close()
    shutil.rmtree(folder)


async def generate(
    batcher: Batcher, tap: Tap, key: str, prompt: list[int], tokens: int, sampling: Sampling, leave_after: int | None = None
) -> list[int]:
    tap.begin(key, *[key.split("#")[0], int(key.split("#")[1])])
    produced: list[int] = []
    stream = batcher.generate(key, prompt, tokens, sampling)
    async for token in stream:
        produced.append(token)
        if leave_after is not None and len(produced) >= leave_after:
            break
    await stream.aclose()
    tap.end(key, len(produced))
    return produced


def reference(model: LoadedModel, bank: Bank, prompt: list[int], produced: list[int]) -> np.ndarray:
    """Scores [tokens, k] from transformers' own hidden states of the whole text."""
    before = model.module.config._attn_implementation
    model.module.set_attn_implementation("eager")
    try:
        with torch.no_grad():
            hidden = model.module(input_ids=torch.tensor([prompt + produced]), output_hidden_states=True).hidden_states
    finally:
        model.module.set_attn_implementation(before)
    weight, bias = bank.affine()
    rows = slice(len(prompt) - 1, len(prompt) + len(produced) - 1)
    states = np.stack([hidden[layer + 1][0, rows].numpy() for layer in bank.layers], axis=1)
    return np.einsum("tkw,wk->tk", states, weight) + bias


def test_scores_are_of_the_state_that_produced_the_token(rig: Any, bank: Bank) -> None:
    model, batcher, tap, collected = rig

    async def run() -> list[list[int]]:
        # Of different lengths and starts, so that rows join and leave the batch between steps.
        async def one(i: int, prompt: str) -> list[int]:
            await asyncio.sleep(0.15 * i)
            return await generate(
                batcher, tap, f"r{i}#0", model.tokenizer(prompt)["input_ids"], 12 + 5 * i, Sampling(0.0 if i % 2 else 0.9, 0.95, seed=i)
            )

        return await asyncio.gather(*(one(i, prompt) for i, prompt in enumerate(PROMPTS)))

    outputs = asyncio.run(run())
    assert not collected.failed
    for i, (prompt, produced) in enumerate(zip(PROMPTS, outputs, strict=True)):
        rows = collected.scores[f"r{i}#0"]
        assert sorted(rows) == list(range(len(produced))), "every token has exactly one score"
        expected = reference(model, bank, model.tokenizer(prompt)["input_ids"], produced)
        np.testing.assert_allclose(np.stack([rows[p] for p in range(len(produced))]), expected, atol=2e-3)
        assert collected.ended[f"r{i}#0"] == len(produced)


def test_random_arrivals_and_cancels_keep_every_score_with_its_own(rig: Any, bank: Bank) -> None:
    model, batcher, tap, collected = rig
    random = np.random.default_rng(1)
    jobs = [
        (i, PROMPTS[i % 4], int(random.integers(1, 20)), int(random.integers(1, 20)) if random.random() < 0.4 else None) for i in range(24)
    ]

    async def run() -> list[list[int]]:
        gate = asyncio.Semaphore(8)

        async def one(i: int, prompt: str, tokens: int, leave: int | None) -> list[int]:
            async with gate:
                return await generate(
                    batcher, tap, f"c{i}#0", model.tokenizer(prompt)["input_ids"], tokens, Sampling(1.0, 1.0, seed=i), leave
                )

        return await asyncio.gather(*(one(*job) for job in jobs))

    for (i, prompt, _, _), produced in zip(jobs, asyncio.run(run()), strict=True):
        rows = collected.scores[f"c{i}#0"]
        assert set(range(len(produced))) <= set(rows)
        # A cancelled request may have had one more step under way; never more.
        assert len(rows) <= len(produced) + 2
        expected = reference(model, bank, model.tokenizer(prompt)["input_ids"], produced)
        np.testing.assert_allclose(np.stack([rows[p] for p in range(len(produced))]), expected, atol=2e-3)


def test_the_same_tokens_with_and_without_the_tap(rig: Any) -> None:
    model, batcher, tap, _ = rig
    prompt = model.tokenizer(PROMPTS[0])["input_ids"]
    with_tap = asyncio.run(generate(batcher, tap, "w#0", prompt, 24, Sampling(0.0)))
    for handle in tap._handles:
        handle.remove()
    assert asyncio.run(generate(batcher, tap, "o#0", prompt, 24, Sampling(0.0))) == with_tap


def test_a_seed_keeps_its_tokens_whoever_shares_the_batch(rig: Any) -> None:
    model, batcher, tap, _ = rig
    prompt = model.tokenizer(PROMPTS[3])["input_ids"]
    alone = asyncio.run(generate(batcher, tap, "a#0", prompt, 16, Sampling(1.0, 0.9, seed=7)))

    async def together() -> list[int]:
        others = [generate(batcher, tap, f"b#{i}", prompt, 16, Sampling(1.0, 1.0)) for i in range(3)]
        return (await asyncio.gather(generate(batcher, tap, "s#0", prompt, 16, Sampling(1.0, 0.9, seed=7)), *others))[0]

    assert asyncio.run(together()) == alone


def test_an_error_in_the_tap_never_breaks_a_generation(rig: Any) -> None:
    model, batcher, tap, collected = rig

    def broken() -> Any:
        raise ValueError("bookkeeping")

    tap._rows = broken
    produced = asyncio.run(generate(batcher, tap, "x#0", model.tokenizer(PROMPTS[0])["input_ids"], 8, Sampling(0.0)))
    assert len(produced) == 8
    assert collected.failed == ["ValueError: bookkeeping"]
    assert tap.failed == "ValueError: bookkeeping"


def test_a_bank_for_another_model_is_refused(model: LoadedModel, bank: Bank, tmp_path: Path) -> None:
    other = bank.with_cards(bank.card.probes, model=bank.card.model.model_copy(update={"width": 64}))
    with pytest.raises(BankError, match="width 64"):
        Tap(model.wrapper, other, lambda: ([], []), tmp_path / "s", model.name)


def test_an_unknown_family_is_refused(model: LoadedModel) -> None:
    import transformers

    config = transformers.BertConfig(vocab_size=99, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    wrapper = TransformersModel(transformers.BertForSequenceClassification(config), tokenizer=model.tokenizer, task="text-classification")
    with pytest.raises(LayersError, match="cannot find the decoder layers of BertForSequenceClassification"):
        decoder_layers(wrapper)


def test_wire_rows_are_split_to_fit() -> None:
    assert wire.rows_per_packet(171) < 100
