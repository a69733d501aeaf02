"""The 171 emotions of arXiv 2604.07729 as directions at one layer.

An emotion's vector is the mean of its stories less the mean over emotions, as in the paper, joined with the same for plain
sentences that name the state ("She felt …"). Eight short stories by one hand differ in style as much as in emotion: alone
their first component is not valence in a small model. With the sentences it is, and held-out stories are told apart better.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from probes.bank import ProbeCard
from probes.circumplex import ENDS
from probes.corpus import DEEP, Corpus, Split, Text
from probes.material import Material
from probes.methods import Floats, unit
from probes.reader import Reader, Say
from probes.statistics import auroc, bootstrap

SENTENCES = (
    "I feel {}.", "She felt {}.", "He was {} that day.", "They were all {}.", "You seem {} today.", "The feeling of being {}.",
    "When the news came, he became {}.", "Looking back, I was {}.",
)  # fmt: skip
TAIL = " It showed in everything that was said and done."  # the same words for all: what is read is the state they carry
SUFFIX = "_emotion"
NAMED = 1.5  # weight of the sentences beside the stories


def fit_emotions(
    reader: Reader, material: Material, corpus: Corpus, candidates: Sequence[int], work: Path, say: Say
) -> tuple[list[ProbeCard], Floats, dict[str, float]]:
    """Cards, directions [171, width], and their geometry with and without the sentences that name the word."""
    concepts = corpus.concepts
    sentences = reader.means([text for name in concepts for text in named(name)], work, say)
    sentences = sentences.reshape(len(concepts), len(SENTENCES), *sentences.shape[1:])
    value = {
        layer: _told_apart(material, concepts, layer, vectors(material, sentences, concepts, layer, ("train",))) for layer in candidates
    }
    layer = max(value, key=lambda each: value[each])
    rows = vectors(material, sentences, concepts, layer, ("train", "validation"))
    states = material.states[:, layer + 1].astype(np.float32)
    scores = states @ rows.T
    neutral = scores[material.neutral]
    test = material.rows("test", "own") & (material.concept != "")
    cards = []
    for i, concept in enumerate(concepts):
        name = DEEP.get(concept, concept)
        inside, outside = scores[test & (material.concept == concept), i], scores[test & (material.concept != concept), i]
        cards.append(ProbeCard(
            name=probe_name(name), group="emotion", layer=layer, concept=f"representation of {name}",
            method="difference of means over the emotions, stories and sentences", neutral_mean=float(neutral[:, i].mean()),
            neutral_std=float(neutral[:, i].std()), auroc=auroc(inside, outside),
            auroc_ci=bootstrap(auroc, inside, outside, draws=200) if len(inside) > 2 else None,
        ))  # fmt: skip
    stories = vectors(material, sentences, concepts, layer, ("train", "validation"), named=0.0)
    found = _geometry(material, concepts, layer, rows) | {
        f"stories_only_{key}": share for key, share in _geometry(material, concepts, layer, stories).items()
    }
    say(f"emotions: {len(cards)} at layer {layer}, mean validation AUROC {value[layer]:.3f}; {found}")
    return cards, rows, found


def probe_name(emotion: str) -> str:
    """An emotion's name as rules can write it. A deep probe of the same name has the plain one."""
    name = emotion.replace(" ", "_").replace("-", "_")
    return f"{name}{SUFFIX}" if emotion in DEEP else name


def named(concept: str) -> list[Text]:
    """Sentences that name the emotion, for nothing but its vector."""
    word = {"hope": "full of hope"}.get(concept, DEEP.get(concept, concept))
    return [Text("", "", "", sentence.format(word) + TAIL, "train") for sentence in SENTENCES]


def vectors(
    material: Material, sentences: np.ndarray, concepts: Sequence[str], layer: int, splits: tuple[str, ...], named: float = NAMED
) -> Floats:
    """Unit vectors [emotions, width] at a layer, from the stories of some splits and from the sentences with the weight `named`."""
    states = material.states[:, layer + 1].astype(np.float32)
    used = np.isin(material.split, splits) & (material.source == "own")
    stories = np.stack([states[used & (material.concept == concept)].mean(axis=0) for concept in concepts])
    said = sentences[:, :, layer + 1].astype(np.float32).mean(axis=1)
    return unit(named * unit(said - said.mean(axis=0)) + unit(stories - stories.mean(axis=0)))


def _geometry(material: Material, concepts: Sequence[str], layer: int, rows: Floats) -> dict[str, float]:
    """Shares of variance of the first components, how well the first tells pleasant from unpleasant emotions, and the AUROC on unseen stories."""
    left, values, _ = np.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)
    high, low = (np.isin(concepts, [key for key in concepts if DEEP.get(key, key) in end]) for end in ENDS["valence"])
    pleasant = auroc(left[high, 0], left[low, 0])
    return {
        **{f"component_{i + 1}": round(float(values[i] ** 2 / (values**2).sum()), 4) for i in range(4)},
        "component_1_tells_pleasant": round(max(pleasant, 1 - pleasant), 4),  # a component has no sign
        "test_auroc": round(_told_apart(material, concepts, layer, rows, "test"), 4),
    }


def _told_apart(material: Material, concepts: Sequence[str], layer: int, rows: Floats, split: Split = "validation") -> float:
    """Mean over emotions of the AUROC of their texts in a split against those of all other emotions."""
    used = material.rows(split, "own") & (material.concept != "")
    scores = material.states[used, layer + 1].astype(np.float32) @ rows.T
    concept = material.concept[used]
    return float(np.mean([auroc(scores[concept == name, i], scores[concept != name, i]) for i, name in enumerate(concepts)]))
