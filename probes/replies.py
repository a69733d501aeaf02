"""What a model replies to prompts, at the lengths and temperatures that servers are used with. Kept on disk, so that another bank reads them again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from probes.decode import continued
from probes.passport import fingerprint
from probes.prompts import Prompt
from probes.reader import Reader, Say

# Tokens at most and temperature, by turns. Whole vocabulary: servers differ in their cut-offs, and without any the tails are longest.
WAYS = (
    (32, 1.0), (64, 0.7), (48, 1.0), (32, 0.0), (96, 1.0), (64, 0.3), (48, 1.0), (256, 0.7),
    (32, 0.7), (64, 1.0), (48, 0.0), (96, 0.7), (32, 1.0), (64, 1.0), (48, 0.3), (512, 1.0),
)  # fmt: skip
BATCH = 96  # of one way there are 93 where 747 prompts have two replies each


@dataclass(frozen=True)
class Reply:
    """Token ids of a chat and of its reply, which begins at `start`."""

    prompt: int  # its place among the prompts
    ids: tuple[int, ...]
    start: int


def replies(
    reader: Reader, prompts: Sequence[Prompt], samples: int | Sequence[int], work: Path, say: Say, seed: int = 0
) -> list[Reply]:  # fmt: skip
    """So many replies to each prompt, each in another way, read from `work` where an earlier run made them."""
    work.mkdir(parents=True, exist_ok=True)
    path = work / f"replies-{_key(reader, prompts, samples, seed)}.jsonl"
    # The last line of a run that was killed may be torn.
    lines = [line for line in path.read_text("utf-8").splitlines(keepends=True) if line.endswith("\n")] if path.is_file() else []
    path.write_text("".join(lines), "utf-8")
    made = [json.loads(line) for line in lines]
    counts = [samples] * len(prompts) if isinstance(samples, int) else samples
    jobs = [(number, WAYS[(number + sample * 7) % len(WAYS)]) for number, count in enumerate(counts) for sample in range(count)]
    # In the order in which they are made, so that the time left is told by tokens: the long ones come last.
    upto = np.cumsum([0, *(tokens for tokens, _ in sorted(way for _, way in jobs))])
    with path.open("a", encoding="utf-8") as kept:
        for batch in _make(reader, prompts, jobs, len(made), seed):
            kept.writelines(json.dumps(each) + "\n" for each in batch)
            kept.flush()
            made += batch
            say(f"wrote {upto[len(made)]} of {upto[-1]} tokens of replies at most")
    return [Reply(prompt, tuple(ids), start) for prompt, ids, start in sorted(made, key=lambda each: each[0])]


def _make(
    reader: Reader, prompts: Sequence[Prompt], jobs: Sequence[tuple[int, tuple[int, float]]], done: int, seed: int
) -> Iterator[list[list[Any]]]:
    """Batches of one way each, from the job after the first `done` on: a run that was interrupted goes on."""
    for turn, way in enumerate(sorted(set(WAYS))):
        ours = [number for number, each in jobs if each == way]
        for start in range(0, len(ours), BATCH):
            batch = ours[start : start + BATCH]
            if done >= len(batch):
                done -= len(batch)
                continue
            batch, done = batch[done:], 0
            encoded = [reader.prompt(prompts[number].turns) for number in batch]
            torch.manual_seed(seed * 1_000_003 + turn * 1009 + start)
            made = continued(reader, encoded, *way)
            yield [[number, [*ids, *produced], len(ids)] for number, ids, produced in zip(batch, encoded, made, strict=True)]


def _key(reader: Reader, prompts: Sequence[Prompt], samples: int | Sequence[int], seed: int) -> str:
    turns = [each.turns for each in prompts]
    about = json.dumps([reader.source, reader.dtype, fingerprint(reader.model), WAYS, turns, samples, seed])
    return hashlib.sha256(about.encode()).hexdigest()[:16]


def by_prompt(found: Sequence[Reply]) -> np.ndarray:
    """Each reply's prompt [n]: replies to one prompt are kin, so that intervals resample prompts."""
    return np.array([each.prompt for each in found])
