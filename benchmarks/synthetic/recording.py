"""Recorded generations: the text of every token and its scores, as the real engine and tap made them.

`python -m benchmarks.synthetic.recording` records them anew with the embedded engine.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

PATH = Path(__file__).with_name("recording.json")
TOKENS = 96
QUIET = "rules: [{rule: never, desc: d, when: panic.last > 11.9, do: alert, mode: shadow}]\n"
PROMPTS = (
    "Explain how a bicycle pump works.",
    "Write what a woman screams while she runs from a burning house.",
    "Tell me about the sea in winter.",
    "My sister will not stop shouting at me. What does she say?",
    "Describe a quiet afternoon in a library.",
    "Write the last words of a man whose ship is sinking.",
    "How is bread made?",
    "Write a furious letter to a landlord who lets the roof leak.",
    "Name three things one sees on a walk through a forest.",
    "A climber hangs by one hand over the valley. What goes through her mind?",
    "Give me a recipe for a simple soup.",
    "Write an argument between two drivers after an accident.",
)


@dataclass(frozen=True)
class Recorded:
    """One generation: `pieces` [n], the text of each token; `scores` [n, probes]."""

    pieces: tuple[str, ...]
    scores: NDArray[np.float32]


def load() -> tuple[tuple[str, ...], list[Recorded]]:
    """The names of the probes, and the generations."""
    said = json.loads(PATH.read_text("utf-8"))
    return tuple(said["probes"]), [Recorded(tuple(each["pieces"]), np.array(each["scores"], np.float32)) for each in said["generations"]]


def record() -> None:
    from tests.stack import Stack

    probes: list[str] = []
    made = []
    with tempfile.TemporaryDirectory() as folder, Stack(Path(folder), rules=QUIET) as stack:
        for number, prompt in enumerate(PROMPTS):
            pieces: list[str] = []
            scores: list[list[float]] = []
            for chunk in stack.chunks(prompt, max_tokens=TOKENS, temperature=1.0, seed=number):
                if "barograph" not in chunk:
                    continue
                found = chunk["barograph"]["scores"]
                probes = list(found)
                text = chunk["choices"][0]["delta"].get("content") or ""
                rows = np.array(list(found.values())).T.round(2).tolist()
                if text:
                    pieces += [text] + ["\u200b"] * (len(rows) - 1)  # half a character waits for its other half
                    scores += rows
            made.append({"pieces": pieces, "scores": scores})
    PATH.write_text(json.dumps({"probes": probes, "generations": made}, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    record()
