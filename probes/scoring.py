"""Scores of what a model says, token by token: replies that it makes here, and texts as if it had said them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from probes.bank import Bank
from probes.corpus import Text
from probes.decode import continued
from probes.layers import decoder_layers
from probes.methods import Floats
from probes.reader import SKIP, Reader, Say, batches
from probes.reference import reply_scores
from probes.replies import BATCH
from probes.windows import windowed

HOLD = 8  # tokens for which the default rules want a window above their threshold
RULE_WINDOW = "ewma(8)"


@dataclass
class Generation:
    """A reply's tokens and their scores [tokens, k]; the first is read at the last position of the prompt."""

    prompt: str
    tokens: list[int]
    scores: Floats = field(repr=False)


def generate(
    reader: Reader, bank: Bank, prompts: Sequence[str], tokens: int, temperature: float = 1.0, seed: int = 0
) -> Iterator[Generation]:
    """Replies to the prompts with their scores, in batches. Temperature 0 takes the likeliest token."""
    torch.manual_seed(seed)
    for start in range(0, len(prompts), BATCH):
        batch = prompts[start : start + BATCH]
        encoded = [reader.prompt(prompt) for prompt in batch]
        made = continued(reader, encoded, tokens, temperature)
        scores = read(reader, bank, [([*ids, *more], len(ids)) for ids, more in zip(encoded, made, strict=True)])
        for prompt, produced, found in zip(batch, made, scores, strict=True):
            yield Generation(prompt, produced, found)


@torch.no_grad()
def read(reader: Reader, bank: Bank, chats: Sequence[tuple[Sequence[int], int]], say: Say = lambda _: None) -> list[Floats]:
    """Scores [tokens, k] of each chat's reply, given as token ids and where the reply begins; like lengths are read together."""
    weight, bias = bank.affine()
    columns = {layer: np.flatnonzero(np.array(bank.layers) == layer) for layer in set(bank.layers)}
    weights = {layer: torch.from_numpy(np.ascontiguousarray(weight[:, own])).to(reader.model.device) for layer, own in columns.items()}
    projected: dict[int, Floats] = {}

    def hook(layer: int) -> Any:
        def project(module: torch.nn.Module, args: Any, output: Any) -> None:
            hidden = output if isinstance(output, torch.Tensor) else output[0]
            projected[layer] = (hidden.float() @ weights[layer]).cpu().numpy()

        return project

    layers = decoder_layers(reader.nn)
    handles = [layers[layer].register_forward_hook(hook(layer)) for layer in columns]
    try:
        return _read(reader, chats, columns, bias, projected, say)
    finally:
        for handle in handles:
            handle.remove()


def _read(
    reader: Reader, chats: Sequence[tuple[Sequence[int], int]], columns: dict[int, NDArray[np.intp]], bias: Floats,
    projected: dict[int, Floats], say: Say,
) -> list[Floats]:  # fmt: skip
    found: list[Floats] = [np.empty((0, len(bias)), np.float32)] * len(chats)
    done = 0
    for batch in batches(chats):
        _, shared = reader.forward([chats[i] for i in batch])
        for row, i in enumerate(batch):
            tokens, start = chats[i]
            scores = np.empty((len(tokens) - start, len(bias)), np.float32)
            for layer, own in columns.items():
                # The state at position p produces token p + 1.
                scores[:, own] = projected[layer][row, start - 1 - shared : len(tokens) - 1 - shared] + bias[own]
            found[i] = scores
        done += len(batch)
        say(f"scored {done} of {len(chats)} replies")
    return found


def held(values: Floats, hold: int) -> Floats:
    """What windowed values [tokens, k] stay above for `hold` tokens: the lowest of the last ones, from when there are so many."""
    if len(values) < hold:
        return values[:0]
    lowest: Floats = np.lib.stride_tricks.sliding_window_view(values, hold, axis=0).min(axis=-1)
    return lowest


def peaks(generations: Sequence[Floats], window: str, hold: int = 1) -> Floats:
    """The highest value [n, k] that each reply's window reaches, or stays above for `hold` tokens; minus infinity where it is too short."""
    width = generations[0].shape[1]
    found = [held(windowed(each, window), hold) for each in generations]
    return np.stack([each.max(axis=0) if len(each) else np.full(width, -np.inf) for each in found])


def token_scores(reader: Reader, bank: Bank, text: Text, limit: int = 512) -> Floats:
    """Scores [tokens, k] of a text's reply, each from the state that produces the token."""
    return reply_scores(reader.nn, bank, *reader.encode(text, limit))


def summary(reader: Reader, bank: Bank, text: Text, tokens: bool) -> dict[str, Any]:
    """A text's scores by probe: mean, peak, the last value of ewma(8) and the highest mean of 16; with `tokens` every one."""
    scores = token_scores(reader, bank, text, 8192)
    start = min(SKIP, len(scores) // 4)
    found: dict[str, Any] = {"tokens": len(scores)}
    for i, name in enumerate(bank.names):
        own = scores[:, i : i + 1]
        full = windowed(own, "mean(16)")
        found[name] = {
            "mean": round(float(own[start:].mean()), 4),
            "peak": round(float(own[start:].max()), 4),
            "ewma(8)": round(float(windowed(own, "ewma(8)").max()), 4),
            "mean(16)": round(float((full if len(full) else own[start:]).max()), 4),
        }
        if tokens:
            found[name]["scores"] = own[:, 0].round(3).tolist()
    return found
