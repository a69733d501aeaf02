"""Valence and arousal as two derived probes.

With human ratings of sentences they are ridge regressions on them. Without, they are the differences between emotions at the
ends of Russell's circumplex (1980): pleasant less unpleasant ones, and roused less quiet ones of either pleasantness.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from sklearn.linear_model import Ridge

from probes.bank import ProbeCard
from probes.labelled import Labelled
from probes.material import Material, comment
from probes.methods import Floats, unit
from probes.reader import Reader, Say

# Two ends of each axis, balanced over the other axis.
ENDS = {
    "valence": (
        {"happy", "joyful", "delighted", "cheerful", "elated", "excited", "content", "serene", "peaceful", "relaxed", "grateful", "loving"},
        {"miserable", "sad", "gloomy", "depressed", "terrified", "enraged", "horrified", "hateful", "unhappy", "tormented", "lonely", "worthless"},
    ),
    "arousal": (
        {"excited", "ecstatic", "thrilled", "exuberant", "enraged", "terrified", "furious", "hysterical", "frightened", "euphoric"},
        {"relaxed", "serene", "sleepy", "peaceful", "at ease", "bored", "droopy", "sluggish", "tired", "listless", "gloomy"},
    ),
}  # fmt: skip
AXES = ("valence", "arousal")
RATED = 3000
PENALTY = 3e3


def circumplex(
    reader: Reader, material: Material, labelled: Sequence[Labelled], candidates: Sequence[int], work: Path, say: Say
) -> list[tuple[ProbeCard, Floats]]:
    """Cards and directions of the two axes, each at its own layer."""
    rated = next((file for file in labelled if file.ratings is not None), None)
    found = []
    for axis, name in enumerate(AXES):
        if rated is not None:
            layer, direction, methods = _rated(reader, rated, axis, candidates, work, say)
            method = "ridge regression on human ratings"
        else:
            layer, direction, methods = _ends(material, name, candidates)
            method = "difference between the ends of the circumplex"
        states = material.states[:, layer + 1].astype(np.float32)
        neutral = states[material.neutral] @ direction
        say(f"{name}: {method} at layer {layer}, validation {methods}")
        card = ProbeCard(
            name=name, group="circumplex", layer=layer, concept=f"representation of {name}", method=method, methods=methods,
            neutral_mean=float(neutral.mean()), neutral_std=float(neutral.std()),
        )  # fmt: skip
        found.append((card, direction))
    return found


def _rated(
    reader: Reader, rated: Labelled, axis: int, candidates: Sequence[int], work: Path, say: Say
) -> tuple[int, Floats, dict[str, float]]:
    rows = np.random.default_rng(1).permutation(len(rated.texts))[:RATED]
    states = reader.means([comment(rated.texts[row], number) for number, row in enumerate(rows)], work, say)
    assert rated.ratings is not None
    truth = rated.ratings[rows, axis]
    train = np.arange(len(rows)) % 5 != 4

    def ridge(layer: int, used: np.ndarray) -> Floats:
        x = states[:, layer + 1].astype(np.float32)
        scale = x[used].std(axis=0) + 1e-6
        return unit(Ridge(alpha=PENALTY).fit(x[used] / scale, truth[used]).coef_.astype(np.float32) / scale)

    values = {}
    for layer in candidates:
        held = states[~train, layer + 1].astype(np.float32) @ ridge(layer, train)
        values[layer] = float(np.corrcoef(held, truth[~train])[0, 1])
    best = max(values, key=lambda layer: values[layer])
    return best, ridge(best, np.ones(len(rows), bool)), {"validation_r": round(values[best], 4)}


def _ends(material: Material, name: str, candidates: Sequence[int]) -> tuple[int, Floats, dict[str, float]]:
    high, low = (np.isin(material.concept, list(end)) & (material.source == "own") for end in ENDS[name])
    train = material.split == "train"
    best: tuple[float, int, Floats] | None = None
    for layer in candidates:
        states = material.states[:, layer + 1].astype(np.float32)
        direction = unit(states[high & train].mean(axis=0) - states[low & train].mean(axis=0))
        held = material.split == "validation"
        above, below = states[high & held] @ direction, states[low & held] @ direction
        gap = float((above.mean() - below.mean()) / np.sqrt((above.var() + below.var()) / 2 + 1e-9))
        if best is None or gap > best[0]:
            best = (gap, layer, direction)
    assert best is not None
    return best[1], best[2], {"validation_gap": round(best[0], 3)}
