"""Sampling with parameters of each request's own, inside transformers' continuous batching."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from transformers.generation.continuous_batching.cb_logits_processors import (
    ContinuousBatchingLogitsProcessor,
)
from transformers.generation.continuous_batching.requests import RequestState


@dataclass(frozen=True)
class Logprob:
    """The chosen token's place in the model's own distribution, before temperature and top-p, and the likeliest tokens there."""

    chosen: float
    top: tuple[tuple[int, float], ...]


@dataclass
class Logprobs:
    """What one generation that asked for logprobs gets: the sampler writes by position, whoever waits for the token takes.

    A position that is computed anew, after a request was put back for lack of memory, is written over.
    """

    top: int
    found: dict[int, Logprob] = field(default_factory=dict)


@dataclass(frozen=True)
class Sampling:
    """How one generation draws its tokens. Temperature 0 is greedy."""

    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None
    logprobs: Logprobs | None = None


def produced(state: RequestState) -> int:
    """Tokens that the request has produced so far, also after it was put back to the queue for lack of memory."""
    resumed = len(state.initial_tokens) - state._true_initial_tokens if state._true_initial_tokens else 0
    return int(resumed + state.generated_len())


class Sampler(ContinuousBatchingLogitsProcessor):  # type: ignore[misc]  # transformers is not typed
    """Draws by the Gumbel-max trick: noise is added to the logits, and the batch's one argmax does the rest.

    transformers' own processors give each request its temperature and top-p but draw the whole batch from one
    generator, so a seed could not be kept. Here the noise of a seeded request depends on its seed and position
    alone, whoever shares the batch and even if the request was interrupted.
    """

    supported_kwargs: dict[str, type] = {"sampling": Sampling}
    ignored_kwargs: tuple[str, ...] = ()

    def __init__(self) -> None:
        self._rows: list[tuple[int, Sampling, int]] = []
        self._told: list[tuple[int, Logprobs, int]] = []

    def fill_defaults(self, int32_tensor: torch.Tensor) -> None:
        int32_tensor.zero_()

    def prepare_tensor_args(self, requests_with_new_token: list[Any]) -> torch.Tensor:
        """Remember which rows draw, and how, and which want logprobs; the others cost nothing."""
        rows = enumerate(future.state for future in requests_with_new_token)
        asked: list[tuple[int, Sampling, int]] = [(row, state.logit_processor_kwargs["sampling"], produced(state)) for row, state in rows]
        self._rows = [each for each in asked if each[1].temperature > 0]
        self._told = [(row, sampling.logprobs, position) for row, sampling, position in asked if sampling.logprobs is not None]
        return torch.zeros(len(requests_with_new_token), dtype=torch.int32)

    def __call__(self, scores: torch.Tensor, tensor_arg: torch.Tensor) -> torch.Tensor:
        """Scores [rows, vocabulary]: the drawing rows get temperature, top-p and noise; the others stay."""
        told = scores[[row for row, _, _ in self._told]].log_softmax(-1) if self._told else None
        if self._rows:
            self._draw(scores)
        if told is not None:
            # The very operation by which transformers will choose, on the same tensor: ties fall the same way.
            self._tell(told, scores.argmax(-1))
        return scores

    def _tell(self, told: torch.Tensor, chosen: torch.Tensor) -> None:
        """Logprobs [rows that asked, vocabulary] to those who asked."""
        rows = torch.tensor([row for row, _, _ in self._told], device=told.device)
        own = told.gather(1, chosen[rows, None])[:, 0].tolist()
        most = max(asked.top for _, asked, _ in self._told)
        values, tokens = told.topk(most, dim=-1)
        likely = zip(tokens.tolist(), values.tolist(), strict=True)
        for (_, asked, position), mine, (ids, logs) in zip(self._told, own, likely, strict=True):
            asked.found[position] = Logprob(mine, tuple(zip(ids[: asked.top], logs[: asked.top], strict=True)))

    def _draw(self, scores: torch.Tensor) -> None:
        index = torch.tensor([row for row, _, _ in self._rows], device=scores.device)
        temperature = torch.tensor([sampling.temperature for _, sampling, _ in self._rows], device=scores.device)
        drawn = scores[index] / temperature[:, None]
        self._keep_top_p(drawn)
        noise = torch.empty_like(drawn).exponential_()
        for i, (_, sampling, position) in enumerate(self._rows):
            if sampling.seed is not None:
                generator = torch.Generator(device=scores.device)
                generator.manual_seed((sampling.seed * 1_000_003 + position) % 2**63)
                noise[i].exponential_(generator=generator)
        scores[index] = drawn - noise.log_()

    def _keep_top_p(self, drawn: torch.Tensor) -> None:
        narrow = [i for i, (_, sampling, _) in enumerate(self._rows) if sampling.top_p < 1]
        if not narrow:
            return
        limits = torch.tensor([self._rows[i][1].top_p for i in narrow], device=drawn.device)[:, None]
        ordered, places = drawn[narrow].softmax(-1).sort(descending=True)
        # A token stays while the mass before it is short of top_p, so the first one always stays.
        out = (ordered.cumsum(-1) - ordered) >= limits
        drawn[narrow] = drawn[narrow].masked_fill(out.scatter(-1, places, out), float("-inf"))
