"""Scores of what a model says: every produced token projected while it is made, so that no states are kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from probes.bank import Bank
from probes.corpus import Text
from probes.layers import decoder_layers
from probes.methods import Floats
from probes.reader import SKIP, Reader
from probes.reference import reply_scores
from probes.windows import windowed

BATCH = 64


@dataclass
class Generation:
    """A reply's tokens and their scores [tokens, k]; the first is read at the last position of the prompt."""

    prompt: str
    tokens: list[int]
    scores: Floats = field(repr=False)


class Projection:
    """Collects the scores of the last position at every forward step of a model, for all rows of the batch."""

    def __init__(self, reader: Reader, bank: Bank) -> None:
        weight, bias = bank.affine()
        self.steps: list[torch.Tensor] = []
        self._scores: torch.Tensor | None = None
        self._handles = []
        layers = decoder_layers(reader.nn)
        of_layer = np.array(bank.layers)
        used = sorted(set(bank.layers))
        for layer in used:
            columns = np.flatnonzero(of_layer == layer)
            read = torch.from_numpy(weight[:, columns].copy()), torch.from_numpy(bias[columns].copy()), columns
            self._handles.append(layers[layer].register_forward_hook(self._reader(*read, len(bank.names), layer == used[-1])))

    def _reader(self, weight: torch.Tensor, shift: torch.Tensor, columns: NDArray[np.intp], probes: int, last: bool) -> Any:
        def read(module: torch.nn.Module, args: Any, output: Any) -> None:
            hidden = output if isinstance(output, torch.Tensor) else output[0]
            state = hidden[:, -1].float().cpu()
            if self._scores is None:
                self._scores = torch.empty(len(state), probes)
            self._scores[:, columns] = torch.addmm(shift, state, weight)
            if last:
                self.steps.append(self._scores)
                self._scores = None

        return read

    def __enter__(self) -> Projection:
        return self

    def __exit__(self, *error: object) -> None:
        for handle in self._handles:
            handle.remove()


@torch.no_grad()
def generate(
    reader: Reader, bank: Bank, prompts: Sequence[str], tokens: int, temperature: float = 1.0, seed: int = 0
) -> Iterator[Generation]:
    """Replies to the prompts with their scores, in batches. Temperature 0 takes the likeliest token."""
    model, tokenizer = reader.model, reader.tokenizer
    ends = model.generation_config.eos_token_id
    ends = set(ends) if isinstance(ends, list) else {ends}
    sampling = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature > 0 else {"do_sample": False}
    torch.manual_seed(seed)
    for start in range(0, len(prompts), BATCH):
        batch = prompts[start : start + BATCH]
        encoded = [reader.prompt(prompt) for prompt in batch]
        length = max(map(len, encoded))
        pad = tokenizer.pad_token_id
        # Padding on the left, so that the last position is a real token of every row.
        ids = torch.tensor([[pad] * (length - len(row)) + row for row in encoded], device=model.device)
        mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in encoded], device=model.device)
        with Projection(reader, bank) as projection:
            made = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=tokens, pad_token_id=pad, **sampling)
        scores = torch.stack(projection.steps, dim=1).numpy()
        for row, prompt in enumerate(batch):
            produced = made[row, length:].tolist()
            stop = next((i + 1 for i, token in enumerate(produced) if token in ends), len(produced))
            yield Generation(prompt, produced[:stop], scores[row, :stop])


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
